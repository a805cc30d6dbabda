"""The static files of the package, and the elements that load them into a page, with its nonce and the bar's texts."""

from __future__ import annotations

import json
from typing import Any

from django.forms.utils import flatatt
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .texts import page_texts

#: Static files, resolved by Django's `static`, so that hashed names work.
STYLESHEET = "dramatiq_progress/dramatiq-progress.css"
COMPACT_STYLESHEET = "dramatiq_progress/dramatiq-progress-compact.css"
SCHEDULES_STYLESHEET = "dramatiq_progress/dramatiq-progress-schedules.css"
SCRIPT = "dramatiq_progress/dramatiq-progress.js"
STREAM = "dramatiq_progress/dramatiq-progress-stream.js"
RESULT = "dramatiq_progress/dramatiq-progress-result.js"
CANCEL = "dramatiq_progress/dramatiq-progress-cancel.js"
PARTS = "dramatiq_progress/dramatiq-progress-parts.js"

#: Escapes for an attribute in single quotes.
_ESCAPES = str.maketrans({"&": "&amp;", "'": "&#x27;", "<": "&lt;", ">": "&gt;"})


def script(nonce: str | None = None) -> SafeString:
    """Render ``{% dramatiq_progress_script %}``: the stylesheet, the script and its texts, once per page.

    The texts are in the active language. For English they are omitted, since the script contains them.

    Parameters:
      nonce: The nonce of the page's Content Security Policy. The tag finds the nonce of Django 6's middleware or of
        django-csp automatically; ``{% dramatiq_progress_script nonce=None %}`` omits it.
    """
    attributes = flatatt({"nonce": nonce})
    return format_html(
        '{}<link rel="stylesheet" href="{}"{}>\n<script type="module" src="{}"{}></script>',
        _texts_of_page(),
        static(STYLESHEET),
        attributes,
        static(SCRIPT),
        attributes,
    )


def link(stylesheet: str, nonce: object) -> SafeString:
    """Render the link to a stylesheet, with the nonce of its page if that isn't None."""
    return format_html('<link rel="stylesheet" href="{}"{}>', static(stylesheet), flatatt({"nonce": nonce}))


def nonce_of_request(request: HttpRequest | None) -> Any:
    """Return the nonce of the Content Security Policy of a request's page. None without a policy."""
    # Django 6 has it as `_csp_nonce`, django-csp as `csp_nonce`. Both are created when they are first rendered, and are
    # falsy until then.
    found = getattr(request, "csp_nonce", None)
    return getattr(request, "_csp_nonce", None) if found is None else found


def _texts_of_page() -> SafeString:
    texts = page_texts()
    if not texts:
        return SafeString()
    # Not format_html: it escapes four double quotes per text, and the attribute would be 50 % longer.
    content = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return SafeString(f"<meta name=\"dramatiq-progress-texts\" content='{content}'>\n")

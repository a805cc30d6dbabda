"""All that a bar says, for Django's translations. The English is that of the JavaScript module, name by name.

`page_texts` is what a page tells its bars when it is in another language: once, however many bars it has.
"""

from __future__ import annotations

import re
from typing import Any

from django.utils.translation import get_language, pgettext

from .middleware import GIVEN_UP
from .progress import DEFAULT_RESULTS

#: Keeps our words apart from other packages' "Done" and "no".
CONTEXT = "dramatiq-progress"

#: `TEXTS` of dramatiq-progress.js; what stands in braces is put in.
TEXTS = {
    "label": "Progress",
    "waiting": "Waiting for information…",
    "not-found": "There is nothing to show here",
    "expired": "No longer available. You may have to sign in again.",
    "denied": "Not available. You may have to sign in again.",
    "offline": "Connection lost. Trying again…",
    "enqueued": "Waiting in the queue",
    "position": "Waiting in the queue, about {position} of {length} in line",
    "delayed": "Scheduled",
    "running": "Running",
    "amount": "{current} of {total}",
    "count": "{current} so far",
    "remaining": "about {time} left",
    "retryIn": "Failed; trying again in {time}",
    "retryNow": "Failed; trying again now",
    "attempt": "{text} (attempt {attempt})",
    "attemptOf": "{text} (attempt {attempt} of {attempts})",
    "lost": "No contact with the worker; the task may be taken up again",
    "done": "Done",
    "failed": "The task failed.",
    "cancelled": "The task was cancelled.",
    "skipped": "The task was skipped.",
    "download": "Download",
    "retry": "Try again",
    "yes": "yes",
    "no": "no",
}

#: `TEXTS` of dramatiq-progress-cancel.js.
CANCEL_TEXTS = {
    "cancel": "Cancel",
    "cancelling": "Cancel requested; waiting for the task to notice",
    "cancelForbidden": "Not allowed. Reload the page and try again.",
    "cancelGone": "There is nothing here that you may cancel.",
    "cancelRefused": "This task cannot be cancelled.",
    "cancelFailed": "The server could not be asked. Try again.",
}

#: What the server says itself, in English, as the result of a message that did not end well.
RESULTS = (*DEFAULT_RESULTS.values(), GIVEN_UP)

#: Only in what the server writes: where there is no JavaScript, and nothing counts down.
REFRESH = "Refresh"
REMAINING_SHORT = "less than a minute left"
RETRY_SHORT = "Failed; trying again within a minute"
NOT_NOW = "This cannot be shown now."
PAGE_TEXTS = (REFRESH, REMAINING_SHORT, RETRY_SHORT, NOT_NOW)

#: What `Intl` of a browser takes for a locale, of what Django takes for a language.
_LOCALE = re.compile(r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-([a-z0-9]{5,8}|\d[a-z0-9]{3}))*", re.IGNORECASE)


def translate(text: str) -> str:
    """One of these texts in the language that is active."""
    return pgettext(CONTEXT, text)


def translate_result(result: object) -> str:
    """A message for the user, in the language that is active if the server says it itself; "" if it is no text."""
    if not isinstance(result, str):
        return ""
    return translate(result) if result in RESULTS else result


def page_texts() -> dict[str, Any]:
    """What a page in the active language says otherwise than the module; nothing where that is its English.

    Numbers and times follow the texts: ``locale`` is the active language where there is any translation into it.
    """
    said: dict[str, Any] = {
        name: translate(text) for name, text in (TEXTS | CANCEL_TEXTS).items() if translate(text) != text
    }
    results = [[text, translate(text)] for text in RESULTS if translate(text) != text]
    if results:
        said["results"] = results
    language = get_language() or "en"
    is_english = language.partition("-")[0] == "en"
    is_other_than_module = language not in ("en", "en-us") if is_english else bool(said)
    if is_other_than_module and _LOCALE.fullmatch(language):
        said["locale"] = language
    return said

"""The template tags that put a bar into a page. `script` and `bar` are plain functions returning safe HTML."""

from __future__ import annotations

import json
from typing import Any

from django import template
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.forms.utils import flatatt
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template.exceptions import TemplateSyntaxError
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from dramatiq import Message

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.fallback import markup, reading
from dramatiq_progress.links import MESSAGE_ID, token_for, with_token
from dramatiq_progress.owners import beside_event_loop
from dramatiq_progress.progress import Progress
from dramatiq_progress.recorder import get_recorder
from dramatiq_progress.texts import NOT_NOW, REFRESH, page_texts, translate
from dramatiq_progress.views import read_mine

register = template.Library()

#: What a bar can be of.
Barred = str | Message[Any] | Progress

#: Static files, by way of Django's `static`, so that hashed names work.
STYLESHEET = "dramatiq_progress/dramatiq-progress.css"
SCRIPT = "dramatiq_progress/dramatiq-progress.js"
STREAM = "dramatiq_progress/dramatiq-progress-stream.js"
RESULT = "dramatiq_progress/dramatiq-progress-result.js"
CANCEL = "dramatiq_progress/dramatiq-progress-cancel.js"

#: Attributes of a bar that needs the module `RESULT`.
RESULT_ATTRIBUTES = ("show-result", "download", "redirect", "swap", "retry")

#: What may not stand in an attribute between single quotes.
_ESCAPES = str.maketrans({"&": "&amp;", "'": "&#x27;", "<": "&lt;", ">": "&gt;"})

#: Stands for the nonce that the page has, or for none.
_OF_PAGE: Any = object()


@register.simple_tag(name="dramatiq_progress_script", takes_context=True)
def _script_of_page(context: template.Context, nonce: str | None = _OF_PAGE) -> SafeString:
    return script(_nonce_of_page(context) if nonce is _OF_PAGE else nonce)


def script(nonce: str | None = None) -> SafeString:
    """``{% dramatiq_progress_script %}``: what a page needs once, however many bars are on it.

    Styles, the module, and its texts in the language of the page, unless that is the module's English.

    Parameters:
      nonce: The nonce of the page's Content Security Policy. The tag finds the one of Django 6's middleware or of
        django-csp by itself; ``{% dramatiq_progress_script nonce=None %}`` leaves it out.
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


def _texts_of_page() -> SafeString:
    texts = page_texts()
    if not texts:
        return SafeString()
    # Not format_html: with a quote escaped four times for each text it would be half as long again.
    content = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return SafeString(f"<meta name=\"dramatiq-progress-texts\" content='{content}'>\n")


def _nonce_of_page(context: template.Context) -> Any:
    # Django 6 has it in the context (by its context processor) and as `_csp_nonce`, django-csp as `csp_nonce`. Both are
    # made when they are first written, are false until then, and go only into directives that name a nonce.
    request = getattr(context, "request", None)
    found = (context.get("csp_nonce"), getattr(request, "csp_nonce", None), getattr(request, "_csp_nonce", None))
    return next((nonce for nonce in found if nonce is not None), None)


@register.simple_tag(name="dramatiq_progress_mine", takes_context=True)
def mine(context: template.Context, *, empty: str = "", **attributes: str | bool | None) -> SafeString:
    """``{% dramatiq_progress_mine %}``: a bar for each message of whoever asks that has not ended, or not long ago.

    The newest comes first. It reads the store while the page is made, and says so when there is no answer. The bars go
    on by themselves; what is sent later is there when the page is loaded again.

    Parameters:
      empty: What is said when there is no such message.
      attributes: Attributes of each bar, as ``{% dramatiq_progress %}`` takes them. Its label is the actor's name,
        unless there is one among them.

    Raises:
      ImproperlyConfigured: The template is rendered without its request.
    """
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise ImproperlyConfigured(
            "{% dramatiq_progress_mine %} needs the request, to know who asks: render the template with it, as "
            "render(request, ...) does."
        )
    try:
        found = beside_event_loop(lambda: read_mine(request))
    except StoreUnavailable as error:
        get_recorder().trouble(error)
        return _mine(format_html('<p>{} <a href="">{}</a></p>', translate(NOT_NOW), translate(REFRESH)))
    if not found:
        return _mine(format_html("<p>{}</p>", empty) if empty else SafeString())
    bars = (_named(context, each, attributes) for each in found)
    return _mine(format_html_join("\n", "<div><span>{}</span>{}</div>", bars))


def _named(
    context: template.Context, progress: Progress, attributes: dict[str, str | bool | None]
) -> tuple[str, SafeString]:
    words = progress.actor.replace("_", " ")
    name = str(attributes.get("label") or words[:1].upper() + words[1:])
    return name, _bar_of_page(context, progress, **attributes | {"label": name})


def _mine(content: SafeString) -> SafeString:
    return format_html('<div class="dramatiq-progress-mine">{}</div>', content)


@register.simple_tag(name="dramatiq_progress", takes_context=True)
def _bar_of_page(context: template.Context, message: Barred, **attributes: str | bool | None) -> SafeString:
    request = getattr(context, "request", None)
    # Streams need an ASGI server, and the one that answers this page is the one that is asked for them.
    if isinstance(request, ASGIRequest):
        attributes.setdefault("stream", _address("stream"))
        attributes.setdefault("stream_module", static(STREAM))
    return bar(message, request, **attributes)


def bar(
    message: Barred,
    request: HttpRequest | None = None,
    *,
    fallback: str | bool | None = True,
    cancel: str | bool | None = None,
    **attributes: str | bool | None,
) -> SafeString:
    """``{% dramatiq_progress message_id %}``: the bar of one message.

    Parameters:
      message: A message's id, the message that an actor's ``send`` returned, or a `Progress` that was read of it.
      request: Whom the page is for; the tag takes it from the template's context.
      fallback: What is seen without JavaScript: how far the message is now, as far as this request may know (one
        question to the store for each bar that is given no `Progress`), and a link to look again. False: nothing.
      cancel: A button that cancels the message, for those who may; ``cancel_confirm="Stop the import?"`` asks before.
      attributes: Attributes of the element, with ``_`` for ``-``: ``show_result=True``, ``redirect=True``,
        ``download="Get the ZIP"``, ``label="Import"``, ``id="one"``. One that is False or None is left out;
        ``list=None`` makes a bar ask by itself, and not together with the others of the page. Under ASGI, in
        a template that is rendered with its request, the tag adds ``stream``; ``stream=None`` leaves it out. On a page
        that was asked for with the ``token`` of a signed link, the bar asks with it.

    Raises:
      TemplateSyntaxError: There is no such message id.
      ImproperlyConfigured: The package's URLs are not included in the project's, or a button is wanted without a
        request.
    """
    message_id = _message_id(message)
    named = {name.replace("_", "-"): value for name, value in attributes.items()}
    named.setdefault("list", _address("list"))
    named.setdefault("src", _source(request, message_id))
    if any(named.get(name) not in (None, False) for name in RESULT_ATTRIBUTES):
        named.setdefault("result-module", static(RESULT))
    if cancel:
        named |= {"cancel": _address("cancel", message_id), "cancel-module": static(CANCEL), **_csrf(request)}
    children = SafeString()
    if fallback:
        progress = reading(request, message if isinstance(message, Progress) else message_id)
        children = markup(progress, label=str(named.get("label") or named.get("aria-label") or ""))
    return format_html("<dramatiq-progress{}>{}</dramatiq-progress>", flatatt(named), children)


def _source(request: HttpRequest | None, message_id: str) -> str:
    token = None if request is None else token_for(request, message_id)
    address = _address("detail", message_id)
    return address if token is None else with_token(address, token)


def _csrf(request: HttpRequest | None) -> dict[str, str]:
    """Where the button finds the CSRF token."""
    if request is None:
        raise ImproperlyConfigured(
            "{% dramatiq_progress … cancel=True %} needs the request, for the CSRF token: render the template with it, "
            "as render(request, ...) does."
        )
    # Also has the cookie sent with the page.
    token = get_token(request)
    # The cookie follows a login in another tab, which a token in the page does not.
    is_hidden = settings.CSRF_USE_SESSIONS or settings.CSRF_COOKIE_HTTPONLY
    return {"csrf": token} if is_hidden else {"csrf-cookie": settings.CSRF_COOKIE_NAME}


def _message_id(message: object) -> str:
    if isinstance(message, Message):
        message = message.message_id
    message_id = message.id if isinstance(message, Progress) else message
    if isinstance(message_id, str) and MESSAGE_ID.fullmatch(message_id):
        return message_id
    raise TemplateSyntaxError(
        "{% dramatiq_progress %} needs a Dramatiq message or its id (1 to 64 of A-Z, a-z, 0-9, _ and -), "
        f"not {message_id!r}. Is the variable in the template's context, as in "
        'render(request, "import.html", {"message_id": message.message_id})?'
    )


def _address(name: str, *arguments: str) -> str:
    try:
        return reverse(f"dramatiq_progress:{name}", args=arguments)
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            "The URLs of dramatiq_progress are not included. Add to the urlpatterns of your urls.py: "
            'path("progress/", include("dramatiq_progress.urls"))'
        ) from error

"""Template tags that render bars. `script` and `bar` are plain functions that return safe HTML."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
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

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.event_loop import run_outside_event_loop
from dramatiq_progress.links import token_for, with_token
from dramatiq_progress.permissions import cancel_permission, is_staff
from dramatiq_progress.progress import MessageLike, Progress, message_id_of
from dramatiq_progress.schedules import get_schedules, live_schedulers
from dramatiq_progress.web import schedules as schedules_table
from dramatiq_progress.web.noscript import markup, reading
from dramatiq_progress.web.reading import read_mine
from dramatiq_progress.web.texts import CANCEL_TEXTS, NOT_NOW, PARTS_TEXTS, REFRESH, TEXTS, page_texts, translate

logger = logging.getLogger(__name__)
register = template.Library()

#: Static files, resolved by Django's `static`, so that hashed names work.
STYLESHEET = "dramatiq_progress/dramatiq-progress.css"
COMPACT_STYLESHEET = "dramatiq_progress/dramatiq-progress-compact.css"
SCHEDULES_STYLESHEET = "dramatiq_progress/dramatiq-progress-schedules.css"
SCRIPT = "dramatiq_progress/dramatiq-progress.js"
STREAM = "dramatiq_progress/dramatiq-progress-stream.js"
RESULT = "dramatiq_progress/dramatiq-progress-result.js"
CANCEL = "dramatiq_progress/dramatiq-progress-cancel.js"
PARTS = "dramatiq_progress/dramatiq-progress-parts.js"

#: The attributes that require the module `RESULT`.
RESULT_ATTRIBUTES = ("show-result", "download", "redirect", "swap", "retry")

#: The attributes that require `COMPACT_STYLESHEET`.
COMPACT_ATTRIBUTES = ("compact", "inline")

#: The attributes that have a meaning for a bar, and the options of the tags. Any other attribute is the page's own.
ATTRIBUTES = frozenset(
    {
        *RESULT_ATTRIBUTES,
        *COMPACT_ATTRIBUTES,
        *("src", "list", "stream", "transport", "poll-interval", "pulse", "label", "aria-label", "origins", "warning"),
        *("stream-module", "result-module", "parts-module", "cancel-module"),
        *("progress-bar-id", "progress-bar-message-id", "result-element-id"),
        *("cancel", "cancel-confirm", "csrf-cookie", "csrf"),
        # HTML has no upper case in names.
        *(f"text-{name.lower()}" for name in TEXTS | CANCEL_TEXTS | PARTS_TEXTS),
        *("fallback", "empty", "staff-only"),
    }
)

#: How similar a name is to that of an attribute that was meant; 1 is equal.
_SIMILARITY = 0.8

#: Marks a template that has linked `COMPACT_STYLESHEET`.
_IS_LINKED = "dramatiq-progress-compact"

#: Escapes for an attribute in single quotes.
_ESCAPES = str.maketrans({"&": "&amp;", "'": "&#x27;", "<": "&lt;", ">": "&gt;"})

#: The default nonce: the page's, if it has one.
_PAGE_NONCE: Any = object()


@register.simple_tag(name="dramatiq_progress_script", takes_context=True)
def _script_of_page(context: template.Context, nonce: str | None = _PAGE_NONCE) -> SafeString:
    return script(_nonce_of_page(context) if nonce is _PAGE_NONCE else nonce)


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


def _texts_of_page() -> SafeString:
    texts = page_texts()
    if not texts:
        return SafeString()
    # Not format_html: it escapes four double quotes per text, and the attribute would be 50 % longer.
    content = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return SafeString(f"<meta name=\"dramatiq-progress-texts\" content='{content}'>\n")


def _nonce_of_page(context: template.Context) -> Any:
    # Django 6 has it in the context (by its context processor) and as `_csp_nonce`, django-csp as `csp_nonce`. Both are
    # created when they are first rendered, and are falsy until then.
    found = context.get("csp_nonce")
    return _nonce_of_request(getattr(context, "request", None)) if found is None else found


def _nonce_of_request(request: HttpRequest | None) -> Any:
    found = getattr(request, "csp_nonce", None)
    return getattr(request, "_csp_nonce", None) if found is None else found


@register.simple_tag(name="dramatiq_progress_mine", takes_context=True)
def mine(context: template.Context, *, empty: str = "", **attributes: str | bool | None) -> SafeString:
    """Render ``{% dramatiq_progress_mine %}``: a bar for each unfinished or recently finished message of the user.

    The newest message comes first. The tag reads the store when the page is rendered; if the store is unavailable, it
    renders a text instead. Messages that are sent later are shown after a reload.

    Parameters:
      empty: The text if there are no messages.
      attributes: Attributes of each bar, as for ``{% dramatiq_progress %}``.

    Raises:
      TemplateSyntaxError: An attribute is a misspelling.
      ImproperlyConfigured: The template is rendered without its request.
    """
    _check_names(attributes)
    request = _request_of(context, "dramatiq_progress_mine")
    try:
        found = run_outside_event_loop(lambda: read_mine(request))
    except StoreUnavailable:
        return _mine(_not_now())
    if not found:
        return _mine(format_html("<p>{}</p>", empty) if empty else SafeString())
    cancel = attributes.pop("cancel", None)
    # A list may have messages of both kinds.
    bars = ((_bar_of_page(context, each, cancel=each.cancellable and cancel, **attributes),) for each in found)
    return _mine(format_html_join("\n", "{}", bars))


def _mine(content: SafeString) -> SafeString:
    return format_html('<div class="dramatiq-progress-mine">{}</div>', content)


@register.simple_tag(name="dramatiq_progress_schedules", takes_context=True)
def schedules(context: template.Context, *, staff_only: bool = True, **attributes: str | bool | None) -> SafeString:
    """Render ``{% dramatiq_progress_schedules %}``: a table of all schedules, for staff. Other users get nothing.

    The tag reads the store when the page is rendered. The bars of the last runs are live; a reload shows later runs.

    Parameters:
      staff_only: False for a page that only people may open who may see the schedules.
      attributes: Attributes of each bar, as for ``{% dramatiq_progress %}``. Bars are compact by default.

    Raises:
      TemplateSyntaxError: An attribute is a misspelling.
      ImproperlyConfigured: The template is rendered without its request, or a schedule is invalid.
    """
    _check_names(attributes)
    request = _request_of(context, "dramatiq_progress_schedules")
    if staff_only and not run_outside_event_loop(lambda: is_staff(request)):
        return SafeString()
    try:
        statuses, live = run_outside_event_loop(lambda: (get_schedules(), live_schedulers()))
    except StoreUnavailable:
        return schedules_table.wrapped(_not_now())
    attributes = {"compact": True, **attributes}
    shown = schedules_table.table(statuses, live, lambda progress: _bar_of_page(context, progress, **attributes))
    return _link(SCHEDULES_STYLESHEET, _nonce_of_page(context)) + shown


def _request_of(context: template.Context, tag: str) -> HttpRequest:
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise ImproperlyConfigured(
            f"{{% {tag} %}} needs the request, which identifies the user. Render the template with it, as "
            "render(request, ...) does."
        )
    found: HttpRequest = request
    return found


def _not_now() -> SafeString:
    return format_html('<p>{} <a href="">{}</a></p>', translate(NOT_NOW), translate(REFRESH))


@register.simple_tag(name="dramatiq_progress", takes_context=True)
def _bar_of_page(context: template.Context, message: MessageLike, **attributes: str | bool | None) -> SafeString:
    request = getattr(context, "request", None)
    # Streams require an ASGI server, and the server of the page is also that of its streams.
    if isinstance(request, ASGIRequest):
        attributes.setdefault("stream", _url("stream"))
        attributes.setdefault("stream_module", static(STREAM))
    element = _element(message, request, **attributes)
    if not _is_compact(attributes) or context.render_context.get(_IS_LINKED):
        return element
    context.render_context[_IS_LINKED] = True
    return _link(COMPACT_STYLESHEET, _nonce_of_page(context)) + element


def bar(
    message: MessageLike,
    request: HttpRequest | None = None,
    *,
    fallback: str | bool | None = True,
    cancel: str | bool | None = None,
    **attributes: str | bool | None,
) -> SafeString:
    """Render ``{% dramatiq_progress message_id %}``: the bar of one message.

    Parameters:
      message: A message, its id, or its `Progress`.
      request: The page's request. The tag gets it from the template's context.
      fallback: Whether to render the content for browsers without JavaScript: the current progress, if the request may
        read it, and a link that reloads the page. It costs one read per bar, none for a `Progress`.
      cancel: Whether to show a button that cancels the message, to users who may cancel it. If its actor isn't declared
        with ``cancellable=True``, there is no button. With ``DEBUG`` the attribute ``warning`` says so, or that the
        message has no owner. ``cancel_confirm="Stop the import?"`` adds a confirmation.
      attributes: Attributes of the element, with ``_`` for ``-``: ``show_result=True``, ``redirect=True``,
        ``download="Get the ZIP"``, ``label="Import"``, ``id="one"``. Attributes that are False or None are omitted.
        With ``compact=True`` or ``inline=True`` it is preceded by a link to their stylesheet, once per template.
        With ``list=None`` the bar polls alone, and not with the others of the page. Under ASGI the tag adds ``stream``,
        if the template is rendered with its request; ``stream=None`` omits it. If the page's URL has the ``token`` of a
        signed link, the bar sends it.

    Raises:
      TemplateSyntaxError: An attribute is a misspelling, such as ``lable``; or the message id is invalid, and ``DEBUG``
        is true. Otherwise the bar shows that the task could not be found.
      ImproperlyConfigured: The project's URLs don't include those of the package, or there is a button and no request.
    """
    element = _element(message, request, fallback=fallback, cancel=cancel, **attributes)
    return _link(COMPACT_STYLESHEET, _nonce_of_request(request)) + element if _is_compact(attributes) else element


def _element(
    message: MessageLike,
    request: HttpRequest | None,
    *,
    fallback: str | bool | None = True,
    cancel: str | bool | None = None,
    **attributes: str | bool | None,
) -> SafeString:
    _check_names(attributes)
    named = {name.replace("_", "-"): value for name, value in attributes.items()}
    try:
        message_id = message_id_of(message)
    except ValueError as error:
        return _not_found(error, named)
    named.setdefault("list", _url("list"))
    named.setdefault("src", _source(request, message_id))
    # Only the answers say whether it is needed.
    named.setdefault("parts-module", static(PARTS))
    if any(named.get(name) not in (None, False) for name in RESULT_ATTRIBUTES):
        named.setdefault("result-module", static(RESULT))
    progress = reading(request, message if isinstance(message, Progress) else message_id) if fallback else None
    if cancel and progress is not None:
        if settings.DEBUG and (warning := _warning_about_cancel(progress)):
            named["warning"] = warning
        cancel = progress.cancellable and cancel
    if cancel:
        named |= {"cancel": _url("cancel", message_id), "cancel-module": static(CANCEL), **_csrf(request)}
    children = SafeString()
    if fallback:
        label = named.get("label")
        children = markup(
            progress, label=label if isinstance(label, str) else None, name=str(named.get("aria-label") or "")
        )
    return format_html("<dramatiq-progress{}>{}</dramatiq-progress>", flatatt(named), children)


def _warning_about_cancel(progress: Progress) -> str:
    """Return why there is no cancel button, or none for most users. Empty if there is nothing to say."""
    if not progress.cancellable:
        return f'No cancel button: the actor "{progress.actor}" isn\'t declared with cancellable=True.'
    if not progress.owner and cancel_permission() is None:
        return (
            "No cancel button for visitors: the message has no owner, so only staff may cancel it. Is "
            '"dramatiq_progress.requests.OwnerMiddleware" in MIDDLEWARE?'
        )
    return ""


def _check_names(names: Iterable[str]) -> None:
    """Check that no attribute is a misspelling.

    Raises:
      TemplateSyntaxError: One is.
    """
    for name in names:
        if meant := _meant_by(name):
            raise TemplateSyntaxError(
                f'A bar has no attribute "{name}"; did you mean "{meant}"? If you didn\'t, prefix it: "data_{name}".'
            )


@cache
def _meant_by(name: str) -> str:
    """Return the attribute of which this name is a misspelling. Empty if it is none."""
    attribute = name.replace("_", "-").lower()
    if attribute in ATTRIBUTES or attribute.startswith(("data-", "aria-")):
        return ""
    # x-label, of another library.
    if any(attribute.endswith(f"-{each}") for each in ATTRIBUTES):
        return ""
    close = get_close_matches(attribute, sorted(ATTRIBUTES), n=1, cutoff=_SIMILARITY)
    return close[0].replace("-", "_") if close else ""


def _is_compact(attributes: Mapping[str, object]) -> bool:
    return any(attributes.get(name) not in (None, False) for name in COMPACT_ATTRIBUTES)


def _link(stylesheet: str, nonce: object) -> SafeString:
    return format_html('<link rel="stylesheet" href="{}"{}>', static(stylesheet), flatatt({"nonce": nonce}))


def _source(request: HttpRequest | None, message_id: str) -> str:
    token = None if request is None else token_for(request, message_id)
    url = _url("detail", message_id)
    return url if token is None else with_token(url, token)


def _csrf(request: HttpRequest | None) -> dict[str, str]:
    """Return the attribute from which the button gets the CSRF token."""
    if request is None:
        raise ImproperlyConfigured(
            "{% dramatiq_progress … cancel=True %} needs the request, for its CSRF token. Render the template with "
            "it, as render(request, ...) does."
        )
    # It also sets the cookie.
    token = get_token(request)
    # The cookie changes with a login in another tab; a token in the page doesn't.
    is_hidden = settings.CSRF_USE_SESSIONS or settings.CSRF_COOKIE_HTTPONLY
    return {"csrf": token} if is_hidden else {"csrf-cookie": settings.CSRF_COOKIE_NAME}


def _not_found(error: ValueError, named: dict[str, str | bool | None]) -> SafeString:
    """Render a bar without a source: an id in a URL of the project may be anything, and is no reason for an error 500.

    Raises:
      TemplateSyntaxError: ``DEBUG`` is true. The variable is probably missing.
    """
    reason = (
        f"{{% dramatiq_progress %}}: {error} Is the variable in the template's context, as in "
        'render(request, "import.html", {"message_id": message.message_id})?'
    )
    if settings.DEBUG:
        raise TemplateSyntaxError(reason) from error
    logger.warning("A bar shows that its task could not be found. %s", reason)
    text = translate(TEXTS["not-found"])
    attributes = flatatt({name: value for name, value in named.items() if name not in ("src", "list", "stream")})
    return format_html(
        '<dramatiq-progress{}><span data-state="not-found">{}</span></dramatiq-progress>', attributes, text
    )


def _url(name: str, *arguments: str) -> str:
    try:
        return reverse(f"dramatiq_progress:{name}", args=arguments)
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            "The URLs of dramatiq_progress are not included. Add to the urlpatterns of your urls.py: "
            'path("progress/", include("dramatiq_progress.urls"))'
        ) from error

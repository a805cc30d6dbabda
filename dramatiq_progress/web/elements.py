"""The elements of a page: the bar of one message, and the list of a user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from dramatiq_progress.message_ids import MessageLike, message_id_of
from dramatiq_progress.permissions import cancel_permission
from dramatiq_progress.progress import Progress

from .attributes import RESULT_ATTRIBUTES, check_names, html_attributes, is_compact
from .noscript import markup, reading
from .reading import read_mine
from .responses import why_not_cancellable
from .static_files import CANCEL, COMPACT_STYLESHEET, PARTS, RESULT, STREAM, link, nonce_of_request
from .texts import NOT_NOW, REFRESH, BarTexts, translate

logger = logging.getLogger(__name__)


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
      cancel: Whether to show a button that cancels the message, to users who may cancel it. If it isn't cancellable,
        there is no button. With ``DEBUG`` the attribute ``warning`` says why, or that the message has no owner, unless
        nothing was read for the fallback. ``cancel_confirm="Stop the import?"`` adds a confirmation.
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
    element = bar_element(message, request, fallback=fallback, cancel=cancel, **attributes)
    return link(COMPACT_STYLESHEET, nonce_of_request(request)) + element if is_compact(attributes) else element


def bar_element(
    message: MessageLike,
    request: HttpRequest | None,
    *,
    fallback: str | bool | None = True,
    cancel: str | bool | None = None,
    **attributes: str | bool | None,
) -> SafeString:
    """Render the element of a `bar` alone, without the link to a stylesheet. The parameters are the same."""
    check_names(attributes)
    named = html_attributes(attributes)
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
        title = None if isinstance(label, bool) else label
        children = markup(progress, label=title, name=str(named.get("aria-label") or ""), texts=BarTexts(named))
    return format_html("<dramatiq-progress{}>{}</dramatiq-progress>", flatatt(named), children)


def add_stream(attributes: dict[str, str | bool | None], request: HttpRequest | None) -> None:
    """Add the attributes of a bar that receives changes as they happen, if the page is served under ASGI."""
    # Streams require an ASGI server, and the server of the page is also that of its streams.
    if isinstance(request, ASGIRequest):
        attributes.setdefault("stream", _url("stream"))
        attributes.setdefault("stream_module", static(STREAM))


def mine(request: HttpRequest, render_bar: Callable[[Progress], SafeString], *, empty: str) -> SafeString:
    """Render the bars of the user's unfinished or recently finished messages, or a text if the store is unavailable.

    Parameters:
      render_bar: Renders the bar of a message.
      empty: The text if there are no messages.
    """
    try:
        found = run_outside_event_loop(lambda: read_mine(request))
    except StoreUnavailable:
        return _mine(not_now())
    if not found:
        return _mine(format_html("<p>{}</p>", empty) if empty else SafeString())
    return _mine(format_html_join("\n", "{}", ((render_bar(each),) for each in found)))


def not_now() -> SafeString:
    """Render what a page shows instead of bars while the store is unavailable."""
    return format_html('<p>{} <a href="">{}</a></p>', translate(NOT_NOW), translate(REFRESH))


def _mine(content: SafeString) -> SafeString:
    return format_html('<div class="dramatiq-progress-mine">{}</div>', content)


def _warning_about_cancel(progress: Progress) -> str:
    """Return why there is no cancel button, or none for most users. Empty if there is nothing to say."""
    if not progress.cancellable:
        return f"No cancel button. {why_not_cancellable(progress)}"
    if not progress.owner and cancel_permission() is None:
        return (
            "No cancel button for visitors: the message has no owner, so only staff may cancel it. Is "
            '"dramatiq_progress.requests.OwnerMiddleware" in MIDDLEWARE?'
        )
    return ""


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
    text = BarTexts(named)["not-found"]
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

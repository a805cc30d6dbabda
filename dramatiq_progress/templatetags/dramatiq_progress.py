"""The template tags. Each is a thin shell over a function of `web`, with the request and the nonce of its page."""

from __future__ import annotations

from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.safestring import SafeString

from dramatiq_progress.message_ids import MessageLike
from dramatiq_progress.web import elements
from dramatiq_progress.web import schedules as schedules_table
from dramatiq_progress.web.attributes import check_names, is_compact
from dramatiq_progress.web.static_files import COMPACT_STYLESHEET, link, nonce_of_request, script

register = template.Library()

#: Marks a template that has linked `COMPACT_STYLESHEET`.
_IS_LINKED = "dramatiq-progress-compact"

#: The default nonce: the page's, if it has one.
_PAGE_NONCE: Any = object()


@register.simple_tag(name="dramatiq_progress_script", takes_context=True)
def _script_of_page(context: template.Context, nonce: str | None = _PAGE_NONCE) -> SafeString:
    return script(_nonce_of_page(context) if nonce is _PAGE_NONCE else nonce)


@register.simple_tag(name="dramatiq_progress", takes_context=True)
def _bar_of_page(context: template.Context, message: MessageLike, **attributes: str | bool | None) -> SafeString:
    request = _request_in(context)
    elements.add_stream(attributes, request)
    element = elements.bar_element(message, request, **attributes)
    if not is_compact(attributes) or context.render_context.get(_IS_LINKED):
        return element
    context.render_context[_IS_LINKED] = True
    return link(COMPACT_STYLESHEET, _nonce_of_page(context)) + element


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
    check_names(attributes)
    request = _request_of(context, "dramatiq_progress_mine")
    cancel = attributes.pop("cancel", None)
    # A list may have messages of both kinds.
    return elements.mine(
        request,
        lambda each: _bar_of_page(context, each, cancel=each.cancellable and cancel, **attributes),
        empty=empty,
    )


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
    check_names(attributes)
    request = _request_of(context, "dramatiq_progress_schedules")
    attributes = {"compact": True, **attributes}
    return schedules_table.table(
        request,
        lambda progress: _bar_of_page(context, progress, **attributes),
        staff_only=staff_only,
        nonce=_nonce_of_page(context),
    )


def _request_of(context: template.Context, tag: str) -> HttpRequest:
    request = _request_in(context)
    if request is None:
        raise ImproperlyConfigured(
            f"{{% {tag} %}} needs the request, which identifies the user. Render the template with it, as "
            "render(request, ...) does."
        )
    return request


def _request_in(context: template.Context) -> HttpRequest | None:
    found: HttpRequest | None = getattr(context, "request", None) or context.get("request")
    return found


def _nonce_of_page(context: template.Context) -> Any:
    # Django 6 has it in the context too, by its context processor.
    found = context.get("csp_nonce")
    return nonce_of_request(_request_in(context)) if found is None else found

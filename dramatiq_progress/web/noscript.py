"""The children of a bar's element, for pages without JavaScript: the progress at this moment and a refresh link.

`reading` reads what the request may see, and `markup` renders it in the active language. With JavaScript they are what
the bar shows until its first answer.
"""

from __future__ import annotations

from django.forms.utils import flatatt
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.event_loop import in_event_loop
from dramatiq_progress.permissions import readable
from dramatiq_progress.progress import Progress
from dramatiq_progress.stores import get_store

from .describing import TRANSLATIONS, describe, until_first_answer
from .texts import REFRESH, BarTexts, translate


def reading(request: HttpRequest | None, message: str | Progress) -> Progress | None:
    """Return the progress that this request may see, reading it from the store if a message id is given.

    None if there is no such message, the request may not see it, or the store is unavailable. Also None if permissions
    can't be checked (no request), and in an event loop's thread, which must not block (a template of an async view).
    """
    if request is None or in_event_loop():
        return None
    try:
        found = get_store().read([message]) if isinstance(message, str) else [message]
        return next(iter(readable(request, found)), None)
    except StoreUnavailable:
        return None


def markup(
    progress: Progress | None, *, label: str | None = None, name: str = "", texts: BarTexts = TRANSLATIONS
) -> SafeString:
    """Render the children of a bar. Without progress, the text is "Checking progress…".

    Parameters:
      label: The title. None: the message's, if there is progress.
      name: The name for screen readers if there is no label.
      texts: The texts of the bar.
    """
    title = label if label is not None or progress is None else progress.title
    parts = [format_html("<b>{}</b>", title)] if title else []
    percent = _known_percent(progress)
    parts.append(_track(progress, percent, label or name or title or texts["label"]))
    if progress is None:
        parts.append(format_html("<span>{}</span>", texts["waiting"]))
    else:
        attributes = {"data-state": progress.state.value}
        if percent is not None:
            attributes["data-percent"] = f"{percent:g}"
        text = describe(progress, texts)
        if (first := until_first_answer(progress, texts)) != text:
            attributes["data-text"] = first
        parts.append(format_html("<span{}>{}</span>", flatatt(attributes), text))
    if progress is None or not progress.complete:
        parts.append(format_html(' <a href="">{}</a>', translate(REFRESH)))
    return format_html_join("", "{}", ((each,) for each in parts))


def _known_percent(progress: Progress | None) -> float | None:
    # A retry that starts over still has the percentage of the attempt that failed.
    if progress is None or (progress.state.is_pending and not progress.continues):
        return None
    return progress.percent


def _track(progress: Progress | None, percent: float | None, label: str) -> SafeString:
    if percent is None and progress is not None:
        if progress.state.is_pending:
            percent = 0
        elif progress.complete:
            # No indeterminate <progress>, which would keep moving.
            return SafeString()
    if percent is None:
        return format_html('<progress max="100" aria-label="{}"></progress>', label)
    # The attribute needs a decimal point in every locale.
    return format_html('<progress max="100" value="{}" aria-label="{}"></progress>', f"{percent:g}", label)

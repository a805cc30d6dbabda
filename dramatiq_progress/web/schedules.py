"""The table of all schedules, for staff: when each is due next, and how its last run went."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from django.http import HttpRequest
from django.utils.formats import date_format, get_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.event_loop import run_outside_event_loop
from dramatiq_progress.permissions import is_staff
from dramatiq_progress.progress import Progress
from dramatiq_progress.schedules import ScheduleStatus, get_schedules, have_seconds, live_schedulers

from .elements import not_now
from .static_files import SCHEDULES_STYLESHEET, link
from .texts import SCHEDULE_TEXTS, TEXTS, translate

_COLUMNS = ("schedule", "runs", "next", "last", "outcome")
_NOTHING = "—"


def table(
    request: HttpRequest, bar: Callable[[Progress], SafeString], *, staff_only: bool, nonce: object
) -> SafeString:
    """Render the table as it is now, or a text if the store is unavailable.

    Parameters:
      bar: Renders the bar of a message.
      staff_only: Whether to render nothing for other users.
      nonce: The nonce of the page, for the stylesheet.
    """
    if staff_only and not run_outside_event_loop(lambda: is_staff(request)):
        return SafeString()
    try:
        statuses, live = run_outside_event_loop(lambda: (get_schedules(), live_schedulers()))
    except StoreUnavailable:
        return _wrapped(not_now())
    if not staff_only:
        # The text of an exception of the project's isn't for everyone.
        statuses = [replace(each, error="") for each in statuses]
    return link(SCHEDULES_STYLESHEET, nonce) + _table(statuses, live, bar)


def _table(
    statuses: Sequence[ScheduleStatus], live: Sequence[str], bar: Callable[[Progress], SafeString]
) -> SafeString:
    """Render the table, and a warning if no scheduler is running."""
    seconds = have_seconds(statuses)
    headings = format_html_join("", '<th scope="col">{}</th>', ((_text(each),) for each in _COLUMNS))
    rows = format_html_join("", "<tr>{}</tr>", ((_row(each, bar, seconds=seconds),) for each in statuses))
    shown = format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", headings, rows)
    is_stopped = not live and any(each.enabled for each in statuses)
    warning = format_html('<p role="alert">{}</p>', _text("stopped")) if is_stopped else SafeString()
    return _wrapped(warning + shown)


def _wrapped(content: SafeString) -> SafeString:
    return format_html('<div class="dramatiq-progress-schedules">{}</div>', content)


def _row(status: ScheduleStatus, bar: Callable[[Progress], SafeString], *, seconds: bool) -> SafeString:
    cells = (
        status.runs,
        (status.error or _moment(status.next_at, seconds=seconds)) if status.enabled else _text("disabled"),
        _moment(status.last_at, seconds=seconds),
        _outcome(status, bar),
    )
    name = format_html('<th scope="row">{}</th>', status.name)
    # For narrow pages, which show a row as a block: dramatiq-progress-schedules.css.
    labels = map(_text, _COLUMNS[1:])
    return name + format_html_join("", '<td data-label="{}">{}</td>', zip(labels, cells, strict=True))


def _outcome(status: ScheduleStatus, bar: Callable[[Progress], SafeString]) -> SafeString | str:
    if status.last_progress is not None:
        return bar(status.last_progress)
    return _NOTHING if status.last_state is None else translate(TEXTS[status.last_state.value])


def _moment(moment: datetime | None, *, seconds: bool) -> SafeString | str:
    if moment is None:
        return _NOTHING
    shape = get_format("SHORT_DATETIME_FORMAT")
    if seconds:
        # No format of Django's has seconds, which a schedule that is due each few seconds needs.
        shape = re.sub(r"(?<!\\)i", "i:s", re.sub(r"(?<!\\)P", "g:i a", shape))
    text = date_format(moment, shape)
    return format_html('<time datetime="{}">{} {}</time>', moment.isoformat(), text, moment.strftime("%Z"))


def _text(name: str) -> str:
    return translate(SCHEDULE_TEXTS[name])

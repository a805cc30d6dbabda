"""The table of all schedules, for staff: when each is due next, and how its last run went."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from django.utils.formats import date_format, get_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dramatiq_progress.progress import Progress
from dramatiq_progress.schedules import ScheduleStatus, have_seconds

from .texts import SCHEDULE_TEXTS, TEXTS, translate

_COLUMNS = ("schedule", "runs", "next", "last", "outcome")
_NOTHING = "—"


def table(statuses: Sequence[ScheduleStatus], live: Sequence[str], bar: Callable[[Progress], SafeString]) -> SafeString:
    """Render the table, and a warning if no scheduler is running.

    Parameters:
      statuses: The schedules.
      live: The running schedulers.
      bar: Renders the bar of a message.
    """
    seconds = have_seconds(statuses)
    headings = format_html_join("", '<th scope="col">{}</th>', ((_text(each),) for each in _COLUMNS))
    rows = format_html_join("", "<tr>{}</tr>", ((_row(each, bar, seconds=seconds),) for each in statuses))
    shown = format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", headings, rows)
    is_stopped = not live and any(each.enabled for each in statuses)
    warning = format_html('<p role="alert">{}</p>', _text("stopped")) if is_stopped else SafeString()
    return wrapped(warning + shown)


def wrapped(content: SafeString) -> SafeString:
    """Return the element that contains the table, or a text instead of it."""
    return format_html('<div class="dramatiq-progress-schedules">{}</div>', content)


def _row(status: ScheduleStatus, bar: Callable[[Progress], SafeString], *, seconds: bool) -> SafeString:
    cells = (
        status.runs,
        _moment(status.next_at, seconds=seconds) if status.enabled else _text("disabled"),
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

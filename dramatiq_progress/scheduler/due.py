"""Ticks that are due, and those of them that are sent: the policies ``missed`` and ``grace``."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple

from dramatiq_progress.schedules import Schedule

#: How late a tick may be with ``missed="skip"``.
PUNCTUAL = timedelta(seconds=60)
#: Number of missed ticks that are sent with ``missed="all"``, the latest ones.
MOST_MISSED = 100

_MICROSECOND = timedelta(microseconds=1)


class Due(NamedTuple):
    """The ticks that are due.

    Attributes:
      send: Those that are to be sent, in order.
      first: The first one that is due. None if none is.
      last: The latest one that is due, or the moment before which all are too late.
    """

    send: list[datetime]
    first: datetime | None = None
    last: datetime | None = None


def due_ticks(schedule: Schedule, after: datetime, now: datetime) -> Due:
    """Return the ticks of a schedule after a moment that are due now, by the store's clock."""
    first = schedule.after(after)
    if first is None or first > now:
        return Due([])
    grace = timedelta(seconds=schedule.grace)
    latest: deque[datetime] = deque(maxlen=MOST_MISSED if schedule.missed == "all" else 1)
    # A tick that is exactly as late as the grace period allows is sent. None may be left: `at`, a trigger with an end.
    tick = first if now - first <= grace else schedule.after(now - grace - _MICROSECOND)
    while tick is not None and tick <= now:
        latest.append(tick)
        tick = schedule.after(tick)
    if not latest:
        return Due([], first, now - grace)
    patience = min(grace, PUNCTUAL) if schedule.missed == "skip" else grace
    return Due([each for each in latest if now - each <= patience], first, latest[-1])

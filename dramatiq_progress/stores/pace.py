"""The pace of a queue: how fast its messages start, and how long one at a position in it waits. See leave.lua."""

from __future__ import annotations

import math
from typing import NamedTuple

from .encoding import Leave, seconds

#: How long a departure from a queue counts; in a slow queue, `MEMORY_DEPARTURES` times its interval.
MEMORY_SECONDS = 60.0
#: See above.
MEMORY_DEPARTURES = 6

#: Number of departures, and their age in their usual intervals, up to which a wait is estimated.
MIN_DEPARTURES = 3
MAX_INTERVALS = 3

#: How long a pace is kept after the last departure: its interval to the next one counts if a message waited.
TTL_SECONDS = 24 * 3600


class QueuePosition(NamedTuple):
    """The position of a message in its queue, as a reader sees it.

    Attributes:
      position: About its position; 1 is next.
      length: Number of messages in the queue.
      wait: About the seconds until it starts. None while unknown.
    """

    position: int
    length: int
    wait: float | None = None


def after_departure(pace: str, now: float, given: Leave, *, waiting: bool) -> str:
    """Return the pace after a message has left for its turn, as leave.lua writes it.

    Parameters:
      waiting: Whether messages are waiting now.
    """
    count, total, departure, was_waiting = pace.split(" ") if pace else ("0", "0", str(now), "0")
    interval = max(0.0, now - float(departure))
    is_paced, memory = was_waiting == "1" and interval > 0, float(given.pace_memory)
    rest = math.exp(-interval / (max(memory, MEMORY_DEPARTURES * interval) if is_paced else memory))
    departures, spent = float(count) * rest + is_paced, float(total) * rest + (interval if is_paced else 0.0)
    return f"{departures:.4f} {spent:.4f} {seconds(now)} {int(waiting)}"


def position_of(before: int, length: int, pace: str | None, clock: object, microseconds: object) -> QueuePosition:
    """Return the position of a message, from the answer of position.lua."""
    try:
        wait = wait_at(before + 1, pace, int(str(clock)) + int(str(microseconds)) / 1e6)
    except (ArithmeticError, ValueError):
        # Another program, or a later version of this package, has written the pace.
        wait = None
    return QueuePosition(before + 1, length, wait)


def wait_at(position: int, pace: str | None, now: float) -> float | None:
    """Return about the seconds until the message at this position starts.

    None if the queue has had too few departures, or none lately.

    Raises:
      ValueError: The pace isn't one that this version of the package writes.
    """
    if pace is None:
        return None
    departures, spent, departure, _ = map(float, pace.split(" "))
    if departures < MIN_DEPARTURES:
        return None
    interval = spent / departures
    if not 0 <= now - departure <= max(MEMORY_SECONDS, MAX_INTERVALS * interval):
        return None
    wait = position * interval
    return wait if math.isfinite(wait) and wait >= 0 else None

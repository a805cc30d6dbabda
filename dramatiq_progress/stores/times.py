"""The times of a `Progress` that depend on when its record is read: how old, how long, how soon."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dramatiq_progress.progress import State
from dramatiq_progress.progress_values import Number, UsualTimes

from .durations import Estimate
from .fields import finite
from .pace import QueuePosition


def seconds_until(moment: str | None, now: float) -> float | None:
    """Return the seconds until a moment, 0 if it has passed; None if there is none."""
    return None if moment is None else max(0.0, round(finite(moment) - now, 1))


def heartbeat_age(heartbeat: str, now: float) -> float:
    """Return the age of a heartbeat in seconds."""
    # One from the future is of another server's clock, before a failover: see prelude.lua.
    return abs(now - finite(heartbeat))


def is_another_alive(record: Mapping[str, str], now: float, lost_after: float) -> bool:
    """Return whether an attempt is alive that waits, and is about to be shown."""
    later = record.get("later")
    return later is not None and heartbeat_age(later.rpartition(" ")[2], now) <= lost_after


def silence(state: State, record: Mapping[str, str], now: float) -> float:
    """Return `Progress.silence`."""
    if state.is_pending:
        since = record.get("enqueued_at")
    elif state is State.RETRYING:
        since = record.get("retry_at")
    elif state.is_final and "ended_at" in record:
        since = record["ended_at"]
    else:
        since = record.get("reported_at", record.get("started_at"))
    return 0.0 if since is None else max(0.0, now - finite(since))


def elapsed(state: State, record: Mapping[str, str], now: float) -> float | None:
    """Return `Progress.elapsed`."""
    started = record.get("started_at")
    if started is None:
        return None
    # How long a lost attempt ran after its last heartbeat is unknown.
    ended = record["heartbeat"] if state is State.LOST else record.get("ended_at", now)
    return max(0.0, round(finite(ended) - finite(started), 1))


def usual_times(state: State, run: Estimate | None, queued: QueuePosition | None) -> UsualTimes | None:
    """Return `Progress.usual`."""
    if state.is_final or state in (State.LOST, State.PAUSED):
        return None
    wait = queued.wait if queued else None
    if run is None and wait is None:
        return None
    return UsualTimes(
        None if run is None else _about(run.run),
        None if run is None else _about(run.run_most),
        None if wait is None else _about(wait),
    )


def _about(seconds: float) -> Number:
    """Return an estimate with two digits, so that it doesn't change with each run, and at least 0.1 s."""
    seconds = max(seconds, 0.1)
    digits = 1 - math.floor(math.log10(seconds))
    return round(seconds, digits) if digits > 0 else int(round(seconds, digits))


def time_left(current: Number, total: Number | None, rate: float | None, age: float) -> float | None:
    """Return `Progress.eta`, for values that were reported this many seconds ago."""
    # Counts down between two reports: the time left at the last one, less its age.
    if rate is None or total is None:
        return None
    left = (total - current) / rate - age
    # Overdue work doesn't have "0 s left": its end is unknown.
    is_overdue = left < 0 and current < total
    return round(max(0.0, left), 1) if math.isfinite(left) and not is_overdue else None

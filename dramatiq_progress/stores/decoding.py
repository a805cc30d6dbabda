"""From a stored record to a `Progress`, and from a record that can't be read to a log line."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from dramatiq_progress.progress import DEFAULT_RESULTS, STATES, Progress, State
from dramatiq_progress.progress_values import Parts, StepProgress
from dramatiq_progress.titles import shown_title

from .composites import IS_PIPELINE, THOUSANDTHS
from .counters import Counters
from .durations import Estimate
from .fields import finite, fraction_of, json_of, number_of, object_of, step_of, whole_number_of
from .pace import QueuePosition
from .speed import MIN_SAMPLES, MIN_SECONDS
from .times import elapsed, heartbeat_age, is_another_alive, seconds_until, silence, time_left, usual_times

#: Number of unreadable records that are remembered, so that each is logged once and not at every poll.
REMEMBERED_RECORDS = 1_000

#: The errors of reading a record that another version of this package, or another program, has written.
UNREADABLE = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)

logger = logging.getLogger(__name__)

# Only used through operations that are atomic in CPython.
_logged: dict[str, None] = {}


def read_record(message_id: str, record: Mapping[str, str], **known: Any) -> Progress | None:
    """Return the progress in a record. None if it is empty, or can't be read, which is logged once per message.

    Parameters are those of `decode`.
    """
    if not record:
        return None
    try:
        return decode(message_id, record, **known)
    except UNREADABLE as error:
        log_unreadable(message_id, error)
        return None


def log_unreadable(message_id: str, error: object) -> None:
    """Log that a record can't be read, once per message."""
    if message_id in _logged:
        return
    _logged[message_id] = None
    if len(_logged) > REMEMBERED_RECORDS:
        _logged.pop(next(iter(_logged), ""), None)
    logger.warning(
        "The record of message %s can't be read; treating it as not found. Check that no other program, and no "
        "other version of this package, writes below the same PREFIX: %s",
        message_id,
        repr(error) if isinstance(error, Exception) else error,
    )


def decode(
    message_id: str,
    record: Mapping[str, str],
    *,
    now: float,
    lost_after: float,
    overdue_after: float = math.inf,
    queued: QueuePosition | None = None,
    usual: Estimate | None = None,
) -> Progress:
    """Return the progress in a record, whose values are all such that a browser can read them.

    Parameters:
      message_id: The message's id.
      record: Field to text, as the store keeps it.
      now: The store's clock when the record was read, in seconds.
      lost_after: Seconds without a heartbeat after which a running message is `State.LOST`.
      overdue_after: Seconds without a heartbeat after which it has no `Progress.eta`: its worker may have died.
      queued: The message's position in its queue.
      usual: How long a run of its actor usually takes.

    Raises:
      UNREADABLE: It has fields or values that this version of the package doesn't write.
    """
    state = STATES[record["state"]]
    counters = Counters.parse(record["parts"]) if "parts" in record else None
    # A composite is lost only while a member should run: otherwise all of them wait in a queue.
    beats = state is State.RUNNING and (counters is None or counters.r > 0)
    silent_for = heartbeat_age(record["heartbeat"], now) if beats else 0.0
    if silent_for > lost_after and not is_another_alive(record, now, lost_after):
        state = State.LOST
    current, total = number_of(record, "current") or 0, number_of(record, "total")
    rate = number_of(record, "rate") if state is State.RUNNING else None
    has_steps = "overall" in record
    overall = fraction_of(number_of(record, "overall"))
    if counters is not None:
        current, total = counters.ended, counters.total
        is_known = counters.total_weight and (state.is_final or not counters.is_growing)
        has_steps = True
        overall = (
            fraction_of(counters.weighted_thousandths / (THOUSANDTHS * counters.total_weight)) if is_known else None
        )
        if counters.is_growing and not state.is_final:
            total = None
        rate = _rate(counters) if state is State.RUNNING else None
    # What the rate is about.
    done, whole = (overall or 0.0, None if overall is None else 1) if has_steps else (current, total)
    attempt = int(record.get("attempt", "0"))
    age = now - finite(record.get("reported_at", now))
    pauses = not state.is_final and "pause_requested" in record
    return Progress(
        id=message_id,
        actor=record["actor"],
        queue=record["queue"],
        state=state,
        title=shown_title(record["actor"], record.get("title", "")),
        current=current,
        total=total,
        description=record.get("description", ""),
        has_steps=has_steps,
        overall=overall,
        overall_rate=rate if has_steps else None,
        step=step_of(record.get("step"), overall, total) if counters is None else _stage(state, counters),
        attempt=attempt,
        # A cursor is where the next attempt begins: see worker/resuming/cursor.py.
        continues=state.is_pending and attempt > 0 and (bool(record.get("cursor")) or _awaits_retry(state, record)),
        retries_left=0 if state.is_final else whole_number_of(record, "retries_left"),
        retry_in=seconds_until(record.get("retry_at"), now) if state is State.RETRYING else None,
        queue_position=queued.position if queued else None,
        queue_length=queued.length if queued else None,
        usual=usual_times(state, usual, queued),
        elapsed=elapsed(state, record, now),
        rate=None if has_steps else rate,
        # It won't end at this rate if it is about to be paused.
        eta=None if silent_for > overdue_after or pauses else time_left(done, whole, rate, age),
        cancel_requested="cancel_requested" in record,
        pause_requested=pauses,
        cancellable=record.get("cancellable") == "1",
        metadata=object_of(record.get("metadata", "{}")),
        parts=None if counters is None else _parts(counters),
        result=_result(state, record.get("result"), counters),
        version=int(record["version"]),
        silence=silence(state, record, now),
        owner=record.get("owner", ""),
    )


def _awaits_retry(state: State, record: Mapping[str, str]) -> bool:
    # Its values are those of the attempt that failed, as before the pause: see pause.lua.
    return state is State.PAUSED and record.get("pause_requested") == State.RETRYING


def _stage(state: State, counters: Counters) -> StepProgress | None:
    """Return the stage that a pipeline is in, or was in last. None before the first, and for a group."""
    if IS_PIPELINE not in counters.flags or state.is_pending or not counters.total:
        return None
    index = counters.ended + (0 if state.is_final else 1)
    return StepProgress(min(max(1, index), counters.total), counters.total, "")


def _parts(counters: Counters) -> Parts:
    waiting = counters.total - counters.ended - counters.r - counters.t
    ended = {"done": counters.d, "failed": counters.f, "cancelled": counters.c, "skipped": counters.s}
    return Parts(total=counters.total, waiting=waiting, running=counters.r, retrying=counters.t, **ended)


def _rate(counters: Counters) -> float | None:
    """Return the fraction of a composite that is done per second."""
    if counters.samples < MIN_SAMPLES or counters.spent < MIN_SECONDS or not counters.total_weight:
        return None
    return counters.moved / counters.spent / (THOUSANDTHS * counters.total_weight)


def _result(state: State, stored: str | None, counters: Counters | None) -> Any:
    if not state.is_final:
        return None
    if state is State.FAILED and counters is not None:
        return f"{counters.f:,} of {counters.total:,} failed."
    return DEFAULT_RESULTS.get(state) if stored is None else json_of(stored)

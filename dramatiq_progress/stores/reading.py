"""From a stored record to a `Progress`, and from a record that can't be read to a log line."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from dramatiq_progress.error_texts import show
from dramatiq_progress.progress import (
    DEFAULT_RESULTS,
    STATES,
    Number,
    Parts,
    Progress,
    State,
    StepProgress,
    UsualTimes,
)
from dramatiq_progress.titles import shown_title

from .composites import IS_PIPELINE, WHOLE
from .counters import Counters
from .durations import Estimate
from .pace import QueuePlace

#: Number of unreadable records that are remembered, so that each is logged once and not at every poll.
REMEMBERED_RECORDS = 1_000

#: How deep metadata and results may be nested. json.dumps() of an answer fails somewhat below 1,000 levels, which is
#: Python's limit of recursion.
MAX_DEPTH = 200

#: The largest number of steps that is read; above it, a browser would round.
MAX_STEPS = 2**53

#: A composite has no rate before this many contributions, and this many seconds: see worker/rate.py.
MIN_SAMPLES = 3
MIN_SECONDS = 2.0

#: The errors of reading a record that another version of this package, or another program, has written.
UNREADABLE = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)

logger = logging.getLogger(__name__)

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')

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


def is_deep(text: str) -> bool:
    """Return whether JSON is nested more than `MAX_DEPTH` levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest > MAX_DEPTH


def decode(
    message_id: str,
    record: Mapping[str, str],
    *,
    now: float,
    lost_after: float,
    overdue_after: float = math.inf,
    queued: QueuePlace | None = None,
    usual: Estimate | None = None,
) -> Progress:
    """Return the progress in a record, whose values are all such that a browser can read them.

    Parameters:
      message_id: The message's id.
      record: Field to text, as the store keeps it.
      now: The store's clock when the record was read, in seconds.
      lost_after: Seconds without a heartbeat after which a running message is `State.LOST`.
      overdue_after: Seconds without a heartbeat after which it has no `Progress.eta`: its worker may have died.
      queued: QueuePlace of the message in its queue.
      usual: How long a run of its actor usually takes.

    Raises:
      UNREADABLE: It has fields or values that this version of the package doesn't write.
    """
    state = STATES[record["state"]]
    counters = Counters.parse(record["parts"]) if "parts" in record else None
    # A composite is lost only while a member should run: otherwise all of them wait in a queue.
    beats = state is State.RUNNING and (counters is None or counters.r > 0)
    silent_for = _heartbeat_age(record["heartbeat"], now) if beats else 0.0
    if silent_for > lost_after and not _is_another_alive(record, now, lost_after):
        state = State.LOST
    current, total = _number(record, "current") or 0, _number(record, "total")
    rate = _number(record, "rate") if state is State.RUNNING else None
    has_steps = "overall" in record
    overall = _fraction(_number(record, "overall"))
    if counters is not None:
        current, total = counters.ended, counters.total
        is_known = counters.whole and (state.is_final or not counters.is_growing)
        has_steps, overall = True, _fraction(counters.share / (WHOLE * counters.whole)) if is_known else None
        if counters.is_growing and not state.is_final:
            total = None
        rate = _rate(counters) if state is State.RUNNING else None
    # What the rate is about.
    done, whole = (overall or 0.0, None if overall is None else 1) if has_steps else (current, total)
    attempt = int(record.get("attempt", "0"))
    age = now - _finite(record.get("reported_at", now))
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
        step=_step(record.get("step"), overall, total) if counters is None else _stage(state, counters),
        attempt=attempt,
        # A cursor is where the next attempt begins: see worker/resuming.py.
        continues=state.is_pending and attempt > 0 and (bool(record.get("cursor")) or _awaits_retry(state, record)),
        retries_left=0 if state.is_final else _whole(record, "retries_left"),
        retry_in=_seconds_until(record.get("retry_at"), now) if state is State.RETRYING else None,
        queue_position=queued.position if queued else None,
        queue_length=queued.length if queued else None,
        usual=_usual(state, usual, queued),
        elapsed=_elapsed(state, record, now),
        rate=None if has_steps else rate,
        # It won't end at this rate if it is about to be paused.
        eta=None if silent_for > overdue_after or pauses else _time_left(done, whole, rate, age),
        cancel_requested="cancel_requested" in record,
        pause_requested=pauses,
        cancellable=record.get("cancellable") == "1",
        metadata=_object(record.get("metadata", "{}")),
        parts=None if counters is None else _parts(counters),
        result=_result(state, record.get("result"), counters),
        version=int(record["version"]),
        silence=_silence(state, record, now),
        owner=record.get("owner", ""),
    )


def _heartbeat_age(heartbeat: str, now: float) -> float:
    # One from the future is of another server's clock, before a failover: see prelude.lua.
    return abs(now - _finite(heartbeat))


def _awaits_retry(state: State, record: Mapping[str, str]) -> bool:
    # Its values are those of the attempt that failed, as before the pause: see pause.lua.
    return state is State.PAUSED and record.get("pause_requested") == State.RETRYING


def _is_another_alive(record: Mapping[str, str], now: float, lost_after: float) -> bool:
    # An attempt that waits, and is about to be shown.
    later = record.get("later")
    return later is not None and _heartbeat_age(later.rpartition(" ")[2], now) <= lost_after


def _seconds_until(moment: str | None, now: float) -> float | None:
    return None if moment is None else max(0.0, round(_finite(moment) - now, 1))


def _silence(state: State, record: Mapping[str, str], now: float) -> float:
    if state.is_pending:
        since = record.get("enqueued_at")
    elif state is State.RETRYING:
        since = record.get("retry_at")
    else:
        since = record.get("reported_at", record.get("started_at"))
    return 0.0 if since is None else max(0.0, now - _finite(since))


def _elapsed(state: State, record: Mapping[str, str], now: float) -> float | None:
    started = record.get("started_at")
    if started is None:
        return None
    # How long a lost attempt ran after its last heartbeat is unknown.
    ended = record["heartbeat"] if state is State.LOST else record.get("ended_at", now)
    return max(0.0, round(_finite(ended) - _finite(started), 1))


def _usual(state: State, run: Estimate | None, queued: QueuePlace | None) -> UsualTimes | None:
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


def _time_left(current: Number, total: Number | None, rate: float | None, age: float) -> float | None:
    # Counts down between two reports: the time left at the last one, less its age.
    if rate is None or total is None:
        return None
    left = (total - current) / rate - age
    # Overdue work doesn't have "0 s left": its end is unknown.
    is_overdue = left < 0 and current < total
    return round(max(0.0, left), 1) if math.isfinite(left) and not is_overdue else None


def _finite(text: str | float) -> float:
    moment = float(text)
    if not math.isfinite(moment):
        raise ValueError(f"{text!r} isn't finite")
    return moment


def _number(record: Mapping[str, str], name: str) -> Number | None:
    text = record.get(name)
    if text is None or text == "null":
        return None
    number = int(text) if text.isdecimal() else float(text)
    # float() raises for a whole number beyond its range.
    if not 0 <= float(number) < math.inf:
        raise ValueError(f"{name} is {show(text)}, which isn't a number that can be shown")
    return number


def _fraction(number: Number | None) -> float | None:
    if number is not None and number > 1:
        raise ValueError(f"{number} isn't a fraction")
    return None if number is None else float(number)


def _step(text: str | None, overall: float | None, total: Number | None) -> StepProgress | None:
    """Return the step of ``[index, count, name]``, followed by the span of the whole if it is known."""
    if text is None:
        return None
    index, count, name, *span = _json(text)
    begin, end = span or (0.0, 0.0)
    if type(index) is not int or type(count) is not int or not 1 <= index <= count <= MAX_STEPS:
        raise ValueError(f"{show(text)} isn't a step")
    if type(name) is not str or not 0 <= begin <= end <= 1:
        raise ValueError(f"{show(text)} isn't a step")
    # Half a surrogate pair raises UnicodeEncodeError here, and not on a page.
    name.encode()
    return StepProgress.of(index, count, name, span=(begin, end), overall=overall, total=total)


def _stage(state: State, counters: Counters) -> StepProgress | None:
    """Return the stage that a pipeline is in, or was in last. None before the first, and for a group."""
    if IS_PIPELINE not in counters.flags or state.is_pending or not counters.total:
        return None
    index = counters.ended + (0 if state.is_final else 1)
    return StepProgress(min(max(1, index), counters.total), counters.total, "")


def _whole(record: Mapping[str, str], name: str) -> int | None:
    number = _number(record, name)
    return None if number is None else int(number)


def _object(text: str) -> dict[str, Any]:
    if text == "{}":
        return {}
    decoded = _json(text)
    if not isinstance(decoded, dict):
        raise TypeError(f"the metadata is {show(text)}, which isn't an object")
    return decoded


def _json(text: str) -> Any:
    if is_deep(text):
        raise ValueError(f"JSON is nested more than {MAX_DEPTH} levels deep")
    return _decoder.decode(text)


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON that a browser can read")


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_reject_constant)


def _parts(counters: Counters) -> Parts:
    waiting = counters.total - counters.ended - counters.r - counters.t
    ended = {"done": counters.d, "failed": counters.f, "cancelled": counters.c, "skipped": counters.s}
    return Parts(total=counters.total, waiting=waiting, running=counters.r, retrying=counters.t, **ended)


def _rate(counters: Counters) -> float | None:
    """Return the fraction of a composite that is done per second."""
    if counters.samples < MIN_SAMPLES or counters.spent < MIN_SECONDS or not counters.whole:
        return None
    return counters.moved / counters.spent / (WHOLE * counters.whole)


def _result(state: State, stored: str | None, counters: Counters | None) -> Any:
    if not state.is_final:
        return None
    if state is State.FAILED and counters is not None:
        return f"{counters.f:,} of {counters.total:,} failed."
    return DEFAULT_RESULTS.get(state) if stored is None else _json(stored)

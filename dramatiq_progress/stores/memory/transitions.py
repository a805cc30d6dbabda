"""The rules of the Lua scripts, as functions on a record in memory.

Each does what the script of its name does, line by line; tests/test_stores.py is the contract of both. Each changes the
record in place, and returns its answer with what remains to be done: whether readers see a change, and the new TTL.

Start, report and finish are in `attempt_transitions`, the rules of composites and schedules in `contributions` and
`claims`. What all of them share is in `prelude`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dramatiq_progress.progress import State
from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.encoding import seconds
from dramatiq_progress.stores.outcomes import PauseOutcome

from .prelude import (
    Outcome,
    Record,
    describe,
    drop,
    increment_version,
    integer_of,
    introduce,
    is_final,
    is_foreign,
    keep_beside,
    later_of,
    running_members,
    shown_state,
    wait_paused,
)

#: Fields of one life of a message; attempt and version continue through all of them.
LIFE_FIELDS = (
    *("token", "current", "total", "description", "rate", "overall", "step", "reported_at", "result"),
    *("title", "metadata", "estimate_key", "started_at", "ended_at", "heartbeat", "deliveries", "cancel_requested"),
    *("pause_requested", "doubted", "later", "cursor"),
)


def enqueue(record: Record, now: float, given: encoding.Enqueue) -> Outcome:
    """See enqueue.lua."""
    before = record.get("state")
    allowed = {
        "new": before is None or is_final(before),
        "due": before in (None, State.DELAYED, State.RETRYING),
        "late": before is None,
    }
    if before == State.PAUSED and given.origin == "due":
        wait_paused(record, State.ENQUEUED)
    if not allowed[given.origin]:
        if given.origin == "late" and given.owner:
            record.setdefault("owner", given.owner)
        return Outcome(("refused", before or "", 0))
    if is_final(before):
        if "later" in record:
            record["attempt"] = str(max(integer_of(record, "attempt"), later_of(record).number))
        drop(record, LIFE_FIELDS)
    drop(record, ("retry_at", "cancellable"))
    record |= {"state": given.state, "actor": given.actor, "queue": given.queue, "retries_left": given.retries_left}
    record["enqueued_at"] = seconds(now - float(given.age))
    describe(record, given.cancellable, given.owner)
    introduce(record, given)
    version = increment_version(record)
    return Outcome(("written", before or "", version), given.ttl, changed=True)


def keep(record: Record, companion: Record, given: encoding.Keep, fields: Mapping[str, str]) -> Outcome:
    """See keep.lua."""
    later, number = later_of(record), integer_of(record, "attempt")
    if not given.token:
        if "token" in record or record.get("state") not in (State.ENQUEUED, State.DELAYED):
            return Outcome(("refused", "", []))
        companion.clear()
    elif record.get("token") != given.token:
        if later.token != given.token:
            return Outcome(("refused", "", []))
        number = later.number
    runs = given.max_deliveries == "0" or integer_of(record, "deliveries") <= int(given.max_deliveries)
    if "enqueued_at" in record:
        companion.setdefault("enqueued_at", record["enqueued_at"])
    if "started_at" in record and runs:
        companion.setdefault("started_at", record["started_at"])
    keep_beside(companion, number, runs, fields)
    kept = [text for name, value in companion.items() if name != "about" for text in (name, value)]
    return Outcome(("written", record.get("started_at", ""), kept))


def cancel(record: Record, now: float, given: encoding.Cancel) -> Outcome:
    """See cancel.lua."""
    if not record or is_foreign(record.get("state")):
        return Outcome(("not_found", "", ""))
    before, queue = record["state"], record["queue"]
    if before == State.CANCELLED:
        return Outcome(("cancelled", before, queue))
    if is_final(before):
        return Outcome(("finished", before, queue))
    before = shown_state(record, now, given.lost_after)
    if record.get("cancellable") != "1" and given.reason == "1":
        return Outcome(("not_cancellable", before, queue))
    known = record.get("cancel_requested")
    is_raised = "parts" in record and (known == "fail_fast" or (given.reason == "forced" and known != "forced"))
    if known is not None and before == State.RUNNING and not is_raised:
        return Outcome(("requested", before, queue))
    outcome = "requested"
    if before != State.RUNNING or ("parts" in record and not running_members(record)):
        outcome = "cancelled"
        record.setdefault("ended_at", record["heartbeat"] if before == State.LOST else seconds(now))
        drop(record, ("retry_at", "deliveries", "pause_requested"))
        record["state"] = State.CANCELLED
    record["cancel_requested"] = given.reason if given.reason == "forced" else "1"
    increment_version(record)
    # A cancelled message with a long delay keeps the TTL that it has.
    return Outcome((outcome, before, queue), given.ttl, changed=True, only_later=True)


def pause(record: Record, now: float, given: encoding.Pause) -> Outcome:
    """See pause.lua."""
    if not record or is_foreign(record.get("state")):
        return Outcome((PauseOutcome.NOT_FOUND, ""))
    before = record["state"]
    if is_final(before):
        return Outcome((PauseOutcome.FINISHED, before))
    if "parts" in record:
        return Outcome((PauseOutcome.COMPOSITE, before))
    shown = shown_state(record, now, given.lost_after)
    pause_requested = record.get("pause_requested")
    if given.wanted == "0":
        outcome = PauseOutcome.RESUMED
        if before != State.PAUSED and pause_requested is None:
            return Outcome((outcome, shown))
        record.pop("pause_requested", None)
        if before == State.PAUSED:
            waits = pause_requested in (State.DELAYED, State.RETRYING)
            record["state"] = pause_requested if waits and pause_requested else State.ENQUEUED
    elif before == State.RUNNING:
        outcome = PauseOutcome.REQUESTED
        if "cursor" not in record:
            return Outcome((PauseOutcome.NOT_RESUMABLE, shown))
        if pause_requested is not None:
            return Outcome((outcome, shown))
        record["pause_requested"] = "1"
    else:
        outcome = PauseOutcome.PAUSED
        if before == State.PAUSED:
            return Outcome((outcome, before))
        wait_paused(record, before)
    increment_version(record)
    return Outcome((outcome, shown), given.ttl, changed=True, only_later=True)


def withdraw(record: Record, given: encoding.Withdraw, companion: Record) -> Outcome:
    """See withdraw.lua. An empty record is one that was removed."""
    if record.get("state") not in (State.ENQUEUED, State.DELAYED) or record.get("version") != given.version:
        return Outcome("refused")
    record.clear()
    companion.clear()
    return Outcome("written", "0", changed=True)

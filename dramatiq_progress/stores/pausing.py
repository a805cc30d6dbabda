"""The rules of pause.lua, as a function on a record in memory: see `transitions`."""

from __future__ import annotations

from dramatiq_progress.progress import State

from . import encoding
from .outcomes import PauseOutcome
from .prelude import Outcome, Record, increment_version, is_final, is_foreign, shown_state, wait_paused


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

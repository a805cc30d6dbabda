"""The rules of composite.lua, as functions on a record and its members in memory.

Each does what the script does, line by line, as in `transitions`.
"""

from __future__ import annotations

import math

from dramatiq_progress.error_texts import show
from dramatiq_progress.progress import State
from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.composites import IS_CLOSED, IS_FAIL_FAST, IS_PIPELINE, UNSENT
from dramatiq_progress.stores.counters import Counters, Slot
from dramatiq_progress.stores.encoding import seconds

from .prelude import Outcome, Record, describe, increment_version, is_final, is_foreign

#: Member id to slot.
Members = dict[str, str]


def part(record: Record, members: Members, now: float, given: encoding.Part, slots: dict[str, str]) -> Outcome:
    """See composite.lua."""
    before = record.get("state")
    if is_foreign(before):
        return Outcome((before, before, 0, 0, "", 0, 0))
    known = record.get("parts")
    failed_before = Counters.parse(known).f if known else 0
    counters = _load(record, members, now, given)
    counters.planned = max(counters.planned, int(given.planned))
    counters.planned_weight = max(counters.planned_weight, int(given.planned_weight))
    counters.callbacks = max(counters.callbacks, int(given.callbacks))
    if IS_CLOSED in given.flags and IS_CLOSED not in counters.flags:
        counters.flags += IS_CLOSED
    if given.cancellable == "1":
        record.setdefault("cancellable", "1")
    else:
        record["cancellable"] = "0"
    describe(record, "", given.owner)
    weighted_before, has_run = counters.weighted_thousandths, counters.r > 0
    is_alive = False
    for member, text in slots.items():
        is_alive = _contribute(record, counters, members, member, text) or is_alive
    if counters.f > failed_before and IS_FAIL_FAST in counters.flags:
        record.setdefault("cancel_requested", "fail_fast")
    if counters.known > counters.w or counters.weighted_thousandths:
        record.setdefault("started_at", seconds(now - float(given.age)))
    has_moved = counters.weighted_thousandths > weighted_before
    if not has_run and (counters.r or has_moved) and now - counters.moved_at > float(given.memory_seconds):
        counters.moved_at = now
    if has_moved:
        _estimate(counters, counters.weighted_thousandths - weighted_before, now, float(record["started_at"]), given)
        record["reported_at"] = seconds(now)
    after, is_awaited = _outcome(record, counters, given.state)
    is_changed = after != before or counters.text() != known
    record |= {"state": after, "parts": counters.text()}
    if is_alive or after == State.RUNNING:
        record["heartbeat"] = seconds(now)
    if is_final(after) and not is_final(before):
        record["ended_at"] = seconds(now - float(given.age))
    if is_final(before) and not is_final(after):
        record.pop("ended_at", None)
    record.setdefault("version", str(counters.born))
    version = increment_version(record) if is_changed else int(record["version"])
    answer = (before or "", after, version, _cancel_of(record), counters.born, counters.r)
    done = counters.weighted_thousandths // max(counters.total_weight, 1)
    is_over = is_final(after) and not (is_awaited or counters.f)
    ttl = given.finished_ttl if is_over else given.ttl
    return Outcome((*answer, done), ttl, changed=is_changed, only_later=not is_over)


def peek(record: Record, members: Members, given: encoding.Peek) -> tuple[int, str, int, str]:
    """See peek.lua."""
    born = record.get("parts", "").partition(" ")[0]
    return _cancel_of(record), born, int(record.get("version", "0")), members.get(given.member, "")


def _load(record: Record, members: Members, now: float, given: encoding.Part) -> Counters:
    if "parts" in record:
        counters = Counters.parse(record["parts"])
        if counters.known == len(members):
            return counters
    else:
        counters = Counters(flags=given.flags)
        record |= {"actor": given.name, "queue": "", "retries_left": "null"}
        record["enqueued_at"] = seconds(now - float(given.age))
        record |= {field: text for field in ("title", "description") if (text := getattr(given, field))}
    counters.born = max(counters.born + 1, math.floor(now * 1000))
    for name in [*"wrtdfcs", "weighted_thousandths", "known_weight", "children", "children_weight", "over", "bad"]:
        setattr(counters, name, 0)
    for member, text in list(members.items()):
        if (slot := Slot.parse(text)) is None:
            del members[member]
        else:
            counters.count(slot, 1)
    return counters


def _contribute(record: Record, counters: Counters, members: Members, member: str, text: str) -> bool:
    """Replace a member's slot, unless the known one is newer. Return whether the member has ever begun."""
    slot, known = Slot.parse(text), Slot.parse(members.get(member))
    if text == UNSENT:
        if known is not None and known.state == "w" and not known.attempt:
            counters.count(known, -1)
            del members[member]
        return False
    if slot is None:
        raise ValueError(f"{show(text)} isn't a slot")
    if slot.state == "w" and not slot.attempt:
        if known is None:
            members[member] = text
            counters.count(slot, 1)
        return False
    if known is not None:
        if not slot.may_follow(known):
            return True
        counters.count(known, -1)
        slot = slot._replace(weight=known.weight, is_child=known.is_child)
        if slot.has_ended and not slot.thousandths:
            slot = slot._replace(thousandths=known.thousandths)
    counters.count(slot, 1)
    members[member] = slot.text()
    return True


def _estimate(counters: Counters, moved: int, now: float, started_at: float, given: encoding.Part) -> None:
    spent = max(0.0, now - counters.moved_at)
    memory = max(float(given.memory_seconds), float(given.memory_part) * (now - started_at))
    fading = math.exp(-spent / memory)
    counters.moved = counters.moved * fading + moved
    counters.spent = counters.spent * fading + spent
    counters.samples, counters.moved_at = counters.samples + 1, now


def _outcome(record: Record, counters: Counters, initial: str) -> tuple[str, bool]:
    """Return the state, and whether members are still to come."""
    before = record.get("state")
    is_missing = counters.ended < counters.total or counters.is_open
    without_callbacks = (
        counters.callbacks > 0
        and counters.ended == counters.total - counters.callbacks
        and counters.over == counters.others - counters.callbacks
        and counters.bad > 0
    )
    is_idle = not (counters.r or counters.t)
    has_stopped = is_idle and (without_callbacks or (IS_PIPELINE in counters.flags and counters.ended > counters.d))
    is_awaited = is_missing and not has_stopped
    if not is_awaited and record.get("cancel_requested") == "fail_fast":
        del record["cancel_requested"]
    cancel_requested = record.get("cancel_requested")
    if cancel_requested and before is not None and is_final(before):
        return before, is_awaited
    is_over = not is_awaited or (cancel_requested and not counters.r)
    if not is_over:
        if "started_at" in record:
            return State.RUNNING, True
        return initial if before in (None, State.DELAYED) else State.ENQUEUED, True
    is_cancelled = counters.c > 0 or bool(cancel_requested and is_missing)
    if is_cancelled and (not counters.f or cancel_requested not in (None, "fail_fast")):
        return State.CANCELLED, is_awaited
    if counters.f:
        return State.FAILED, is_awaited
    return State.SKIPPED if counters.s else State.DONE, False


def _cancel_of(record: Record) -> int:
    return {None: 0, "forced": 2}.get(record.get("cancel_requested"), 1)

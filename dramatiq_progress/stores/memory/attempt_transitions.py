"""The rules of what an attempt writes, as functions on a record in memory: see `transitions`.

They are those of start.lua, report.lua and finish.lua, and decide which of two attempts may write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dramatiq_progress.progress import State
from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.encoding import seconds
from dramatiq_progress.stores.fields import KEPT_FIELDS

from .prelude import (
    ATTEMPT_FIELDS,
    Later,
    Outcome,
    Record,
    cursor_attempt,
    describe,
    drop,
    increment_version,
    integer_of,
    introduce,
    is_alive,
    is_final,
    is_foreign,
    keep_beside,
    later_of,
    raise_version,
    rebuild,
    wait_paused,
)


def start(record: Record, now: float, given: encoding.Start, brought: Record) -> Outcome:
    """See start.lua."""
    before = record.get("state")
    later = later_of(record)
    is_next_round = bool(given.follows) and given.follows in (record.get("token"), later.token)
    cursor = "" if is_next_round else record.get("cursor", "")
    if before == State.DONE and cursor:
        return Outcome(("finished", 0, 0, 0, "", "", "", 0, []))
    if before in (State.DONE, State.SKIPPED) or is_foreign(before):
        return Outcome(("ignored", 0, 0, 0, "", "", "", 0, []))
    if before == State.CANCELLED:
        return Outcome(("cancelled", 0, 0, 0, "", "", "", 0, []), given.finished_ttl)
    brings = bool(brought) and cursor_attempt(brought) >= cursor_attempt({"cursor": cursor})
    kept: list[str] = []
    if brings:
        kept = encoding.flat(brought)
    elif cursor:
        kept = encoding.flat({name: record[name] for name in KEPT_FIELDS if name in record})
    shown = record.get("title", given.title), record.get("metadata", given.metadata)
    if before == State.RUNNING and given.token in (record.get("token"), later.token):
        number = later.number if given.token == later.token else integer_of(record, "attempt")
        version, deliveries = (integer_of(record, name) for name in ("version", "deliveries"))
        is_shown = int(given.token == record.get("token"))
        return Outcome(("run", number, version, deliveries, *shown, before, is_shown, kept))
    other_lives = before == State.RUNNING and is_alive(record["heartbeat"], now, given.lost_after)
    if "cancel_requested" in record:
        if other_lives and float(given.age):
            return Outcome(("cancelled", 0, 0, 0, "", "", "", 0, []))
        drop(record, ("deliveries",))
        record |= {"state": State.CANCELLED, "ended_at": record.get("heartbeat", seconds(now))}
        increment_version(record)
        return Outcome(("cancelled", 0, 0, 0, "", "", before or "", 0, []), given.finished_ttl, changed=True)
    if before == State.PAUSED or (before == State.RUNNING and not other_lives and "pause_requested" in record):
        if not float(given.age):
            if before == State.RUNNING:
                drop(record, ("token",))
                record["ended_at"] = record["heartbeat"]
            wait_paused(record, State.ENQUEUED)
            has_changed = before == State.RUNNING
            if has_changed:
                increment_version(record)
            answer = ("paused", 0, 0, 0, "", "", before if has_changed else "", 0, kept)
            return Outcome(answer, given.ttl, changed=has_changed)
        if not cursor and given.resumable == "0":
            drop(record, ("pause_requested",))
    attempt = max(max(integer_of(record, "attempt"), later.number) + 1, int(given.min_attempt))
    deliveries = integer_of(record, "deliveries") + 1
    takes_over = False
    if other_lives and cursor:
        lead = now - float(given.age) - float(record["started_at"])
        takes_over = lead >= 0 and (deliveries == 1 or lead < float(given.lost_after))
    if other_lives and not takes_over:
        record |= {
            "deliveries": str(deliveries),
            "later": Later(attempt, later.undecided + 1, given.token, now).text(),
        }
        version = integer_of(record, "version")
        return Outcome(("run", attempt, version, deliveries, *shown, before, 0, kept), given.ttl)
    drop(record, ("result", "ended_at", "retry_at", "cancellable", "doubted", "later"))
    if not int(given.max_deliveries) or deliveries <= int(given.max_deliveries):
        drop(record, ("rate", "reported_at"))
        if brings or not cursor:
            drop(record, KEPT_FIELDS)
        if brings:
            record |= brought
    record |= {"state": State.RUNNING, "token": given.token, "actor": given.actor, "queue": given.queue}
    record |= {"retries_left": given.retries_left, "attempt": str(attempt), "deliveries": str(deliveries)}
    record |= {"started_at": seconds(now - float(given.age)), "heartbeat": seconds(now)}
    describe(record, given.cancellable, given.owner)
    introduce(record, given)
    version = increment_version(record)
    return Outcome(("run", attempt, version, deliveries, *shown, before or "", 1, kept), given.ttl, changed=True)


def report(
    record: Record, now: float, writer: encoding.Writer, given: encoding.Report, fields: dict[str, str]
) -> Outcome:
    """See report.lua."""
    asks = int("cancel_requested" in record), int(writer.resumable == "1" and "pause_requested" in record)
    before, later = record.get("state"), later_of(record)
    is_shown = before == State.RUNNING and record.get("token") == writer.token
    if not is_shown:
        is_doubted = _is_doubted(record, writer)
        is_older = not is_doubted and integer_of(record, "attempt") >= int(writer.attempt)
        if is_foreign(before) or _is_over(before) or is_older:
            return Outcome(("superseded", 0, *asks))
        if before == State.RUNNING and "token" in record and is_alive(record["heartbeat"], now, given.lost_after):
            number = max(later.number, int(writer.attempt))
            record["later"] = Later(number, later.undecided, later.token or writer.token, now).text()
            return Outcome(("waiting", 0, *asks), given.ttl)
        if given.has_all == "0":
            return Outcome(("incomplete", 0, *asks))
        drop(record, (*ATTEMPT_FIELDS, "cursor"))
        rebuild(record, now, writer)
        record["state"] = State.RUNNING
        if is_doubted:
            record["deliveries"] = "1"
    elif later.undecided:
        record["deliveries"] = str(integer_of(record, "deliveries") - later.undecided)
        record["later"] = later._replace(undecided=0).text()
    raise_version(record, writer)
    record |= {"heartbeat": seconds(now), **fields}
    if fields:
        record["reported_at"] = seconds(now)
    if cursor_attempt(fields) == int(writer.attempt):
        record["deliveries"] = "0"
    changed = not is_shown or bool(fields)
    version = increment_version(record) if changed else integer_of(record, "version")
    return Outcome(("written" if is_shown else "rebuilt", version, *asks), given.ttl, changed=changed)


def finish(
    record: Record,
    now: float,
    writer: encoding.Writer,
    given: encoding.Finish,
    fields: dict[str, str],
    beside: Sequence[Record] = (),
    kept: Mapping[str, str] = {},
) -> Outcome:
    """See finish.lua."""
    before, later = record.get("state"), later_of(record)
    refused = Outcome(("refused", before or "", before or "", integer_of(record, "attempt"), "0"))
    if is_foreign(before):
        return refused
    is_shown, waits = record.get("token") == writer.token, later.token == writer.token
    if writer.attempt == "0" and (is_shown or waits):
        writer = writer._replace(attempt=record["attempt"] if is_shown else str(later.number))
    is_running = before == State.RUNNING
    other_lives = is_running and not is_shown and is_alive(record["heartbeat"], now, given.lost_after)
    doubted = "*" if given.given_up == "1" else ""
    pauses = "pause_requested" in record and (writer.resumable == "1" or before == State.PAUSED)
    rebuilt = False
    if given.started == "0" and not is_shown and not waits:
        if before is None or is_final(before) or other_lives:
            return refused
    elif is_shown:
        asks_again = before in (State.RETRYING, State.PAUSED) or (given.yields == "1" and before == State.ENQUEUED)
        if not is_running and not asks_again:
            return refused
        continues = not _is_over(given.state) and "cancel_requested" not in record
        if is_running and continues and is_alive(later.heartbeat, now, given.lost_after):
            drop(record, ("token",))
            record |= {"heartbeat": seconds(later.heartbeat), "deliveries": "1"}
            record["later"] = later._replace(undecided=0).text()
            return refused
    else:
        if waits:
            record["later"] = later._replace(heartbeat=0.0).text()
        is_doubted = _is_doubted(record, writer)
        if _is_over(before):
            return refused
        if writer.attempt == "0":
            number = max(integer_of(record, "attempt"), later.number) + 1
            left, own_left = record.get("retries_left", "null"), writer.retries_left
            has_fewer = "null" not in (left, own_left) and int(left) < int(own_left)
            if has_fewer and (number > 1 or not is_final(given.state)):
                return refused
            writer = writer._replace(attempt=str(max(number, int(given.min_attempt))))
        elif not is_doubted and integer_of(record, "attempt") >= int(writer.attempt):
            return refused
        if other_lives and "token" in record and given.state != State.DONE:
            has_lived = now - float(record["heartbeat"]) < float(writer.running_for)
            if has_lived or int(writer.attempt) <= later.number - later.undecided:
                return refused
            doubted = doubted or record["token"]
        rebuilt = True
        if given.given_up == "0":
            drop(record, ATTEMPT_FIELDS)
        rebuild(record, now, writer)
    raise_version(record, writer)
    ended_at = now - float(given.age)
    drop(record, ("retry_at", "deliveries", "doubted"))
    record |= {"state": given.state, "ended_at": seconds(ended_at), **fields}
    if doubted:
        record["doubted"] = doubted
    if given.state in (State.ENQUEUED, State.DELAYED):
        record["enqueued_at"] = seconds(ended_at)
    delay = given.delay
    if "cancel_requested" in record and (given.yields == "1" or given.state in (State.RETRYING, State.FAILED)):
        drop(record, ("result",))
        record["state"], delay = State.CANCELLED, ""
    if delay:
        record["retry_at"] = seconds(ended_at + float(delay))
    if pauses and not is_final(record["state"]):
        wait_paused(record, record["state"])
    elif pauses:
        drop(record, ("pause_requested",))
    increment_version(record)
    for companion in beside:
        keep_beside(companion, int(writer.attempt), True, kept)
    outcome = "rebuilt" if rebuilt else "written"
    answer = (outcome, before or "", record["state"], integer_of(record, "attempt"), record["ended_at"])
    return Outcome(answer, given.ttl, changed=True)


# ---- What Lua does with less ----


def _is_over(state: str | None) -> bool:
    return is_final(state) and state != State.FAILED


def _is_doubted(record: Record, writer: encoding.Writer) -> bool:
    return record.get("state") != State.RUNNING and record.get("doubted") in (writer.token, "*")

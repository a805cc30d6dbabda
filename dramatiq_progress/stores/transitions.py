"""The rules of the Lua scripts, as functions on a record in memory.

Each does what the script of its name does, line by line; tests/test_stores.py is the contract of both. Each changes the
record in place, and returns its answer with what remains to be done: whether readers see a change, and the new TTL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dramatiq_progress.progress import FINAL_STATES, State

from . import encoding
from .encoding import seconds

Record = dict[str, str]

#: The states that a record may have; `State.LOST` is only derived.
STORED_STATES = frozenset(State) - {State.LOST}

#: How many attempts' values are kept beside a record.
KEPT_ATTEMPTS = 50

#: Fields of one life of a message; attempt and version continue through all of them.
LIFE_FIELDS = (
    *("token", "current", "total", "description", "rate", "overall", "step", "reported_at", "result"),
    *("title", "metadata", "estimate_key", "started_at", "ended_at", "heartbeat", "deliveries", "cancel_requested"),
    *("pause_requested", "doubted", "later", "cursor"),
)
#: Where an attempt goes on from: the cursor of an earlier one, and the values that belong to it.
KEPT_FIELDS = ("cursor", "current", "total", "description", "overall", "step")
#: Fields that one attempt reported.
ATTEMPT_FIELDS = ("current", "total", "description", "rate", "overall", "step", "reported_at", "result")


class Outcome(NamedTuple):
    """The outcome of a transition.

    Attributes:
      answer: The script's answer.
      ttl: The record's new TTL in milliseconds, as text. None: it stays as it is.
      changed: Whether readers see a change; its version has been incremented then.
      only_later: Whether a TTL that ends later stays.
    """

    answer: Any
    ttl: str | None = None
    changed: bool = False
    only_later: bool = False


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
            record["attempt"] = str(max(_number(record, "attempt"), _later(record).number))
        _drop(record, LIFE_FIELDS)
    _drop(record, ("retry_at", "cancellable"))
    record |= {"state": given.state, "actor": given.actor, "queue": given.queue, "retries_left": given.retries_left}
    record["enqueued_at"] = seconds(now - float(given.age))
    describe(record, given.cancellable, given.owner)
    _introduce(record, given)
    version = increment_version(record)
    return Outcome(("written", before or "", version), given.ttl, changed=True)


def start(record: Record, now: float, given: encoding.Start, brought: Record) -> Outcome:
    """See start.lua."""
    before = record.get("state")
    later = _later(record)
    is_next_round = bool(given.follows) and given.follows in (record.get("token"), later.token)
    cursor = "" if is_next_round else record.get("cursor", "")
    if before == State.DONE and cursor:
        return Outcome(("finished", 0, 0, 0, "", "", "", 0, []))
    if before in (State.DONE, State.SKIPPED) or is_foreign(before):
        return Outcome(("ignored", 0, 0, 0, "", "", "", 0, []))
    if before == State.CANCELLED:
        return Outcome(("cancelled", 0, 0, 0, "", "", "", 0, []), given.finished_ttl)
    brings = bool(brought) and _cursor_attempt(brought) >= _cursor_attempt({"cursor": cursor})
    kept: list[str] = []
    if brings:
        kept = encoding.flat(brought)
    elif cursor:
        kept = encoding.flat({name: record[name] for name in KEPT_FIELDS if name in record})
    shown = record.get("title", given.title), record.get("metadata", given.metadata)
    if before == State.RUNNING and given.token in (record.get("token"), later.token):
        number = later.number if given.token == later.token else _number(record, "attempt")
        version, deliveries = (_number(record, name) for name in ("version", "deliveries"))
        is_shown = int(given.token == record.get("token"))
        return Outcome(("run", number, version, deliveries, *shown, before, is_shown, kept))
    other_lives = before == State.RUNNING and _is_alive(record["heartbeat"], now, given.lost_after)
    if "cancel_requested" in record:
        if other_lives and float(given.age):
            return Outcome(("cancelled", 0, 0, 0, "", "", "", 0, []))
        _drop(record, ("deliveries",))
        record |= {"state": State.CANCELLED, "ended_at": record.get("heartbeat", seconds(now))}
        increment_version(record)
        return Outcome(("cancelled", 0, 0, 0, "", "", before or "", 0, []), given.finished_ttl, changed=True)
    if before == State.PAUSED or (before == State.RUNNING and not other_lives and "pause_requested" in record):
        if not float(given.age):
            if before == State.RUNNING:
                _drop(record, ("token",))
                record["ended_at"] = record["heartbeat"]
            wait_paused(record, State.ENQUEUED)
            has_changed = before == State.RUNNING
            if has_changed:
                increment_version(record)
            answer = ("paused", 0, 0, 0, "", "", before if has_changed else "", 0, kept)
            return Outcome(answer, given.ttl, changed=has_changed)
        if not cursor and given.resumable == "0":
            _drop(record, ("pause_requested",))
    attempt = max(max(_number(record, "attempt"), later.number) + 1, int(given.min_attempt))
    deliveries = _number(record, "deliveries") + 1
    takes_over = False
    if other_lives and cursor:
        lead = now - float(given.age) - float(record["started_at"])
        takes_over = lead >= 0 and (deliveries == 1 or lead < float(given.lost_after))
    if other_lives and not takes_over:
        record |= {
            "deliveries": str(deliveries),
            "later": _Later(attempt, later.undecided + 1, given.token, now).text(),
        }
        version = _number(record, "version")
        return Outcome(("run", attempt, version, deliveries, *shown, before, 0, kept), given.ttl)
    _drop(record, ("result", "ended_at", "retry_at", "cancellable", "doubted", "later"))
    if not int(given.max_deliveries) or deliveries <= int(given.max_deliveries):
        _drop(record, ("rate", "reported_at"))
        if brings or not cursor:
            _drop(record, KEPT_FIELDS)
        if brings:
            record |= brought
    record |= {"state": State.RUNNING, "token": given.token, "actor": given.actor, "queue": given.queue}
    record |= {"retries_left": given.retries_left, "attempt": str(attempt), "deliveries": str(deliveries)}
    record |= {"started_at": seconds(now - float(given.age)), "heartbeat": seconds(now)}
    describe(record, given.cancellable, given.owner)
    _introduce(record, given)
    version = increment_version(record)
    return Outcome(("run", attempt, version, deliveries, *shown, before or "", 1, kept), given.ttl, changed=True)


def report(
    record: Record, now: float, writer: encoding.Writer, given: encoding.Report, fields: dict[str, str]
) -> Outcome:
    """See report.lua."""
    asks = int("cancel_requested" in record), int(writer.resumable == "1" and "pause_requested" in record)
    before, later = record.get("state"), _later(record)
    is_shown = before == State.RUNNING and record.get("token") == writer.token
    if not is_shown:
        is_doubted = _is_doubted(record, writer)
        is_older = not is_doubted and _number(record, "attempt") >= int(writer.attempt)
        if is_foreign(before) or _is_over(before) or is_older:
            return Outcome(("superseded", 0, *asks))
        if before == State.RUNNING and "token" in record and _is_alive(record["heartbeat"], now, given.lost_after):
            number = max(later.number, int(writer.attempt))
            record["later"] = _Later(number, later.undecided, later.token or writer.token, now).text()
            return Outcome(("waiting", 0, *asks), given.ttl)
        if given.has_all == "0":
            return Outcome(("incomplete", 0, *asks))
        _drop(record, (*ATTEMPT_FIELDS, "cursor"))
        _rebuild(record, now, writer)
        record["state"] = State.RUNNING
        if is_doubted:
            record["deliveries"] = "1"
    elif later.undecided:
        record["deliveries"] = str(_number(record, "deliveries") - later.undecided)
        record["later"] = later._replace(undecided=0).text()
    _raise_version(record, writer)
    record |= {"heartbeat": seconds(now), **fields}
    if fields:
        record["reported_at"] = seconds(now)
    if _cursor_attempt(fields) == int(writer.attempt):
        record["deliveries"] = "0"
    changed = not is_shown or bool(fields)
    version = increment_version(record) if changed else _number(record, "version")
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
    before, later = record.get("state"), _later(record)
    refused = Outcome(("refused", before or "", before or "", _number(record, "attempt"), "0"))
    if is_foreign(before):
        return refused
    is_shown, waits = record.get("token") == writer.token, later.token == writer.token
    if writer.attempt == "0" and (is_shown or waits):
        writer = writer._replace(attempt=record["attempt"] if is_shown else str(later.number))
    is_running = before == State.RUNNING
    other_lives = is_running and not is_shown and _is_alive(record["heartbeat"], now, given.lost_after)
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
        if is_running and continues and _is_alive(later.heartbeat, now, given.lost_after):
            _drop(record, ("token",))
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
            left, own_left = record.get("retries_left", "null"), writer.retries_left
            if "null" not in (left, own_left) and int(left) < int(own_left):
                return refused
            number = max(max(_number(record, "attempt"), later.number) + 1, int(given.min_attempt))
            writer = writer._replace(attempt=str(number))
        elif not is_doubted and _number(record, "attempt") >= int(writer.attempt):
            return refused
        if other_lives and "token" in record and given.state != State.DONE:
            has_lived = now - float(record["heartbeat"]) < float(writer.running_for)
            if has_lived or int(writer.attempt) <= later.number - later.undecided:
                return refused
            doubted = doubted or record["token"]
        rebuilt = True
        if given.given_up == "0":
            _drop(record, ATTEMPT_FIELDS)
        _rebuild(record, now, writer)
    _raise_version(record, writer)
    ended_at = now - float(given.age)
    _drop(record, ("retry_at", "deliveries", "doubted"))
    record |= {"state": given.state, "ended_at": seconds(ended_at), **fields}
    if doubted:
        record["doubted"] = doubted
    if given.state in (State.ENQUEUED, State.DELAYED):
        record["enqueued_at"] = seconds(ended_at)
    delay = given.delay
    if "cancel_requested" in record and (given.yields == "1" or given.state in (State.RETRYING, State.FAILED)):
        _drop(record, ("result",))
        record["state"], delay = State.CANCELLED, ""
    if delay:
        record["retry_at"] = seconds(ended_at + float(delay))
    if pauses and not is_final(record["state"]):
        wait_paused(record, record["state"])
    elif pauses:
        _drop(record, ("pause_requested",))
    increment_version(record)
    for companion in beside:
        _keep(companion, int(writer.attempt), True, kept)
    outcome = "rebuilt" if rebuilt else "written"
    answer = (outcome, before or "", record["state"], _number(record, "attempt"), record["ended_at"])
    return Outcome(answer, given.ttl, changed=True)


def keep(record: Record, companion: Record, given: encoding.Keep, fields: Mapping[str, str]) -> Outcome:
    """See keep.lua."""
    later, number = _later(record), _number(record, "attempt")
    if not given.token:
        if "token" in record or record.get("state") not in (State.ENQUEUED, State.DELAYED):
            return Outcome(("refused", "", []))
        companion.clear()
    elif record.get("token") != given.token:
        if later.token != given.token:
            return Outcome(("refused", "", []))
        number = later.number
    runs = given.max_deliveries == "0" or _number(record, "deliveries") <= int(given.max_deliveries)
    if "enqueued_at" in record:
        companion.setdefault("enqueued_at", record["enqueued_at"])
    if "started_at" in record and runs:
        companion.setdefault("started_at", record["started_at"])
    _keep(companion, number, runs, fields)
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
    is_raised = "parts" in record and given.reason == "forced" and record.get("cancel_requested") != "forced"
    if "cancel_requested" in record and before == State.RUNNING and not is_raised:
        return Outcome(("requested", before, queue))
    outcome = "requested"
    if before != State.RUNNING or ("parts" in record and not _running_members(record)):
        outcome = "cancelled"
        record.setdefault("ended_at", record["heartbeat"] if before == State.LOST else seconds(now))
        _drop(record, ("retry_at", "deliveries", "pause_requested"))
        record["state"] = State.CANCELLED
    record["cancel_requested"] = given.reason if given.reason == "forced" else "1"
    increment_version(record)
    # A cancelled message with a long delay keeps the TTL that it has.
    return Outcome((outcome, before, queue), given.ttl, changed=True, only_later=True)


def withdraw(record: Record, now: float, given: encoding.Withdraw, companion: Record) -> Outcome:
    """See withdraw.lua. An empty record is one that was removed."""
    if record.get("state") not in (State.ENQUEUED, State.DELAYED) or record.get("version") != given.version:
        return Outcome("refused")
    record.clear()
    companion.clear()
    return Outcome("written", "0", changed=True)


# ---- The functions of prelude.lua ----


def is_final(state: str | None) -> bool:
    return state in FINAL_STATES


def is_foreign(state: str | None) -> bool:
    return state is not None and state not in STORED_STATES


def _is_alive(heartbeat: str | float, now: float, lost_after: str) -> bool:
    return abs(now - float(heartbeat)) <= float(lost_after)


def shown_state(record: Record, now: float, lost_after: str) -> str:
    """See is_silent() of prelude.lua."""
    heartbeats = (record.get("heartbeat", "-inf"), _later(record).heartbeat)
    is_silent = not any(_is_alive(each, now, lost_after) for each in heartbeats)
    return State.LOST if record["state"] == State.RUNNING and is_silent else record["state"]


class _Later(NamedTuple):
    """The attempts that wait; see parse_later() of prelude.lua."""

    number: int = 0
    undecided: int = 0
    token: str = ""
    heartbeat: float = 0.0

    def text(self) -> str:
        return f"{self.number} {self.undecided} {self.token} {seconds(self.heartbeat)}"


def _later(record: Record) -> _Later:
    if "later" not in record:
        return _Later()
    number, undecided, token, heartbeat = record["later"].split(" ")
    return _Later(int(number), int(undecided), token, float(heartbeat))


def describe(record: Record, cancellable: str, owner: str) -> None:
    if cancellable == "1":
        record["cancellable"] = "1"
    if owner:
        record.setdefault("owner", owner)


def _introduce(record: Record, given: encoding.Enqueue | encoding.Start) -> None:
    if given.title:
        record.setdefault("title", given.title)
    if given.metadata != "{}":
        record.setdefault("metadata", given.metadata)
    if given.estimate_key:
        record.setdefault("estimate_key", given.estimate_key)


def _rebuild(record: Record, now: float, writer: encoding.Writer) -> None:
    later, number = _later(record), int(writer.attempt)
    _drop(record, ("cancellable", "ended_at", "retry_at", "doubted", "later"))
    if later.number > number:
        record["later"] = later._replace(undecided=0).text()
    record |= {"attempt": str(max(number, _number(record, "attempt"))), "token": writer.token}
    record |= {"actor": writer.actor, "queue": writer.queue, "retries_left": writer.retries_left}
    record["started_at"] = seconds(now - float(writer.running_for))
    describe(record, writer.cancellable, writer.owner)


def _keep(companion: Record, attempt: int, runs: bool, fields: Mapping[str, str]) -> None:
    for name, text in fields.items():
        if not name.endswith(":"):
            companion[name] = text
        elif runs:
            companion.pop(f"{name}{attempt - KEPT_ATTEMPTS}", None)
            companion[f"{name}{attempt}"] = text


def _raise_version(record: Record, writer: encoding.Writer) -> None:
    record["version"] = str(max(_number(record, "version"), int(writer.version)))


def increment_version(record: Record) -> int:
    version = _number(record, "version") + 1
    record["version"] = str(version)
    return version


def _cursor_attempt(record: Mapping[str, str]) -> int:
    found = re.match(r"\[(\d+)", record.get("cursor", ""))
    return int(found[1]) if found else 0


def wait_paused(record: Record, next_state: str) -> None:
    if next_state != State.RETRYING:
        _drop(record, ("retry_at",))
    record |= {"state": State.PAUSED, "pause_requested": next_state}


def _running_members(record: Record) -> int:
    return int(record["parts"].split(" ")[5])


# ---- What Lua does with less ----


def _is_over(state: str | None) -> bool:
    return is_final(state) and state != State.FAILED


def _is_doubted(record: Record, writer: encoding.Writer) -> bool:
    return record.get("state") != State.RUNNING and record.get("doubted") in (writer.token, "*")


def _number(record: Record, name: str) -> int:
    return int(record.get(name, "0"))


def _drop(record: Record, names: Iterable[str]) -> None:
    for name in names:
        record.pop(name, None)

"""The functions of prelude.lua, on a record in memory: the rules that several scripts share, and their `Outcome`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dramatiq_progress.progress import FINAL_STATES, State
from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.encoding import seconds

Record = dict[str, str]

#: The states that a record may have; `State.LOST` is only derived.
STORED_STATES = frozenset(State) - {State.LOST}

#: How many attempts' values are kept beside a record.
KEPT_ATTEMPTS = 50

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


def is_final(state: str | None) -> bool:
    return state in FINAL_STATES


def is_foreign(state: str | None) -> bool:
    return state is not None and state not in STORED_STATES


def is_alive(heartbeat: str | float, now: float, lost_after: str) -> bool:
    return abs(now - float(heartbeat)) <= float(lost_after)


class Later(NamedTuple):
    """The attempts that wait."""

    number: int = 0
    undecided: int = 0
    token: str = ""
    heartbeat: float = 0.0

    def text(self) -> str:
        return f"{self.number} {self.undecided} {self.token} {seconds(self.heartbeat)}"


def later_of(record: Record) -> Later:
    """See parse_later() of prelude.lua."""
    if "later" not in record:
        return Later()
    number, undecided, token, heartbeat = record["later"].split(" ")
    return Later(int(number), int(undecided), token, float(heartbeat))


def shown_state(record: Record, now: float, lost_after: str) -> str:
    """See is_silent() of prelude.lua."""
    heartbeats = (record.get("heartbeat", "-inf"), later_of(record).heartbeat)
    is_silent = not any(is_alive(each, now, lost_after) for each in heartbeats)
    return State.LOST if record["state"] == State.RUNNING and is_silent else record["state"]


def describe(record: Record, cancellable: str, owner: str) -> None:
    if cancellable == "1":
        record["cancellable"] = "1"
    if owner:
        record.setdefault("owner", owner)


def introduce(record: Record, given: encoding.Enqueue | encoding.Start) -> None:
    if given.title:
        record.setdefault("title", given.title)
    if given.metadata != "{}":
        record.setdefault("metadata", given.metadata)
    if given.estimate_key:
        record.setdefault("estimate_key", given.estimate_key)


def cursor_attempt(record: Mapping[str, str]) -> int:
    found = re.match(r"\[(\d+)", record.get("cursor", ""))
    return int(found[1]) if found else 0


def rebuild(record: Record, now: float, writer: encoding.Writer) -> None:
    later, number = later_of(record), int(writer.attempt)
    drop(record, ("cancellable", "ended_at", "retry_at", "doubted", "later"))
    if later.number > number:
        record["later"] = later._replace(undecided=0).text()
    record |= {"attempt": str(max(number, integer_of(record, "attempt"))), "token": writer.token}
    record |= {"actor": writer.actor, "queue": writer.queue, "retries_left": writer.retries_left}
    record["started_at"] = seconds(now - float(writer.running_for))
    describe(record, writer.cancellable, writer.owner)


def keep_beside(companion: Record, attempt: int, runs: bool, fields: Mapping[str, str]) -> None:
    """See keep() of prelude.lua."""
    for name, text in fields.items():
        if not name.endswith(":"):
            companion[name] = text
        elif runs:
            companion.pop(f"{name}{attempt - KEPT_ATTEMPTS}", None)
            companion[f"{name}{attempt}"] = text


def raise_version(record: Record, writer: encoding.Writer) -> None:
    record["version"] = str(max(integer_of(record, "version"), int(writer.version)))


def increment_version(record: Record) -> int:
    """See changed() of prelude.lua."""
    version = integer_of(record, "version") + 1
    record["version"] = str(version)
    return version


def wait_paused(record: Record, next_state: str) -> None:
    if next_state != State.RETRYING:
        drop(record, ("retry_at",))
    record |= {"state": State.PAUSED, "pause_requested": next_state}


def running_members(record: Record) -> int:
    return int(record["parts"].split(" ")[5])


# ---- What Lua does with less ----


def integer_of(record: Record, name: str) -> int:
    return int(record.get(name, "0"))


def drop(record: Record, names: Iterable[str]) -> None:
    for name in names:
        record.pop(name, None)

"""The arguments of each script, declared once, and the text that values become.

The order of a tuple's fields is the order of the script's ``ARGV``: `redis.scripts` generates each script's preamble
from it, and `memory` reads the same tuples. All fields are text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dramatiq_progress.progress_values import Number

from .attempt import Attempt

#: Redis refuses a TTL that ends after 2^63 ms.
LONGEST_TTL_SECONDS = 1e12


class Call(NamedTuple):
    """One run of a script.

    Attributes:
      script: The script's name, a key of `ARGUMENTS`.
      keys: The keys that it reads or writes.
      arguments: The values of its arguments, then those of its trailing fields and values, if it takes any.
    """

    script: str
    keys: Sequence[str]
    arguments: Sequence[str] = ()


class Enqueue(NamedTuple):
    """Arguments of ``enqueue``."""

    origin: str  #: new, due or late
    state: str
    actor: str
    queue: str
    retries_left: str
    cancellable: str
    ttl: str
    age: str
    owner: str
    title: str
    metadata: str
    estimate_key: str


class Start(NamedTuple):
    """Arguments of ``start``; fields and values that the message brings follow."""

    token: str
    actor: str
    queue: str
    retries_left: str
    cancellable: str
    owner: str
    ttl: str
    age: str
    min_attempt: str
    max_deliveries: str
    finished_ttl: str
    lost_after: str
    title: str
    metadata: str
    estimate_key: str
    resumable: str
    follows: str


class Writer(NamedTuple):
    """The attempt that writes: the first arguments of ``report`` and ``finish``."""

    attempt: str
    token: str
    version: str
    actor: str
    queue: str
    retries_left: str
    cancellable: str
    owner: str
    running_for: str
    resumable: str


class Report(NamedTuple):
    """Further arguments of ``report``; fields and values follow."""

    ttl: str
    lost_after: str
    has_all: str


class Finish(NamedTuple):
    """Further arguments of ``finish``; fields and values follow, then as many for the companion as `beside` says."""

    state: str
    delay: str
    started: str
    given_up: str
    yields: str
    min_attempt: str
    lost_after: str
    ttl: str
    age: str
    beside: str


class Keep(NamedTuple):
    """Arguments of ``keep``; fields and values follow."""

    token: str
    max_deliveries: str


class Cancel(NamedTuple):
    """Arguments of ``cancel``."""

    ttl: str
    lost_after: str
    reason: str  #: 1 (a user), forced (an operator) or composite (the one that it is a member of)


class Pause(NamedTuple):
    """Arguments of ``pause``."""

    ttl: str
    lost_after: str
    wanted: str


class Withdraw(NamedTuple):
    """Arguments of ``withdraw``."""

    version: str


class Part(NamedTuple):
    """Arguments of ``part`` and ``gather``; members and their slots follow (see composite.lua)."""

    state: str  #: of a record that is made now
    name: str
    title: str
    description: str
    owner: str
    cancellable: str
    planned: str
    planned_weight: str
    callbacks: str
    flags: str
    ttl: str
    finished_ttl: str
    age: str
    memory_seconds: str
    memory_part: str


class Peek(NamedTuple):
    """Arguments of ``peek``."""

    member: str = ""


class Join(NamedTuple):
    """Arguments of ``join``; message ids follow."""

    ttl: str
    age: str


class Leave(NamedTuple):
    """Arguments of ``leave``."""

    message_id: str
    patience: str
    pace_memory: str = ""
    pace_ttl: str = ""


class Position(NamedTuple):
    """Arguments of ``position``."""

    message_id: str


class Disown(NamedTuple):
    """Arguments of ``disown``."""

    message_id: str


class Own(NamedTuple):
    """Arguments of ``own``."""

    message_id: str
    ttl: str
    age: str
    limit: str


class Tally(NamedTuple):
    """Arguments of ``tally``; estimate keys and their runs follow."""

    ttl: str
    max_runs: str
    max_keys: str


class Declare(NamedTuple):
    """Arguments of ``declare``; ticks and message ids follow."""

    fingerprint: str
    known: str
    hold: str
    ttl: str


class Claim(NamedTuple):
    """Arguments of ``claim``."""

    tick: str
    message_id: str
    lease: str
    early: str
    hold: str
    late: str
    skipped: str
    ttl: str


class Confirm(NamedTuple):
    """Arguments of ``confirm``."""

    tick: str
    message_id: str
    ttl: str


class Conclude(NamedTuple):
    """Arguments of ``conclude``."""

    message_id: str
    state: str


#: The names of each script's arguments, in order.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "enqueue": Enqueue._fields,
    "start": Start._fields,
    "report": Writer._fields + Report._fields,
    "finish": Writer._fields + Finish._fields,
    "keep": Keep._fields,
    "cancel": Cancel._fields,
    "pause": Pause._fields,
    "withdraw": Withdraw._fields,
    "part": Part._fields,
    "gather": Part._fields,
    "peek": Peek._fields,
    "join": Join._fields,
    "leave": Leave._fields,
    "position": Position._fields,
    "own": Own._fields,
    "disown": Disown._fields,
    "owned": (),
    "tally": Tally._fields,
    "durations": (),
    "declare": Declare._fields,
    "claim": Claim._fields,
    "confirm": Confirm._fields,
    "conclude": Conclude._fields,
    "read": (),
}


def writer(attempt: Attempt) -> Writer:
    """Return the arguments that identify an attempt."""
    return Writer(
        str(attempt.number),
        attempt.token,
        str(attempt.version),
        attempt.actor,
        attempt.queue,
        number_text(attempt.retries_left),
        flag(attempt.cancellable),
        attempt.owner,
        seconds(time.monotonic() - attempt.started_at),
        flag(attempt.resumable),
    )


def number_text(number: Number | None) -> str:
    """Return a finite number, or None, as JSON."""
    return "null" if number is None else repr(number)


def flag(value: bool) -> str:
    """Return ``"1"`` or ``"0"``."""
    return "1" if value else "0"


def flat(fields: Mapping[str, str]) -> list[str]:
    """Return field, value, field, value, …"""
    return [text for pair in fields.items() for text in pair]


def milliseconds(value: float, delay: float | None = None) -> str:
    """Return a TTL of these seconds, after a delay, as whole milliseconds.

    A negative delay counts as none, as in Dramatiq: Redis deletes a key that gets a TTL of 0 or less.
    """
    return str(int(min(value + max(delay or 0.0, 0.0), LONGEST_TTL_SECONDS) * 1000))


def seconds(value: float) -> str:
    """Return seconds with six decimals."""
    return f"{value:.6f}"

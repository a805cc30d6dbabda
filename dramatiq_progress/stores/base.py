"""The interface of a store, and the one place in which values become text; a subclass carries calls to its records."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol, cast

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import Progress, State, number_text

#: What each operation is called: a Lua script beside this module, a method in memory.py.
OPERATIONS = ("enqueue", "start", "report", "finish", "cancel", "join", "leave", "place", "own", "owned")

#: Messages that were in line so long before the one that has just started were purged from the broker.
LINE_PATIENCE_SECONDS = 600
#: Patience with all of them: one that leaves the line without its turn says nothing about those before it.
NO_PURGE_SECONDS = 1e9

#: How many messages of one owner are known; the oldest go first.
MOST_OWNED = 200

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Attempt:
    """One delivery of a message to a worker, as each of its writes shows itself to the store.

    Its number and token are the *fence*: a write is refused when a later delivery has started. With the rest a store
    that lost the record, or went back to an older one, makes it whole again; the numbers then begin anew, and when an
    attempt began tells which of two is the later one.

    Attributes:
      message_id: The message's id.
      actor: The actor's name.
      queue: The queue's name.
      retries_left: How many more attempts may follow a failure; None where Dramatiq has no limit.
      cancellable: Whether its actor can be cancelled.
      token: Tells two attempts of the same number apart.
      least: The number is at least this, also when the store has lost its count: 1 and Dramatiq's retries.
      number: Which delivery this is, from 1; 0 until the store has counted it.
      version: The record's version, as the store said last.
      began_at: When it began, by `time.monotonic`.
      owner: Whose the message is (see owners.py); empty: nobody's.
      to_cancel: The message is to be cancelled, as the store said last.
    """

    message_id: str
    actor: str
    queue: str
    retries_left: int | None = None
    cancellable: bool = True
    least: int = 1
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 0
    version: int = 0
    began_at: float = field(default_factory=time.monotonic)
    owner: str = field(default="", repr=False)
    to_cancel: bool = False


class Start(NamedTuple):
    """The answer to `Store.start`.

    `verdict` is ``run`` (the message is now `running`), ``unseen`` (the message had ended: the actor runs, and the
    record stays as it is) or ``cancelled`` (the worker skips the message). `deliveries` counts the starts since an
    attempt ended, this one too; `metadata` is what earlier attempts attached, as JSON; `previous` is the state before,
    if there was one and the start has changed it.
    """

    verdict: Literal["run", "unseen", "cancelled"]
    deliveries: int = 0
    metadata: str = "{}"
    previous: State | None = None


class Change(NamedTuple):
    """What became of a change of state; true when it was `written`. `previous` is the state before, if any."""

    written: bool
    previous: State | None = None

    def __bool__(self) -> bool:
        return self.written


class CancelOutcome(StrEnum):
    """What came of the wish to cancel a message."""

    CANCELLED = "cancelled"  #: It does not run, or not again; also when it was cancelled before.
    REQUESTED = "requested"  #: It runs: its actor is told, and may end before it hears of it.
    FINISHED = "finished"  #: It had ended: nothing has changed.
    NOT_CANCELLABLE = "not_cancellable"  #: Its actor is declared so: nothing has changed.
    NOT_FOUND = "not_found"  #: There is no record of it.


class Cancellation(NamedTuple):
    """The answer to a cancel: its outcome, and the state of the message before, None where there is no record.

    It is true when the message is cancelled, or its actor is told to stop.
    """

    outcome: CancelOutcome
    previous: State | None = None

    def __bool__(self) -> bool:
        return self.outcome in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)


class Call(NamedTuple):
    """One operation on one key, with its arguments as text."""

    operation: str
    key: str
    arguments: Sequence[str]


class Report(NamedTuple):
    """What a running message has to say: `fields` as text; none of them is a bare sign of life."""

    attempt: Attempt
    fields: Mapping[str, str] = {}


#: What became of a `Report`: written; written to a record that had to be made anew, and lacks what was reported
#: before; refused by the fence; or failed, while others of the same round trip did not.
ReportAnswer = Literal["written", "renewed", "refused", "failed"]


class Listener(Protocol):
    """Who hears of changes. All is called from a thread of the store's, or of a writer, and must return at once."""

    def on_change(self, message_id: str) -> None:
        """The record of this message has changed in a way that a reader sees."""

    def on_begin(self) -> None:
        """From now on changes are told. Nobody knows what was not told before."""

    def on_break(self, error: Exception) -> None:
        """Changes are no longer told, until `on_begin` comes again."""


class Subscription(ABC):
    """What `Store.subscribe` gives."""

    @abstractmethod
    def close(self) -> None:
        """Tell the listener nothing more, and free what was held for it. Returns at once."""


class Store(ABC):
    """Where progress lives. Each method is atomic for a record, and each that writes renews its time to live.

    Every method raises `StoreUnavailable` when the store cannot be reached or refuses. An `age` is given for what
    is written late: the seconds since it happened.

    Parameters:
      prefix: What every key begins with.
    """

    def __init__(self, *, prefix: str) -> None:
        self.prefix = prefix

    @abstractmethod
    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Carry out the calls, in order, in one round trip to each server, and return the answer of each.

        Where some calls failed and others did not, a failed one's answer is its exception.
        """

    @abstractmethod
    def _read(self, message_ids: Sequence[str]) -> list[tuple[float, Mapping[str, str]]]:
        """For each message the clock of the server that keeps it, in seconds, and its record, perhaps empty."""

    @abstractmethod
    def ping(self) -> None:
        """Raise `StoreUnavailable` unless the store answers. Asks it even when it was found unavailable just now."""

    @abstractmethod
    def subscribe(self, listener: Listener) -> Subscription:
        """Tell the listener of each change by whatever process, until the subscription is closed. Returns at once.

        It never raises: a store that cannot be reached is `on_break`, and is tried again. A change is told after it can
        be read; one that a reader concludes (`lost`, a place in the line) is not told.
        """

    def close(self) -> None:  # noqa: B027 - a store that holds nothing open has nothing to close
        """Free what the store holds open."""

    def key(self, message_id: str) -> str:
        """The key of a message's record."""
        return f"{self.prefix}{message_id}"

    def line_key(self, queue: str) -> str:
        """The key of the line of messages that wait in a queue. (A message id has no colon: see views.py.)"""
        return f"{self.prefix}queue:{queue}"

    def owner_key(self, owner: str) -> str:
        """The key of the index of an owner's messages."""
        return f"{self.prefix}owner:{owner}"

    def enqueue(
        self,
        message_id: str,
        *,
        actor: str,
        queue: str,
        retries_left: int | None,
        cancellable: bool = True,
        delay: float | None = None,
        due: bool = False,
        owner: str = "",
        age: float = 0.0,
    ) -> Change:
        """A message goes to its queue, or with a `delay` in seconds to its delay queue.

        `due` says that a delayed message has come from its delay queue; that is refused by a record that has ended.
        A message that is not due is new: it resets a record that has ended, and leaves one that lives alone. One
        that is told late makes a record where there is none, and changes nothing else but its `owner`, where it has
        none.
        """
        state = State.ENQUEUED if delay is None else State.DELAYED
        ttl = configuration().unfinished_ttl + (delay or 0)
        origin = "late" if age else "due" if due else "new"
        about = (actor, queue, number_text(retries_left), _flag(cancellable))
        arguments = (origin, state, *about, _milliseconds(ttl), _seconds(age), owner)
        calls = [Call("enqueue", self.key(message_id), arguments)]
        # A call of its own: record and line may live on two nodes of a cluster.
        join = Call("join", self.line_key(queue), (message_id, _milliseconds(ttl), _seconds(age)))
        if delay is None and not age:
            calls.append(join)
        if owner and not due:
            own = (message_id, _milliseconds(ttl), _seconds(age), str(MOST_OWNED))
            calls.append(Call("own", self.owner_key(owner), own))
        change = _change(self._first(calls))
        if delay is None and age and change.written:
            # Only now is it known that the message has not had its turn meanwhile.
            self._call([join])
        return change

    def start(self, attempt: Attempt, *, age: float = 0.0) -> Start:
        """A worker begins with a message: the attempt gets its number, and becomes the one that may write.

        It clears what the attempt before reported, unless there were more than ``MAX_DELIVERIES``.
        """
        wanted = configuration()
        ttl, finished_ttl = _milliseconds(wanted.unfinished_ttl), _milliseconds(wanted.finished_ttl)
        when = (ttl, _seconds(age), str(attempt.least), str(wanted.max_deliveries), finished_ttl)
        arguments = (attempt.token, *_about(attempt), *when, attempt.owner)
        calls = [Call("start", self.key(attempt.message_id), arguments), self._leave(attempt)]
        verdict, number, version, deliveries, metadata, previous = self._first(calls)
        if verdict != "run":
            return Start(verdict, previous=_state(previous))
        attempt.number, attempt.version = int(number), int(version)
        return Start("run", int(deliveries), metadata, _state(previous))

    def report(self, reports: Sequence[Report]) -> list[ReportAnswer]:
        """Write what running messages reported, and that they live, in one round trip."""
        ttl = _milliseconds(configuration().unfinished_ttl)
        answers = self._call(
            [
                Call("report", self.key(attempt.message_id), (*_identity(attempt), ttl, *_flat(fields)))
                for attempt, fields in reports
            ]
        )
        return [_take_answer(report.attempt, answer) for report, answer in zip(reports, answers, strict=True)]

    def finish(
        self,
        attempt: Attempt,
        *,
        state: State,
        fields: Mapping[str, str] | None = None,
        retry_in: float | None = None,
        began: bool = True,
        age: float = 0.0,
    ) -> Change:
        """An attempt ends, in a final state, or in `retrying` with the seconds until the next one.

        One that never `began` (as when a middleware skipped the message) is refused by a record that has ended or that
        another delivery is working on, and where there is no record. One that began unknown to the store, with the
        number 0, is counted now.
        """
        wanted = configuration()
        own_ttl = wanted.finished_ttl if state.is_final else wanted.unfinished_ttl
        ttl = _milliseconds(own_ttl + (retry_in or 0))
        delay = "" if retry_in is None else _seconds(retry_in)
        lost_after = _seconds(wanted.lost_after)
        how = (state, delay, _flag(began), str(attempt.least), lost_after, ttl, _seconds(age))
        arguments = (*_identity(attempt), *how, *_flat(fields or {}))
        calls = [Call("finish", self.key(attempt.message_id), arguments)]
        if not attempt.number:
            calls.append(self._leave(attempt))
        return _change(self._first(calls))

    def cancel(self, message_id: str) -> Cancellation:
        """Cancel a message that waits, and have the actor of one that runs told with its next report.

        A `lost` one is cancelled when its next delivery comes, or when its worker turns out to live. Nothing is kept
        for later: when this raises, there was no cancel.
        """
        ttl = _milliseconds(configuration().unfinished_ttl)
        outcome, before, queue = self._first([Call("cancel", self.key(message_id), (ttl,))])
        previous = _state(before)
        if outcome == CancelOutcome.CANCELLED and previous is State.ENQUEUED:
            with suppress(StoreUnavailable):  # It leaves the line when it comes, else.
                self._call([Call("leave", self.line_key(queue), (message_id, _seconds(NO_PURGE_SECONDS)))])
        return Cancellation(CancelOutcome(outcome), previous)

    def read(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """The progress of each message, None where there is no record.

        In one round trip, and in a second one for those that wait in a queue.
        """
        found = self._read(message_ids)
        places = self._places(message_ids, [record for _, record in found])
        lost_after = configuration().lost_after
        return [
            _progress(message_id, record, now=now, lost_after=lost_after, place=places.get(message_id))
            for message_id, (now, record) in zip(message_ids, found, strict=True)
        ]

    def owned(self, owners: Collection[str]) -> list[str]:
        """The ids of the messages of these owners, newest first, at most `MOST_OWNED`; some may have expired."""
        if not owners:
            return []
        sent: dict[str, float] = {}
        for answer in self._call([Call("owned", self.owner_key(owner), ()) for owner in owners]):
            if isinstance(answer, Exception):
                raise StoreUnavailable(f"{self!r}: {type(answer).__name__}: {answer}") from answer
            sent |= {message_id: float(moment) for message_id, moment in zip(answer[::2], answer[1::2], strict=True)}
        return sorted(sent, key=lambda message_id: sent[message_id], reverse=True)[:MOST_OWNED]

    def _places(self, message_ids: Sequence[str], records: Sequence[Mapping[str, str]]) -> dict[str, tuple[int, int]]:
        waiting = [
            (message_id, record["queue"])
            for message_id, record in zip(message_ids, records, strict=True)
            if record.get("state") == State.ENQUEUED
        ]
        if not waiting:
            return {}
        answers = self._call([Call("place", self.line_key(queue), (message_id,)) for message_id, queue in waiting])
        return {
            message_id: (answer[0] + 1, answer[1])
            for (message_id, _), answer in zip(waiting, answers, strict=True)
            if not isinstance(answer, Exception) and answer[0] is not None
        }

    def _leave(self, attempt: Attempt) -> Call:
        return Call("leave", self.line_key(attempt.queue), (attempt.message_id, str(LINE_PATIENCE_SECONDS)))

    def _first(self, calls: Sequence[Call]) -> Any:
        """The answer of the first call; the others may fail, and are made good by a later one."""
        answer = self._call(calls)[0]
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"{self!r}: {type(answer).__name__}: {answer}") from answer
        return answer

    async def aread(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """`read`, for async code."""
        return await asyncio.to_thread(self.read, message_ids)


def _progress(message_id: str, record: Mapping[str, str], **known: Any) -> Progress | None:
    if not record:
        return None
    try:
        return Progress.from_record(message_id, record, **known)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        # As another version of this package, or somebody else, may have written it: the others are shown all the same.
        logger.exception("The record of message %s cannot be read; it is shown as not found.", message_id)
        return None


def _take_answer(attempt: Attempt, answer: Any) -> ReportAnswer:
    if isinstance(answer, Exception):
        return "failed"
    what, version, to_cancel = answer
    attempt.version = max(attempt.version, int(version))
    attempt.to_cancel = bool(int(to_cancel))
    return cast(ReportAnswer, what)


def _change(answer: Sequence[str]) -> Change:
    what, previous = answer
    return Change(what == "written", _state(previous))


def _state(text: str) -> State | None:
    return State(text) if text else None


def _identity(attempt: Attempt) -> tuple[str, ...]:
    # Nine values, in the order in which report.lua and finish.lua (and memory.py) take them.
    return (
        str(attempt.number),
        attempt.token,
        str(attempt.version),
        *_about(attempt),
        _seconds(time.monotonic() - attempt.began_at),
        attempt.owner,
    )


def _about(attempt: Attempt) -> tuple[str, ...]:
    return (attempt.actor, attempt.queue, number_text(attempt.retries_left), _flag(attempt.cancellable))


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}"

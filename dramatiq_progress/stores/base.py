"""The interface of a store: what happens to a message becomes calls of scripts, and a record becomes a `Progress`.

A subclass runs the calls: in Redis (redis/store.py), or in this process's memory (memory.py).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.progress import State

from . import encoding
from .attempt import Attempt
from .calls import NO_PURGE_SECONDS, PURGED_AFTER_SECONDS, NewMessage, state_of
from .companion import Companion
from .composites import Contribution, Told
from .encoding import Call, flag, flat, milliseconds, number_text, seconds
from .gathering import CompositeStore, peek_of
from .health import Health
from .outcomes import Change, ReportOutcome, Start
from .querying import ReadableStore
from .steering import SteeredStore


class Listener(Protocol):
    """The receiver of notifications. All methods are called in a thread of the store's or a writer's; don't block."""

    def on_change(self, message_id: str) -> None:
        """The record of this message has changed in a way that a reader sees."""

    def on_begin(self) -> None:
        """The subscription is active. Changes before this call may have been missed."""

    def on_break(self, error: Exception) -> None:
        """The subscription is interrupted; `on_begin` is called when it is active again."""


class Subscription(ABC):
    """The handle that `Store.subscribe` returns."""

    @abstractmethod
    def close(self) -> None:
        """Stop notifying the listener, and release what was held for it. Doesn't block."""


class Store(CompositeStore, ReadableStore, SteeredStore):
    """Abstract base class of the stores. Each method is atomic per record; each write renews the record's TTL.

    All methods raise `StoreUnavailable`: its subclass `StoreUnreachable` if there was no answer, `StoreRefused` if the
    answer was an error. For a deferred write, ``age`` is the number of seconds since the event.

    Parameters:
      prefix: Prefix of every key.

    Attributes:
      health: Whether the store can be reached.
    """

    def __init__(self, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.health = Health(self.ping)

    @abstractmethod
    def ping(self) -> None:
        """Raise `StoreUnavailable` unless the store, and each node of a cluster, accepts writes.

        Asks it even during an outage.
        """

    @abstractmethod
    def subscribe(self, listener: Listener) -> Subscription:
        """Notify the listener of changes made by any process, until the subscription is closed. Doesn't block.

        It never raises: if the store can't be reached, `Listener.on_break` is called, and the store is tried again. A
        change is notified after it can be read. Changes that a reader derives (``lost``, a queue position) aren't
        notified.
        """

    def close(self) -> None:
        """Release what the store holds open."""
        self.health.close()

    def enqueue(
        self,
        message_id: str,
        *,
        actor: str,
        queue: str,
        retries_left: int | None,
        cancellable: bool = False,
        delay: float | None = None,
        due: bool = False,
        owner: str = "",
        title: str = "",
        metadata: str = "{}",
        estimate_key: str = "",
        is_listed: bool = True,
        companion: Companion | None = None,
        contribution: Contribution | None = None,
        age: float = 0.0,
    ) -> Change:
        """Record that a message is enqueued.

        A new message resets a final record, and leaves any other alone. A deferred one (``age``) creates a record if
        there is none, and otherwise only adds the ``owner``.

        Parameters:
          delay: Seconds until the message is due, if it goes to its delay queue.
          due: Whether a delayed message has come from its delay queue. Refused by a final record.
          metadata: JSON.
          is_listed: Whether it is one of its owner's jobs. A member of a composite isn't.
          estimate_key: The kind of runs that its duration is compared with.
          companion: Private data of the message, if it has any.
          contribution: What the composite of the message is told in the same round trip, whatever the outcome is.
        """
        message = NewMessage(
            message_id, actor, queue, retries_left, cancellable, owner, delay, title, metadata, estimate_key, companion
        )
        calls = [self._enqueue_call(message, due=due, age=age)]
        if companion is not None and not due:
            calls.append(keep := self._keep_call(message_id, "", companion.sent_fields))
        join = self._join_call([message_id], queue, age=age)
        if delay is None and not age:
            calls.append(join)
        if owner and is_listed and not due:
            calls.append(self._own_call(message_id, owner, delay=delay, age=age))
        if contribution is not None:
            calls.append(self._part_call(contribution, script="gather", age=age))
        (outcome, before, version), *others = self._answers(calls)
        if companion is not None and not due:
            self._note_kept(companion, keep, others[0], must_be_kept=outcome == "written")
        told = None if contribution is None else self._read_told([contribution], others[-1:])[0]
        change = Change(outcome == "written", state_of(before), int(version), told=told)
        if delay is None and age and change.written:
            # Only now is it known that the message hasn't had its turn in the meantime.
            self._call([join])
        return change

    def withdraw(self, message_id: str, change: Change, *, queue: str, owner: str = "") -> None:
        """Remove the record of a message that could not be sent, unless it has changed since it was enqueued.

        Parameters:
          change: The outcome of `enqueue`.
          queue: The queue that it was enqueued in.
          owner: The message's owner.
        """
        calls = [Call("withdraw", self._keys(message_id), encoding.Withdraw(str(change.version)))]
        if self._first(calls) != "written":
            return
        calls = [self._leave_call(message_id, queue, purged_after=NO_PURGE_SECONDS)]
        if owner:
            calls.append(self._disown_call(message_id, owner))
        self._first(calls)

    def start(self, attempt: Attempt, *, age: float = 0.0) -> Start:
        """Record that a worker starts a message: the attempt gets its number, and becomes the one that is shown.

        Clears what the attempt before reported, unless the message has exceeded ``MAX_DELIVERIES``, or it left a cursor
        to go on from. While an attempt
        that is shown is alive, the new one waits, and the record stays as it is. The same round trip checks whether a
        composite of the message is to be cancelled.
        """
        settings = configuration()
        companion = attempt.companion
        arguments = encoding.Start(
            token=attempt.token,
            actor=attempt.actor,
            queue=attempt.queue,
            retries_left=number_text(attempt.retries_left),
            cancellable=flag(attempt.cancellable),
            owner=attempt.owner,
            ttl=milliseconds(settings.unfinished_ttl),
            age=seconds(age),
            min_attempt=str(attempt.min_attempt),
            max_deliveries=str(settings.max_deliveries),
            finished_ttl=milliseconds(_finished_ttl(companion)),
            lost_after=seconds(settings.lost_after),
            title=attempt.title,
            metadata=attempt.metadata,
            estimate_key=attempt.estimate_key,
            resumable=flag(attempt.resumable),
            follows=attempt.follows,
        )
        calls = [Call("start", self._keys_of(attempt), (*arguments, *flat(attempt.brought)))]
        is_paced = settings.estimates and not age
        calls.append(
            self._leave_call(attempt.message_id, attempt.queue, purged_after=PURGED_AFTER_SECONDS, is_paced=is_paced)
        )
        calls += [Call("peek", (self.key(place.id),)) for place in attempt.path]
        if companion is not None:
            calls.append(keep := self._keep_call(attempt.message_id, attempt.token, companion.started_fields))
        sent_at = time.monotonic()
        answer, _, *peeks = self._answers(calls)
        if companion is not None:
            self._note_kept(companion, keep, peeks.pop(), must_be_kept=answer[0] == "run")
        verdict, number, version, deliveries, title, metadata, previous, is_shown, kept = answer
        if verdict not in ("run", "paused"):
            return Start(verdict, previous=state_of(previous))
        # A composite that can't be read cancels its members at a later report.
        found = [peek_of(each) for each in peeks if not isinstance(each, StoreUnavailable)]
        if verdict == "run":
            attempt.number, attempt.version = int(number), int(version)
            if is_shown:
                attempt.shown_at = sent_at
                attempt.renews = not previous
        return Start(
            verdict,
            int(deliveries),
            title,
            metadata,
            is_shown=bool(is_shown),
            previous=state_of(previous),
            is_unwanted=any(each.cancel_requested for each in found),
            is_forced=any(each.is_forced for each in found),
            kept=dict(zip(kept[::2], kept[1::2], strict=True)),
        )

    def report(
        self, reports: Sequence[tuple[Attempt, Mapping[str, str]]]
    ) -> list[ReportOutcome | StoreUnreachable | StoreRefused]:
        """Write what running messages reported, and their heartbeats, in one round trip.

        Parameters:
          reports: Attempts and their changed fields, or all (see `Attempt.sends_all`); with no field, only a heartbeat.

        Returns:
          The outcome of each report. One that failed is its error, so that others are known to be written.
        """
        return self.flush(reports, [])[0]

    def flush(
        self, reports: Sequence[tuple[Attempt, Mapping[str, str]]], contributions: Sequence[Contribution]
    ) -> tuple[list[ReportOutcome | StoreUnreachable | StoreRefused], list[Told | StoreUnavailable]]:
        """`report` and `tell` in one round trip."""
        current = configuration()
        ttl, lost_after = milliseconds(current.unfinished_ttl), seconds(current.lost_after)
        calls = []
        for attempt, fields in reports:
            arguments = encoding.Report(ttl, lost_after, flag(attempt.sends_all))
            calls.append(Call("report", self._keys_of(attempt), (*encoding.writer(attempt), *arguments, *flat(fields))))
        calls += [self._part_call(each) for each in contributions]
        sent_at = time.monotonic()
        answers = self._call(calls)
        outcomes = [
            _report_outcome(attempt, answer, sent_at)
            for (attempt, _), answer in zip(reports, answers[: len(reports)], strict=True)
        ]
        rebuilt = [attempt for (attempt, _), outcome in zip(reports, outcomes, strict=True) if outcome == "rebuilt"]
        self._restore(rebuilt)
        return outcomes, self._read_told(contributions, answers[len(reports) :])

    def keep(self, attempt: Attempt, fields: Mapping[str, str]) -> bool:
        """Store fields beside the record of an attempt that has a companion.

        Returns:
          Whether they were stored. They aren't if the record shows another attempt.
        """
        outcome, *_ = self._first([self._keep_call(attempt.message_id, attempt.token, fields)])
        return bool(outcome == "written")

    def finish(
        self,
        attempt: Attempt,
        *,
        state: State,
        fields: Mapping[str, str] | None = None,
        retry_in: float | None = None,
        started: bool = True,
        given_up: bool = False,
        yields: bool = False,
        beside: Mapping[str, str] | None = None,
        age: float = 0.0,
        contribution: Contribution | None = None,
    ) -> Change:
        """Record the outcome of an attempt: a final state, or ``retrying`` with the seconds until the next attempt.

        The state is ``enqueued`` or ``delayed`` if the actor has enqueued its own message again.

        Parameters:
          fields: The values that the attempt reported last.
          started: Whether the attempt has started. One that hasn't (as when a middleware skipped the message) is
            refused if the record is final, is missing, or belongs to a running delivery. One that started unknown to
            the store, with the number 0, is counted now.
          given_up: Whether the message was given up. Any attempt of it that turns out to be alive continues the record.
          yields: Whether the attempt makes room, with the state ``enqueued``: the message is cancelled or paused
            instead if that was requested.
          contribution: What the composite of the message is told in the same round trip, whatever the outcome is.
          beside: The fields that an attempt with a companion stores beside the record.
        """
        settings = configuration()
        kept = flat(beside or {})
        # A failed message with a cursor may be sent again from the dead letters, and then goes on where it was.
        is_over = state.is_final and not (state is State.FAILED and fields and fields.get("cursor"))
        ttl = (_finished_ttl(attempt.companion) if is_over else settings.unfinished_ttl) + (retry_in or 0)
        arguments = encoding.Finish(
            state=state,
            delay="" if retry_in is None else seconds(retry_in),
            started=flag(started),
            given_up=flag(given_up),
            yields=flag(yields),
            min_attempt=str(attempt.min_attempt),
            lost_after=seconds(settings.lost_after),
            ttl=milliseconds(ttl),
            age=seconds(age),
            beside=str(len(kept)),
        )
        texts = (*encoding.writer(attempt), *arguments, *flat(fields or {}), *kept)
        calls = [Call("finish", self._keys_of(attempt), texts)]
        if not attempt.number:
            calls.append(self._leave_call(attempt.message_id, attempt.queue, purged_after=PURGED_AFTER_SECONDS))
        elif state is State.ENQUEUED:
            calls.append(self._join_call([attempt.message_id], attempt.queue, age=age))
        if contribution is not None:
            calls.append(self._part_call(contribution, age=age))
        (outcome, before, after, number, moment), *others = self._answers(calls)
        if outcome == "rebuilt":
            self._restore([attempt], have_run=not given_up)
        if after == State.PAUSED and state is State.ENQUEUED:
            # Its message goes to the delay queue instead.
            with suppress(StoreUnavailable):
                self._call([self._leave_call(attempt.message_id, attempt.queue, purged_after=NO_PURGE_SECONDS)])
        told = None if contribution is None else self._read_told([contribution], others[-1:])[0]
        return Change(
            outcome != "refused",
            state_of(before),
            state=state_of(after),
            attempt=int(number),
            moment=float(moment),
            told=told,
        )

    def _restore(self, attempts: Sequence[Attempt], *, have_run: bool = True) -> None:
        """Store again what belongs to records that had to be rebuilt: their index entries and companions.

        Parameters:
          have_run: Whether the attempts have run. One of a message that was given up hasn't, and finish.lua has removed
            the count of deliveries by which keep.lua would know it.
        """
        self._own_again(map(_entry, attempts))
        calls = [
            self._keep_call(
                each.message_id, each.token, companion.started_fields if have_run else {"about": companion.about}
            )
            for each in attempts
            if (companion := each.companion) is not None
        ]
        if calls:
            # Without an answer, the companion is missing until the next attempt.
            self._call(calls)

    def _keys_of(self, attempt: Attempt) -> tuple[str, ...]:
        return (self.key(attempt.message_id),) if attempt.companion is None else self._keys(attempt.message_id)


def _entry(attempt: Attempt) -> tuple[str, str, float, float]:
    """Return the entry of a message in its owner's index. A member of a composite isn't listed."""
    owner = "" if attempt.path else attempt.owner
    return attempt.message_id, owner, time.monotonic() - attempt.started_at, 0.0


def _report_outcome(attempt: Attempt, answer: Any, sent_at: float) -> ReportOutcome | StoreUnreachable | StoreRefused:
    if isinstance(answer, (StoreUnreachable, StoreRefused)):
        return answer
    outcome: ReportOutcome
    outcome, version, cancel_requested, pause_requested = answer
    attempt.version = max(attempt.version, int(version))
    attempt.cancel_requested = bool(int(cancel_requested))
    attempt.pause_requested = bool(int(pause_requested))
    attempt.shown_at = sent_at if outcome in ("written", "rebuilt") else -math.inf
    attempt.sends_all = attempt.sends_all and not attempt.is_shown
    attempt.renews = attempt.renews or outcome == "rebuilt"
    return outcome


def _finished_ttl(companion: Companion | None) -> float:
    own = None if companion is None else companion.finished_ttl
    return configuration().finished_ttl if own is None else own

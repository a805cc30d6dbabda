"""The writes of an attempt: its start, its reports and heartbeats, its data beside the record, and its outcome."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.progress import State

from . import encoding
from .attempt import Attempt
from .calls import NO_PURGE_SECONDS, PURGED_AFTER_SECONDS, state_of
from .companion import Companion
from .composites import CompositeAnswer, Contribution
from .counters import Slot
from .encoding import Call, flag, flat, milliseconds, number_text, seconds
from .gathering import CompositeStore, peek_of
from .outcomes import Change, Peek, ReportOutcome, Start


class AttemptStore(CompositeStore):
    """The methods of a store for attempts. Contributions to composites are sent in the same round trips."""

    def start(self, attempt: Attempt, *, age: float = 0.0) -> Start:
        """Record that a worker starts a message: the attempt gets its number, and becomes the one that is shown.

        Clears what the attempt before reported, unless that left a cursor or the message has exceeded
        ``MAX_DELIVERIES``. While an attempt that is shown is alive, the new one waits, and the record stays as it is.
        The same round trip checks whether a composite of the message is to be cancelled.
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
        calls += self._peek_calls(attempt)
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
                attempt.has_new_record = not previous or _is_counted_again(attempt, found)
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
    ) -> tuple[list[ReportOutcome | StoreUnreachable | StoreRefused], list[CompositeAnswer | StoreUnavailable]]:
        """`report` and `contribute` in one round trip."""
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
        return outcomes, self._composite_answers(contributions, answers[len(reports) :])

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
          contribution: The contribution to its composite, sent in the same round trip, whatever the outcome is.
          beside: The fields that an attempt with a companion stores beside the record.
        """
        settings = configuration()
        kept = flat(beside or {})
        # A failed message with a cursor may be sent again from the dead letters, and then goes on where it was.
        is_over = state.is_final and not (state is State.FAILED and fields and fields.get("cursor"))
        ttl = _finished_ttl(attempt.companion) if is_over else settings.unfinished_ttl
        arguments = encoding.Finish(
            state=state,
            delay="" if retry_in is None else seconds(retry_in),
            started=flag(started),
            given_up=flag(given_up),
            yields=flag(yields),
            min_attempt=str(attempt.min_attempt),
            lost_after=seconds(settings.lost_after),
            ttl=milliseconds(ttl, retry_in),
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
        composite = None if contribution is None else self._composite_answers([contribution], others[-1:])[0]
        return Change(
            outcome != "refused",
            state_of(before),
            state=state_of(after),
            attempt=int(number),
            moment=float(moment),
            composite=composite,
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

    def _peek_calls(self, attempt: Attempt) -> list[Call]:
        # Only the first composite has a slot of the message.
        asked = [(self.members_key(membership.id),) for membership in attempt.path[:1]] + [()] * len(attempt.path[1:])
        return [
            Call("peek", (self.key(membership.id), *members), encoding.Peek(attempt.message_id))
            for membership, members in zip(attempt.path, asked, strict=True)
        ]

    def _keys_of(self, attempt: Attempt) -> tuple[str, ...]:
        return (self.key(attempt.message_id),) if attempt.companion is None else self._keys(attempt.message_id)


def _entry(attempt: Attempt) -> tuple[str, str, float, float]:
    """Return the entry of a message in its owner's index. A member of a composite isn't listed."""
    owner = "" if attempt.path else attempt.owner
    return attempt.message_id, owner, time.monotonic() - attempt.started_at, 0.0


def _is_counted_again(attempt: Attempt, peeks: Sequence[Peek]) -> bool:
    """Whether a failed member's record had expired when it was sent again: its composite knows that attempt already."""
    known = Slot.parse(peeks[0].slot) if peeks else None
    return known is not None and known.state == "f" and known.attempt >= attempt.number


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
    attempt.has_new_record = attempt.has_new_record or outcome == "rebuilt"
    return outcome


def _finished_ttl(companion: Companion | None) -> float:
    own = None if companion is None else companion.finished_ttl
    return configuration().finished_ttl if own is None else own

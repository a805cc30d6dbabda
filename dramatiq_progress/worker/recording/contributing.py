"""The contributions of members to their composites: reports with the recorder's flush, ends by the worker's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.progress import State
from dramatiq_progress.progress_values import thousandths_of
from dramatiq_progress.signals import send_state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import CompositeAnswer, Contribution, Path
from dramatiq_progress.stores.gathering import pieces_of
from dramatiq_progress.stores.health import NodeUnreachable
from dramatiq_progress.stores.outcomes import CancelOutcome, Change
from dramatiq_progress.worker.sending.membership import MemberEnd

from .deferred import Refusals
from .ledger import Ledger

if TYPE_CHECKING:
    from dramatiq_progress.worker.observing.binding import Binding

#: Number of calls with remembered ends in a round trip.
PIECES_AT_ONCE = 4


class Contributor:
    """The contributor to the composites of the members that this process runs and has run.

    Parameters:
      refusals: The records that the store refuses.
      wake: Wakes the recorder's thread.
    """

    def __init__(self, refusals: Refusals, wake: Callable[[], None]) -> None:
        self._refusals = refusals
        self._wake = wake
        self._ledger = Ledger()
        self._must_check = False
        # By message id, those that the last flush contributes.
        self._flushed: dict[str, tuple[Attempt, str]] = {}
        self.is_due = False

    # ---- In the worker's threads, and for deferred ends in the recorder's ----

    def contribute_end(
        self, store: Store, end: MemberEnd, change: Change, contribution: Contribution | None, *, age: float
    ) -> None:
        """Contribute the end of an attempt, unless that was done together with its outcome.

        Raises:
          StoreUnavailable: A composite doesn't know it. Try again: everything here is idempotent.
        """
        if end.children:
            self.contribute(store, list(end.children.contributions()), age=age)
        if contribution is not None and change.composite is not None:
            answers = [change.composite]
        elif (contribution := end.recorded(change)) is not None:
            answers = store.contribute([contribution], age=age)
        else:
            return
        _, errors = self._settle(store, [contribution], answers, keeps=True, age=age)
        if errors:
            raise errors[0]

    def contribute_recorded(self, store: Store, attempt: Attempt, *, age: float) -> None:
        """Contribute what a message's record says, if it has ended or is paused.

        Raises:
          StoreUnavailable: As for `contribute_end`.
        """
        [progress] = store.read([attempt.message_id])
        if progress is not None and (progress.complete or progress.state is State.PAUSED):
            # An attempt before may have reported something.
            end = MemberEnd(attempt, progress.state, None if progress.percent is None else progress.percent / 100)
            change = Change(True, state=progress.state, attempt=progress.attempt)
            self.contribute_end(store, end, change, None, age=age)

    def contribute(self, store: Store, contributions: Sequence[Contribution], *, age: float = 0.0) -> None:
        """Contribute to composites.

        Raises:
          StoreUnavailable: As for `contribute_end`.
        """
        _, errors = self._settle(store, contributions, store.contribute(contributions, age=age), keeps=True, age=age)
        if errors:
            raise errors[0]

    def note_sent(
        self, store: Store, contribution: Contribution, answer: CompositeAnswer | StoreUnavailable, *, age: float
    ) -> None:
        """Note the answer to what was contributed with the record of a message that is being sent."""
        self._settle(store, [contribution], [answer], keeps=False, age=age)

    # ---- In the recorder's thread ----

    def collect(self, bindings: Iterable[tuple[Binding, Attempt]], *, beating: bool) -> list[Contribution]:
        """Return the contributions of running members, one for each composite.

        Parameters:
          beating: Whether heartbeats are due. They are also those of the composites, and make one that was lost again.
        """
        found: dict[str, Contribution] = {}
        self._flushed = {}
        self._must_check = self._must_check or beating
        for binding, attempt in bindings:
            # One that isn't shown waits for an earlier attempt, whose slot it still is.
            if not attempt.is_shown or self._is_refused(attempt.path):
                continue
            fraction = binding.levels.fraction
            text = attempt.path[0].slot(
                State.RUNNING, attempt.number, thousandths_of(fraction or 0.0), has_new_record=attempt.has_new_record
            )
            if beating or text != attempt.slot:
                known = found.get(attempt.path[0].id, Contribution(attempt.path, attempt.owner, {}))
                found[known.membership.id] = known._replace(slots={**known.slots, attempt.message_id: text})
                self._flushed[attempt.message_id] = attempt, text
        return [piece for each in found.values() for piece in pieces_of(each)]

    def settle_reports(
        self, store: Store, contributions: Sequence[Contribution], answers: Sequence[CompositeAnswer | StoreUnavailable]
    ) -> dict[str, bool]:
        """Note the answers to what `collect` returned. Return the composites that are to be cancelled: see `_settle`.

        Raises:
          StoreUnreachable: The store gave no answer.
        """
        for contribution, answer in zip(contributions, answers, strict=True):
            for message_id in contribution.slots if isinstance(answer, CompositeAnswer) else ():
                attempt, text = self._flushed[message_id]
                attempt.slot, attempt.has_new_record = text.removesuffix("!"), False
        cancelled, errors = self._settle(store, contributions, answers, keeps=False, late=True)
        self._raise_unreachable(errors)
        return cancelled

    def doubt(self) -> None:
        """Check all composites at the next flush: the store may have lost some."""
        self._must_check = True

    def repair(self, store: Store) -> None:
        """Contribute again what composites lack, and find out at times which do.

        Raises:
          StoreUnreachable: The store gave no answer.
        """
        if self._must_check:
            self._must_check = False
            running = {attempt.path[0].id for attempt, _ in self._flushed.values()}
            if doubted := self._ledger.unfinished(without=running):
                for composite, peek in zip(doubted, store.peek(doubted), strict=True):
                    if not isinstance(peek, StoreUnavailable):
                        self._ledger.check(composite, peek)
        elif not self.is_due:
            return
        self.is_due = False
        pieces = [piece for each in self._ledger.take_incomplete() for piece in pieces_of(each)]
        try:
            while pieces:
                some = pieces[:PIECES_AT_ONCE]
                answers = store.contribute(some)
                for contribution, answer in zip(some, answers, strict=True):
                    if isinstance(answer, StoreUnavailable):
                        self._ledger.mark_incomplete(contribution.membership.id)
                _, errors = self._settle(store, some, answers, keeps=True, late=True)
                self._raise_unreachable(errors)
                del pieces[:PIECES_AT_ONCE]
        finally:
            # An error left them out. Without a mark, the next report of another member would hide the gap.
            for contribution in pieces:
                self._ledger.mark_incomplete(contribution.membership.id)

    # ---- In both ----

    def _settle(
        self,
        store: Store,
        contributions: Sequence[Contribution],
        answers: Sequence[CompositeAnswer | StoreUnavailable],
        *,
        keeps: bool,
        age: float = 0.0,
        late: bool = False,
    ) -> tuple[dict[str, bool], list[StoreUnavailable]]:
        """Note the answers of composites, and contribute to those that they are members of.

        Returns:
          The ids of composites that are to be cancelled, each with whether also those members are whose actors aren't
          cancellable; and the errors.
        """
        cancelled: dict[str, bool] = {}
        errors: list[StoreUnavailable] = []
        # The composites that have contributed to another one.
        inner: dict[str, tuple[Contribution, CompositeAnswer]] = {}
        while contributions:
            following: dict[str, Contribution] = {}
            for contribution, answer in zip(contributions, answers, strict=True):
                composite = contribution.membership.id
                if isinstance(answer, StoreUnavailable):
                    self._note_error(composite, answer)
                    errors.append(answer)
                    continue
                self._refusals.clear(composite)
                self._ledger.note(contribution, answer, keeps=keeps)
                self.is_due = self.is_due or self._ledger.has_incomplete
                if answer.state is not answer.previous:
                    send_state_changed(store, composite, answer.previous, state=answer.state, late=late or bool(age))
                if answer.cancel_requested:
                    cancelled[composite] = answer.is_forced
                    members = [inner[each] for each in contribution.slots if each in inner]
                    for each in self._cancel(store, members, force=answer.is_forced, late=late or bool(age)):
                        following[each.membership.id] = each
                if (outward := contribution.outward(answer)) is not None:
                    inner[composite] = contribution, answer
                    known = following.get(outward.membership.id, outward)
                    following[outward.membership.id] = known._replace(slots={**known.slots, **outward.slots})
            contributions, keeps = list(following.values()), True
            answers = store.contribute(contributions, age=age) if contributions else []
        if self.is_due:
            self._wake()
        return cancelled, errors

    def _cancel(
        self, store: Store, members: Iterable[tuple[Contribution, CompositeAnswer]], *, force: bool, late: bool
    ) -> Iterable[Contribution]:
        """Cancel composites whose own composite is to be cancelled. Yield contributions that find out their states."""
        for contribution, answer in members:
            is_known = answer.cancel_requested and answer.is_forced >= force
            if is_known or answer.state is None or answer.state.is_final:
                continue
            try:
                cancellation = store.cancel(contribution.membership.id, force=force, is_inherited=True)
            except StoreUnavailable:
                continue  # The next contribution of a member tries again.
            if cancellation.outcome is CancelOutcome.CANCELLED and cancellation.previous is not State.CANCELLED:
                send_state_changed(store, contribution.membership.id, cancellation.previous, late=late)
            yield contribution._replace(slots={})

    def _is_refused(self, path: Path) -> bool:
        return self._refusals.due_at(path[0].id) > time.monotonic()

    def _note_error(self, composite: str, error: StoreUnavailable) -> None:
        if isinstance(error, StoreRefused):
            self._refusals.add(composite, error)
        elif isinstance(error, NodeUnreachable):
            self.doubt()
            error.health.call_when_available(self._wake)

    def _raise_unreachable(self, errors: Iterable[StoreUnavailable]) -> None:
        for error in errors:
            if isinstance(error, StoreUnreachable) and not isinstance(error, NodeUnreachable):
                raise error

"""The composites of a store: what their members contribute, and the records of many members that are sent at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreUnavailable, StoreUnreachable
from dramatiq_progress.progress import State

from . import encoding
from .calls import NO_PURGE_SECONDS, NewMessage, StoreCalls, state_of
from .composites import IS_CANCELLABLE, IS_CHILD, CompositeAnswer, Contribution
from .encoding import Call, flag, flat, milliseconds, seconds
from .health import NodeUnreachable
from .outcomes import Change, Peek
from .speed import MEMORY_PART, MEMORY_SECONDS

#: Number of calls in a round trip, and of members in a call. With 1,000 members in a call, one of them exceeded the
#: timeout of 0.25 s on a busy machine.
BATCH_SIZE = 250

T = TypeVar("T")


class CompositeStore(StoreCalls):
    """The methods of a store for composites."""

    def contribute(
        self, contributions: Sequence[Contribution], *, age: float = 0.0
    ) -> list[CompositeAnswer | StoreUnavailable]:
        """Contribute to composites, in one round trip. The record of each that has none is made.

        Returns:
          The answer of each composite, or its error.
        """
        answers = self._call([self._part_call(each, age=age) for each in contributions])
        return self._composite_answers(contributions, answers)

    def peek(self, composites: Sequence[str]) -> list[Peek | StoreUnavailable]:
        """Return what identifies the record of each composite, and whether it is to be cancelled."""
        answers = self._call([Call("peek", (self.key(each),), encoding.Peek()) for each in composites])
        return [answer if isinstance(answer, StoreUnavailable) else peek_of(answer) for answer in answers]

    def gather(
        self, contributions: Sequence[Contribution], members: Sequence[NewMessage], *, age: float = 0.0
    ) -> tuple[dict[str, CompositeAnswer], dict[str, Change]]:
        """Record composites whose members are about to be sent, and those messages that are sent now.

        Parameters:
          contributions: The composites, with a waiting slot for each member.
          members: The messages.

        Returns:
          The answer of each composite, and the change of each message, by their ids.

        Raises:
          StoreUnavailable: Something wasn't recorded. Try all of it again, with an age: all of it is idempotent.
        """
        composites: dict[str, CompositeAnswer] = {}
        changes: dict[str, Change] = {}
        failure: StoreUnavailable | None = None
        pieces = [piece for each in contributions for piece in pieces_of(each)]
        work: list[Contribution | NewMessage] = [*pieces, *members]
        for batch in _batches(work, BATCH_SIZE):
            answers = self._call([*(self._gather_call(each, age) for each in batch), *self._join_calls(batch, age)])
            for each, answer in zip(batch, answers, strict=False):
                if isinstance(answer, StoreUnavailable):
                    failure = failure or answer
                elif isinstance(each, NewMessage):
                    changes[each.id] = Change(answer[0] == "written", state_of(answer[1]), int(answer[2]))
                else:
                    # A composite in several pieces is new if it was so before the first.
                    previous = composites.get(each.membership.id, composite_answer_of(answer)).previous
                    composites[each.membership.id] = composite_answer_of(answer)._replace(previous=previous)
            if isinstance(failure, StoreUnreachable) and not isinstance(failure, NodeUnreachable):
                raise failure
        if age:
            self._join_late([each for each in members if each.id in changes and changes[each.id].written], age)
        self._own_again([(each.membership.id, each.owner, age, each.delay) for each in contributions if each.is_listed])
        if failure is not None:
            raise failure
        self._keep_sent(members)
        return composites, changes

    def withdraw_all(self, members: Mapping[str, tuple[Change, str]]) -> None:
        """Remove the records of messages of composites that could not be sent, unless they have changed.

        Parameters:
          members: The outcome of `gather` and the queue of each message, by its id.
        """
        for batch in _batches(members.items(), BATCH_SIZE):
            calls = []
            for message_id, (change, queue) in batch:
                if change.written:
                    calls.append(Call("withdraw", self._keys(message_id), encoding.Withdraw(str(change.version))))
                    calls.append(self._leave_call(message_id, queue, purged_after=NO_PURGE_SECONDS))
            self._call(calls)

    def withdraw_composite(self, contribution: Contribution, answer: CompositeAnswer) -> None:
        """Remove a composite none of whose members could be sent, unless it has changed."""
        membership = contribution.membership
        keys = (self.key(membership.id), self.members_key(membership.id))
        calls = [Call("withdraw", keys, encoding.Withdraw(str(answer.version)))]
        if contribution.owner and contribution.is_listed:
            calls.append(self._disown_call(membership.id, contribution.owner))
        self._first(calls)

    def _gather_call(self, work: Contribution | NewMessage, age: float) -> Call:
        if isinstance(work, Contribution):
            return self._part_call(work, script="gather", age=age)
        return self._enqueue_call(work, age=age)

    def _join_calls(self, batch: Sequence[Contribution | NewMessage], age: float) -> list[Call]:
        # Only after the answer is it known that a message that is recorded late hasn't had its turn.
        members = [] if age else [each for each in batch if isinstance(each, NewMessage) and each.delay is None]
        return self._joins(members, age)

    def _join_late(self, members: Sequence[NewMessage], age: float) -> None:
        for batch in _batches([each for each in members if each.delay is None], BATCH_SIZE):
            self._call(self._joins(batch, age))

    def _joins(self, members: Sequence[NewMessage], age: float) -> list[Call]:
        by_queue: dict[str, list[str]] = {}
        for each in members:
            by_queue.setdefault(each.queue, []).append(each.id)
        return [self._join_call(ids, queue, age=age) for queue, ids in by_queue.items()]

    def _part_call(self, contribution: Contribution, *, script: str = "part", age: float = 0.0) -> Call:
        membership, settings = contribution.membership, configuration()
        arguments = encoding.Part(
            state=State.DELAYED if contribution.is_delayed else State.ENQUEUED,
            name=membership.name,
            title=membership.title,
            description=membership.description,
            owner=contribution.owner,
            cancellable=flag(IS_CANCELLABLE in membership.flags),
            planned=str(membership.planned),
            planned_weight=str(membership.planned_weight or membership.planned),
            callbacks=str(membership.callbacks),
            flags=membership.flags.replace(IS_CHILD, ""),
            ttl=milliseconds(settings.unfinished_ttl, contribution.delay),
            finished_ttl=milliseconds(settings.finished_ttl),
            age=seconds(age),
            memory_seconds=str(MEMORY_SECONDS),
            memory_part=str(MEMORY_PART),
        )
        keys = (self.key(membership.id), self.members_key(membership.id))
        return Call(script, keys, (*arguments, *flat(contribution.slots)))

    def _composite_answers(
        self, contributions: Sequence[Contribution], answers: Sequence[Any]
    ) -> list[CompositeAnswer | StoreUnavailable]:
        read = [each if isinstance(each, StoreUnavailable) else composite_answer_of(each) for each in answers]
        self._own_again(
            [
                (each.membership.id, each.owner, 0.0, each.delay)
                for each, answer in zip(contributions, read, strict=True)
                if each.is_listed and isinstance(answer, CompositeAnswer) and answer.previous is None
            ]
        )
        return read


def composite_answer_of(answer: Sequence[Any]) -> CompositeAnswer:
    """Return the answer of ``part`` or ``gather``."""
    before, after, version, cancel_requested, born, running, thousandths = answer
    cancel = int(cancel_requested)
    numbers = int(version), cancel > 0, cancel > 1, str(born), int(running), int(thousandths)
    return CompositeAnswer(state_of(before), state_of(after), *numbers)


def peek_of(answer: Sequence[Any]) -> Peek:
    """Return the answer of ``peek``."""
    cancel_requested, born, version, slot = answer
    cancel = int(cancel_requested)
    return Peek(cancel > 0, cancel > 1, str(born), int(version), slot)


def pieces_of(contribution: Contribution) -> Iterator[Contribution]:
    """Yield a contribution in pieces that fit into a call each; one without members is a piece too."""
    slots = list(contribution.slots.items())
    for start in range(0, max(len(slots), 1), BATCH_SIZE):
        yield contribution._replace(slots=dict(slots[start : start + BATCH_SIZE]))


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch

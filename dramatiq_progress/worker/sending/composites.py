"""The sending of a group or a pipeline: it and its messages are recorded together before the first is sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import dramatiq

from dramatiq_progress.owners import current_owner
from dramatiq_progress.signals import send_states_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.composites import (
    IS_CANCELLABLE,
    IS_CLOSED,
    IS_OPEN,
    UNSENT,
    CompositeAnswer,
    Contribution,
    Membership,
    as_unsent,
    not_cancellable,
)
from dramatiq_progress.stores.gathering import pieces_of
from dramatiq_progress.stores.outcomes import Change
from dramatiq_progress.worker.current import current_delivery
from dramatiq_progress.worker.recording.best_effort import with_store
from dramatiq_progress.worker.recording.recorder import get_recorder

from .children import Children
from .composition import Composite, Composition, Sent, is_empty
from .enqueueing import BulkSend
from .planning import SendPlan

#: About the bytes in memory of a message whose record waits for the store, without its texts, and of a slot.
MEMBER_BYTES = 300
SLOT_BYTES = 100


def send_recorded(composite: Composite, composition: Composition, delay: int | None, *, is_more: bool = False) -> None:
    """Record a group or a pipeline and all of its messages that are sent now, and send those.

    Parameters:
      delay: Milliseconds by which they are delayed.
      is_more: Whether they are added to an open group, which exists already.

    Raises:
      ValueError: A message is there twice, or its actor isn't declared with `progress_actor`; a pipeline is empty; or
        more than `MAX_LEVELS` groups and pipelines are inside each other. Nothing was sent.
    """
    sent = composition.sent if is_more else Sent()
    plan = SendPlan(current_owner(composition.id), delay, sent.message_ids)
    delivery = current_delivery()
    # An open group ends by itself, wherever it is sent. One without messages never contributes an end.
    is_child = delivery is not None and IS_OPEN not in composition.flags and not is_empty(composite)
    children = delivery.children if delivery is not None and is_child and delivery.children.path else None
    bound = plan.bind(composite, composition, () if children is None else children.path)
    known_ids = plan.assign_ids()
    if IS_OPEN in composition.flags:
        composition.owner = plan.contributions[0].owner
    records = _Records(plan, children, is_more=is_more)
    with_store(composition.id, records.write, defer=True, size=records.size)
    with BulkSend(each.id for each in plan.messages) as sending:
        try:
            bound.run(delay=delay)  # type: ignore[no-untyped-call]
        except BaseException:
            records.withdraw(sending.unsent)
            if len(sending.unsent) == len(plan.messages):
                # Nothing was sent, so that this wasn't a run.
                for each, known in known_ids:
                    each.id, each.has_run = known
            else:
                _note_sent(composition, sent, plan, sending.unsent)
            raise
    _note_sent(composition, sent, plan, ())


def send_more(group: dramatiq.group, composition: Composition, delay: int | None) -> None:
    """Add the members of a group to an open one, as `send_recorded` does."""
    send_recorded(group, replace(composition, has_run=False, weights=None), delay, is_more=True)


def find(composition: Composition) -> bool:
    """Complete the composition of an open group that another process may have sent.

    Returns:
      Whether the store knows it.

    Raises:
      ValueError: It isn't an open group.
    """

    def read(store: Store, age: float) -> Membership | None:
        return store.read_membership(composition.id)

    membership = with_store(composition.id, read)
    # Without an answer, its owner isn't known: a record that is made from this membership has none.
    known = membership or Membership(composition.id, 0, "", IS_OPEN, owner="")
    if IS_OPEN not in known.flags:
        raise ValueError(
            f"{composition.id} isn't an open group: it is a message, a pipeline or a group without open=True, named "
            f"{known.name!r}. Pass the message_id of a progress_group that was made with open=True."
        )
    composition.name, composition.title, composition.description = known.name, known.title, known.description
    # Whether it can be cancelled depends on the members that are added.
    composition.flags = known.flags.replace(IS_CLOSED, "").replace(IS_CANCELLABLE, "")
    composition.owner = known.owner
    return membership is not None


def close(composition: Composition) -> None:
    """Note that no more members will be added to an open group."""
    flags = composition.flags + IS_CLOSED + IS_CANCELLABLE
    # Other processes may have sent more.
    count = composition.sent.count
    membership = Membership(composition.id, count, composition.name or "group", flags, owner=composition.owner or "")
    membership = membership._replace(description=composition.description, title=composition.title)

    def write(store: Store, age: float) -> None:
        # Its members may all be delayed.
        closing = Contribution((membership,), "", {}, is_delayed=True)
        get_recorder().composites.contribute(store, [closing], age=age)

    with_store(composition.id, write, defer=True)


def _note_sent(composition: Composition, sent: Sent, plan: SendPlan, unsent: Collection[str]) -> None:
    """Remember the members of an open group that were sent.

    Parameters:
      sent: Those before.
      unsent: The ids of the messages that could not be sent: the group forgets them.
    """
    if IS_OPEN in composition.flags:
        count = len(plan.contributions[0].slots.keys() - unsent)
        # Without a call in between: another thread may add members too.
        sent.count += count
        sent.message_ids |= plan.sent_ids(unsent)
        composition.sent = sent


def _without(contribution: Contribution, unsent: Collection[str]) -> Contribution:
    """Return a contribution without the members of an open group that could not be sent."""
    if IS_OPEN not in contribution.membership.flags:
        return contribution
    slots = {member: slot for member, slot in contribution.slots.items() if member not in unsent}
    return contribution._replace(slots=slots)


class _Records:
    """The records of composites and of their messages. A deferred write of them holds no message, but private data.

    Parameters:
      plan: The composites, and the messages that are sent now.
      children: Those of the message that sends them, if they are members of its composite.
      is_more: Whether the first composite exists already.

    Attributes:
      size: Bytes that they take in memory.
    """

    def __init__(self, plan: SendPlan, children: Children | None, *, is_more: bool) -> None:
        self._contributions = plan.contributions
        self._messages = plan.messages
        self._id = plan.contributions[0].membership.id
        self._is_more = is_more
        self._children = children
        # The contribution to the composite of the sender.
        self._outer: Contribution | None = None
        if children is not None:
            own = plan.contributions[0]
            path = children.path if IS_CANCELLABLE in own.membership.flags else not_cancellable(children.path)
            self._outer = children.expect(self._id, path, plan.owner, delay=own.delay)
        self.size = sum(MEMBER_BYTES + len(each.title) + len(each.metadata) for each in self._messages)
        self.size += sum(SLOT_BYTES * len(each.slots) for each in self._contributions)
        self.size += sum(each.companion.size for each in self._messages if each.companion is not None)
        self._answers: dict[str, CompositeAnswer] = {}
        self._changes: dict[str, Change] = {}

    def write(self, store: Store, age: float) -> None:
        """Record all."""
        if not self._contributions:
            # Deferred, and nothing was sent.
            return
        outer = [] if self._outer is None else [self._outer]
        self._answers, self._changes = store.gather([*self._contributions, *outer], self._messages, age=age)
        if self._children is not None:
            self._children.confirm(self._id)
        previous = {
            each: answer.previous for each, answer in self._answers.items() if answer.previous is not answer.state
        }
        previous |= {each: change.previous for each, change in self._changes.items() if change.written}
        send_states_changed(store, previous, late=bool(age))

    def withdraw(self, unsent: Collection[str]) -> None:
        """Remove the records of messages that could not be sent; of new composites, if none could."""
        queues = {each.id: each.queue for each in self._messages if each.id in unsent}
        members = {each: (self._changes[each], queue) for each, queue in queues.items() if each in self._changes}
        is_nothing_sent = len(unsent) == len(self._messages)
        self._messages = [each for each in self._messages if each.id not in unsent]
        new = self._contributions[self._is_more :] if is_nothing_sent else []
        composites = [(each, self._answers[each.membership.id]) for each in new if each.membership.id in self._answers]
        # Without an answer they aren't recorded later either.
        corrected = list(self._corrections(unsent, is_nothing_sent)) if self._answers or not is_nothing_sent else []
        # A write that is deferred comes after this one, and must not make an open group wait for them.
        self._contributions = [_without(each, unsent) for each in self._contributions]
        if is_nothing_sent:
            self._contributions = []
            if self._children is not None:
                self._children.confirm(self._id)

        def write(store: Store, age: float) -> None:
            store.withdraw_all(members)
            for contribution, answer in composites:
                store.withdraw_composite(contribution, answer)
            if corrected:
                get_recorder().composites.contribute(store, corrected, age=age)

        with_store(next(iter(unsent), ""), write, defer=True, size=self.size)

    def _corrections(self, unsent: Collection[str], is_nothing_sent: bool) -> Iterator[Contribution]:
        """Yield the contributions that count members as cancelled, since their messages will never be sent.

        A composite whose number of members isn't known before forgets them.
        """
        if is_nothing_sent and self._outer is not None:
            yield self._outer._replace(slots=dict.fromkeys(self._outer.slots, UNSENT))
        for contribution in self._contributions[: self._is_more] if is_nothing_sent else self._contributions:
            # With the groups in it, which are withdrawn.
            members = contribution.slots if is_nothing_sent else contribution.slots.keys() & unsent
            is_open = IS_OPEN in contribution.membership.flags
            slots = {each: UNSENT if is_open else as_unsent(contribution.slots[each]) for each in members}
            if slots:
                yield from pieces_of(contribution._replace(slots=slots))

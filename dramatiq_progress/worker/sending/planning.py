"""The plan of a group or a pipeline that is about to be sent: the memberships and the records of its messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import starmap
from typing import Any
from uuid import uuid4

import dramatiq
from dramatiq import Actor, Broker, Message
from dramatiq.common import q_name

from dramatiq_progress.message_ids import message_id_of
from dramatiq_progress.owners import OWNER_OPTION, carried_by
from dramatiq_progress.stores.calls import NewMessage
from dramatiq_progress.stores.composites import (
    IS_CANCELLABLE,
    IS_OPEN,
    MAX_LEVELS,
    PATH_OPTION,
    Contribution,
    Membership,
    Path,
    waiting_slot,
)
from dramatiq_progress.worker.tracking import companion_of, count_retries_left, is_cancellable, name_of, tracked_actor

from .composition import (
    AnyMember,
    Composite,
    Composition,
    all_callbacks,
    callbacks_of,
    composition_of,
    is_empty,
    messages_of,
)
from .options import estimate_key_of, metadata_of, title_of


class SendPlan:
    """The messages of a group or a pipeline with their memberships, and the records that they get.

    Parameters:
      owner: The owner of all.
      delay: Milliseconds by which they are delayed.
      sent_before: The ids of the messages that the open group has already, if these are added to it.

    Attributes:
      owner: The owner of all.
      contributions: The composites, with a slot for each member.
      messages: The messages that are sent now; others of a pipeline follow.
    """

    def __init__(self, owner: str, delay: int | None, sent_before: Collection[str] = ()) -> None:
        self.owner = owner
        self.contributions: list[Contribution] = []
        self.messages: list[NewMessage] = []
        self._delay = delay
        self._sent_before = sent_before
        self._seen: set[str] = set()
        # The ids that compositions get: each run has a bar of its own.
        self._ids: list[tuple[Composition, str]] = []
        # The path of the message before, which the next one usually has too, and how it carries it.
        self._last_path: Path = ()
        self._last_option: list[Any] = []

    def bind(self, composite: Composite, composition: Composition, outer: Path) -> Composite:
        """Return a copy of a group or a pipeline whose messages carry their memberships.

        Parameters:
          outer: The composites that it is a member of.

        Raises:
          ValueError: See `send_recorded`.
        """
        if len(outer) == MAX_LEVELS:
            raise ValueError(f"Groups and pipelines are nested more than {MAX_LEVELS} deep.")
        if isinstance(composite, dramatiq.pipeline) and not composite.messages:
            raise ValueError("A pipeline has no message.")
        members: Sequence[AnyMember] = (
            composite.messages if isinstance(composite, dramatiq.pipeline) else composite.children
        )
        weights = [1] * len(members) if composition.weights is None else composition.weights
        if len(weights) != len(members):
            raise ValueError(f"There are {len(weights)} weights for {len(members)} members. Give one for each of them.")
        is_open = IS_OPEN in composition.flags
        if is_open and outer:
            raise ValueError("An open group can't be a member of another group: its end would come from elsewhere.")
        found = [(_actor_of(composite.broker, message), message) for message in messages_of(composite)]
        callbacks = callbacks_of(composite)
        counted = [weight for member, weight in zip(members, weights, strict=True) if not is_empty(member)]
        is_weighted = composition.weights is not None and any(counted)
        if not is_weighted:
            # Also if all members with a weight are empty: otherwise nothing would ever move the bar.
            weights = [1] * len(members)
        flags = composition.flags + (IS_CANCELLABLE if all(starmap(is_cancellable, found)) else "")
        names = set(starmap(name_of, found))
        membership = Membership(
            self._next_id(composition),
            # Of an open group, the number isn't known before it is closed.
            planned=0 if is_open else len(counted) + len(callbacks),
            name=composition.name
            or (names.pop() if len(names) == 1 else type(composite).__name__.removeprefix("progress_")),
            flags=flags,
            planned_weight=sum(counted) + len(callbacks) if is_weighted else 0,
            callbacks=len(callbacks),
            description=composition.description,
            title=composition.title,
            owner=self._owner_of(composition),
        )
        slots: dict[str, str] = {}
        first_message, first_composite = len(self.messages), len(self.contributions)
        self.contributions.append(Contribution((membership, *outer), self.owner, slots))
        bound: list[AnyMember] = []
        # Most members have the same.
        paths: dict[int, Path] = {}
        for index, (member, weight) in enumerate(zip(members, weights, strict=True)):
            path = paths.get(weight) or paths.setdefault(weight, (membership._replace(weight=weight), *outer))
            if isinstance(member, Message):
                is_sent_now = isinstance(composite, dramatiq.group) or not index
                bound.append(self._bind_message(composite, member, path, is_sent_now=is_sent_now))
                slots[member.message_id] = waiting_slot(weight)
            else:
                index_of_inner = len(self.contributions)
                bound.append(self.bind(member, composition_of(member), path))
                if not is_empty(member):
                    slots[self.contributions[index_of_inner].membership.id] = waiting_slot(weight)
        self._note_delay(composite, first_composite, self.messages[first_message:])
        if isinstance(composite, dramatiq.pipeline):
            return dramatiq.pipeline(bound, broker=composite.broker)  # type: ignore[arg-type]
        made = dramatiq.group(bound, broker=composite.broker)  # type: ignore[no-untyped-call]
        for callback, is_member in all_callbacks(composite):
            if is_member:
                callback = self._bind_message(composite, callback, (membership, *outer), is_sent_now=False)
                slots[callback.message_id] = waiting_slot(1)
            made.add_completion_callback(callback)  # type: ignore[no-untyped-call]
        return made

    def _bind_message(
        self, composite: Composite, message: Message[Any], path: Path, *, is_sent_now: bool
    ) -> Message[Any]:
        if message.message_id in self._sent_before:
            raise ValueError(
                f"Message {message.message_id} of {message.actor_name} was already sent with this group: its progress "
                "would count once. Make a message for each call. After an error of the broker, add only the messages "
                "whose get_progress() is None."
            )
        if message.message_id in self._seen:
            raise ValueError(
                f"Message {message.message_id} of {message.actor_name} is there twice: its progress would count once. "
                "Make a message for each call."
            )
        self._seen.add(message.message_id)
        owner = carried_by(message) or self.owner
        if owner != self.owner:
            path = tuple(each if each.owner is not None else each._replace(owner=self.owner) for each in path)
        if path is not self._last_path:
            self._last_path, self._last_option = path, [membership.option() for membership in path]
        options: dict[str, Any] = {PATH_OPTION: self._last_option}
        if owner:
            options[OWNER_OPTION] = owner
        if is_sent_now:
            self.messages.append(self._new_message(composite, message, owner))
        return message.copy(options=options)

    def assign_ids(self) -> list[tuple[Composition, tuple[str, bool]]]:
        """Give compositions the ids of this run. Return their ids before, and whether those have run."""
        known = [(each, (each.id, each.has_run)) for each, _ in self._ids]
        for each, made in self._ids:
            each.id, each.has_run = made, True
        return known

    def sent_ids(self, unsent: Collection[str]) -> set[str]:
        """Return the ids of the messages that were sent, and of those that follow them.

        Parameters:
          unsent: The ids of the messages that could not be sent. Others that were to follow them never are.
        """
        missing = set(unsent)
        sent_now = {each.id for each in self.messages}
        # The inner composites come after the outer ones.
        for contribution in reversed(self.contributions if missing else []):
            if not missing.isdisjoint(contribution.slots):
                missing |= (contribution.slots.keys() & self._seen) - sent_now
                missing.add(contribution.membership.id)
        return self._seen - missing

    def _owner_of(self, composition: Composition) -> str | None:
        """Return `Membership.owner`. A member may have an owner although its composite has none, or another one."""
        if IS_OPEN in composition.flags:
            return self.owner if composition.owner is None else composition.owner
        return None if self.owner else ""

    def _next_id(self, composition: Composition) -> str:
        made = str(uuid4()) if composition.has_run else composition.id
        self._ids.append((composition, made))
        return made

    def _note_delay(self, composite: Composite, index: int, messages: Sequence[NewMessage]) -> None:
        """Note in the contribution of a composite when its members are due.

        Parameters:
          messages: Those of its messages that are sent now, at any depth.
        """
        inner = self.contributions[index + 1 :]
        longest = max([*(each.delay or 0.0 for each in messages), *(each.delay for each in inner)], default=0.0)
        if isinstance(composite, dramatiq.pipeline):
            longest += sum(each.options.get("delay") or 0 for each in composite.messages[1:]) / 1000
        is_delayed = bool(messages) and all(each.delay is not None for each in messages)
        self.contributions[index] = self.contributions[index]._replace(delay=longest, is_delayed=is_delayed)

    def _new_message(self, composite: Composite, message: Message[Any], owner: str) -> NewMessage:
        actor = composite.broker.actors[message.actor_name]
        delay = self._delay
        if isinstance(composite, dramatiq.pipeline):
            # As `dramatiq.pipeline.run` does.
            delay = max(delay or 0, message.options.get("delay") or 0) or None
        companion = companion_of(actor, message)
        return NewMessage(
            message.message_id,
            message.actor_name if companion is None else companion.name,
            q_name(message.queue_name),
            count_retries_left(composite.broker, message, actor),
            is_cancellable(actor, message),
            owner,
            None if delay is None else delay / 1000,
            title_of(message),
            metadata_of(message),
            estimate_key_of(message, actor),
            companion,
        )


def _actor_of(broker: Broker, message: Message[Any]) -> Actor[..., Any]:
    actor = tracked_actor(broker, message)
    if actor is not None:
        return actor
    # Its id may be the reason.
    message_id_of(message)
    raise ValueError(
        f"Actor {message.actor_name!r} isn't declared with @progress_actor, so that the end of its message would never "
        "be known. Declare it with @progress_actor, or use dramatiq.group and dramatiq.pipeline."
    )

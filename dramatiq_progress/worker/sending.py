"""The sending of a group or a pipeline: its messages get their places, and are recorded together before the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from itertools import starmap
from typing import Any
from uuid import uuid4

import dramatiq
from django.utils.functional import Promise
from dramatiq import Actor, Broker, Message
from dramatiq.common import q_name

from dramatiq_progress.owners import OWNER_OPTION, carried_by, current_owner
from dramatiq_progress.progress import Number, State, message_id_of
from dramatiq_progress.signals import send_states_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.calls import NewMessage
from dramatiq_progress.stores.composites import (
    IS_CANCELLABLE,
    IS_PIPELINE,
    MAX_LEVELS,
    PATH_OPTION,
    Contribution,
    Path,
    Place,
    Told,
    slot,
    waiting_slot,
)
from dramatiq_progress.stores.gathering import pieces_of
from dramatiq_progress.stores.outcomes import Change

from .delivery import with_store
from .enqueueing import BulkSend
from .options import estimate_key_of, metadata_of, title_of
from .recorder import get_recorder
from .tracking import companion_of, count_retries_left, is_cancellable, name_of, tracked_actor
from .validation import printable, show, to_number

#: Weights are kept as whole numbers up to this one.
LARGEST_SHARE = 1_000
#: Longer names and descriptions are cut: each message carries them.
MAX_TEXT_CHARACTERS = 200

#: Several messages that are sent together. Those of this package have a `Composition`.
Job = dramatiq.group | dramatiq.pipeline
AnyMember = Message[Any] | dramatiq.group | dramatiq.pipeline


@dataclass
class Composition:
    """The additions of a group or a pipeline with a bar to Dramatiq's.

    Attributes:
      name: Its name; empty for that of its members' actor.
      title: Its name for users; empty for that of its members' actor.
      description: Plain text that says what its members do.
      flags: See `Place.flags`.
      shares: The weight of each member; None if all are equal.
      id: The id of its progress.
    """

    name: str = ""
    title: str = ""
    description: str = ""
    flags: str = ""
    shares: Sequence[int] | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    _has_run: bool = False

    def next_id(self) -> str:
        """Return the id for a run: each has a bar of its own."""
        if self._has_run:
            self.id = str(uuid4())
        self._has_run = True
        return self.id


def members_of(kind: type[Job], children: Iterable[AnyMember]) -> list[Any]:
    """Return the members that were given for a group or a pipeline.

    Raises:
      TypeError: It isn't a list of what a group or a pipeline can have.
    """
    name = kind.__name__
    if not isinstance(children, Iterable):
        raise TypeError(f"{name}({show(children)}): pass a list of messages, as in [resize.message(7)].")
    members = list(children)
    for member in members:
        if isinstance(member, Message | dramatiq.pipeline) or (
            isinstance(member, dramatiq.group) and kind is dramatiq.group
        ):
            continue
        others = "pipelines or groups" if kind is dramatiq.group else "pipelines"
        raise TypeError(
            f"{show(member)} can't be a member of a {name}. Pass messages of actors or tasks, as in "
            f"[resize.message(7)], or {others}."
        )
    return members


def milliseconds_of(delay: timedelta | int | None) -> int | None:
    """Return the delay of a group or a pipeline in milliseconds.

    Raises:
      TypeError: It is neither a number nor a `timedelta`.
    """
    if isinstance(delay, timedelta):
        return round(delay.total_seconds() * 1000)
    if delay is None or isinstance(delay, int | float):
        return delay
    raise TypeError(f"delay={show(delay)} isn't a number of milliseconds, nor a timedelta.")


def shares_of(weights: Iterable[Number | Decimal] | None, count: int) -> Sequence[int] | None:
    """Return weights as whole numbers.

    Raises:
      ValueError: They are not one for each of `count` members, negative, not finite, or all 0.
    """
    if weights is None:
        return None
    given = list(weights)
    try:
        numbers = [to_number(weight) for weight in given]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"weights={given!r:.200}: {error}.") from None
    if len(numbers) != count:
        raise ValueError(f"weights={given!r:.200}: there must be one for each of the {count} members.")
    largest = max(numbers, default=1)
    if not 0 < largest < math.inf:
        raise ValueError(f"weights={given!r:.200}: one of them must be above 0.")
    if largest <= LARGEST_SHARE and all(isinstance(number, int) for number in numbers):
        return [int(number) for number in numbers]
    return [max(1, round(number / largest * LARGEST_SHARE)) if number else 0 for number in numbers]


def send_recorded(job: Job, composition: Composition, delay: int | None) -> None:
    """Record a group or a pipeline and all of its messages that are sent now, and send those.

    Parameters:
      delay: Milliseconds by which they are delayed.

    Raises:
      ValueError: A message is there twice, or its actor isn't declared with `progress_actor`; a pipeline is empty; or
        more than `MAX_LEVELS` groups and pipelines are inside each other. Nothing was sent.
    """
    plan = _Plan(current_owner(composition.id), delay)
    bound = plan.bind(job, composition, ())
    records = _Records(plan.owner, plan.contributions, plan.messages, plan.paths)
    with_store(composition.id, records.write, defer=True, size=plan.private_size)
    with BulkSend(plan.paths) as sending:
        try:
            bound.run(delay=delay)  # type: ignore[no-untyped-call]
        except BaseException:
            records.withdraw(sending.unsent)
            raise


class _Plan:
    """The messages of a group or a pipeline with their places, and the records that they get.

    Attributes:
      owner: The owner of all.
      contributions: The composites, with a slot for each member.
      messages: The messages that are sent now; others of a pipeline follow.
      paths: Their composites, by their ids.
    """

    def __init__(self, owner: str, delay: int | None) -> None:
        self.owner = owner
        self.contributions: list[Contribution] = []
        self.messages: list[NewMessage] = []
        self.paths: dict[str, Path] = {}
        self._delay = delay
        self._seen: set[str] = set()

    @property
    def private_size(self) -> int:
        """About how many bytes the private data of the messages has."""
        return sum(each.companion.size for each in self.messages if each.companion is not None)

    def bind(self, job: Job, composition: Composition, outer: Path) -> Job:
        """Return a copy of a group or a pipeline whose messages have their places.

        Parameters:
          outer: The composites that it is a member of.

        Raises:
          ValueError: See `send_recorded`.
        """
        if len(outer) == MAX_LEVELS:
            raise ValueError(f"Groups and pipelines are nested more than {MAX_LEVELS} deep.")
        if isinstance(job, dramatiq.pipeline) and not job.messages:
            raise ValueError("A pipeline has no message.")
        members: Sequence[AnyMember] = job.messages if isinstance(job, dramatiq.pipeline) else job.children
        found = [(_actor_of(job.broker, message), message) for message in _messages_of(job)]
        callbacks = _callbacks_of(job)
        shares = composition.shares or [1] * len(members)
        counted = [share for member, share in zip(members, shares, strict=True) if not _is_empty(member)]
        flags = composition.flags + (IS_CANCELLABLE if all(starmap(is_cancellable, found)) else "")
        names = set(starmap(name_of, found))
        place = Place(
            composition.next_id(),
            planned=len(counted) + len(callbacks),
            name=composition.name or (names.pop() if len(names) == 1 else type(job).__name__.removeprefix("progress_")),
            flags=flags,
            weight=0 if composition.shares is None else sum(counted) + len(callbacks),
            callbacks=len(callbacks),
            description=composition.description,
            title=composition.title,
        )
        slots: dict[str, str] = {}
        contribution = Contribution((place, *outer), self.owner, slots)
        self.contributions.append(contribution)
        bound: list[AnyMember] = []
        for index, (member, share) in enumerate(zip(members, shares, strict=True)):
            path = (place._replace(share=share), *outer)
            if isinstance(member, Message):
                is_sent_now = isinstance(job, dramatiq.group) or not index
                bound.append(self._bind_message(job, member, path, is_sent_now=is_sent_now))
                slots[member.message_id] = waiting_slot(share)
            else:
                inner = _composition_of(member)
                bound.append(self.bind(member, inner, path))
                if not _is_empty(member):
                    slots[inner.id] = waiting_slot(share)
        if isinstance(job, dramatiq.pipeline):
            return dramatiq.pipeline(bound, broker=job.broker)  # type: ignore[arg-type]
        made = dramatiq.group(bound, broker=job.broker)  # type: ignore[no-untyped-call]
        for callback, is_member in _all_callbacks(job):
            if is_member:
                callback = self._bind_message(job, callback, (place, *outer), is_sent_now=False)
                slots[callback.message_id] = waiting_slot(1)
            made.add_completion_callback(callback)  # type: ignore[no-untyped-call]
        return made

    def _bind_message(self, job: Job, message: Message[Any], path: Path, *, is_sent_now: bool) -> Message[Any]:
        if message.message_id in self._seen:
            raise ValueError(
                f"Message {message.message_id} of {message.actor_name} is there twice: its progress would count once. "
                "Make a message for each call."
            )
        self._seen.add(message.message_id)
        owner = carried_by(message) or self.owner
        options: dict[str, Any] = {PATH_OPTION: [place.option() for place in path]}
        if owner:
            options[OWNER_OPTION] = owner
        if is_sent_now:
            self.paths[message.message_id] = path
            self.messages.append(self._new_message(job, message, owner))
        return message.copy(options=options)

    def _new_message(self, job: Job, message: Message[Any], owner: str) -> NewMessage:
        actor = _actor_of(job.broker, message)
        delay = self._delay
        if isinstance(job, dramatiq.pipeline):
            # As `dramatiq.pipeline.run` does.
            delay = max(delay or 0, message.options.get("delay") or 0) or None
        companion = companion_of(actor, message)
        return NewMessage(
            message.message_id,
            message.actor_name if companion is None else companion.name,
            q_name(message.queue_name),
            count_retries_left(job.broker, message, actor),
            is_cancellable(actor, message),
            owner,
            None if delay is None else delay / 1000,
            title_of(message),
            metadata_of(message),
            estimate_key_of(message, actor),
            companion,
        )


class _Records:
    """The records of composites and of their messages. A deferred write of them holds no message, but private data.

    Parameters:
      owner: The owner of all.
      contributions: The composites, with a slot for each member.
      messages: The messages that are sent now.
      paths: Their composites, by their ids.
    """

    def __init__(
        self,
        owner: str,
        contributions: list[Contribution],
        messages: list[NewMessage],
        paths: dict[str, Path],
    ) -> None:
        self._owner = owner
        self._contributions = contributions
        self._messages = messages
        self._paths = paths
        self._told: dict[str, Told] = {}
        self._changes: dict[str, Change] = {}

    def write(self, store: Store, age: float) -> None:
        """Record all."""
        if not self._contributions:
            # Deferred, and nothing was sent.
            return
        self._told, self._changes = store.gather(self._contributions, self._messages, age=age)
        previous = {each: told.previous for each, told in self._told.items() if told.previous is not told.state}
        previous |= {each: change.previous for each, change in self._changes.items() if change.written}
        send_states_changed(store, previous, late=bool(age))

    def withdraw(self, unsent: Collection[str]) -> None:
        """Remove the records of messages that could not be sent; of composites, if none could."""
        queues = {each.id: each.queue for each in self._messages if each.id in unsent}
        members = {each: (self._changes[each], queue) for each, queue in queues.items() if each in self._changes}
        composites = [(each, self._told[each.place.id]) for each in self._contributions if each.place.id in self._told]
        is_nothing_sent = len(unsent) == len(self._messages)
        self._messages = [each for each in self._messages if each.id not in unsent]
        if is_nothing_sent:
            self._contributions = []

        def write(store: Store, age: float) -> None:
            store.withdraw_all(members)
            if is_nothing_sent:
                for contribution, told in composites:
                    store.withdraw_composite(contribution, told)
            else:
                get_recorder().parts.contribute(store, self._cancelled(unsent), age=age)

        with_store(next(iter(unsent), ""), write, defer=True)

    def _cancelled(self, unsent: Collection[str]) -> list[Contribution]:
        """Return the contributions that count members as cancelled, since their messages will never be sent."""
        found: dict[str, Contribution] = {}
        for message_id in unsent:
            path = self._paths[message_id]
            known = found.get(path[0].id, Contribution(path, self._owner, {}))
            text = slot(State.CANCELLED, 0, 0, path[0].share)
            found[path[0].id] = known._replace(slots={**known.slots, message_id: text})
        return [piece for each in found.values() for piece in pieces_of(each)]


def _composition_of(job: Job) -> Composition:
    known = getattr(job, "composition", None)
    if isinstance(known, Composition):
        return known
    return Composition(flags=IS_PIPELINE if isinstance(job, dramatiq.pipeline) else "")


def _is_empty(member: AnyMember) -> bool:
    """Whether a member holds no message. It counts as none: no end would ever be contributed for it."""
    return not isinstance(member, Message) and next(_messages_of(member), None) is None


def _messages_of(job: Job) -> Iterator[Message[Any]]:
    """Yield all messages whose ends count."""
    for member in job.messages if isinstance(job, dramatiq.pipeline) else job.children:
        if isinstance(member, Message):
            yield member
        else:
            yield from _messages_of(member)
    yield from _callbacks_of(job)


def _callbacks_of(job: Job) -> list[Message[Any]]:
    return [callback for callback, is_member in _all_callbacks(job) if is_member]


def _all_callbacks(job: Job) -> list[tuple[Message[Any], bool]]:
    """Return the completion callbacks of a group, and whether each of them can be a member.

    Dramatiq never sends those of a group without members.
    """
    given = job.completion_callbacks if isinstance(job, dramatiq.group) and job.children else []
    callbacks: list[Message[Any]] = [Message(**each) for each in given]
    return [(each, tracked_actor(job.broker, each) is not None) for each in callbacks]


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


def cut(name: str, text: object) -> str:
    """Return a text of a composition as the page receives it; empty for None.

    A lazy translation is in the language of the sender.

    Raises:
      TypeError: It isn't a text.
    """
    if text is None:
        return ""
    if not isinstance(text, str | Promise):
        raise TypeError(f"{name}={show(text)} isn't a text. Pass a string, as in {name}=str(album).")
    return printable(str(text).strip()[:MAX_TEXT_CHARACTERS])

"""The plan of a group or a pipeline that is about to be sent: the places and the records of its messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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

from dramatiq_progress.error_texts import reason_of, show
from dramatiq_progress.owners import OWNER_OPTION, carried_by
from dramatiq_progress.progress import Number, message_id_of
from dramatiq_progress.stores.calls import NewMessage
from dramatiq_progress.stores.composites import (
    IS_CANCELLABLE,
    IS_OPEN,
    IS_PIPELINE,
    MAX_LEVELS,
    PATH_OPTION,
    Contribution,
    Path,
    Place,
    waiting_slot,
)

from .options import estimate_key_of, metadata_of, title_of
from .tracking import companion_of, count_retries_left, is_cancellable, name_of, tracked_actor
from .validation import printable, to_number

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
      has_run: Whether it was sent under this id.
      owner: Keyed hash of the owner of an open group, to which any user may add members. None before it is known.
    """

    name: str = ""
    title: str = ""
    description: str = ""
    flags: str = ""
    shares: Sequence[int] | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    has_run: bool = False
    owner: str | None = None


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
    raise TypeError(f"delay={show(delay)} isn't a number of milliseconds, such as 60_000, nor a timedelta.")


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
        raise ValueError(f"weights={show(given)}: {reason_of(error)}.") from None
    if len(numbers) != count:
        raise ValueError(f"weights={show(given)}: there must be one for each of the {count} members.")
    largest = max(numbers, default=1)
    if not 0 < largest < math.inf:
        raise ValueError(f"weights={show(given)}: one of them must be above 0.")
    if largest <= LARGEST_SHARE and all(isinstance(number, int) for number in numbers):
        return [int(number) for number in numbers]
    return [max(1, round(number / largest * LARGEST_SHARE)) if number else 0 for number in numbers]


class Plan:
    """The messages of a group or a pipeline with their places, and the records that they get.

    Attributes:
      owner: The owner of all.
      contributions: The composites, with a slot for each member.
      messages: The messages that are sent now; others of a pipeline follow.
    """

    def __init__(self, owner: str, delay: int | None) -> None:
        self.owner = owner
        self.contributions: list[Contribution] = []
        self.messages: list[NewMessage] = []
        self._delay = delay
        self._seen: set[str] = set()
        # The ids that compositions get: each run has a bar of its own.
        self._ids: list[tuple[Composition, str]] = []
        # The path of the message before, which the next one usually has too, and how it carries it.
        self._last_path: Path = ()
        self._last_option: list[Any] = []

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
        shares = [1] * len(members) if composition.shares is None else composition.shares
        if len(shares) != len(members):
            raise ValueError(f"There are {len(shares)} weights for {len(members)} members. Give one for each of them.")
        is_open = IS_OPEN in composition.flags
        if is_open and outer:
            raise ValueError("An open group can't be a member of another group: its end would come from elsewhere.")
        found = [(_actor_of(job.broker, message), message) for message in _messages_of(job)]
        callbacks = _callbacks_of(job)
        counted = [share for member, share in zip(members, shares, strict=True) if not is_empty(member)]
        flags = composition.flags + (IS_CANCELLABLE if all(starmap(is_cancellable, found)) else "")
        names = set(starmap(name_of, found))
        place = Place(
            self._next_id(composition),
            # Of an open group, the number isn't known before it is closed.
            planned=0 if is_open else len(counted) + len(callbacks),
            name=composition.name or (names.pop() if len(names) == 1 else type(job).__name__.removeprefix("progress_")),
            flags=flags,
            weight=0 if composition.shares is None else sum(counted) + len(callbacks),
            callbacks=len(callbacks),
            description=composition.description,
            title=composition.title,
            owner=self._owner_of(composition),
        )
        slots: dict[str, str] = {}
        first_message, first_composite = len(self.messages), len(self.contributions)
        self.contributions.append(Contribution((place, *outer), self.owner, slots))
        bound: list[AnyMember] = []
        # Most members have the same.
        paths: dict[int, Path] = {}
        for index, (member, share) in enumerate(zip(members, shares, strict=True)):
            path = paths.get(share) or paths.setdefault(share, (place._replace(share=share), *outer))
            if isinstance(member, Message):
                is_sent_now = isinstance(job, dramatiq.group) or not index
                bound.append(self._bind_message(job, member, path, is_sent_now=is_sent_now))
                slots[member.message_id] = waiting_slot(share)
            else:
                index_of_inner = len(self.contributions)
                bound.append(self.bind(member, _composition_of(member), path))
                if not is_empty(member):
                    slots[self.contributions[index_of_inner].place.id] = waiting_slot(share)
        self._note_delay(job, first_composite, self.messages[first_message:])
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
        if owner != self.owner:
            path = tuple(each if each.owner is not None else each._replace(owner=self.owner) for each in path)
        if path is not self._last_path:
            self._last_path, self._last_option = path, [place.option() for place in path]
        options: dict[str, Any] = {PATH_OPTION: self._last_option}
        if owner:
            options[OWNER_OPTION] = owner
        if is_sent_now:
            self.messages.append(self._new_message(job, message, owner))
        return message.copy(options=options)

    def assign_ids(self) -> list[tuple[Composition, tuple[str, bool]]]:
        """Give compositions the ids of this run. Return their ids before, and whether those have run."""
        known = [(each, (each.id, each.has_run)) for each, _ in self._ids]
        for each, made in self._ids:
            each.id, each.has_run = made, True
        return known

    def _owner_of(self, composition: Composition) -> str | None:
        """Return `Place.owner`. A member may have an owner although its composite has none, or another one."""
        if IS_OPEN in composition.flags:
            return self.owner if composition.owner is None else composition.owner
        return None if self.owner else ""

    def _next_id(self, composition: Composition) -> str:
        made = str(uuid4()) if composition.has_run else composition.id
        self._ids.append((composition, made))
        return made

    def _note_delay(self, job: Job, index: int, messages: Sequence[NewMessage]) -> None:
        """Note in the contribution of a composite when its members are due.

        Parameters:
          messages: Those of its messages that are sent now, at any depth.
        """
        inner = self.contributions[index + 1 :]
        longest = max([*(each.delay or 0.0 for each in messages), *(each.delay for each in inner)], default=0.0)
        if isinstance(job, dramatiq.pipeline):
            longest += sum(each.options.get("delay") or 0 for each in job.messages[1:]) / 1000
        is_delayed = bool(messages) and all(each.delay is not None for each in messages)
        self.contributions[index] = self.contributions[index]._replace(delay=longest, is_delayed=is_delayed)

    def _new_message(self, job: Job, message: Message[Any], owner: str) -> NewMessage:
        actor = job.broker.actors[message.actor_name]
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


def _composition_of(job: Job) -> Composition:
    known = getattr(job, "composition", None)
    if isinstance(known, Composition):
        return known
    return Composition(flags=IS_PIPELINE if isinstance(job, dramatiq.pipeline) else "")


def is_empty(member: AnyMember) -> bool:
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


def texts_of(**given: object) -> list[str]:
    """Return texts of a composition as the page receives them; empty for None.

    A lazy translation is in the language of the sender.

    Raises:
      TypeError: One isn't a text.
    """
    for name, text in given.items():
        if not isinstance(text, str | Promise | None):
            raise TypeError(f"{name}={show(text)} isn't a text. Pass a string, as in {name}=str(value).")
    return [printable(("" if text is None else str(text)).strip()[:MAX_TEXT_CHARACTERS]) for text in given.values()]

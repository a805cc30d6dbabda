"""A group or a pipeline as its sender gives it: the checks of what was given, and the messages in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import dramatiq
from django.utils.functional import Promise
from dramatiq import Message

from dramatiq_progress.error_texts import reason_of, show
from dramatiq_progress.progress_values import Number
from dramatiq_progress.stores.composites import IS_PIPELINE
from dramatiq_progress.worker.tracking import tracked_actor
from dramatiq_progress.worker.validation import printable, to_number

#: Weights are kept as whole numbers up to this one.
LARGEST_WEIGHT = 1_000
#: Longer names and descriptions are cut: each message carries them.
MAX_TEXT_CHARACTERS = 200

#: Several messages that are sent together, with one record. Those of this package have a `Composition`.
Composite = dramatiq.group | dramatiq.pipeline
AnyMember = Message[Any] | dramatiq.group | dramatiq.pipeline


@dataclass
class Sent:
    """The members that an object has sent to an open group since its last `run`.

    Attributes:
      count: Their number.
      message_ids: The ids of their messages, at any depth.
    """

    count: int = 0
    message_ids: set[str] = field(default_factory=set)


@dataclass
class Composition:
    """The additions of a group or a pipeline with a bar to Dramatiq's.

    Attributes:
      name: Its name; empty for that of its members' actor.
      title: Its name for users; empty for that of its members' actor.
      description: Plain text that says what its members do.
      flags: See `Membership.flags`.
      weights: The weight of each member; None if all are equal.
      id: The id of its progress.
      has_run: Whether it was sent under this id.
      owner: Keyed hash of the owner of an open group, to which any user may add members. None before it is known.
      sent: The members of an open group that this object has sent.
    """

    name: str = ""
    title: str = ""
    description: str = ""
    flags: str = ""
    weights: Sequence[int] | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    has_run: bool = False
    owner: str | None = None
    sent: Sent = field(default_factory=Sent)


def members_of(kind: type[Composite], children: Iterable[AnyMember]) -> list[Any]:
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
      ValueError: It isn't finite.
    """
    if isinstance(delay, timedelta):
        return round(delay.total_seconds() * 1000)
    if isinstance(delay, float) and not math.isfinite(delay):
        raise ValueError(f"delay={show(delay)} isn't a finite number of milliseconds, such as 60_000.")
    if delay is None or isinstance(delay, int | float):
        return delay
    raise TypeError(f"delay={show(delay)} isn't a number of milliseconds, such as 60_000, nor a timedelta.")


def check_switches(**given: object) -> None:
    """Check that arguments are True or False.

    Raises:
      TypeError: One isn't a bool: "no" would be true.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}={show(value)} isn't True or False.")


def listed_weights(weights: Iterable[Number | Decimal] | None) -> list[Number | Decimal] | None:
    """Return weights as they were given, so that they can be read more than once.

    Raises:
      TypeError: They aren't a list, or anything else that can be iterated over.
    """
    if weights is None:
        return None
    if not isinstance(weights, Iterable):
        raise TypeError(f"weights={show(weights)} isn't a list. Pass a number for each member, as in [1, 5].")
    return list(weights)


def weights_of(weights: Iterable[Number | Decimal] | None, count: int) -> Sequence[int] | None:
    """Return weights as whole numbers.

    Raises:
      TypeError: See `listed_weights`.
      ValueError: They are not one for each of `count` members, negative, not finite, or all 0.
    """
    given = listed_weights(weights)
    if given is None:
        return None
    try:
        numbers = [to_number(weight) for weight in given]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"weights={show(given)}: {reason_of(error)}.") from None
    if len(numbers) != count:
        raise ValueError(f"weights={show(given)}: there must be one for each of the {count} members.")
    largest = max(numbers, default=1)
    if not 0 < largest < math.inf:
        raise ValueError(f"weights={show(given)}: one of them must be above 0.")
    if largest <= LARGEST_WEIGHT and all(isinstance(number, int) for number in numbers):
        return [int(number) for number in numbers]
    return [max(1, round(number / largest * LARGEST_WEIGHT)) if number else 0 for number in numbers]


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


def composition_of(composite: Composite) -> Composition:
    """Return the composition of a group or a pipeline; that of Dramatiq's own has nothing but flags."""
    known = getattr(composite, "composition", None)
    if isinstance(known, Composition):
        return known
    return Composition(flags=IS_PIPELINE if isinstance(composite, dramatiq.pipeline) else "")


def is_empty(member: AnyMember) -> bool:
    """Whether a member holds no message. It counts as none: no end would ever be contributed for it."""
    return not isinstance(member, Message) and next(messages_of(member), None) is None


def messages_of(composite: Composite) -> Iterator[Message[Any]]:
    """Yield all messages whose ends count."""
    for member in composite.messages if isinstance(composite, dramatiq.pipeline) else composite.children:
        if isinstance(member, Message):
            yield member
        else:
            yield from messages_of(member)
    yield from callbacks_of(composite)


def callbacks_of(composite: Composite) -> list[Message[Any]]:
    """Return the completion callbacks of a group that can be members."""
    return [callback for callback, is_member in all_callbacks(composite) if is_member]


def all_callbacks(composite: Composite) -> list[tuple[Message[Any], bool]]:
    """Return the completion callbacks of a group, and whether each of them can be a member.

    Dramatiq never sends those of a group without members.
    """
    given = composite.completion_callbacks if isinstance(composite, dramatiq.group) and composite.children else []
    callbacks: list[Message[Any]] = [Message(**each) for each in given]
    return [(each, tracked_actor(composite.broker, each) is not None) for each in callbacks]

"""`progress_group` and `progress_pipeline`: Dramatiq's groups and pipelines, each with one bar for all messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import dramatiq
from django.utils.functional import Promise
from dramatiq import Broker, Message

from .message_ids import MessageLike, message_id_of
from .progress_values import Number
from .stores.composites import IS_FAIL_FAST, IS_OPEN, IS_PIPELINE, WITH_CHILDREN
from .worker.sending.composites import close, find, send_more, send_recorded
from .worker.sending.composition import (
    AnyMember,
    Composition,
    check_switches,
    listed_weights,
    members_of,
    milliseconds_of,
    texts_of,
    weights_of,
)

__all__ = ["progress_group", "progress_pipeline"]


class progress_group(dramatiq.group):  # noqa: N801  # named like Dramatiq's
    """A `dramatiq.group` with progress of its own, under its `message_id`: "7 of 50".

    A member may be a message, a pipeline or a group. Completion callbacks are members too if their actors are tracked;
    they come last.

    Parameters:
      children: The members. Their actors must be declared with `progress_actor`.
      name: A name, which its progress has as `Progress.actor`. Defaults to that of the actor, if there is one only.
      title: Its name for users, cut at 200 characters. Defaults to the actor's title, or the name in words.
      description: Plain text that says what the members do, such as "Resizing".
      weights: A number for each member that is proportional to the time that it takes. Default to 1.
      fail_fast: Whether the first member that has failed, after its retries, cancels all others. Those that run are
        interrupted if their actors are cancellable, and otherwise run to their end.
      with_children: Whether the tracked messages that its members send are members too, and those that these send. The
        number of members is unknown until the first ones have ended.
      open: Whether members are added with `add`, until `close`. The number of members is unknown until then.
      broker: The broker. Defaults to the global one.

    Raises:
      TypeError: A member is anything else, a text isn't one, weights aren't a list, or `fail_fast`, `with_children` or
        `open` isn't True or False.
      ValueError: Weights that are negative, not finite, all 0, or not one for each member; or an open group has any.
    """

    def __init__(
        self,
        children: Iterable[AnyMember],
        *,
        name: str = "",
        title: str | Promise | None = None,
        description: str = "",
        weights: Iterable[Number | Decimal] | None = None,
        fail_fast: bool = False,
        with_children: bool = False,
        open: bool = False,
        broker: Broker | None = None,
    ) -> None:
        super().__init__(members_of(dramatiq.group, children), broker=broker)  # type: ignore[no-untyped-call]
        check_switches(fail_fast=fail_fast, with_children=with_children, open=open)
        if open and weights is not None:
            raise ValueError("An open group has no weights: those of members that are added aren't known.")
        member_weights = weights_of(weights, len(self.children))
        name, title, description = texts_of(name=name, title=title, description=description)
        flags = IS_FAIL_FAST * fail_fast + WITH_CHILDREN * with_children + IS_OPEN * open
        self.composition = Composition(name, title, description, flags, member_weights)
        # Whether `of` has made it and the store must be read; and whether `close` was called since the last `run`.
        self._must_find = self._is_closed = False

    @property
    def message_id(self) -> str:
        """The id of its progress, for tags, URLs, `get_progress` and `cancel`. Each further `run` makes a new one."""
        return self.composition.id

    def run(self, *, delay: timedelta | int | None = None) -> progress_group:
        """Record and send all members. 250 of them are recorded in a round trip.

        Parameters:
          delay: Milliseconds by which they are delayed, or a `timedelta`.

        Raises:
          TypeError: The delay is neither.
          ValueError: A message is there twice, or its actor isn't declared with `progress_actor`; a pipeline in it is
            empty; there isn't a weight for each member; or more than 16 groups and pipelines are inside each other.
            Nothing was sent. Or it is open, and has completion callbacks or is in another group. Or the delay isn't
            finite.
        """
        composition = self.composition
        if IS_OPEN in composition.flags:
            if self.completion_callbacks:
                raise ValueError(
                    "An open group has no completion callbacks: Dramatiq sends them before others are added."
                )
            composition.owner, self._is_closed = None, False
        send_recorded(self, composition, milliseconds_of(delay))
        return self

    @classmethod
    def of(cls, message: MessageLike, *, broker: Broker | None = None) -> progress_group:
        """Return an open group that another process has run, to `add` members or to `close` it.

        Those read the store, and raise `ValueError` if it knows the id as anything but an open group.

        Parameters:
          message: Its `message_id`, or its `Progress`.
          broker: The broker. Defaults to the global one.

        Raises:
          ValueError: The value is no id that a group can have.
        """
        made = cls([], open=True, broker=broker)
        made.composition.id, made.composition.has_run = message_id_of(message), True
        made._must_find = True
        return made

    def add(self, children: Iterable[AnyMember], *, delay: timedelta | int | None = None) -> progress_group:
        """Record and send more members of an open group.

        Parameters:
          children: The members, as for a new group.
          delay: Milliseconds by which they are delayed, or a `timedelta`.

        Raises:
          TypeError: A member is anything else, or the delay is neither.
          ValueError: It isn't open, hasn't been run or is closed; the members or the delay are refused, as by `run`; or
            this object has already sent a message with it.
        """
        self._check_open()
        more = dramatiq.group(members_of(dramatiq.group, children), broker=self.broker)  # type: ignore[no-untyped-call]
        send_more(more, self.composition, milliseconds_of(delay))
        self.children += more.children
        return self

    def close(self) -> None:
        """Note that no more members will be added: the group ends with the last one. Idempotent.

        Raises:
          ValueError: It isn't open, or hasn't been run.
        """
        if not self._is_closed:
            self._check_open()
            self._is_closed = True
            close(self.composition)

    def _check_open(self) -> None:
        composition = self.composition
        if IS_OPEN not in composition.flags:
            raise ValueError("The group isn't open. Make it with open=True, or pass all members to it.")
        if not composition.has_run:
            raise ValueError("The group hasn't been sent. Call run() first.")
        if self._is_closed:
            raise ValueError("The group is closed: its end may have been shown already.")
        if self._must_find:
            self._must_find = not find(composition)


class progress_pipeline(dramatiq.pipeline):  # noqa: N801  # named like Dramatiq's
    """A `dramatiq.pipeline` with progress of its own, under its `message_id`: "1 of 3".

    It ends with the first message that doesn't succeed, since Dramatiq then doesn't send the next one.

    Parameters:
      children: The messages, and pipelines whose messages are added. The actors must be declared with `progress_actor`.
      name: See `progress_group`.
      title: See `progress_group`.
      description: See `progress_group`.
      weights: A number for each message that is proportional to the time that it takes. Default to 1.
      broker: The broker. Defaults to the global one.

    Raises:
      TypeError: A member is anything else, such as a group, a text isn't one, or weights aren't a list.
      ValueError: Weights that are negative, not finite, all 0, or not one for each message.
    """

    def __init__(
        self,
        children: Iterable[Message[Any] | dramatiq.pipeline],
        *,
        name: str = "",
        title: str | Promise | None = None,
        description: str = "",
        weights: Iterable[Number | Decimal] | None = None,
        broker: Broker | None = None,
    ) -> None:
        super().__init__(members_of(dramatiq.pipeline, children), broker=broker)
        self._weights = listed_weights(weights)
        member_weights = weights_of(self._weights, len(self.messages))
        name, title, description = texts_of(name=name, title=title, description=description)
        self.composition = Composition(name, title, description, IS_PIPELINE, member_weights)

    def __or__(self, other: Message[Any] | dramatiq.pipeline) -> progress_pipeline:
        """Return a pipeline with more messages at its end, of the weight 1."""
        count = len(other.messages) if isinstance(other, dramatiq.pipeline) else 1
        known = self.composition
        return progress_pipeline(
            [*self.messages, other],
            name=known.name,
            title=known.title,
            description=known.description,
            weights=None if self._weights is None else [*self._weights, *[1] * count],
            broker=self.broker,
        )

    @property
    def message_id(self) -> str:
        """The id of its progress: see `progress_group`."""
        return self.composition.id

    def run(self, *, delay: timedelta | int | None = None) -> progress_pipeline:
        """Record it, and send its first message. See `progress_group.run`.

        Raises:
          TypeError, ValueError: As for a group; it must have a message.
        """
        send_recorded(self, self.composition, milliseconds_of(delay))
        return self

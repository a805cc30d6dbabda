"""`progress_group` and `progress_pipeline`: Dramatiq's groups and pipelines, each with one bar for all messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import dramatiq
from django.utils.functional import Promise
from dramatiq import Broker, Message

from .progress import Number
from .stores.composites import IS_FAIL_FAST, IS_PIPELINE
from .worker.sending import AnyMember, Composition, cut, members_of, milliseconds_of, send_recorded, shares_of

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
      fail_fast: Whether the first member that has failed, after its retries, cancels all others.
      broker: The broker. Defaults to the global one.

    Raises:
      TypeError: A member is anything else, or a text isn't one.
      ValueError: Weights that are negative, not finite, all 0, or not one for each member.
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
        broker: Broker | None = None,
    ) -> None:
        super().__init__(members_of(dramatiq.group, children), broker=broker)  # type: ignore[no-untyped-call]
        self.composition = Composition(
            cut("name", name),
            cut("title", title),
            cut("description", description),
            IS_FAIL_FAST if fail_fast else "",
            shares_of(weights, len(self.children)),
        )

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
            empty; or more than 16 groups and pipelines are inside each other. Nothing was sent.
        """
        send_recorded(self, self.composition, milliseconds_of(delay))
        return self


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
      TypeError: A member is anything else, such as a group, or a text isn't one.
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
        self.composition = Composition(
            cut("name", name),
            cut("title", title),
            cut("description", description),
            IS_PIPELINE,
            shares_of(weights, len(self.messages)),
        )

    def __or__(self, other: Message[Any] | dramatiq.pipeline) -> progress_pipeline:
        """Return a pipeline with more messages at its end, of the weight 1."""
        count = len(other.messages) if isinstance(other, dramatiq.pipeline) else 1
        known = self.composition
        return progress_pipeline(
            [*self.messages, other],
            name=known.name,
            title=known.title,
            description=known.description,
            weights=None if known.shares is None else [*known.shares, *[1] * count],
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

"""One level of an attempt's work: the whole, a step, or a loop inside another one, with its part of the whole."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from dramatiq_progress.progress_values import Number


class Span(NamedTuple):
    """A part of the whole, from one fraction to another."""

    begin: float = 0.0
    end: float = 1.0

    def at(self, part: float) -> float:
        """Return the fraction of the whole at a part of this span, from 0 to 1."""
        return self.end if part >= 1 else self.begin + (self.end - self.begin) * part


class Plan(NamedTuple):
    """Steps that follow each other.

    Attributes:
      names: The name of each step.
      marks: The part of the plan that is done before each step, and after the last one: 0 to 1.
    """

    names: tuple[str, ...]
    marks: tuple[float, ...]


class BodyWatcher(Protocol):
    """An asynchronous iterator that knows whether its loop's body runs."""

    is_in_body: bool


class Loop:
    """One call of `ProgressObserver.track`.

    Attributes:
      is_nested: Whether it was called in the body of another loop, by the same thread or task.
      owner: The thread or task that runs it.
      generator: The generator that counts it.
      item_size: How much the item in progress counts: 1, or the length of a batch.
    """

    __slots__ = ("generator", "is_nested", "item_size", "owner")

    def __init__(self) -> None:
        self.is_nested = False
        self.owner = 0
        self.item_size = 1
        # Weak: leaving a loop by `break` must end its generator.
        self.generator: weakref.ref[Generator[Any, None, None] | BodyWatcher] | None = None

    def is_in_body_of(self, owner: int) -> bool:
        """Return whether this thread or task, which is the caller, is in the loop's body.

        It isn't while the loop fetches its next item, which may be from another loop.
        """
        # In this order: a generator of another thread, to which this is the last reference, would be closed here.
        generator = self.generator() if self.owner == owner and self.generator is not None else None
        if isinstance(generator, Generator):
            return inspect.getgeneratorstate(generator) == inspect.GEN_SUSPENDED
        return generator is not None and generator.is_in_body


class Level:
    """The whole, a step, or a loop inside another one.

    Attributes:
      current: The amount that is done, as last reported.
      total: The amount that there is to do; None while unknown.
      description: The current activity.
      span: The level's part of the whole.
      parent: The level around it; None for the whole.
      owner: The thread or task that has begun it.
      plan: The plan that it is a step of; None if it isn't a step.
      index: Its position in the plan, from 0.
      plan_span: The plan's part of the whole.
      is_split: Whether it consists of steps, and what is reported on this level itself counts for nothing.
      loop: The loop that counts on this level, from its first item to its end.
    """

    __slots__ = (
        "_parent_current",
        "current",
        "description",
        "index",
        "is_split",
        "loop",
        "owner",
        "parent",
        "plan",
        "plan_span",
        "span",
        "total",
    )

    def __init__(self, span: Span, owner: int = 0, plan: Plan | None = None, index: int = 0) -> None:
        self.current: Number = 0
        self.total: Number | None = None
        self.description = ""
        self.span = self.plan_span = span
        self.parent: Level | None = None
        self.owner = owner
        self.plan, self.index = plan, index
        self.is_split = False
        self.loop: Loop | None = None
        self._parent_current: Number | None = None

    def attach(self, parent: Level) -> None:
        """Make this the level inside another one."""
        self.parent = parent
        self._parent_current = None if parent.loop is None else parent.current

    @property
    def is_abandoned(self) -> bool:
        """Whether the loop around it has reached its next item, and nothing has ended this level."""
        parent = self.parent
        return parent is not None and self._parent_current is not None and parent.current != self._parent_current

    @property
    def part(self) -> float:
        """The part of the level that is done, from 0 to 1; 0 while unknown."""
        return self._part(self.current)

    @property
    def inner_span(self) -> Span:
        """The part of the whole for what begins on this level now: a loop's current item, or all of it."""
        # Read once: loops end without the lock.
        if (loop := self.loop) is None:
            return self.span
        return Span(self.span.at(self.part), self.span.at(self._part(self.current + loop.item_size)))

    def _part(self, current: Number) -> float:
        if not self.total:
            return 0.0
        return 1.0 if current >= self.total else current / self.total

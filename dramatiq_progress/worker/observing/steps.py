"""`Step`: a named phase of an actor's work, with its weight; `ProgressObserver.steps` makes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING

from django.utils.functional import Promise

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.progress_values import Number
from dramatiq_progress.worker.starting import wait_for_start
from dramatiq_progress.worker.validation import MAX_NAME_CHARACTERS, printable, to_number

from .reports import KEEP, Checks
from .spans import Plan

if TYPE_CHECKING:
    from .binding import Binding


class Step:
    """A step of an actor's work, as a context manager. Reports in its block count within the step.

    Leaving the block completes the step, except by an exception. A step that is left out counts as complete as soon as
    a later one begins.
    """

    __slots__ = ("_binding", "_index", "_plan")

    def __init__(self, binding: Binding, plan: Plan, index: int) -> None:
        self._binding = binding
        self._plan = plan
        self._index = index

    @property
    def name(self) -> str:
        """The step's name, as the page receives it."""
        return self._plan.names[self._index]

    @property
    def done(self) -> bool:
        """Whether an earlier attempt has completed the step: then leave it out, ``if not read.done: …``.

        From the first use in an attempt on, the message keeps which steps are complete, by their names and those of the
        steps around them.

        Raises:
          InvalidReport: In the body of a loop, whose item an attempt does again from its beginning; or another step of
            this attempt has the same name, in the same step. See `ProgressObserver` for when; otherwise it is False.
        """
        wait_for_start(self._binding)
        resumption, path = self._binding.resumption(), self._binding.levels.path()
        resumption.keeps_steps = True
        if path is None:
            reason = "it is in the body of a loop, and the next attempt does an item from its beginning: leave it out"
        elif not resumption.is_first_step((*path, self.name), self):
            reason = "another step of this attempt has that name; give each step its own"
        else:
            return resumption.is_step_over((*path, self.name))
        self._binding.checks.ignore("done", self.name, reason)
        return False

    def __enter__(self) -> Step:
        """Begin the step.

        Raises:
          InvalidReport: Another thread or task is in a step of the same call of `steps`. See `ProgressObserver` for
            when; otherwise the step that began last is the current one.
          Cancelled: See `ProgressObserver`.
        """
        binding, levels = self._binding, self._binding.levels
        if levels.is_entered_elsewhere(self._plan):
            binding.checks.ignore("step", self.name, "another thread or task is in a step of the same steps()")
        levels.enter_step(self._plan, self._index)
        try:
            binding.note_change()
        except BaseException:
            levels.leave_step(self._plan, self._index, completed=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._binding.levels.leave_step(self._plan, self._index, completed=kind is None)
        if kind is None:
            self._binding.note_step(self.name, self)
        # An exception that is on its way must not be replaced by Cancelled.
        self._binding.note_change(may_cancel=kind is None)


def make_plan(names: Sequence[object], weights: Iterable[Number | Decimal] | None, checks: Checks) -> Plan:
    """Return the plan of steps with these names and weights.

    Raises:
      InvalidReport: The checks are strict, and the weights are invalid or the names in a list. Otherwise all steps get
        the same weight, and the list's items are the names.
    """
    if len(names) == 1 and isinstance(names[0], Iterable) and not isinstance(names[0], str | bytes | Promise):
        checks.ignore("steps", names[0], 'pass each name on its own, as in steps("Reading", "Saving") or steps(*names)')
        names = tuple(names[0])
    texts = tuple(_name(name, checks) for name in names)
    return Plan(texts, _marks(weights, len(texts), checks))


def _name(name: object, checks: Checks) -> str:
    text = checks.text(name, "step")
    return "" if text is KEEP else printable(text[:MAX_NAME_CHARACTERS])


def _marks(weights: Iterable[Number | Decimal] | None, count: int, checks: Checks) -> tuple[float, ...]:
    if weights is not None:
        try:
            weights = list(weights)
            sums = list(accumulate((float(to_number(weight)) for weight in weights), initial=0.0))
            if len(weights) != count:
                raise ValueError(f"there must be one for each of the {count} steps")
            if count and not 0 < sums[-1] < math.inf:
                raise ValueError("their sum must be finite and above 0")
            return tuple(each / sums[-1] for each in sums) if count else (0.0,)
        except Exception as error:  # any error of an iterable or a number type of the project's
            checks.ignore("weights", weights, reason_of(error))
    return tuple(index / count for index in range(count + 1)) if count else (0.0,)

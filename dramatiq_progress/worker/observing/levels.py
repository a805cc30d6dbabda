"""The values of one attempt, on the levels of its work: the whole, steps inside it, and loops inside loops.

Reports count in the innermost level. Each level is a part of the whole; the fraction of the whole follows from that.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping

from dramatiq_progress.progress_values import ROUNDING_ERROR, Number, StepProgress
from dramatiq_progress.stores.encoding import number_text
from dramatiq_progress.worker.validation import printable

from .rate import RateEstimator
from .spans import Level, Loop, Plan, Span

#: Fractions are stored with six decimals, rounded down: 1 is only reached at the end.
FRACTION_UNITS = 1_000_000


class Levels:
    """The levels of one attempt's work, and the fraction of the whole that is done.

    As long as there are neither steps nor loops inside loops, there is one level, and no fraction is stored.

    Attributes:
      top: The innermost level, in which reports count.
      lock: Held to add or remove a level, and to add to a level's value.
      is_used: Whether there are, or were, steps or loops inside loops.
    """

    __slots__ = (
        "_divided",
        "_done",
        "_estimator",
        "_resumed_span",
        "_step",
        "_step_span",
        "_whole",
        "is_used",
        "lock",
        "top",
    )

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.top = self._whole = Level(Span())
        self.is_used = False
        # The fraction of the whole, which never falls.
        self._done = 0.0
        # The fraction that this attempt has done itself, and can't divide into steps any more.
        self._divided = 0.0
        # The outermost step: its number from 1, how many there are, and its name.
        self._step: tuple[int, int, str] | None = None
        # Its part of the whole; None if what is done in it isn't known.
        self._step_span: Span | None = None
        # The part of the step that an earlier attempt was in.
        self._resumed_span: Span | None = None
        self._estimator = RateEstimator(time.monotonic())

    def renew_lock(self) -> None:
        """Replace the lock, which a thread of the parent process may have held at a fork."""
        self.lock = threading.RLock()

    @property
    def is_begun(self) -> bool:
        """Whether anything was reported."""
        whole = self._whole
        return self.is_used or whole.loop is not None or bool(whole.current or whole.total or whole.description)

    def restore(self, stored: Mapping[str, str]) -> None:
        """Go on from the values that an earlier attempt reported, as they are stored."""
        with self.lock:
            whole = self._whole
            whole.current = json.loads(stored.get("current", "0"))
            whole.total = json.loads(stored.get("total", "null"))
            whole.description = stored.get("description", "")
            self._estimator = RateEstimator(time.monotonic(), whole.current)
            if "overall" in stored:
                # The values above may be those of a step or an inner loop, and are no part of the whole.
                self._use()
                whole.is_split = True
                self._done = float(json.loads(stored["overall"]) or 0.0)
                self._estimator = RateEstimator(time.monotonic(), self._done)
            if "step" in stored:
                number, count, name, *span = json.loads(stored["step"])
                self._step = (number, count, name)
                self._step_span = self._resumed_span = Span(*span) if span else None

    # ---- Loops ----

    def is_in_body(self) -> bool:
        """Return whether the caller is in the body of a loop on the innermost level."""
        with self.lock:
            if self.is_used:
                self._update()
            outer = self.top.loop
        return outer is not None and outer.is_in_body_of(_caller())

    def begin_loop(self, loop: Loop) -> Level:
        """Return the level that a loop counts in, at its first item."""
        loop.owner = _caller()
        if loop.is_nested:
            with self.lock:
                self._use()
                self._update()
                level = Level(self.top.inner_span, loop.owner)
                level.description = self.top.description
                level.loop = loop
                self._push(level)
                return level
        # Without the lock, which would cost a short loop more than all the rest.
        level = self.top
        # Another thread's loop on the same level remains the one whose items have steps and loops.
        if level.loop is None or level.loop.owner == loop.owner:
            level.loop = loop
        return level

    def end_loop(self, loop: Loop, level: Level) -> None:
        """End a loop in its level, at whichever item."""
        with self.lock:
            if self.is_used:
                self._update()
            if level.loop is loop:
                level.loop = None
            if loop.is_nested:
                self._remove(level)

    # ---- Steps ----

    @property
    def is_over(self) -> bool:
        """Whether this attempt has used up all of the whole, and no step or loop is left to end."""
        with self.lock:
            if not self.is_used:
                return False
            self._update()
            return self.top is self._whole and self.top.loop is None and self._divided >= 1.0 - ROUNDING_ERROR

    def split(self) -> None:
        """Note that the innermost level, or the current item of its loop, consists of steps."""
        with self.lock:
            if not self.is_used and self.top.loop is None:
                # What was reported before the first step is no part of the whole.
                self.top.is_split = True
            self._use()
            self._update()
            if self.top.loop is None:
                self.top.is_split = True

    def is_entered_elsewhere(self, plan: Plan) -> bool:
        """Return whether another thread or task is in a step of this plan."""
        owner = _caller()
        with self.lock:
            return any(level.plan is plan and level.owner != owner for level in self._levels())

    def path(self) -> tuple[str, ...] | None:
        """Return the names of the steps that the caller is in, the outermost first; None in the body of a loop."""
        owner = _caller()
        with self.lock:
            if self.is_used:
                self._update()
            levels = list(self._levels())
        if any(level.loop is not None and level.loop.is_in_body_of(owner) for level in levels):
            return None
        return tuple(level.plan.names[level.index] for level in reversed(levels) if level.plan is not None)

    def enter_step(self, plan: Plan, index: int) -> None:
        """Begin a step."""
        with self.lock:
            self.split()
            entered = next((level for level in self._levels() if level.plan is plan), None)
            around = entered.plan_span if entered is not None else self.top.inner_span
            span = Span(around.at(plan.marks[index]), around.at(plan.marks[index + 1]))
            step = Level(span, _caller(), plan, index)
            step.plan_span = around
            if all(level.plan is None or level.plan is plan for level in self._levels()):
                self._step = (index + 1, len(plan.names), plan.names[index])
                # Of a step that begins before what is already done, as one that is entered twice, nothing is known.
                rounded = Span(*map(_rounded, span))
                is_known = self._done <= span.begin + ROUNDING_ERROR or rounded == self._resumed_span
                self._step_span = rounded if is_known else None
            self._push(step)

    def leave_step(self, plan: Plan, index: int, *, completed: bool) -> None:
        """End a step, and what its thread or task has begun in it. Its last values stay, except in a loop's body."""
        owner = _caller()
        with self.lock:
            self._update()
            entered = [level for level in self._levels() if level.plan is plan and level.index == index]
            step = next((level for level in entered if level.owner == owner), entered[0] if entered else None)
            if step is None or step.parent is None:
                return
            if completed:
                self._advance(step.span.end)
            self._remove(step)
            parent = step.parent
            if parent.loop is None:
                parent.current, parent.total, parent.description = step.current, step.total, step.description

    # ---- Values ----

    @property
    def fraction(self) -> float | None:
        """The fraction of the whole that is done, from 0 to 1; None while unknown."""
        with self.lock:
            if not self.is_used:
                return self._whole.part if self._whole.total else None
            self._update()
            is_known = self._done or self._whole.is_split or self._whole.total
            return min(self._done, 1.0) if is_known else None

    @property
    def step(self) -> StepProgress | None:
        """The outermost step that is in progress, or was last; None before the first."""
        with self.lock:
            if self._step is None:
                return None
            fraction = self.fraction
            overall = None if fraction is None else _rounded(fraction)
            return StepProgress.of(*self._step, span=self._step_span, overall=overall, total=self.top.total)

    def sample(self, now: float) -> None:
        """Measure the speed of the work, at a time of `time.monotonic`."""
        with self.lock:
            done: Number = (self.fraction or 0.0) if self.is_used else self.top.current
            self._estimator.sample(done, now)

    def fields(self) -> dict[str, str]:
        """Return the values, as they are stored."""
        with self.lock:
            level = self.top
            rate = self._estimator.rate
            fields = {
                "current": number_text(level.current),
                "rate": "null" if rate is None else f"{rate:.4g}",
                "total": number_text(level.total),
                "description": printable(level.description),
            }
            if self.is_used:
                fraction = self.fraction
                fields["overall"] = "null" if fraction is None else f"{_rounded(fraction):.6g}"
                if self._step is not None:
                    fields["step"] = json.dumps([*self._step, *(self._step_span or ())], ensure_ascii=False)
            return fields

    # ---- With the lock held ----

    def _levels(self) -> Iterator[Level]:
        """Yield the levels, the innermost first."""
        level: Level | None = self.top
        while level is not None:
            yield level
            level = level.parent

    def _use(self) -> None:
        if not self.is_used:
            self.is_used = True
            # From now on it measures fractions.
            self._estimator = RateEstimator(time.monotonic())

    def _push(self, level: Level) -> None:
        level.attach(self.top)
        self.top = level

    def _remove(self, level: Level) -> None:
        """Remove a level, and those inside it, except those of other threads and tasks."""
        levels = list(self._levels())
        if level not in levels or level.parent is None:
            return
        inner = levels[: levels.index(level)]
        self.top = level.parent
        for each in reversed(inner):
            if each.owner != level.owner:
                self._push(each)

    def _update(self) -> None:
        """Remove levels that nothing will end, and update the fraction."""
        for level in list(self._levels()):
            if level.is_abandoned and level.parent is not None:
                self.top = level.parent
        top = self.top
        if not top.is_split or top.loop is not None:
            self._advance(top.span.at(top.part))

    def _advance(self, fraction: float) -> None:
        """Note that this attempt has done a fraction of the whole."""
        self._divided = max(self._divided, fraction)
        self._done = max(self._done, fraction)


def _caller() -> int:
    """Return a number that identifies the calling asyncio task, or otherwise the thread."""
    # Not get_running_loop(): without a loop it raises, which takes longer than all the rest.
    if asyncio._get_running_loop() is not None and (task := asyncio.current_task()) is not None:
        return id(task)
    return threading.get_ident()


def _rounded(fraction: float) -> float:
    return math.floor((fraction + ROUNDING_ERROR) * FRACTION_UNITS) / FRACTION_UNITS

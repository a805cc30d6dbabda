"""The values in a `Progress`: numbers and percentages, the step, the members of a group, the usual times.

Pure, like ``progress.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

Number = int | float

#: Sums of fractions may be too small by less than this; 0.29 must not become 0.289999.
ROUNDING_ERROR = 1e-9


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The step that an attempt is in, or was in last.

    Attributes:
      index: Its number, from 1.
      count: Number of steps.
      name: Its name, as plain text.
      percent: The percentage of the step that is done, floored to 0.1. None while unknown.
    """

    index: int
    count: int
    name: str
    percent: float | None = None

    @classmethod
    def of(
        cls,
        index: int,
        count: int,
        name: str,
        *,
        span: tuple[float, float] | None,
        overall: float | None,
        total: Number | None,
    ) -> StepProgress:
        """Return a step.

        Parameters:
          span: The fractions of the whole at which it begins and ends; None if they are unknown.
          overall: The fraction of the whole that is done; None if it is unknown.
          total: The total of the innermost step or loop.
        """
        if span is None or overall is None or span[0] >= span[1] or (overall <= span[0] and not total):
            return cls(index, count, name)
        return cls(index, count, name, percent_of_whole(min(max(0.0, overall - span[0]) / (span[1] - span[0]), 1.0)))


class UsualTimes(NamedTuple):
    """The usual durations of messages like this one, in seconds with two digits; each is None while unknown.

    Attributes:
      run: Half of the past runs took no longer.
      run_most: Nine of ten past runs took no longer.
      wait: About how long the message waits in its queue from now on, at the pace of the last minute.
    """

    run: Number | None
    run_most: Number | None
    wait: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The members of a group or a pipeline.

    Attributes:
      total: Their number.
      waiting: Number of those that have not started, or whose next message waits in a queue.
      running: Number of those that run.
      retrying: Number of those that failed and will be retried.
      done: Number of those that ended with this state, like the following.
    """

    total: int
    waiting: int
    running: int
    retrying: int
    done: int
    failed: int
    cancelled: int
    skipped: int


def percent_of(current: Number, total: Number | None) -> float | None:
    """Return a percentage, floored to 0.1 and at most 100. None if the total is unknown or 0."""
    if not total:
        return None
    if current >= total:
        return 100.0
    # Integer arithmetic for integers: 29 / 100 in floats would be floored to 28.9.
    if isinstance(current, int) and isinstance(total, int):
        return (current * 1000 // total) / 10
    return percent_of_whole(current / total)


def percent_of_whole(fraction: float | None) -> float | None:
    """Return a fraction from 0 to 1 as a percentage, floored to 0.1. None if it is unknown."""
    return None if fraction is None else thousandths_of(fraction) / 10


def thousandths_of(fraction: float) -> int:
    """Return a fraction from 0 to 1 in thousandths, floored."""
    # A fraction is a sum, or the difference of two with six decimals, and may be too small by some rounding errors.
    # Only the end is the whole.
    return min(math.floor(round(fraction * 1000, 2)), 1000 if fraction > 1 - ROUNDING_ERROR else 999)

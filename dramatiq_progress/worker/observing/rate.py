"""The speed of a running message: a smoothed rate over its reports. Pure arithmetic, no clock of its own."""

from __future__ import annotations

import math

from dramatiq_progress.progress_values import Number
from dramatiq_progress.stores.speed import MEMORY_PART, MEMORY_SECONDS, MIN_SAMPLES, MIN_SECONDS

#: An interval this many times longer than usual, in which at most as many times more was done, is a pause: it doesn't
#: count for the speed of the work. (In an interval that was only not observed, as in an outage, more was done.)
PAUSE_FACTOR = 5.0
MIN_PAUSE_SECONDS = 5.0
#: A larger rate may become infinite when it is rounded, which JSON can't represent.
MAX_RATE = 1e300


class RateEstimator:
    """Estimates how much is done per second, from samples of how much is done.

    Progress and time are summed up, both decaying at the same rate, and their quotient is the result: steps of a minute
    are as accurate as those of a millisecond, and recent ones count for more.

    Parameters:
      now: Seconds by any clock that only goes forward.
      current: The amount that is done already.
    """

    def __init__(self, now: float, current: Number = 0) -> None:
        self._restart(current, now)

    def _restart(self, current: Number, now: float) -> None:
        self._current = current
        self._started_at = self._sampled_at = now
        self._samples = 0
        self._progress = self._seconds = 0.0
        self._usual_interval = self._usual_progress = 0.0

    def sample(self, current: Number, now: float) -> None:
        """Add a sample.

        Parameters:
          current: The amount that is done. Less than before means that the work started again.
          now: Seconds by any clock that only goes forward.
        """
        if current < self._current or (current == self._current and not self._samples):
            # The time before the first progress is preparation.
            self._restart(current, now)
        if current == self._current or now <= self._sampled_at:
            return
        interval = self._worked(now - self._sampled_at, float(current - self._current))
        memory = max(MEMORY_SECONDS, MEMORY_PART * (now - self._started_at))
        fading = math.exp(-interval / memory)
        self._progress = self._progress * fading + float(current - self._current)
        self._seconds = self._seconds * fading + interval
        self._current, self._sampled_at = current, now
        self._samples += 1

    def _worked(self, interval: float, progress: float) -> float:
        usual = self._usual_interval
        is_long = interval > max(PAUSE_FACTOR * usual, MIN_PAUSE_SECONDS)
        if self._samples >= MIN_SAMPLES and is_long and progress <= PAUSE_FACTOR * self._usual_progress:
            # The pause is not part of the run either, so that it does not lengthen the memory.
            self._started_at += interval - usual
            return usual
        if not is_long or not self._samples:
            share = 0.2 if self._samples else 1.0
            self._usual_interval += share * (interval - usual)
            self._usual_progress += share * (progress - self._usual_progress)
        return interval

    @property
    def rate(self) -> float | None:
        """The amount that is done per second; None while there are too few samples."""
        if self._samples < MIN_SAMPLES or self._sampled_at - self._started_at < MIN_SECONDS:
            return None
        rate = self._progress / self._seconds
        return rate if 0 < rate < MAX_RATE else None

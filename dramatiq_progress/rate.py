"""How fast a running message goes: a smoothed rate over what it reported. Pure arithmetic, no clock of its own."""

from __future__ import annotations

import math

from .progress import Number

#: Nothing is said before so many samples, and so many seconds.
LEAST_SAMPLES = 3
LEAST_SECONDS = 2.0
#: What is older than this counts for less than a third; in long runs, than this part of the run.
MEMORY_SECONDS = 10.0
MEMORY_PART = 0.15
#: An interval so much longer than usual, in which no more than so much was done, is a pause: it says nothing about the
#: speed of the work. (In one that only went unseen, as in an outage of the store, more was done.)
PAUSE_FACTOR = 5.0
LEAST_PAUSE_SECONDS = 5.0
#: A larger one may become infinite when it is rounded, which JSON does not know.
LARGEST_RATE = 1e300


class RateEstimator:
    """Estimates how much is done in a second, from samples of how much is done.

    Progress and time are summed up, both fading by the same measure, and the rate is their quotient: so steps of a
    minute are as right as those of a millisecond, and recent ones count for more.
    """

    def __init__(self, now: float) -> None:
        self._restart(0, now)

    def _restart(self, current: Number, now: float) -> None:
        self._current = current
        self._began_at = self._sampled_at = now
        self._samples = 0
        self._progress = self._seconds = 0.0
        self._usual_interval = self._usual_progress = 0.0

    def sample(self, current: Number, now: float) -> None:
        """Take note of how much is done.

        Parameters:
          current: How much is done; less than before means that the work began anew.
          now: Seconds by any clock that only goes forward.
        """
        if current < self._current or (current == self._current and not self._samples):
            # The time before the first progress is preparation.
            self._restart(current, now)
        if current == self._current or now <= self._sampled_at:
            return
        interval = self._worked(now - self._sampled_at, float(current - self._current))
        memory = max(MEMORY_SECONDS, MEMORY_PART * (now - self._began_at))
        fading = math.exp(-interval / memory)
        self._progress = self._progress * fading + float(current - self._current)
        self._seconds = self._seconds * fading + interval
        self._current, self._sampled_at = current, now
        self._samples += 1

    def _worked(self, interval: float, progress: float) -> float:
        usual = self._usual_interval
        is_long = interval > max(PAUSE_FACTOR * usual, LEAST_PAUSE_SECONDS)
        if self._samples >= LEAST_SAMPLES and is_long and progress <= PAUSE_FACTOR * self._usual_progress:
            # The pause is not part of the run either, so that it does not lengthen the memory.
            self._began_at += interval - usual
            return usual
        if not is_long or not self._samples:
            share = 0.2 if self._samples else 1.0
            self._usual_interval += share * (interval - usual)
            self._usual_progress += share * (progress - self._usual_progress)
        return interval

    @property
    def rate(self) -> float | None:
        """How much is done in a second; None while there is too little to say."""
        if self._samples < LEAST_SAMPLES or self._sampled_at - self._began_at < LEAST_SECONDS:
            return None
        rate = self._progress / self._seconds
        return rate if 0 < rate < LARGEST_RATE else None

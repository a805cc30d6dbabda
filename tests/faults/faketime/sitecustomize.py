"""Loaded at the start of a Python process whose clock is faked: its `time.sleep` works all the same.

libfaketime 0.9.10 passes a deadline of a clock that it does not fake to ``clock_nanosleep`` wrongly (EINVAL), and when
it fakes the monotonic clock too, waiting for a lock with a time-out never ends.
"""

import select
import time


def sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = sleep

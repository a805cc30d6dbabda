"""Waiting for a condition, instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Long enough for a busy machine; a test that waits this long has failed.
TIMEOUT_SECONDS = 90.0
INTERVAL_SECONDS = 0.01
#: Additional time for an action on a busy machine, where a test must tell it from one that hangs.
BUSY_SECONDS = 8.0


def wait_until(condition: Callable[[], T], *, timeout: float = TIMEOUT_SECONDS) -> T:
    """Call a condition until its result is true, and return that. Fails with the last result."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(INTERVAL_SECONDS)
    return answer

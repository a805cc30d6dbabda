"""Waiting for a condition, in place of waiting for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Long enough for a busy machine; a test that needs it has failed already.
TIMEOUT_SECONDS = 30.0
INTERVAL_SECONDS = 0.01


def wait_until(condition: Callable[[], T], *, timeout: float = TIMEOUT_SECONDS) -> T:
    """Ask until the answer is true, and return it. Fails with the last answer."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(INTERVAL_SECONDS)
    return answer

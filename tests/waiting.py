"""Waiting for a condition, instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Longer than a busy machine keeps a server from answering a test.
PATIENCE_SECONDS = 10
#: Options of a store. A test must not fail because the machine is busy; the default of 0.25 s has tests of its own.
PATIENT: dict[str, Any] = {"socket_timeout": PATIENCE_SECONDS, "socket_connect_timeout": PATIENCE_SECONDS}

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

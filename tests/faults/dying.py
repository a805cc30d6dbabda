"""A worker process that ends without a word, as when the kernel ends it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.waiting import wait_until


def kill_own_process() -> None:
    """Kill this worker process, once Dramatiq's main process handles signals.

    Until then the main process waits for a `multiprocessing.Event` that this process sets. A process that is killed
    within `Event.set` keeps the event's lock, and the main process waits for that lock forever: the timeout of
    `Event.wait` doesn't include it (Python 3.11 to 3.14, Dramatiq 2.2.1).
    """
    wait_until(_is_signal_handled)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_signal_handled() -> bool:
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> signal.SIGTERM - 1 & 1)

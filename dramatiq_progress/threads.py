"""Background threads, started so that no caller can be held up."""

from __future__ import annotations

import _thread
import logging
import os
import threading
import time
from collections.abc import Callable

#: How long a thread of `SingleThread` may take to run before another one is started.
START_PATIENCE_SECONDS = 1.0

logger = logging.getLogger(__name__)


def start_thread(run: Callable[[], None], name: str) -> None:
    """Start a daemon thread, without waiting for it.

    The thread may never run: a container may allow no further one, which is logged. Callers notice
    that its work isn't done, and try again.

    `threading.Thread.start` isn't called in the caller's thread, since it waits for the new one. If an asynchronous
    exception is raised in the caller at that moment, as by Dramatiq's time limits, Python 3.11 may deliver it to the
    new thread, which then ends; the caller would wait forever. (Both have the same thread id until the new one runs.
    It hung within 200 starts with 3.11, and not in 120,000 with 3.12 and 3.13.)
    """
    try:
        _thread.start_new_thread(_start, (run, name))
    except RuntimeError:
        _log_failure(name)


def _start(run: Callable[[], None], name: str) -> None:
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        _log_failure(name)


def _log_failure(name: str) -> None:
    logger.exception("Can't start the thread %s; trying again later. Check the limit of threads.", name)


class SingleThread:
    """A background thread that runs while there is work for it; there is one at a time in each process.

    It takes no lock, which a forked process might inherit in use.

    Parameters:
      work: Runs in the thread, and returns when there is nothing left to do.
      has_more: Whether to call `work` again. It is called after the thread counts as ended: an item that was added just
        then is either seen by it, or its `start` starts the next thread.
      name: The thread's name.

    Attributes:
      returned: Set each time that `work` has returned. Clear it before waiting for it.
    """

    def __init__(self, work: Callable[[], None], name: str, *, has_more: Callable[[], bool] = lambda: False) -> None:
        self._work = work
        self._has_more = has_more
        self._name = name
        self.returned = threading.Event()
        # The thread that runs in each process: no thread survives a fork.
        self._running: dict[int, int] = {}
        # By `time.monotonic`: until then, a thread that was started may run without a further one.
        self._start_again_at = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the thread runs in this process."""
        return os.getpid() in self._running

    def start(self) -> None:
        """Start the thread, unless it is running or has just been started. Returns at once; see `start_thread`."""
        if self.is_running:
            return
        now = time.monotonic()
        if now >= self._start_again_at:
            self._start_again_at = now + START_PATIENCE_SECONDS
            start_thread(self._run, self._name)

    def _run(self) -> None:
        process, thread = os.getpid(), threading.get_ident()
        # Atomic: of several threads that were started, one runs.
        while self._running.setdefault(process, thread) == thread:
            # For a forked process, in which it doesn't run.
            self._start_again_at = 0.0
            try:
                self._work()
            finally:
                # Until it is known below whether this thread continues.
                self._start_again_at = time.monotonic() + START_PATIENCE_SECONDS
                del self._running[process]
                self.returned.set()
            if not self._has_more():
                self._start_again_at = 0.0
                if not self._has_more():
                    return

"""Whether a store can be reached: one answer for all threads of a process, and one log line per outage.

After a command without an answer, no thread waits for another timeout of the same outage: commands fail at once, and a
thread of this module's probes the store until it answers. If a time limit interrupted the caller that was to start that
thread, another one starts it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dramatiq_progress import jitter
from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.threads import SingleThread

#: Pause after the first failed probe; it doubles up to the longest one. Jitter keeps processes that lost their store at
#: the same moment from returning at the same one.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0

#: How often a caller may try a store that is unreachable, while no thread probes it.
INLINE_PROBE_INTERVAL_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Health:
    """The state of one store in this process, or of one node of a cluster.

    Parameters:
      probe: Sends one command, and raises `StoreUnavailable` unless it succeeds.
      name: What it is the state of, for the log.

    Attributes:
      is_available: Whether the store answered the last command.
      generation: A number that increases when what was written before may be lost: after an outage, and when the master
        was replaced.
    """

    def __init__(self, probe: Callable[[], None], *, name: str = "progress store") -> None:
        self._probe = probe
        self._name = name
        self.generation = 0
        self._lock = threading.Lock()
        # Beside the event, which takes a call: this is read twice per command.
        self.is_available = True
        self._recovered = threading.Event()
        self._closed = threading.Event()
        # By `time.monotonic`: the last change between available and unreachable.
        self._changed_at = 0.0
        self._callbacks: list[Callable[[], None]] = []
        # When a caller may try, unless the thread does.
        self._inline_probe_at = 0.0
        self._prober = SingleThread(self._run, "dramatiq-progress-probe", has_more=self._must_probe)

    @property
    def outage_seconds(self) -> float:
        """The age of the outage; 0 if the store is available."""
        return 0.0 if self.is_available else time.monotonic() - self._changed_at

    @property
    def available_seconds(self) -> float:
        """The time since the last outage; 0 during one."""
        return time.monotonic() - self._changed_at if self.is_available else 0.0

    def allows(self) -> bool:
        """Return whether to send a command now."""
        if self.is_available:
            return True
        now = time.monotonic()
        if now < self._inline_probe_at or self._prober.is_running or self._closed.is_set():
            return False
        self._inline_probe_at = now + INLINE_PROBE_INTERVAL_SECONDS
        self._start_probing()
        return True

    def mark_unreachable(self, error: Exception, *, sent_at: float) -> None:
        """Start an outage, unless there is one.

        Parameters:
          error: The reason, for the log.
          sent_at: When the command was sent, by `time.monotonic`. A command from before the store's last recovery says
            nothing about the time since.
        """
        with self._lock:
            if not self.is_available or sent_at < self._changed_at or self._closed.is_set():
                return
            now = time.monotonic()
            self._recovered.clear()
            self._changed_at = now
            # Until the thread runs, which may never be.
            self._inline_probe_at = now + INLINE_PROBE_INTERVAL_SECONDS
            # Last, since others read it without the lock. If this thread is interrupted then, they start to probe.
            self.is_available = False
        logger.warning(
            "The %s is unavailable; jobs continue, and their latest values are kept in memory until it answers. Check "
            "that it is running and reachable: %s",
            self._name,
            error,
        )
        self._start_probing()

    def mark_available(self) -> None:
        """End the outage, if there is one."""
        if self.is_available:
            return
        with self._lock:
            if self.is_available:
                return
            self._changed_at = time.monotonic()
            self.generation += 1
            self.is_available = True
            self._recovered.set()
            callbacks, self._callbacks = self._callbacks, []
        logger.info("The %s is available again.", self._name)
        for callback in callbacks:
            callback()

    def mark_replaced(self) -> None:
        """Note that another server has taken over, without an outage."""
        with self._lock:
            self.generation += 1

    def wait(self, seconds: float) -> bool:
        """Block until the store is available, at most until an outage is this many seconds old.

        Returns:
          Whether the store is available.
        """
        rest = self._changed_at + seconds - time.monotonic()
        return self._recovered.wait(rest) if rest > 0 else self.is_available

    def call_when_available(self, callback: Callable[[], None]) -> None:
        """Call a function once when the store is available again, in any thread; immediately if it is."""
        with self._lock:
            is_available = self.is_available
            if not is_available and callback not in self._callbacks:
                self._callbacks.append(callback)
        if is_available:
            callback()
        else:
            self._start_probing()

    def close(self) -> None:
        """Stop probing."""
        self._closed.set()

    def _must_probe(self) -> bool:
        return not (self.is_available or self._closed.is_set())

    def _start_probing(self) -> None:
        if self._must_probe():
            self._prober.start()

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        # A probe may end the outage and raise nevertheless, for one node of several.
        while self._must_probe():
            try:
                self._probe()
            except StoreRefused:
                break  # It answers, which is all that a probe is to find out.
            except StoreUnavailable:
                self._closed.wait(jitter.shortened(pause))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception:
                logger.exception("Unexpected error while probing the progress store. Please report this as a bug.")
                break
            else:
                break
        if not self._closed.is_set():
            self.mark_available()


class NodeUnreachable(StoreUnreachable):
    """One of several servers of a store gave no answer; the records on the others aren't affected.

    Attributes:
      health: The health of that server.
    """

    def __init__(self, message: str, health: Health) -> None:
        super().__init__(message)
        self.health = health

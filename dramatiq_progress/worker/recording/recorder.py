"""The recorder: one background thread per process that writes what all running messages report, in batches.

The first report after an idle period wakes it; it then flushes at most once per ``FLUSH_INTERVAL``. It also sends a
heartbeat every ``HEARTBEAT_INTERVAL`` for each running message.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from dramatiq_progress.conf import Configuration, configuration
from dramatiq_progress.errors import StoreUnavailable, StoreUnreachable
from dramatiq_progress.signals import finish_sending
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.health import Health
from dramatiq_progress.threads import SingleThread

from .contributing import Contributor
from .deferred import Action, DeferredChanges, Refusals
from .durations import FinishedRuns
from .running import RunningMessages

if TYPE_CHECKING:
    from dramatiq_progress.worker.observing.binding import Binding

#: How long `Recorder.stop` waits for the last write, and for the signals that it causes.
STOP_TIMEOUT_SECONDS = 5.0
#: Pause after an unexpected error, or when the settings name no store.
ERROR_PAUSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the latest values of all running messages to the store, in a thread of its own.

    No caller waits for the thread but `stop`. Nothing of the project's runs in it: its flush must not be held up.
    """

    def __init__(self) -> None:
        self._thread = SingleThread(self._flush_until_stopped, "dramatiq-progress-recorder", has_more=self._has_more)
        self._stop_requested = False
        self._wake = threading.Event()
        self._is_idle = False
        refusals = Refusals()
        #: Contributes to the composites that messages of this process are members of.
        self.composites = Contributor(refusals, self._wake.set)
        self._running = RunningMessages(refusals, self.composites, self._wake.set)
        self._deferred = DeferredChanges(refusals)
        self._runs = FinishedRuns()
        # Whether the flush before failed, and the health of the store that failed it, if there was one.
        self._is_blocked = False
        self._blocked_by: Health | None = None
        self._has_logged_error = False
        self._makes_room = False

    def open(self, binding: Binding) -> None:
        """Send heartbeats for this binding's message from now on."""
        self._running.add(binding)
        # In this order: one of the two sees the other.
        if self._makes_room:
            binding.request_yield()
        if binding.bound_attempt is not None and binding.bound_attempt.path:
            # The start of a member is contributed by the next flush.
            self.notify(binding)
        self.start()

    def close(self, binding: Binding) -> None:
        """Stop the heartbeats of this binding's message. The caller writes what it still holds."""
        self._running.remove(binding)

    def begin_work(self) -> None:
        """Note that a worker starts in this process, which may have had another one before."""
        self._makes_room = False

    def request_yield(self) -> None:
        """Let all resumable messages yield, also those that start later: the worker is shutting down."""
        self._makes_room = True
        for binding in self.bindings():
            binding.request_yield()

    def notify(self, binding: Binding) -> bool:
        """Note that a binding has new values. Costs at most one wake-up of the thread per flush interval.

        Returns:
          Whether the thread runs. Otherwise it is started, which may fail: the next report must notify again.
        """
        if not self._thread.is_running:
            self.start()
            return False
        self._running.note_change(binding)
        if self._is_idle:
            self._wake.set()
        return True

    def note_run(self, actor: str, estimate_key: str, seconds: float) -> None:
        """Note that a run has succeeded after this time. It is counted in the store with the next heartbeats."""
        self._runs.add(actor, estimate_key, seconds)

    def defer(self, message_id: str, action: Action, error: Exception, *, size: int = 0) -> None:
        """Write a state change later, since the store can't accept it now.

        Parameters:
          size: Bytes of private data that it holds.
        """
        self._deferred.add(message_id, action, error, size)
        self.start()
        self._wake.set()

    def bindings(self) -> list[Binding]:
        """Return the bindings of running messages."""
        return self._running.bindings()

    def start(self) -> None:
        """Start the thread, unless it is running. Workers start it before their first message."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end the thread, unless other running messages or deferred changes need it."""
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        self._thread.returned.clear()
        self._stop_requested = True
        self._wake.set()
        runs = self._thread.is_running
        if not runs and self._has_more():
            # Not if it ran: it may have ended by now, and a new thread would never get the request to stop.
            self.start()
            runs = True
        if runs:
            self._thread.returned.wait(STOP_TIMEOUT_SECONDS)
        # Otherwise the request remains, for a thread that has just been started.
        if self._deferred:
            logger.warning(
                "Stopping while the progress store is unavailable or refuses writes: %d state changes are lost when "
                "the process ends. Their messages will be shown as lost or waiting.",
                len(self._deferred),
            )
        finish_sending(deadline)

    def _flush_until_stopped(self) -> None:
        # Reports from before the thread ran aren't in the queue; heartbeats collect them.
        self._running.make_due()
        try:
            while True:
                self._wait()
                has_reports = self._running.has_changes
                self._flush()
                if self._stop_requested:
                    self._flush(is_last=True)
                    return
                if has_reports:
                    # No pause after heartbeats alone: a report that came just then would wait for it.
                    # Nor one for longer than until the next heartbeat: living messages would be shown as lost.
                    self._pause(min(_settings().flush_interval, self._running.next_heartbeat_at - time.monotonic()))
        finally:
            self._stop_requested = False

    def _has_more(self) -> bool:
        # Also after a stop, the process may continue.
        return bool(self._running or self._deferred)

    def _wait(self) -> None:
        self._wake.clear()
        self._is_idle = True
        # Checked after `_is_idle` is set: a report either sees it and wakes us, or is seen here.
        seconds = self._seconds_until_due()
        if not self._stop_requested and seconds > 0:
            self._wake.wait(seconds)
        self._is_idle = False

    def _seconds_until_due(self) -> float:
        if self._is_blocked:
            if self._blocked_by is not None and self._blocked_by.is_available:
                return 0.0
            # Woken when the store is available again, unless the settings name another one by then.
            return ERROR_PAUSE_SECONDS
        return min(self._running.next_due_at(), self._deferred.next_due_at()) - time.monotonic()

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stop_requested and (rest := deadline - time.monotonic()) > 0:
            self._wake.clear()
            if self._stop_requested or not self._wake.wait(rest):
                return

    def _flush(self, *, is_last: bool = False) -> None:
        try:
            store = get_store()
            self._blocked_by = store.health
            if not self._is_available(store, is_last=is_last):
                return
            was_blocked, self._is_blocked, self._blocked_by = self._is_blocked, False, None
            self._running.rewrite_lost(store.health, always=was_blocked)
            current = _settings()
            is_heartbeat = self._running.are_heartbeats_due()
            self._running.write(store, current.heartbeat_interval)
            if is_heartbeat or is_last:
                self._runs.write(store, are_kept=current.estimates)
            self._deferred.write(store)
            for health in self._deferred.outages():
                health.call_when_available(self._wake.set)
        except StoreUnreachable:
            # Logged by the store. What wasn't sent is due immediately after.
            self._running.make_due()
            self._is_blocked = True
            store.health.call_when_available(self._wake.set)
        except Exception as error:
            self._blocked_by = None
            # The thread must outlive a bug of ours too: without it every running message would be shown as lost.
            self._log_error(error)
            self._running.make_due()
            self._is_blocked = True
        else:
            self._has_logged_error = False
            self._log_dropped()

    def _is_available(self, store: Store, *, is_last: bool) -> bool:
        if store.health.is_available:
            return True
        if is_last:
            # The store may have returned since the last probe, and there is no later chance.
            with suppress(StoreUnavailable):
                store.ping()
            return store.health.is_available
        self._is_blocked = True
        store.health.call_when_available(self._wake.set)
        return False

    def _log_error(self, error: Exception) -> None:
        if self._has_logged_error:
            return
        self._has_logged_error = True
        if isinstance(error, ImproperlyConfigured):
            logger.warning("Not writing progress; jobs continue. Run `manage.py check`: %s", error)
        else:
            logger.exception(
                "Unexpected error while writing progress; retrying every second. Jobs are not affected. Please report "
                "this as a bug."
            )

    def _log_dropped(self) -> None:
        if self._deferred.dropped and not self._deferred:
            logger.warning("Dropped %d state changes that exceeded the limit.", self._deferred.dropped)
            self._deferred.dropped = 0


def _settings() -> Configuration:
    # A mistake in the settings is reported by those who need the store; the thread continues.
    try:
        return configuration()
    except ImproperlyConfigured:
        return Configuration()


_recorder = Recorder()


def get_recorder() -> Recorder:
    """Return the recorder of this process."""
    return _recorder


def replace_recorder() -> None:
    """Start over, as a forked child does: it sends no heartbeats, since the parent still processes the messages."""
    global _recorder
    for binding in _recorder.bindings():
        binding.renew_locks()
    _recorder = Recorder()


os.register_at_fork(after_in_child=replace_recorder)

"""The recorder: one background thread in a process that carries what observers hold to the store, many at a time.

It is woken by the first report after a quiet time, and from then on writes reports at most once every
``FLUSH_INTERVAL``; the same thread sends the heartbeats of all running messages.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured

from .conf import Configuration, configuration
from .errors import StoreUnavailable
from .stores import Store, get_store
from .stores.base import Attempt, Report, ReportAnswer

#: The longest pause between two tries to reach a store that does not answer.
LONGEST_PAUSE_SECONDS = 1.0
#: How long `Recorder.stop` waits for the last write.
STOP_TIMEOUT_SECONDS = 5.0
#: How many changes of state are kept for a store that does not answer; the oldest are dropped first.
DEFERRED_LIMIT = 10_000
#: How many of them are written before the running messages have their turn again.
DEFERRED_AT_ONCE = 500

#: What is raised when there is no store, for now: it cannot be reached, or the settings name none.
NO_STORE = (StoreUnavailable, ImproperlyConfigured)

#: Writes something to a store, so many seconds after it happened.
Action = Callable[[Store, float], object]

logger = logging.getLogger(__name__)


class Source(Protocol):
    """What the recorder takes from an observer."""

    @property
    def open_attempt(self) -> Attempt | None:
        """What to show with each write; None when there is nothing more to write."""

    def start_late(self, store: Store) -> None:
        """Tell a store that did not answer then that the attempt has begun."""

    def collect(self) -> dict[str, str]:
        """The fields that differ from what is stored. A report that comes later marks the source changed again."""

    def saved(self, fields: Mapping[str, str]) -> None:
        """The store now has these fields."""

    def forget_saved(self) -> None:
        """The store may have lost everything."""

    def request_cancel(self) -> None:
        """The message is to be cancelled."""

    def release(self) -> None:
        """Nothing that it reports from now on will be written."""

    def renew(self) -> None:
        """Forget what threads of a parent process held at a fork."""


class Recorder:
    """Writes the newest values of many observers to the store, from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._idle = False
        # Both are only used through operations that are atomic in Python: no report waits for a lock.
        self._changed: deque[Source] = deque()
        self._running: dict[Source, None] = {}
        self._deferred: deque[tuple[float, Action]] = deque()
        self._dropped = 0
        self._next_heartbeat = 0.0
        # The pause before the next try; None while the store answers.
        self._pause: float | None = None

    def open(self, source: Source) -> None:
        """Send signs of life for this source from now on."""
        self._running[source] = None
        self._ensure_thread()

    def close(self, source: Source) -> None:
        """Send no more signs of life for this source; what it holds is written by whoever closes it."""
        self._running.pop(source, None)
        source.release()

    def changed(self, source: Source) -> None:
        """The source has something new. Costs at most one wake-up of the thread in a flush interval."""
        self._changed.append(source)
        if self._idle:
            self._wake.set()
        elif self._thread is None:
            # In a process that an actor forked, the first report is what starts the thread.
            self._ensure_thread()

    def defer(self, action: Action, error: Exception) -> None:
        """Write a change of state later, since the store could not take it now."""
        if len(self._deferred) >= DEFERRED_LIMIT:
            self._deferred.popleft()
            self._dropped += 1
        self._deferred.append((time.monotonic(), action))
        self.trouble(error)

    def trouble(self, error: Exception) -> None:
        """The store could not be reached: say so once, and find out in the background when it can be again."""
        if self._pause is None:
            self._pause = _jittered(_settings().flush_interval)
            logger.warning("Progress is not being written or read; jobs go on, the newest values are kept. %s", error)
        self._ensure_thread()
        self._wake.set()

    def sources(self) -> list[Source]:
        """The messages that are being kept alive."""
        return list(self._running)

    def stop(self) -> None:
        """Write what is left and end the thread; the next source starts it anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
            self._wake.set()
        if thread is not None:
            thread.join(STOP_TIMEOUT_SECONDS)
        if self._deferred:
            logger.warning(
                "The progress store does not answer; %d changes of state are lost when this process ends.",
                len(self._deferred),
            )
        if self._running:
            # Another worker of this process goes on.
            self._ensure_thread()

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stopping = threading.Event()
            thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="dramatiq-progress-recorder", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # A container may allow no further thread; the job needs none of ours.
                logger.exception("Progress is not being written: its thread cannot be started.")
            else:
                self._thread = thread

    def _run(self, stopping: threading.Event) -> None:
        self._next_heartbeat = time.monotonic() + _settings().heartbeat_interval
        while not stopping.is_set():
            self._wait(stopping)
            has_reports = bool(self._changed)
            self._flush()
            # No pause after heartbeats alone: a report that came just then would wait for it.
            if has_reports or self._pause is not None:
                stopping.wait(self._pause or _settings().flush_interval)
        self._flush()

    def _wait(self, stopping: threading.Event) -> None:
        self._wake.clear()
        self._idle = True
        # Looked at after `_idle` is set: a report either sees it and wakes us, or is seen here.
        if not self._has_work() and not stopping.is_set():
            self._wake.wait(max(0.0, self._next_heartbeat - time.monotonic()))
        self._idle = False

    def _has_work(self) -> bool:
        return bool(self._changed or self._deferred or self._pause is not None)

    def _flush(self) -> None:
        try:
            store = get_store()
            if self._pause is not None:
                store.ping()
            self._start_late(store)
            self._report(store)
            self._write_deferred(store)
        except Exception as error:
            # The thread must outlive a mistake of ours too: without it every running message would look lost.
            if not isinstance(error, NO_STORE) and self._pause is None:
                logger.exception("A mistake in dramatiq-progress keeps progress from being written.")
            self.trouble(error)
            self._next_heartbeat = 0.0  # what was not sent is due at once
            self._pause = min(2 * (self._pause or 0), _jittered(LONGEST_PAUSE_SECONDS))
        else:
            self._recover()

    def _start_late(self, store: Store) -> None:
        for source in list(self._running):
            attempt = source.open_attempt
            if attempt is not None and attempt.number == 0:
                source.start_late(store)
                self._changed.append(source)

    def _report(self, store: Store) -> None:
        changed = self._take_changed()
        wanted: dict[Source, Report] = {}
        for source in changed:
            _add(wanted, source, source.collect())
        for source in self._take_heartbeats():
            if source not in wanted:
                _add(wanted, source, {}, even_if_empty=True)
        if not wanted:
            return
        try:
            answers = store.report(list(wanted.values()))
        except Exception:
            self._changed.extend(changed)
            raise
        for (source, report), answer in zip(wanted.items(), answers, strict=True):
            self._settle(source, report, answer)

    def _take_changed(self) -> list[Source]:
        taken: dict[Source, None] = {}
        while self._changed:
            taken[self._changed.popleft()] = None
        return list(taken)

    def _take_heartbeats(self) -> list[Source]:
        now = time.monotonic()
        if now < self._next_heartbeat:
            return []
        self._next_heartbeat = now + _settings().heartbeat_interval
        return list(self._running)

    def _settle(self, source: Source, report: Report, answer: ReportAnswer) -> None:
        if report.attempt.to_cancel:
            source.request_cancel()
        if answer == "refused":
            if source.open_attempt is not None:
                logger.info("Message %s was taken over by another delivery.", report.attempt.message_id)
            self.close(source)
            return
        if answer == "failed":
            self._changed.append(source)
            return
        if answer == "renewed":
            self._rewrite(source)
        source.saved(report.fields)

    def _rewrite(self, source: Source) -> None:
        source.forget_saved()
        self._changed.append(source)

    def _write_deferred(self, store: Store) -> None:
        for _ in range(min(len(self._deferred), DEFERRED_AT_ONCE)):
            happened_at, action = self._deferred.popleft()
            try:
                action(store, time.monotonic() - happened_at)
            except NO_STORE:
                # To the end of the line: what a full store refuses must not keep back what it takes.
                self._deferred.append((happened_at, action))
                raise

    def _recover(self) -> None:
        if self._pause is None:
            return
        if self._deferred:
            self._pause = _settings().flush_interval
            return
        self._pause = None
        # It may have come back empty, or as it was some time ago.
        for source in list(self._running):
            self._rewrite(source)
        logger.warning("The progress store answers again.%s", self._told_dropped())
        self._dropped = 0

    def _told_dropped(self) -> str:
        return f" {self._dropped:,} changes of state were dropped meanwhile." if self._dropped else ""


def _add(wanted: dict[Source, Report], source: Source, fields: dict[str, str], *, even_if_empty: bool = False) -> None:
    # Read once: the worker's thread may release the source at any moment.
    attempt = source.open_attempt
    if attempt is not None and attempt.number and (fields or even_if_empty):
        wanted[source] = Report(attempt, fields)


def _settings() -> Configuration:
    # A mistake in the settings is told by whoever needs the store; the thread goes on.
    try:
        return configuration()
    except ImproperlyConfigured:
        return Configuration()


def _jittered(seconds: float) -> float:
    # Many processes lose their store at the same moment, and must not all come back at the same one.
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


_recorder = Recorder()


def get_recorder() -> Recorder:
    """The recorder of this process."""
    return _recorder


def replace_recorder() -> None:
    """Begin anew, as a forked child does: it keeps no messages alive, since the parent goes on working on them."""
    global _recorder
    for source in _recorder.sources():
        source.renew()
    _recorder = Recorder()


os.register_at_fork(after_in_child=replace_recorder)

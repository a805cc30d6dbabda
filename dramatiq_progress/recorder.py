"""The recorder: one background thread in a process that carries what observers hold to the store, many at a time.

It is woken by the first report after a quiet time, and from then on writes at most once every ``FLUSH_INTERVAL``; the
same thread sends the heartbeats of all running messages.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from .conf import configuration
from .errors import StoreUnavailable
from .stores import get_store
from .stores.base import Fence, Report, ReportAnswer

#: The longest pause between two tries to reach a store that does not answer.
LONGEST_PAUSE_SECONDS = 5.0
#: How long `Recorder.stop` waits for the last write.
STOP_TIMEOUT_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Source(Protocol):
    """What the recorder takes from an observer."""

    @property
    def message_id(self) -> str | None:
        """The message's id."""

    @property
    def fence(self) -> Fence | None:
        """What to show with each write; None when there is nothing more to write."""

    def collect(self) -> dict[str, str]:
        """The fields that differ from what is stored. A report that comes later marks the source changed again."""

    def saved(self, fields: Mapping[str, str]) -> None:
        """The store now has these fields."""

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
        self._next_heartbeat = 0.0
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

    def stop(self) -> None:
        """Write what is left and end the thread; the next source starts it anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
            self._wake.set()
        if thread is not None:
            thread.join(STOP_TIMEOUT_SECONDS)

    def _ensure_thread(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._stopping = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stopping,), name="dramatiq-progress-recorder", daemon=True
                )
                self._thread.start()

    def _run(self, stopping: threading.Event) -> None:
        self._next_heartbeat = time.monotonic() + configuration().heartbeat_interval
        while not stopping.is_set():
            self._wait(stopping)
            self._flush()
            stopping.wait(self._pause or configuration().flush_interval)
        self._flush()

    def _wait(self, stopping: threading.Event) -> None:
        self._wake.clear()
        self._idle = True
        # Looked at after `_idle` is set: a report either sees it and wakes us, or is seen here.
        if not self._changed and not stopping.is_set():
            self._wake.wait(max(0.0, self._next_heartbeat - time.monotonic()))
        self._idle = False

    def _flush(self) -> None:
        changed = self._take_changed()
        try:
            self._write(changed, self._take_heartbeats())
        except StoreUnavailable as error:
            self._changed.extend(changed)
            self._back_off(error)
        except Exception:
            # The thread must outlive a mistake of ours: without it every running message would look lost.
            logger.exception("Progress could not be written; the next reports will be.")

    def _take_changed(self) -> list[Source]:
        taken: dict[Source, None] = {}
        while self._changed:
            taken[self._changed.popleft()] = None
        return list(taken)

    def _take_heartbeats(self) -> list[Source]:
        now = time.monotonic()
        if now < self._next_heartbeat:
            return []
        self._next_heartbeat = now + configuration().heartbeat_interval
        return list(self._running)

    def _write(self, changed: Iterable[Source], beating: Iterable[Source]) -> None:
        wanted: dict[Source, Report] = {}
        for source in changed:
            _add(wanted, source, source.collect())
        for source in beating:
            if source not in wanted:
                _add(wanted, source, {}, even_if_empty=True)
        if wanted:
            answers = get_store().report(list(wanted.values()))
            for (source, report), answer in zip(wanted.items(), answers, strict=True):
                self._settle(source, report, answer)
        if self._pause is not None:
            self._pause = None
            logger.warning("The progress store answers again; the newest reports are written.")

    def _settle(self, source: Source, report: Report, answer: ReportAnswer) -> None:
        if answer == "written":
            source.saved(report.fields)
        elif answer == "refused":
            logger.info("Message %s was taken over by another delivery.", report.message_id)
            self.close(source)

    def _back_off(self, error: StoreUnavailable) -> None:
        if self._pause is None:
            logger.warning("Progress is not being written; jobs go on, the newest reports are kept. %s", error)
        self._pause = min(2 * (self._pause or configuration().flush_interval), LONGEST_PAUSE_SECONDS)

    def after_fork(self) -> Recorder:
        """The recorder of a forked child: it keeps no messages alive, since the parent goes on working on them."""
        for source in self._running:
            source.renew()
        return Recorder()


def _add(wanted: dict[Source, Report], source: Source, fields: dict[str, str], *, even_if_empty: bool = False) -> None:
    # Read once: the worker's thread may release the source at any moment.
    message_id, fence = source.message_id, source.fence
    if message_id is not None and fence is not None and (fields or even_if_empty):
        wanted[source] = Report(message_id, fence, fields)


_recorder = Recorder()


def get_recorder() -> Recorder:
    """The recorder of this process."""
    return _recorder


def _replace_after_fork() -> None:
    global _recorder
    _recorder = _recorder.after_fork()


os.register_at_fork(after_in_child=_replace_after_fork)

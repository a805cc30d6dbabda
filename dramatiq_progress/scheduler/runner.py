"""`Runner`: one scheduler process. It sends what is due until it is stopped."""

from __future__ import annotations

import logging
import os
import queue
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.schedules import Schedule, TimesError
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.schedules import EARLY_SECONDS, HOLD_SECONDS, ScheduleRecord, Schedules
from dramatiq_progress.worker.recording.recorder import get_recorder

from .serving import Serving
from .triggers import make_timekeeper
from .turns import Turns

#: How often the runner looks for ticks that are due by the store's clock, by this host's monotonic clock. Restarts,
#: missed ticks and wrong clocks are noticed by this, and never later.
LOOK_INTERVAL_SECONDS = 5.0

#: Number of schedules that are sent at the same time. A message that can't be sent may keep one for long.
MOST_THREADS = 32

#: How long a disagreement of the clocks must have changed by to be logged again.
CLOCK_TOLERANCE = timedelta(seconds=EARLY_SECONDS)

logger = logging.getLogger("dramatiq_progress.scheduler")


class Runner:
    """One scheduler. Any number of them may run, on any hosts.

    Parameters:
      schedules: The schedules.
      store: The store.
    """

    def __init__(self, schedules: Sequence[Schedule], store: Store) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}"
        self._store = store
        self._schedules = Schedules(store)
        self._all = {each.name: Serving(each, self._schedules) for each in schedules}
        self._turns = {name: Turns(each.serve) for name, each in self._all.items()}
        enabled = [each for each in schedules if each.enabled]
        self._timekeeper = make_timekeeper(enabled, self._on_time, self._on_error)
        self._threads = ThreadPoolExecutor(min(max(len(enabled), 1), MOST_THREADS), "dramatiq-progress-schedule")
        # Its put() is safe in a signal handler. True: stop. False: look now.
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_interrupted = False
        self._clock_difference = timedelta(0)
        # Schedules whose last message has a final state that is stored with the schedule.
        self._concluded: dict[str, str] = {}

    def run(self) -> None:
        """Send what is due, until `stop` is called.

        Raises:
          RuntimeError: This host can't start a thread.
        """
        # Later threads may fail to start: what is submitted waits in a queue that all of them share, for this one too.
        self._threads.submit(int)
        logger.info("Scheduler %s starts with %s.", self.id, self._described())
        self.look()
        self._timekeeper.start()
        try:
            while not self._is_stopped():
                self.look()
        finally:
            self._end()

    def stop(self) -> None:
        """End `run` after what is being sent. Safe in a signal handler."""
        self._orders.put(True)

    def look(self) -> None:
        """Serve each schedule with a tick that is due by the store's clock, or a claim that was never confirmed."""
        try:
            records = self._read()
        except StoreUnavailable as error:
            self._note_interruption(error)
            return
        self._note_end_of_interruption()
        for name, record in records.items():
            serving = self._all[name]
            serving.note(record)
            try:
                if serving.schedule.enabled and serving.needs_attention(record):
                    self._serve(name)
            except TimesError as error:
                serving.log_error(error)
        if records:
            self._compare_clocks(next(iter(records.values())).now)
        with suppress(StoreUnavailable):
            self._schedules.keep_alive(self.id)
            self._conclude(records)

    def _read(self) -> dict[str, ScheduleRecord]:
        """Return the records of the schedules, but for those on a node of a cluster that can't be reached."""
        # Their latest ticks from before the store is read: later ones needn't be in what is read.
        known = {name: each.claiming.known for name, each in self._all.items() if each.is_declared}
        records = self._read_each(list(known))
        behind = [self._all[name] for name, each in records.items() if self._all[name].is_ahead_of(each, known[name])]
        self._log_lost([each for each in behind if records[each.schedule.name].last is None])
        missing = [*(each for each in self._all.values() if not each.is_declared), *behind]
        if not missing:
            return records
        declared = self._declare(missing)
        errors = [error for error in declared.values() if error is not None]
        if not records and errors and len(errors) == len(declared):
            raise errors[0]
        return records | self._read_each([name for name, error in declared.items() if error is None])

    def _declare(self, missing: Sequence[Serving]) -> dict[str, StoreUnavailable | None]:
        """Declare schedules to the store, but for those whose trigger raises. Return the store's error of each."""
        now = datetime.now(UTC)
        made = []
        for each in missing:
            try:
                made.append(each.declared(now))
            except TimesError as problem:
                each.is_declared = False
                each.log_error(problem)
        errors = self._schedules.declare(made) if made else []
        found = {each.name: error for each, error in zip(made, errors, strict=True)}
        for name, error in found.items():
            self._all[name].is_declared = error is None
        return found

    def _read_each(self, names: Sequence[str]) -> dict[str, ScheduleRecord]:
        found = dict(zip(names, self._schedules.read_each(names), strict=True))
        records = {name: record for name, record in found.items() if isinstance(record, ScheduleRecord)}
        errors = [record for record in found.values() if isinstance(record, StoreUnavailable)]
        if errors and not records:
            raise errors[0]
        return records

    def _on_time(self, name: str, tick: datetime) -> None:
        """Serve a schedule that is due by this host's clock. Called by APScheduler's thread."""
        self._serve(name, tick)

    def _on_error(self, name: str, error: TimesError) -> None:
        """Log that the trigger of a schedule has raised an error. Called by APScheduler's thread."""
        self._all[name].log_error(error)

    def _serve(self, name: str, tick: datetime | None = None) -> None:
        turns = self._turns[name]
        if turns.request(tick):
            with suppress(RuntimeError):  # the scheduler is stopping, or has one thread less than it could have
                self._threads.submit(turns.run)

    def _is_stopped(self) -> bool:
        """Wait for the time of the next look. Return whether the scheduler is stopped."""
        try:
            return self._orders.get(timeout=LOOK_INTERVAL_SECONDS)
        except queue.Empty:
            return False

    def _end(self) -> None:
        logger.info("Scheduler %s is stopping, after what it is sending now.", self.id)
        self._timekeeper.shutdown(wait=False)
        self._threads.shutdown(cancel_futures=True)
        get_recorder().stop()
        with suppress(StoreUnavailable):
            self._schedules.leave(self.id)
        logger.info("Scheduler %s has stopped.", self.id)

    def _conclude(self, records: dict[str, ScheduleRecord]) -> None:
        """Store the outcome of each last message with its schedule: it outlives the message's own record."""
        pending = {
            name: record.sent_id
            for name, record in records.items()
            if record.sent_id and record.outcome is None and self._concluded.get(name) != record.sent_id
        }
        found = dict(zip(pending, self._store.read(list(pending.values())), strict=True))
        outcomes = {name: (each.id, each.state) for name, each in found.items() if each is not None and each.complete}
        if outcomes:
            self._schedules.conclude(outcomes)
        # Not read again: those that have finished, and those that aren't tracked.
        self._concluded |= {name: pending[name] for name, each in found.items() if each is None or each.complete}

    def _note_interruption(self, error: StoreUnavailable) -> None:
        if not self._is_interrupted:
            self._is_interrupted = True
            logger.warning(
                "Nothing is sent until the progress store answers, since only the store knows what other schedulers "
                'have sent. What is missed meanwhile is decided by the schedules\' "missed". Check the store: %s',
                error,
            )
        if not self._store.health.is_available:
            self._store.health.call_when_available(self._look_now)

    def _note_end_of_interruption(self) -> None:
        if self._is_interrupted:
            self._is_interrupted = False
            logger.info("The progress store answers again; sending what is due.")

    def _log_lost(self, lost: Sequence[Serving]) -> None:
        # Others are only lost since their record has expired.
        names = [each.schedule.name for each in lost if each.is_due_again]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            logger.warning(
                "The progress store has lost the latest times of %s%s. They continue in up to %.0f s, when all running "
                "schedulers have told the store what they know. Check that the store keeps its data.",
                ", ".join(names[:3]),
                more,
                HOLD_SECONDS + LOOK_INTERVAL_SECONDS,
            )

    def _look_now(self) -> None:
        self._orders.put(False)

    def _compare_clocks(self, store_now: datetime) -> None:
        difference = datetime.now(UTC) - store_now
        if abs(difference - self._clock_difference) < CLOCK_TOLERANCE:
            return
        self._clock_difference = difference
        seconds = difference.total_seconds()
        if abs(difference) < CLOCK_TOLERANCE:
            logger.info("This host's clock agrees with the progress store's again.")
            return
        logger.warning(
            "This host's clock is %.0f s %s the progress store's, which decides what is due. This scheduler sends up "
            "to %.0f s late until they agree. Check the time synchronisation (NTP) of both hosts.",
            abs(seconds),
            "ahead of" if seconds > 0 else "behind",
            LOOK_INTERVAL_SECONDS,
        )

    def _described(self) -> str:
        """Return the number of schedules, the one that is due next, and those whose trigger raises."""
        now = datetime.now(UTC)
        enabled = [each for each in self._all.values() if each.schedule.enabled]
        if not enabled:
            return "0 schedules: all are disabled, so nothing is sent"
        due: list[tuple[datetime, Schedule]] = []
        parts: list[str] = []
        for each in enabled:
            try:
                if (tick := each.schedule.after(now)) is not None:
                    due.append((tick, each.schedule))
            except TimesError as error:
                each.log_error(error)
                parts.append(f"{each.schedule.name} can't be sent: {reason_of(error)}")
        count = f"{len(enabled)} schedule{'' if len(enabled) == 1 else 's'}"
        if not due and not parts:
            return f"{count}, none of which is due again"
        if due:
            tick, first = min(due, key=lambda pair: pair[0])
            parts.insert(0, f"next is {first.name} at {first.local(tick)}")
        return "; ".join([count, *parts])

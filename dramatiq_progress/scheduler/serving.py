"""`Serving`: decides which ticks of one schedule are to be sent, and which are skipped."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta

from django.db import close_old_connections

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.schedules import Schedule, TimesError
from dramatiq_progress.stores.schedules import EARLY_SECONDS, Declared, ScheduleRecord, Schedules

from .claiming import LATE, Claiming
from .due import due_ticks
from .targets import has_finished

#: How long ``overlap="skip"`` waits for a message: one that was purged from the broker never finishes.
LONGEST_RUN = timedelta(days=1)

#: How often an error of a schedule's trigger is logged, which is noticed several times a minute.
LOG_INTERVAL_SECONDS = 600.0

logger = logging.getLogger("dramatiq_progress.scheduler")


class Serving:
    """One schedule in one scheduler. `serve` is called by one thread at a time, the other methods by any.

    Parameters:
      schedule: The schedule.
      schedules: The schedules in the store.

    Attributes:
      claiming: Its ticks.
      is_declared: Whether this scheduler has declared it to the store.
    """

    def __init__(self, schedule: Schedule, schedules: Schedules) -> None:
        self.schedule = schedule
        self.claiming = Claiming(schedule, schedules)
        self.is_declared = False
        self._schedules = schedules
        self._is_ahead = False
        self._lock = threading.Lock()
        self._may_log_error_at = 0.0

    def declared(self, now: datetime) -> Declared:
        """Return the schedule as it is declared to the store.

        Raises:
          TimesError: Its trigger has raised an error.
        """
        claiming = self.claiming
        claiming.outlive_pause(now)
        return Declared(self.schedule.name, self.schedule.fingerprint, claiming.ttl, claiming.known, claiming.unsent)

    def note(self, record: ScheduleRecord) -> None:
        """Note the latest tick that any scheduler has claimed."""
        if record.last is None:
            return
        self.claiming.note(record.last)
        was_ahead, self._is_ahead = self._is_ahead, record.last - record.now > timedelta(seconds=EARLY_SECONDS)
        if self._is_ahead and not was_ahead:
            logger.warning(
                "%s isn't sent again before %s, until which it was sent already: the progress store's clock was set "
                "back. Check the time synchronisation (NTP) of the store's host.",
                self.schedule.name,
                self.schedule.local(record.last),
            )

    def is_ahead_of(self, record: ScheduleRecord, known: datetime | None) -> bool:
        """Return whether the store has lost what this scheduler knows.

        Parameters:
          record: The record.
          known: The latest tick that was known to be claimed before it was read.
        """
        if record.last is None or (known is not None and known > record.last):
            return True
        return record.is_held and self.claiming.has_lost(record.open)

    @property
    def is_due_again(self) -> bool:
        """Whether it is enabled, and has a tick after the latest one that is known to be claimed."""
        known = self.claiming.known
        try:
            return self.schedule.enabled and known is not None and self.schedule.after(known) is not None
        except TimesError:
            return False

    def needs_attention(self, record: ScheduleRecord) -> bool:
        """Return whether a tick is due, or a claim may be taken over.

        Raises:
          TimesError: Its trigger has raised an error.
        """
        if self.claiming.is_incomplete(record.open):
            return True
        known = self.claiming.known
        tick = None if known is None else self.schedule.after(known)
        return tick is not None and tick <= record.now

    def log_error(self, error: TimesError) -> None:
        """Log an error of the schedule's trigger, unless that was done a short while ago."""
        with self._lock:
            now = time.monotonic()
            if now < self._may_log_error_at:
                return
            self._may_log_error_at = now + LOG_INTERVAL_SECONDS
        logger.error(
            "Can't compute the times of %s: %s. It isn't sent meanwhile, and is tried again every few seconds; other "
            "schedules aren't affected. Check its trigger.",
            self.schedule.name,
            reason_of(error),
            exc_info=error.__cause__,
        )

    def serve(self, tick: datetime | None) -> None:
        """Send what is due. Errors are logged.

        Parameters:
          tick: The tick that is due by this host's clock. None: the store's clock decides what is due.
        """
        close_old_connections()
        try:
            self._serve(tick)
        except StoreUnavailable as error:
            # The runner logs the outage, once for all schedules.
            logger.debug("Can't serve %s now: %s", self.schedule.name, error)
        except TimesError as error:
            self.log_error(error)
        except Exception:
            logger.exception(
                "Unexpected error in the schedule %s; trying again in some seconds. Please report this as a bug.",
                self.schedule.name,
            )
        finally:
            close_old_connections()

    def _serve(self, tick: datetime | None) -> None:
        self.claiming.confirm_sent()
        # If nothing was missed, it takes one round trip to find out that another scheduler has it. A host that was
        # suspended comes back with the first tick that it missed.
        if tick is None or not self._is_next(tick) or not self.claiming.claim_and_send(tick, at_most=LATE):
            self._catch_up()

    def _is_next(self, tick: datetime) -> bool:
        known = self.claiming.known
        if known is None or self.claiming.is_failing or self.schedule.overlap == "skip":
            return False
        return self.schedule.after(known) == tick

    def _catch_up(self) -> None:
        """Send what is due by the store's clock, and take over claims that were never confirmed."""
        [record] = self._schedules.read([self.schedule.name])
        self.note(record)
        if record.is_held:
            return
        claiming = self.claiming
        claiming.resume(record.open, record.now)
        if record.last is None or claiming.known is None or (claiming.is_failing and record.open):
            return
        due = due_ticks(self.schedule, claiming.known, record.now)
        if due.first is None or due.last is None:
            return
        if self.schedule.overlap == "skip" and due.send and (busy := self._unfinished(record)):
            if claiming.skip(due.last, count=True):
                logger.info(
                    'Skipping %s for %s: its last message %s hasn\'t finished (overlap="skip").',
                    self.schedule.name,
                    self.schedule.local(due.last),
                    busy,
                )
            return
        if not due.send:
            if claiming.skip(due.last, count=False):
                self._log_missed(due.first, due.last, "none of them is sent")
            return
        if due.first < due.send[0]:
            sent = "the latest is sent" if len(due.send) == 1 else f"the latest {len(due.send)} are sent"
            self._log_missed(due.first, due.send[-1], sent)
        for tick in due.send:
            if tick > claiming.known:
                claiming.claim_and_send(tick)

    def _unfinished(self, record: ScheduleRecord) -> str:
        """Return the id of the schedule's message that hasn't finished, or ""."""
        for each in record.open:
            if record.now - each.tick < LONGEST_RUN:
                return each.message_id
        if not record.sent_id or record.sent_tick is None or record.now - record.sent_tick > LONGEST_RUN:
            return ""
        finished = has_finished(self.schedule.target, record.sent_id, self._schedules.store)
        return "" if finished else record.sent_id

    def _log_missed(self, first: datetime, last: datetime, sent: str) -> None:
        schedule = self.schedule
        second = schedule.after(first)
        if second is None or second > last:
            # `last` needn't be a tick: a schedule that was due once would seem to have been due for days.
            missed, sent = f"tick of {schedule.local(first)}", "it isn't sent"
        else:
            missed = f"ticks from {schedule.local(first)} to {schedule.local(last)}"
        logger.warning(
            '%s missed its %s: %s (missed="%s", grace=%g).',
            schedule.name,
            missed,
            sent,
            schedule.missed,
            schedule.grace,
        )

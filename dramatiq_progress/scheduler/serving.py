"""`Serving`: sends the ticks of one schedule that this scheduler gets, each by claim, send and confirmation."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from uuid import uuid4

from django.db import close_old_connections

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.schedules import Schedule
from dramatiq_progress.stores.schedules import (
    EARLY_SECONDS,
    LEASE_SECONDS,
    RECORD_SECONDS,
    Declared,
    Open,
    ScheduleRecord,
    Schedules,
)

from .due import due_ticks
from .targets import has_finished, send, was_delivered

#: How long ``overlap="skip"`` waits for a message: one that was purged from the broker never finishes.
LONGEST_RUN = timedelta(days=1)
#: From this lateness on, later ticks may be due as well, and the log says how late a message was sent.
LATE = timedelta(seconds=2)

logger = logging.getLogger("dramatiq_progress.scheduler")


class Serving:
    """One schedule in one scheduler. `serve` is called by one thread at a time, the other methods by any.

    Parameters:
      schedule: The schedule.
      schedules: The schedules in the store.

    Attributes:
      known: The latest tick that is known to be claimed, by any scheduler.
      is_declared: Whether this scheduler has declared it to the store.
    """

    def __init__(self, schedule: Schedule, schedules: Schedules) -> None:
        self.schedule = schedule
        self.known: datetime | None = None
        self.is_declared = False
        self._schedules = schedules
        # Message ids by tick: claims whose answer was lost, and messages that were sent and not confirmed.
        self._claimed: dict[datetime, str] = {}
        self._unconfirmed: dict[datetime, str] = {}
        # Whether the last message could not be sent. No further tick is claimed then: once the broker is back, all of
        # them would be sent, whatever `missed` says.
        self._is_failing = False
        self._is_ahead = False
        self._ttl = RECORD_SECONDS

    def declared(self, now: datetime) -> Declared:
        """Return the schedule as it is declared to the store."""
        first = self.schedule.times.after(now)
        second = None if first is None else self.schedule.times.after(first)
        if first is not None:
            # It must outlive the pause between two ticks of a schedule that is seldom due.
            pause = max(first - now, (second or first) - first)
            self._ttl = max(RECORD_SECONDS, 2 * pause.total_seconds())
        return Declared(self.schedule.name, self.schedule.fingerprint, self._ttl, self.known)

    def note(self, record: ScheduleRecord) -> None:
        """Note the latest tick that any scheduler has claimed."""
        if record.last is None:
            return
        if self.known is None or record.last > self.known:
            self.known = record.last
        was_ahead, self._is_ahead = self._is_ahead, record.last - record.now > timedelta(seconds=EARLY_SECONDS)
        if self._is_ahead and not was_ahead:
            logger.warning(
                "%s isn't sent again before %s, until which it was sent already: the progress store's clock was set "
                "back. Check the time synchronisation (NTP) of the store's host.",
                self.schedule.name,
                self._local(record.last),
            )

    def needs_attention(self, record: ScheduleRecord) -> bool:
        """Return whether a tick is due, or one that was claimed may have come to nothing."""
        if self._unconfirmed or any(self._may_take(each) for each in record.open):
            return True
        tick = None if self.known is None else self.schedule.times.after(self.known)
        return tick is not None and tick <= record.now

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
        except Exception:
            logger.exception(
                "Unexpected error in the schedule %s; trying again in some seconds. Please report this as a bug.",
                self.schedule.name,
            )
        finally:
            close_old_connections()

    def _serve(self, tick: datetime | None) -> None:
        for sent_tick, message_id in list(self._unconfirmed.items()):
            self._confirm(sent_tick, message_id)
        # If nothing was missed, it takes one round trip to find out that another scheduler has it. A host that was
        # suspended comes back with the first tick that it missed.
        if tick is None or not self._is_next(tick) or not self._claim_and_send(tick, at_most=LATE):
            self._catch_up()

    def _is_next(self, tick: datetime) -> bool:
        if self.known is None or self._is_failing or self.schedule.overlap == "skip":
            return False
        return self.schedule.times.after(self.known) == tick

    def _catch_up(self) -> None:
        """Send what is due by the store's clock, and what was claimed and came to nothing."""
        [record] = self._schedules.read([self.schedule.name])
        self.note(record)
        self._resume(record)
        if record.last is None or self.known is None or (self._is_failing and record.open):
            return
        due = due_ticks(self.schedule, self.known, record.now)
        if due.first is None or due.last is None:
            return
        if self.schedule.overlap == "skip" and due.send and (busy := self._unfinished(record)):
            if self._skip(due.last, count=True):
                logger.info(
                    'Skipping %s for %s: its last message %s hasn\'t finished (overlap="skip").',
                    self.schedule.name,
                    self._local(due.last),
                    busy,
                )
            return
        if not due.send:
            if self._skip(due.last, count=False):
                self._log_missed(due.first, due.last, "none of them is sent")
            return
        if due.first < due.send[0]:
            sent = "the latest is sent" if len(due.send) == 1 else f"the latest {len(due.send)} are sent"
            self._log_missed(due.first, due.send[-1], sent)
        for tick in due.send:
            if tick > self.known:
                self._claim_and_send(tick)

    def _resume(self, record: ScheduleRecord) -> None:
        """Send what was claimed and came to nothing, and forget own claims that another scheduler got."""
        for each in record.open:
            if self._may_take(each):
                self._take_over(each, record.now)
        still_open = {each.message_id for each in record.open}
        self._claimed = {
            tick: message_id
            for tick, message_id in self._claimed.items()
            if self.known is None or tick > self.known or message_id in still_open
        }

    def _claim_and_send(self, tick: datetime, *, at_most: timedelta = timedelta.max) -> bool:
        """Claim a tick, and send its message if this scheduler gets it. Return whether any scheduler has it.

        Parameters:
          at_most: How late it may be, within its grace period.
        """
        late = min(at_most.total_seconds(), self.schedule.grace)
        message_id = self._claimed.setdefault(tick, str(uuid4()))
        began = time.monotonic()
        claim = self._schedules.claim(self.schedule.name, tick, message_id, ttl=self._ttl, late=late)
        if claim.last is not None and (self.known is None or claim.last > self.known):
            self.known = claim.last
        del self._claimed[tick]
        if claim.verdict == "claimed":
            self._send(tick, claim.message_id, late=claim.now - tick, began=began)
        return claim.verdict in ("claimed", "taken")

    def _take_over(self, each: Open, now: datetime) -> None:
        """Send the message of a tick that was claimed, and may not have been sent."""
        own_id = self._claimed.get(each.tick)
        message_id = own_id or each.message_id
        if own_id is None and was_delivered(self.schedule.target, message_id, self._schedules.store):
            self._confirm(each.tick, message_id)
            return
        if now - each.tick > timedelta(seconds=self.schedule.grace):
            logger.error(
                "Giving up %s for %s: it could not be sent within its grace period of %g s. Check the broker.",
                self.schedule.name,
                self._local(each.tick),
                self.schedule.grace,
            )
            self._confirm(each.tick, "")
            return
        if own_id is None and not self._is_failing:
            logger.warning(
                "Sending %s for %s: another scheduler claimed it %.0f s ago and hasn't confirmed that it was sent. If "
                "it was, its message %s is sent twice.",
                self.schedule.name,
                self._local(each.tick),
                each.age,
                message_id,
            )
        self._claim_and_send(each.tick)

    def _send(self, tick: datetime, message_id: str, *, late: timedelta, began: float) -> None:
        schedule = self.schedule
        if time.monotonic() - began > LEASE_SECONDS / 2 and not self._is_still_claimed(tick, message_id):
            # This process was suspended. Another scheduler has sent it, or it is given up at the next look.
            return
        try:
            sent_id = send(schedule.target, schedule.args, schedule.kwargs, message_id)
        except Exception as error:
            logger.log(
                logging.DEBUG if self._is_failing else logging.ERROR,
                "Could not send %s for %s: %s: %s. Trying again about every %.0f s, from any scheduler, until it is "
                "%g s late. Check the broker.",
                schedule.name,
                self._local(tick),
                type(error).__name__,
                error,
                LEASE_SECONDS,
                schedule.grace,
            )
            self._is_failing = True
            return
        self._is_failing = False
        lateness = f", {late.total_seconds():.0f} s late" if late >= LATE else ""
        logger.info("Sent %s for %s%s: message %s.", schedule.name, self._local(tick), lateness, sent_id)
        self._unconfirmed[tick] = sent_id
        self._confirm(tick, sent_id)

    def _is_still_claimed(self, tick: datetime, message_id: str) -> bool:
        claim = self._schedules.claim(self.schedule.name, tick, message_id, ttl=self._ttl, late=self.schedule.grace)
        return claim.verdict == "claimed"

    def _confirm(self, tick: datetime, message_id: str) -> None:
        self._schedules.confirm(self.schedule.name, tick, message_id, ttl=self._ttl)
        self._unconfirmed.pop(tick, None)

    def _skip(self, tick: datetime, *, count: bool) -> bool:
        claim = self._schedules.skip(self.schedule.name, tick, count=count, ttl=self._ttl)
        self.known = claim.last or self.known
        return claim.verdict == "claimed"

    def _may_take(self, each: Open) -> bool:
        if each.tick in self._unconfirmed:
            return False
        if self._claimed.get(each.tick) == each.message_id:
            return True
        # After an outage of the store, the scheduler that has sent it confirms it first.
        return each.age >= LEASE_SECONDS and self._schedules.store.health.available_seconds >= LEASE_SECONDS

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
        logger.warning(
            '%s missed its ticks from %s to %s: %s (missed="%s", grace=%g).',
            self.schedule.name,
            self._local(first),
            self._local(last),
            sent,
            self.schedule.missed,
            self.schedule.grace,
        )

    def _local(self, moment: datetime) -> str:
        return f"{moment.astimezone(self.schedule.zone):%Y-%m-%d %H:%M:%S %Z}"

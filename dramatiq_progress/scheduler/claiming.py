"""`Claiming`: the ticks of one schedule that this scheduler claims, sends and confirms."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import uuid4

from dramatiq_progress.error_texts import described
from dramatiq_progress.schedules import Schedule, TimesError
from dramatiq_progress.stores.schedules import LEASE_SECONDS, RECORD_SECONDS, Open, Schedules

from .targets import send, was_delivered

#: From this lateness on, later ticks may be due as well, and the log says how late a message was sent.
LATE = timedelta(seconds=2)

#: This scheduler hasn't tried to send it, or was frozen before it could.
_UNKNOWN_REASON = "The scheduler that claimed it was killed or frozen, or its log says why it could not send it."

logger = logging.getLogger("dramatiq_progress.scheduler")


class Claiming:
    """The ticks of one schedule in one scheduler: claim, send and confirmation of each.

    Parameters:
      schedule: The schedule.
      schedules: The schedules in the store.

    Attributes:
      known: The latest tick that is known to be claimed, by any scheduler.
      ttl: Seconds to keep the schedule's record.
      is_failing: Whether the last message could not be sent. No further tick is claimed then: once the broker is back,
        all of them would be sent, whatever `missed` says.
    """

    def __init__(self, schedule: Schedule, schedules: Schedules) -> None:
        self.known: datetime | None = None
        self.ttl = RECORD_SECONDS
        self.is_failing = False
        self._schedule = schedule
        self._schedules = schedules
        # Message ids by tick: claims whose answer was lost, and messages that were sent and not confirmed.
        self._claimed: dict[datetime, str] = {}
        self._unconfirmed: dict[datetime, str] = {}
        # Those that are claimed and not sent, which the store may lose.
        self._unsent: dict[datetime, str] = {}

    def outlive_pause(self, moment: datetime) -> None:
        """Let the record outlive the pause that begins now: a schedule may be seldom due, or not for most of a year.

        Raises:
          TimesError: The schedule's trigger has raised an error.
        """
        if (following := self._schedule.after(moment)) is not None:
            self.ttl = max(RECORD_SECONDS, 2 * (following - moment).total_seconds())

    def note(self, last: datetime | None) -> None:
        """Note the latest tick that a scheduler has claimed."""
        if last is not None and (self.known is None or last > self.known):
            self.known = last

    @property
    def unsent(self) -> dict[datetime, str]:
        """The ticks that this scheduler has claimed and not sent, with their message ids."""
        return dict(self._unsent)

    def is_incomplete(self, opened: Sequence[Open]) -> bool:
        """Return whether a message is to be confirmed, or a claim may be taken over."""
        return bool(self._unconfirmed) or any(self._may_take(each) for each in opened) or self.has_lost(opened)

    def has_lost(self, opened: Sequence[Open]) -> bool:
        """Return whether a tick that this scheduler has claimed and not sent is no longer open in the store."""
        return not self._unsent.keys() <= {each.tick for each in opened}

    def confirm_sent(self) -> None:
        """Confirm the messages whose confirmation has failed."""
        for tick, message_id in list(self._unconfirmed.items()):
            self._confirm(tick, message_id)

    def resume(self, opened: Sequence[Open], now: datetime) -> None:
        """Take over claims that were never confirmed, and drop own claims that another scheduler has."""
        for each in opened:
            if self._may_take(each):
                self._take_over(each, now)
        still_open = {each.message_id for each in opened}
        self._unsent = {tick: message_id for tick, message_id in self._unsent.items() if message_id in still_open}
        self._claimed = {
            tick: message_id
            for tick, message_id in self._claimed.items()
            if self.known is None or tick > self.known or message_id in still_open
        }

    def claim_and_send(self, tick: datetime, *, at_most: timedelta = timedelta.max) -> bool:
        """Claim a tick, and send its message if this scheduler gets it. Return whether any scheduler has it.

        Parameters:
          at_most: How late it may be, within its grace period.
        """
        late = min(at_most.total_seconds(), self._schedule.grace)
        message_id = self._claimed.setdefault(tick, str(uuid4()))
        began = time.monotonic()
        claim = self._schedules.claim(self._schedule.name, tick, message_id, ttl=self._ttl_after(tick), late=late)
        self.note(claim.last)
        del self._claimed[tick]
        if claim.verdict == "claimed":
            self._send(tick, claim.message_id, late=claim.now - tick, began=began)
        return claim.verdict in ("claimed", "taken")

    def skip(self, tick: datetime, *, count: bool) -> bool:
        """Claim a tick, and all before it, in order not to send them. Return whether this scheduler got it.

        Parameters:
          count: Whether it counts as skipped.
        """
        claim = self._schedules.skip(self._schedule.name, tick, count=count, ttl=self._ttl_after(tick))
        self.note(claim.last)
        return claim.verdict == "claimed"

    def _ttl_after(self, tick: datetime) -> float:
        # An error in what follows this tick is logged when that is due.
        with suppress(TimesError):
            self.outlive_pause(tick)
        return self.ttl

    def _take_over(self, each: Open, now: datetime) -> None:
        """Send the message of a tick that was claimed, and may not have been sent."""
        own_id = self._claimed.get(each.tick)
        message_id = own_id or each.message_id
        if own_id is None and was_delivered(self._schedule.target, message_id, self._schedules.store):
            self._confirm(each.tick, message_id)
            return
        if now - each.tick > timedelta(seconds=self._schedule.grace):
            logger.error(
                "Giving up %s for %s: its grace period of %g s is over, and it isn't known to have been sent. %s",
                self._schedule.name,
                self._schedule.local(each.tick),
                self._schedule.grace,
                "Check the broker." if self.is_failing else _UNKNOWN_REASON,
            )
            self._confirm(each.tick, "")
            return
        if own_id is None and not self.is_failing:
            logger.warning(
                "Sending %s for %s: another scheduler claimed it %.0f s ago and hasn't confirmed that it was sent. If "
                "it was, its message %s is sent twice.",
                self._schedule.name,
                self._schedule.local(each.tick),
                each.age,
                message_id,
            )
        self.claim_and_send(each.tick)

    def _send(self, tick: datetime, message_id: str, *, late: timedelta, began: float) -> None:
        schedule = self._schedule
        self._unsent[tick] = message_id
        if time.monotonic() - began > LEASE_SECONDS / 2 and not self._is_still_claimed(tick, message_id):
            # This process was suspended. Another scheduler has sent it, it is given up at the next look, or the store
            # has lost it, and is told then.
            return
        try:
            sent_id = send(schedule.target, schedule.args, schedule.kwargs, message_id)
        except Exception as error:
            logger.log(
                logging.DEBUG if self.is_failing else logging.ERROR,
                "Could not send %s for %s: %s. Trying again about every %.0f s, from any scheduler, until it is "
                "%g s late. Check the broker.",
                schedule.name,
                schedule.local(tick),
                described(error),
                LEASE_SECONDS,
                schedule.grace,
            )
            self.is_failing = True
            return
        self.is_failing = False
        lateness = f", {late.total_seconds():.0f} s late" if late >= LATE else ""
        logger.info("Sent %s for %s%s: message %s.", schedule.name, schedule.local(tick), lateness, sent_id)
        self._unconfirmed[tick] = sent_id
        self._unsent.pop(tick, None)
        self._confirm(tick, sent_id)

    def _is_still_claimed(self, tick: datetime, message_id: str) -> bool:
        claim = self._schedules.claim(self._schedule.name, tick, message_id, ttl=self.ttl, late=self._schedule.grace)
        return claim.verdict == "claimed"

    def _confirm(self, tick: datetime, message_id: str) -> None:
        self._schedules.confirm(self._schedule.name, tick, message_id, ttl=self.ttl)
        self._unconfirmed.pop(tick, None)

    def _may_take(self, each: Open) -> bool:
        if each.tick in self._unconfirmed:
            return False
        if self._claimed.get(each.tick) == each.message_id:
            return True
        # After an outage of the store, the scheduler that has sent it confirms it first.
        return each.age >= LEASE_SECONDS and self._schedules.store.health.available_seconds >= LEASE_SECONDS

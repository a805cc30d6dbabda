"""The times at which a schedule is due: a cron expression, an interval, one moment, or a trigger of APScheduler.

Each is a `Times`. All moments are aware, and those that are returned are in UTC. Nothing here imports APScheduler, so
that workers and web servers don't either.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol

from cronsim import CronSim, CronSimError

from dramatiq_progress.conf import LONGEST_SECONDS
from dramatiq_progress.error_texts import show

#: Cron's names for expressions. Its ``@reboot`` has no meaning here: any number of schedulers may start at any time.
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

#: What cronsim's errors mean.
_FIELDS = {
    "minute": "the first field, the minute, is 0-59",
    "hour": "the second field, the hour, is 0-23",
    "day-of-month": "the third field, the day of the month, is 1-31, and one of the months must have it",
    "month": "the fourth field, the month, is 1-12 or jan-dec",
    "day-of-week": "the fifth field, the day of the week, is 0-7 (0 and 7 are Sunday) or sun-sat, and a range rises",
}

#: When the clocks are set back, cronsim returns repeated times that have passed: at most one a minute. Most zones
#: repeat an hour, Antarctica/Troll two, and one that moves to the other side of the date line a day.
_REPEATED_TIMES = 24 * 60

_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class Times(Protocol):
    """The times at which a schedule is due: its ticks.

    Attributes:
      words: The times in English.
      fingerprint: A text that is equal for equal times.
    """

    @property
    def words(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after a moment, in UTC. None if there is none."""


class Cron:
    """The times of a cron expression, by the rules of Debian's cron.

    A job at a fixed time runs once a day, whatever the clocks do: at the first minute after a gap, and in the first of
    two equal hours. One whose minute or hour starts with ``*`` runs by real time.

    Parameters:
      expression: Five fields, or one of `ALIASES`.
      zone: The time zone.

    Raises:
      ValueError: The expression is invalid, or is never due.
    """

    def __init__(self, expression: str, zone: tzinfo) -> None:
        if not isinstance(expression, str):
            raise ValueError(f"cron={show(expression)} is not a string such as '0 3 * * *'.")
        self.expression = " ".join(expression.split())
        self.zone = zone
        self._fields = ALIASES.get(self.expression.lower(), self.expression)
        if self._fields.startswith("@"):
            raise ValueError(f"cron={show(expression)} has an unknown name; use one of {', '.join(ALIASES)}.")
        if (count := len(self._fields.split())) != 5:
            raise ValueError(
                f"cron={show(expression)} has {count} field{'' if count == 1 else 's'}; use five: minute, hour, day of "
                "the month, month, day of the week."
            )
        try:
            simulated = CronSim(self._fields, datetime(2000, 1, 1))
            next(simulated)
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            raise ValueError(f"cron={show(expression)} is invalid: {_FIELDS.get(field, str(error))}.") from None
        except StopIteration:
            raise ValueError(f"cron={show(expression)} is never due; check its day and its month.") from None
        self._words = simulated.explain()
        # The last answer, which is that for every moment between the two.
        self._last: tuple[datetime, datetime] | None = None

    @property
    def words(self) -> str:
        return self._words

    @property
    def fingerprint(self) -> str:
        return f"cron {self._fields.upper()} {self.zone}"

    def after(self, moment: datetime) -> datetime | None:
        if (last := self._last) is not None and last[0] <= moment < last[1]:
            return last[1]
        simulated = CronSim(self._fields, moment.astimezone(self.zone))
        for _ in range(_REPEATED_TIMES + 1):
            tick = next(simulated).astimezone(UTC)
            if tick > moment:
                self._last = (moment, tick)
                return tick
        raise AssertionError(f"{self.fingerprint} has no tick after {moment}")


class Every:
    """The times of an interval, counted from the epoch: every process computes the same.

    Parameters:
      interval: A number of seconds, or a timedelta.

    Raises:
      ValueError: It isn't a whole number of seconds, is less than one, or more than ten years.
    """

    def __init__(self, interval: float | timedelta) -> None:
        seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 1 <= seconds <= LONGEST_SECONDS or seconds % 1:
            raise ValueError(
                f"every={show(interval)} is not a whole number of seconds from 1 to {LONGEST_SECONDS:,}, such as "
                "every=3600, nor a timedelta of that, such as every=timedelta(hours=1)."
            )
        self.interval = timedelta(seconds=seconds)

    @property
    def words(self) -> str:
        seconds = self.interval // _SECOND
        unit, size = next((unit, size) for unit, size in _UNITS if seconds % size == 0)
        count = seconds // size
        return f"Every {unit}" if count == 1 else f"Every {count:,} {unit}s"

    @property
    def fingerprint(self) -> str:
        return f"every {self.interval // _SECOND}"

    def after(self, moment: datetime) -> datetime | None:
        return _EPOCH + ((moment - _EPOCH) // self.interval + 1) * self.interval


class At:
    """One moment.

    Parameters:
      moment: The moment; a naive one is in the time zone.
      zone: The time zone.

    Raises:
      ValueError: It isn't a datetime, or UTC has none for it.
    """

    def __init__(self, moment: datetime, zone: tzinfo) -> None:
        if not isinstance(moment, datetime):
            raise ValueError(f"at={show(moment)} is not a datetime, such as at=datetime(2030, 1, 1, 3, 0).")
        self.moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        try:
            self._in_utc = self.moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"at={show(moment)} is outside the years 1 to 9999 in UTC.") from None

    @property
    def words(self) -> str:
        return f"Once, at {self.moment:%Y-%m-%d %H:%M:%S %Z}".replace(":00 ", " ")

    @property
    def fingerprint(self) -> str:
        return f"at {self._in_utc.isoformat()}"

    def after(self, moment: datetime) -> datetime | None:
        return self._in_utc if self._in_utc > moment else None


class Triggered:
    """The times of a trigger of APScheduler 3.

    Parameters:
      trigger: The trigger.

    Raises:
      ValueError: It isn't a trigger, is a class, or each process would compute other times.
    """

    def __init__(self, trigger: Any) -> None:
        if not callable(getattr(trigger, "get_next_fire_time", None)):
            raise ValueError(
                f"trigger={show(trigger)} is not a trigger of APScheduler 3, such as "
                'trigger=CronTrigger(day="last", hour=3).'
            )
        _check_same_everywhere(trigger)
        self.trigger = trigger
        # The last tick that was found, to continue from: some triggers only count from their start.
        self._found: datetime | None = None

    @property
    def words(self) -> str:
        return str(self.trigger)

    @property
    def fingerprint(self) -> str:
        return f"trigger {self.trigger!r}"

    def after(self, moment: datetime) -> datetime | None:
        found = self._found if self._found is not None and self._found <= moment else None
        tick = self.trigger.get_next_fire_time(found, moment + _MICROSECOND)
        while tick is not None and tick <= moment:
            self._found = tick
            tick = self.trigger.get_next_fire_time(tick, moment + _MICROSECOND)
        return None if tick is None else tick.astimezone(UTC)


def _check_same_everywhere(trigger: Any) -> None:
    """Raise ValueError if each process has other times for a trigger, or for one of those that it combines."""
    if isinstance(trigger, type):
        raise ValueError(
            f"trigger={show(trigger)} is a class. Pass an instance of it, with its options, such as "
            'trigger=CronTrigger(day="last", hour=3).'
        )
    for each in getattr(trigger, "triggers", ()):
        _check_same_everywhere(each)
    if repr(trigger) == object.__repr__(trigger):
        raise ValueError(
            f"trigger={show(trigger)} is shown with its address, so that its times seem to change with each start. "
            "Give its class a __repr__ that shows its options."
        )
    if getattr(trigger, "jitter", None):
        raise ValueError(f"trigger={show(trigger)} has a jitter, so that each scheduler has other times. Omit it.")
    start, now = getattr(trigger, "start_date", getattr(trigger, "run_date", None)), datetime.now(UTC)
    interval = getattr(trigger, "interval", timedelta(0))
    is_now = isinstance(start, datetime) and abs(start - interval - now) < timedelta(minutes=1)
    if is_now or (start is not None and not isinstance(start, datetime) and start == datetime.now().date()):
        raise ValueError(
            f"trigger={show(trigger)} starts when the process starts, so that each scheduler has other times. "
            'Give it a start_date in the past, such as start_date="2026-01-01", or a DateTrigger its run_date.'
        )

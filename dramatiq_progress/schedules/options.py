"""The options of a schedule: validated, they become a `Schedule`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

from dramatiq_progress.conf import LONGEST_SECONDS
from dramatiq_progress.error_texts import described, show

from .times import At, Cron, Every, Times, Triggered

#: The options that say when, of which a schedule has exactly one.
WHEN = ("cron", "every", "at", "trigger")
OPTIONS = (*WHEN, "timezone", "args", "kwargs", "missed", "grace", "overlap")
MISSED = ("once", "all", "skip")
OVERLAP = ("allow", "skip")

Missed = Literal["once", "all", "skip"]
Overlap = Literal["allow", "skip"]

DEFAULT_GRACE = timedelta(hours=1)

_NAME = re.compile(r"\S{1,200}")


class TimesError(Exception):
    """The next time of a schedule can't be computed: its trigger, which may be a project's own, has raised an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An actor or a task that is sent again and again, and the times.

    Attributes:
      name: Its name, which is unique.
      target: The actor or the task.
      times: The times at which it is due.
      zone: The time zone in which its times are shown: that of its trigger, if it has one.
      args: Positional arguments of each message.
      kwargs: Keyword arguments of each message.
      missed: What is sent after an outage, of the ticks that were missed: the latest, all of them (at most 100), or
        none.
      grace: Seconds after which a tick is too late to be sent, whatever `missed` is.
      overlap: Whether a tick is skipped while the last message hasn't finished.
      enabled: Whether it is sent at all.
    """

    name: str
    target: Any
    times: Times
    zone: tzinfo
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    missed: Missed
    grace: float
    overlap: Overlap
    enabled: bool

    @property
    def fingerprint(self) -> str:
        """A text that changes with the times. Ticks from before a change aren't due."""
        return self.times.fingerprint if self.enabled else "disabled"

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after a moment, in UTC. None if there is none.

        Raises:
          TimesError: The trigger has raised an error.
        """
        try:
            return self.times.after(moment)
        except Exception as error:
            raise TimesError(described(error)) from error

    def local(self, moment: datetime) -> str:
        """Return a moment in the schedule's time zone, as the log shows it."""
        return f"{moment.astimezone(self.zone):%Y-%m-%d %H:%M:%S %Z}"


def build_schedule(
    name: str, target: Any, options: Mapping[str, Any], *, default_zone: str, enabled: object = True
) -> Schedule:
    """Return the schedule of these options.

    Raises:
      ValueError: An option is invalid.
    """
    zone = _zone(options.get("timezone") or default_zone)
    missed, overlap = options.get("missed", "once"), options.get("overlap", "allow")
    args, kwargs = options.get("args", ()), options.get("kwargs", {})
    grace = options.get("grace", DEFAULT_GRACE)
    seconds = grace.total_seconds() if isinstance(grace, timedelta) else grace
    if missed not in MISSED:
        raise ValueError(f"missed={show(missed)} is not one of {', '.join(map(repr, MISSED))}.")
    if overlap not in OVERLAP:
        raise ValueError(f"overlap={show(overlap)} is not one of {', '.join(map(repr, OVERLAP))}.")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(
            f"grace={show(grace)} is not a positive number of seconds up to {LONGEST_SECONDS:,}, such as grace=600, "
            "nor such a timedelta."
        )
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise ValueError(
            f"args={show(args)} and kwargs={show(kwargs)} must be a tuple or list, and a dict, as in "
            'args=["people.csv"], kwargs={"dry_run": True}.'
        )
    if not isinstance(enabled, bool):
        raise ValueError(f"enabled={show(enabled)} is not True or False.")
    times = _times(options, zone)
    return Schedule(
        name=name,
        target=target,
        times=times,
        zone=_shown_zone(options, zone) if isinstance(times, Triggered) else zone,
        args=tuple(args),
        kwargs=dict(kwargs),
        missed=missed,
        grace=float(seconds),
        overlap=overlap,
        enabled=enabled,
    )


def _times(options: Mapping[str, Any], zone: ZoneInfo) -> Times:
    given = [key for key in WHEN if options.get(key) is not None]
    if len(given) != 1:
        raise ValueError(f"Use exactly one of {', '.join(WHEN)}; given: {', '.join(given) or 'none'}.")
    value = options[given[0]]
    match given[0]:
        case "cron":
            return Cron(value, zone)
        case "every":
            return Every(value)
        case "at":
            return At(value, zone)
        case _:
            return Triggered(value)


def _shown_zone(options: Mapping[str, Any], zone: ZoneInfo) -> tzinfo:
    """Return the zone of a trigger, or the schedule's if the trigger has none or combines several.

    Raises:
      ValueError: The option ``timezone`` names another one, which the trigger would ignore.
    """
    own = {str(each): each for each in _zones_of(options["trigger"])}
    named = options.get("timezone")
    if named and (others := sorted(name for name, each in own.items() if not _is_same(each, zone))):
        raise ValueError(
            f"timezone={show(named)} has no effect on trigger={show(options['trigger'])}, which has a time zone of its "
            f'own, {", ".join(others)}. Give it that time zone itself, as in CronTrigger(…, timezone="{named}").'
        )
    shown = own.popitem()[1] if len(own) == 1 else zone
    return shown if isinstance(shown, tzinfo) else zone


def _is_same(one: Any, other: tzinfo) -> bool:
    """Return whether two time zones agree in each month of this year. A zone has several names: UTC and Etc/UTC."""
    if not isinstance(one, tzinfo):
        return str(one) == str(other)
    months = [datetime(datetime.now(other).year, month, 15) for month in range(1, 13)]
    return all(one.utcoffset(each) == other.utcoffset(each) for each in months)


def _zones_of(trigger: Any) -> Iterator[Any]:
    """Yield the time zones of a trigger, and of those that it combines."""
    if (zone := getattr(trigger, "timezone", None)) is not None:
        yield zone
    for each in getattr(trigger, "triggers", ()):
        yield from _zones_of(each)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, TypeError, ValueError, OSError):
        raise ValueError(f'timezone={show(name)} is not an IANA name such as "Europe/Berlin".') from None


def is_name(text: object) -> bool:
    """Return whether this can be a schedule's name: 1 to 200 printable characters without white space."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and text.isprintable()

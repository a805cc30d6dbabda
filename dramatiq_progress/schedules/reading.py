"""`get_schedules`: when each schedule is due next, and how its last run went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dramatiq_progress.progress import Progress, State
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.schedules import ScheduleRecord, Schedules

from .declaring import name_of, valid_schedules
from .options import Schedule, TimesError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus:
    """A schedule, and how its last run went.

    Attributes:
      name: Its name.
      sends: The name of its actor, or the path of its task.
      runs: Its times in English, such as "At 03:00 every day".
      enabled: Whether it is sent.
      next_at: The next tick, in its time zone. None if there is none, it isn't enabled, or `error` says why.
      error: The error of its trigger, because of which the next tick is unknown. Empty without one.
      last_at: The tick that was sent last, in its time zone. None before the first.
      last_message_id: The id of the message of that tick. None before the first.
      last_progress: The progress of that message. None if it isn't tracked, or its record has expired.
      last_state: The state of that message, also after its record has expired. None if it is unknown.
      sent: Number of messages that were sent.
      skipped: Number of ticks that were skipped because the last message hadn't finished.
    """

    name: str
    sends: str
    runs: str
    enabled: bool
    next_at: datetime | None
    last_at: datetime | None
    last_message_id: str | None
    last_progress: Progress | None
    last_state: State | None
    sent: int
    skipped: int
    error: str = ""


def get_schedules() -> list[ScheduleStatus]:
    """Return all schedules by name, each with its next time and how its last run went.

    Raises:
      StoreUnavailable: The store can't be reached.
      ImproperlyConfigured: A declaration is wrong.
    """
    schedules = valid_schedules()
    store = get_store()
    records = Schedules(store).read([each.name for each in schedules])
    sent = [record.sent_id for record in records if record.sent_id]
    progress = dict(zip(sent, store.read(sent), strict=True))
    return [_status(each, record, progress) for each, record in zip(schedules, records, strict=True)]


def have_seconds(statuses: Sequence[ScheduleStatus]) -> bool:
    """Return whether a list of these shows its times with seconds: all of them, or none if all are whole minutes."""
    return any(moment.second for each in statuses for moment in (each.next_at, each.last_at) if moment is not None)


def live_schedulers() -> list[str]:
    """Return the running schedulers, each as ``host:pid``.

    Raises:
      StoreUnavailable: The store can't be reached.
    """
    return Schedules(get_store()).live()


def _status(schedule: Schedule, record: ScheduleRecord, progress: Mapping[str, Progress | None]) -> ScheduleStatus:
    def local(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.astimezone(schedule.zone)

    last = progress.get(record.sent_id)
    tick, problem = None, ""
    try:
        tick = schedule.after(record.now) if schedule.enabled else None
    except TimesError as error:
        problem = str(error)
    return ScheduleStatus(
        name=schedule.name,
        sends=name_of(schedule.target),
        runs=schedule.times.words,
        enabled=schedule.enabled,
        next_at=local(tick),
        last_at=local(record.sent_tick),
        last_message_id=record.sent_id or None,
        last_progress=last,
        last_state=record.outcome if last is None else last.state,
        sent=record.sent,
        skipped=record.skipped,
        error=problem,
    )

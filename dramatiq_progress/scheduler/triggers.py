"""APScheduler's side: a trigger for the times of a schedule, and an executor that hands over what is due.

APScheduler keeps the time by this host's clock, which makes ticks punctual. Whether a tick is due is decided by the
store's clock: see serving.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from dramatiq_progress.schedules import Schedule, TimesError

#: How long after an error of a schedule's trigger its next time is computed again.
RETRY_AFTER = timedelta(seconds=5)


class TimesTrigger(BaseTrigger):
    """The times of a schedule, as a trigger.

    Parameters:
      schedule: The schedule.
      on_error: Gets the schedule's name and the error if its next time can't be computed.
    """

    __slots__ = ("_on_error", "_schedule")

    def __init__(self, schedule: Schedule, on_error: Callable[[str, TimesError], None]) -> None:
        self._schedule = schedule
        self._on_error = on_error

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the first tick after now, whatever the last one was: the clock may have been set.

        After an error it is a moment at which to try again: in APScheduler 3.11 an exception ends the thread that keeps
        the time of all schedules. Whether a tick is due then is decided by the store's clock, as always.
        """
        try:
            return self._schedule.after(now)
        except TimesError as error:
            self._on_error(self._schedule.name, error)
            return now + RETRY_AFTER


class HandingExecutor(BaseExecutor):
    """Hands each job that is due to a function, which must not block.

    Parameters:
      hand_over: Gets the job's id and its latest tick that is due.
    """

    def __init__(self, hand_over: Callable[[str, datetime], None]) -> None:
        super().__init__()
        self._hand_over = hand_over

    def submit_job(self, job: Job, run_times: Sequence[datetime]) -> None:
        """Hand over a job, without the base class's limit of running instances."""
        self._do_submit_job(job, run_times)

    def _do_submit_job(self, job: Job, run_times: Sequence[datetime]) -> None:
        self._hand_over(job.id, run_times[-1])


def make_timekeeper(
    schedules: Sequence[Schedule],
    hand_over: Callable[[str, datetime], None],
    on_error: Callable[[str, TimesError], None],
) -> BackgroundScheduler:
    """Return a scheduler of APScheduler's, which isn't started yet, with a job for each schedule."""
    timekeeper = BackgroundScheduler(timezone=UTC, executors={"default": HandingExecutor(hand_over)})
    for schedule in schedules:
        # A tick is never too late here: serving.py decides that. The function's arguments are only validated, since the
        # executor is ours.
        timekeeper.add_job(
            hand_over,
            TimesTrigger(schedule, on_error),
            args=(schedule.name, None),
            id=schedule.name,
            misfire_grace_time=None,
            coalesce=True,
        )
    return timekeeper

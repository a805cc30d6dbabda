"""Schedules: what is sent again and again, by ``manage.py runscheduler``.

Only declarations and readings are here, and nothing imports APScheduler: workers and web servers import this package,
and send nothing. `scheduler` has what sends.
"""

from .declaring import scheduled
from .options import Schedule, TimesError
from .reading import ScheduleStatus, get_schedules, have_seconds, live_schedulers

__all__ = [
    "Schedule",
    "ScheduleStatus",
    "TimesError",
    "get_schedules",
    "have_seconds",
    "live_schedulers",
    "scheduled",
]

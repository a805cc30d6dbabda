"""Triggers of a project's own for schedules."""

from __future__ import annotations

from datetime import datetime, timedelta

from apscheduler.triggers.base import BaseTrigger


class ListTrigger(BaseTrigger):
    """A trigger of a project's own: due at the times of a list."""

    __slots__ = ("times",)

    def __init__(self, times: list[datetime]) -> None:
        self.times = times

    def __repr__(self) -> str:
        return f"<ListTrigger {self.times}>"

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        return min((each for each in self.times if each >= now), default=None)


class BrokenTrigger(BaseTrigger):
    """A trigger of a project's own: due each second, until it raises from some call on."""

    __slots__ = ("calls", "good_calls")

    def __init__(self, good_calls: int = 0) -> None:
        self.calls = 0
        self.good_calls = good_calls

    def __repr__(self) -> str:
        return "<BrokenTrigger>"

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        self.calls += 1
        if self.calls > self.good_calls:
            raise ValueError("no calendar for\nthis <year>.")
        return now.replace(microsecond=0) + timedelta(seconds=1)

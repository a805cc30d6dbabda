"""The ticks that are sent after an outage, by the policies ``missed`` and ``grace``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from dramatiq_progress.scheduler.due import Due, due_ticks
from dramatiq_progress.schedules import Schedule
from dramatiq_progress.schedules.options import build_schedule
from dramatiq_progress.schedules.times import Cron
from tests import tasks

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def schedule(**options: Any) -> Schedule:
    return build_schedule("name", tasks.import_rows, options, default_zone="UTC")


def sent(after: timedelta, now: timedelta = timedelta(0), **options: Any) -> list[float]:
    """Return how many seconds before noon the ticks are that are sent at noon (or later), after an outage."""
    due = due_ticks(schedule(**options), NOON - after, NOON + now)
    return [(NOON - tick).total_seconds() for tick in due.send]


MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize("missed", ["once", "all", "skip"])
def test_without_an_outage_the_policies_are_the_same(missed: str) -> None:
    assert sent(MINUTE, every=60, missed=missed) == [0]
    assert sent(MINUTE, timedelta(seconds=-1), every=60, missed=missed) == []
    assert sent(timedelta(0), timedelta(seconds=59), every=60, missed=missed) == []


@pytest.mark.parametrize(
    ("missed", "outage", "expected"),
    [
        ("once", 10 * MINUTE, [30]),
        ("all", 3 * MINUTE, [150, 90, 30]),
        ("skip", 10 * MINUTE, [30]),
        # Longer than the grace period.
        ("once", 2 * HOUR, [30]),
        ("all", 2 * HOUR, [30.0 + 60 * number for number in reversed(range(60))]),
        ("skip", 2 * HOUR, [30]),
    ],
)
def test_a_schedule_that_is_due_each_minute(missed: str, outage: timedelta, expected: list[float]) -> None:
    """The outage ends half a minute after a tick."""
    half = timedelta(seconds=30)
    due = due_ticks(schedule(every=60, missed=missed), NOON + half - outage, NOON + half)
    assert [(NOON + half - tick).total_seconds() for tick in due.send] == expected


@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("once", 59 * MINUTE, True),
        ("once", 60 * MINUTE, True),
        ("once", 61 * MINUTE, False),
        ("all", 59 * MINUTE, True),
        ("all", 61 * MINUTE, False),
        ("skip", MINUTE, True),
        ("skip", 2 * MINUTE, False),
    ],
)
def test_a_nightly_schedule_whose_time_was_missed(missed: str, late: timedelta, expected: bool) -> None:
    due = due_ticks(schedule(cron="0 12 * * *", missed=missed), NOON - 3 * DAY - HOUR, NOON + late)
    assert due.send == ([NOON] if expected else [])
    assert due.first == NOON - 3 * DAY
    assert due.last is not None and due.last > NOON - DAY, "nothing is due again at the next look"


#: Noon only, as each kind of schedule that ends has it.
ENDING = [{"at": NOON}, {"trigger": CronTrigger(hour=12, timezone=UTC, start_date=NOON - DAY, end_date=NOON)}]


@pytest.mark.parametrize("when", ENDING, ids=["at", "trigger"])
@pytest.mark.parametrize("missed", ["once", "all", "skip"])
def test_the_last_time_of_a_schedule_is_not_sent_after_its_grace_period(missed: str, when: dict[str, Any]) -> None:
    ending = schedule(missed=missed, **when)
    due = due_ticks(ending, NOON - HOUR, NOON + 2 * DAY)
    assert (due.send, due.first) == ([], NOON)
    assert due.last is not None and NOON <= due.last <= NOON + 2 * DAY
    assert due_ticks(ending, due.last, NOON + 2 * DAY) == Due([]), "nothing is due again at the next look"


@pytest.mark.parametrize("when", ENDING, ids=["at", "trigger"])
@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        *[(missed, MINUTE, True) for missed in ("once", "all", "skip")],
        *[(missed, HOUR, missed != "skip") for missed in ("once", "all", "skip")],
        *[(missed, HOUR + timedelta(microseconds=1), False) for missed in ("once", "all", "skip")],
    ],
)
def test_the_last_time_of_a_schedule_is_sent_within_its_grace_period(
    missed: str, late: timedelta, expected: bool, when: dict[str, Any]
) -> None:
    due = due_ticks(schedule(missed=missed, **when), NOON - HOUR, NOON + late)
    assert due.send == ([NOON] if expected else [])


def test_all_of_many_missed_ticks_are_the_latest_hundred() -> None:
    assert sent(HOUR, every=1, missed="all") == [float(second) for second in reversed(range(100))]


def test_the_grace_period_is_an_option() -> None:
    assert sent(DAY, every=60, missed="all", grace=180) == [180, 120, 60, 0]
    assert sent(DAY, timedelta(seconds=30), every=3600, grace=29) == []
    assert sent(DAY, timedelta(seconds=30), every=3600, missed="skip", grace=29) == []


def test_a_repeated_hour_does_not_send_a_nightly_schedule_twice() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin).astimezone(UTC)
    nightly = schedule(cron="30 2 * * *", timezone="Europe/Berlin", missed="all", grace=DAY)
    assert isinstance(nightly.times, Cron)
    assert due_ticks(nightly, first - HOUR, first + 2 * HOUR).send == [first]
    assert due_ticks(nightly, first, first + 2 * HOUR).send == []

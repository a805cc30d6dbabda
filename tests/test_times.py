"""The times at which schedules are due, at each change of the clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.combining import AndTrigger, OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import assume, given
from hypothesis import strategies as st

from dramatiq_progress.schedules.times import ALIASES, At, Cron, Every, Times, Triggered

#: Both change their clocks by an hour, at different times of the day; Lord Howe Island by half an hour.
BERLIN, NEW_YORK, LORD_HOWE = (ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"))
DAILY = ("30 2 * * *", "30 1 * * *", "0 2 * * *", "45 1 * * *", "15 2 * * *")


def between(times: Times, start: datetime, end: datetime) -> list[datetime]:
    """Return the ticks from a moment to another one, without the latter."""
    found: list[datetime] = []
    tick = times.after(start - timedelta(microseconds=1))
    while tick is not None and tick < end:
        found.append(tick)
        tick = times.after(tick)
    return found


def on(day: str, expression: str, zone: ZoneInfo = BERLIN) -> list[str]:
    """Return the local times at which a cron expression is due on a day."""
    start = datetime.fromisoformat(day).replace(tzinfo=zone)
    ticks = between(Cron(expression, zone), start, start + timedelta(days=1))
    return [f"{tick.astimezone(zone):%H:%M %z}" for tick in ticks]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE], ids=str)
@pytest.mark.parametrize("expression", DAILY)
def test_a_daily_time_is_due_once_on_each_day_of_two_years(expression: str, zone: ZoneInfo) -> None:
    ticks = between(Cron(expression, zone), datetime(2026, 1, 1, tzinfo=zone), datetime(2028, 1, 1, tzinfo=zone))
    days = [tick.astimezone(zone).date() for tick in ticks]
    assert len(ticks) == 730
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(days))


def test_a_time_in_the_gap_of_spring_is_due_at_the_first_minute_after_it() -> None:
    assert on("2026-03-29", "30 2 * * *") == ["03:00 +0200"]
    assert on("2026-10-04", "15 2 * * *", LORD_HOWE) == ["02:30 +1100"]


def test_a_time_in_the_repeated_hour_of_autumn_is_due_in_the_first_of_both() -> None:
    assert on("2026-10-25", "30 2 * * *") == ["02:30 +0200"]


def test_in_the_second_of_two_equal_hours_a_daily_time_is_due_tomorrow() -> None:
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    tick = Cron("30 2 * * *", BERLIN).after(second)
    assert tick == datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN)


def test_each_minute_of_two_repeated_hours_is_due_in_the_first_of_both() -> None:
    """In Troll the clocks are set back by two hours."""
    troll = ZoneInfo("Antarctica/Troll")
    assert len(on("2026-10-25", "0-59 0-3 * * *", troll)) == 240
    for minutes in (0, 30, 119):
        second = datetime(2026, 10, 25, 1, tzinfo=UTC) + timedelta(minutes=minutes)
        assert Cron("0-59 0-3 * * *", troll).after(second) == datetime(2026, 10, 25, 3, tzinfo=UTC)


def test_an_expression_that_starts_with_a_star_goes_by_real_time() -> None:
    assert len(on("2026-03-29", "0 * * * *")) == 23
    assert len(on("2026-10-25", "0 * * * *")) == 25
    assert len(on("2026-10-25", "*/15 * * * *")) == 100
    assert on("2026-03-29", "*/20 2 * * *") == []


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 0 * * 0", "2026-06-07"),
        ("0 0 * * 7", "2026-06-07"),
        ("0 0 * * sun", "2026-06-07"),
        ("0 0 * * 1", "2026-06-08"),
        ("0 0 * * MON-fri", "2026-06-04"),
        # A day of the month or a day of the week; the 13th is a Saturday.
        ("0 0 13 * fri", "2026-06-05"),
        ("0 0 4 jul *", "2026-07-04"),
        ("@weekly", "2026-06-07"),
        ("@Monthly", "2026-07-01"),
        ("@yearly", "2027-01-01"),
    ],
)
def test_days_and_names_mean_what_they_mean_to_cron(expression: str, first: str) -> None:
    tick = Cron(expression, BERLIN).after(datetime(2026, 6, 3, 12, tzinfo=BERLIN))
    assert tick == datetime.fromisoformat(first).replace(tzinfo=BERLIN)


@pytest.mark.parametrize("alias", ALIASES)
def test_each_alias_is_an_expression(alias: str) -> None:
    assert Cron(alias, UTC).after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize(
    ("expression", "repair"),
    [
        ("31 2", "has 2 fields; use five"),
        ("* * * *", "has 4 fields; use five"),
        ("0 * * * * *", "has 6 fields; use five"),
        ("0 0 * * fri-mon", "day of the week, is 0-7 .* and a range rises"),
        ("0 0 * * 8", "day of the week, is 0-7"),
        ("61 * * * *", "minute, is 0-59"),
        ("0 25 * * *", "hour, is 0-23"),
        ("0 0 31 2 *", "day of the month, is 1-31, and one of the months must have it"),
        ("0 0 * 13 *", "month, is 1-12 or jan-dec"),
        ("@reboot", "use one of @yearly"),
        ("", "has 0 fields"),
    ],
)
def test_an_invalid_expression_is_an_error_that_names_it_and_the_repair(expression: str, repair: str) -> None:
    with pytest.raises(ValueError, match=repair) as raised:
        Cron(expression, UTC)
    assert f"cron={expression!r}" in str(raised.value)


#: A field of a cron expression: a star, a step, a number, a range or a list.
def field(smallest: int, largest: int) -> st.SearchStrategy[str]:
    number = st.integers(smallest, largest)
    return st.one_of(
        st.just("*"),
        st.integers(1, largest).map(lambda step: f"*/{step}"),
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.lists(number, min_size=1, max_size=3).map(lambda numbers: ",".join(map(str, numbers))),
    )


@given(
    fields=st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)),
    zone=st.sampled_from(sorted(available_timezones())),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
)
def test_ticks_rise_strictly_in_every_zone(fields: tuple[str, ...], zone: str, start: datetime) -> None:
    times = Cron(" ".join(fields), ZoneInfo(zone))
    tick = start
    for _ in range(20):
        following = times.after(tick)
        assert following is not None and following > tick
        tick = following


@given(
    zone=st.sampled_from(sorted(available_timezones())),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    later=st.integers(1, 600_000),
)
def test_the_next_tick_is_the_same_from_every_moment_before_it(zone: str, start: datetime, later: int) -> None:
    times = Cron("30 2 * * *", ZoneInfo(zone))
    tick = times.after(start)
    moment = start + timedelta(seconds=later)
    assert tick is not None
    assume(moment < tick)
    assert Cron("30 2 * * *", ZoneInfo(zone)).after(moment) == times.after(moment) == tick


def test_an_interval_counts_from_the_epoch() -> None:
    start = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert Every(timedelta(minutes=5)).after(start) == datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    assert Every(timedelta(minutes=5)).after(datetime(2026, 1, 1, 0, 5, tzinfo=UTC)) == start + timedelta(minutes=9)
    assert Every(timedelta(seconds=1)).after(start + timedelta(microseconds=1)) == start + timedelta(seconds=1)


def test_one_moment_is_due_once() -> None:
    at = At(datetime(2026, 12, 24, 18), BERLIN)
    tick = at.after(datetime(2026, 1, 1, tzinfo=UTC))
    assert tick == datetime(2026, 12, 24, 17, tzinfo=UTC) and at.after(tick) is None


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (Cron("0 3 * * *", BERLIN), "At 03:00 every day"),
        (Cron("@hourly", BERLIN), "At the start of every hour"),
        (Every(timedelta(minutes=5)), "Every 5 minutes"),
        (Every(3600), "Every hour"),
        (Every(timedelta(seconds=90)), "Every 90 seconds"),
        (Every(timedelta(days=2)), "Every 2 days"),
        (At(datetime(2026, 12, 24, 18), BERLIN), "Once, at 2026-12-24 18:00 CET"),
        (At(datetime(2026, 7, 1, 18, 0, 30), BERLIN), "Once, at 2026-07-01 18:00:30 CEST"),
        (At(datetime(2026, 12, 24, 18, tzinfo=UTC), BERLIN), "Once, at 2026-12-24 18:00 UTC"),
        (Triggered(IntervalTrigger(hours=2, start_date="2026-01-01")), "interval[2:00:00]"),
    ],
)
def test_times_are_shown_in_words(times: Times, words: str) -> None:
    assert times.words == words


def test_equal_times_have_equal_fingerprints_and_others_do_not() -> None:
    times: list[Times] = [
        Cron("0 3 * * *", BERLIN),
        Cron("0 3 * * *", NEW_YORK),
        Cron("0 4 * * *", BERLIN),
        Every(timedelta(minutes=5)),
        Every(timedelta(minutes=6)),
        At(datetime(2026, 12, 24, 18), BERLIN),
        Triggered(DateTrigger(datetime(2026, 12, 24, 18, tzinfo=UTC))),
    ]
    assert len({each.fingerprint for each in times}) == len(times)
    assert Cron("@daily", UTC).fingerprint == Cron("0  0 * * *", UTC).fingerprint
    assert Cron("0 0 * * SUN", UTC).fingerprint == Cron("0 0 * * sun", UTC).fingerprint


@pytest.mark.parametrize("every", [timedelta(0), timedelta(seconds=0.5), timedelta(seconds=-1), 0, 2.5, True, "5"])
def test_an_interval_is_a_whole_number_of_seconds(every: object) -> None:
    with pytest.raises(ValueError, match="not a whole number of seconds"):
        Every(every)  # type: ignore[arg-type]


def test_a_trigger_of_apscheduler_continues_from_its_start() -> None:
    monthly = Triggered(CalendarIntervalTrigger(months=1, hour=6, start_date="2020-01-31", timezone=BERLIN))
    start = datetime(2026, 1, 1, tzinfo=BERLIN)
    ticks = between(monthly, start, datetime(2027, 1, 1, tzinfo=BERLIN))
    # Months without a 31st are omitted.
    assert [tick.astimezone(BERLIN).month for tick in ticks] == [1, 3, 5, 7, 8, 10, 12]
    assert monthly.after(start) == ticks[0], "also for an earlier moment than the last one"


class Nameless(BaseTrigger):
    """A trigger without a text of its own."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        return None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: CalendarIntervalTrigger(months=1), "start_date in the past"),
        (lambda: IntervalTrigger(hours=1), "start_date in the past"),
        (lambda: IntervalTrigger(hours=1, start_date="2026-01-01", jitter=5), "has a jitter"),
        (lambda: DateTrigger(), "a DateTrigger its run_date"),
        (lambda: OrTrigger([IntervalTrigger(seconds=6), CronTrigger(hour=3)]), "start_date in the past"),
        (lambda: AndTrigger([OrTrigger([CronTrigger(hour=3, jitter=60)])]), "has a jitter"),
        (lambda: OrTrigger([Nameless()]), "Give its class a __repr__"),
        (lambda: "daily", "not a trigger of APScheduler"),
        (lambda: CronTrigger, r"CronTrigger'> is a class\. Pass an instance"),
        (lambda: OrTrigger, "is a class"),
        (lambda: AndTrigger([CronTrigger]), "is a class"),
    ],
    ids=[
        "calendar",
        "interval",
        "jitter",
        "date",
        "combined",
        "nested",
        "address",
        "text",
        "class",
        "combining",
        "classes",
    ],
)
def test_a_trigger_with_which_each_process_has_other_times_is_an_error(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Triggered(make())

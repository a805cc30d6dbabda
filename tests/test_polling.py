"""When to ask again: what a job costs in requests, and how far a bar falls behind, in jobs played through on paper."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_progress import Progress, State
from dramatiq_progress.polling import LONGEST_SECONDS, SHORTEST_SECONDS, poll_after
from dramatiq_progress.rate import RateEstimator

REPORT_SECONDS = 0.1


class Watched(NamedTuple):
    """What one bar saw of a job: its requests, and by how much it was behind at the most, and at the end."""

    polls: int
    percent: float
    seconds: float
    late: float


def watch(
    seconds: float,
    *,
    total: int = 28_000,
    is_known: bool = True,
    stalls_at: float = 0.0,
    stall: float = 0.0,
    finishing: float = 0.0,
) -> Watched:
    """Play a job that takes so many seconds through, and a bar that asks when it is told to.

    It goes evenly, but for a `stall` of so many seconds; with `finishing` it goes on after its last report.
    """
    estimator = RateEstimator(0.0)
    fields = {"current": "0", "total": str(total) if is_known else "null"}
    now, reported, seen_at, seen = 0.0, 0.0, 0.0, 0.0
    polls, percent, behind = 0, 0.0, 0.0

    def done(moment: float) -> float:
        worked = moment if moment < stalls_at else max(stalls_at, moment - stall)
        return min(1.0, worked / seconds)

    while True:
        while reported + REPORT_SECONDS <= now:
            reported += REPORT_SECONDS
            current = int(done(reported) * total + 1e-6)
            if fields["current"] != str(current):
                estimator.sample(current, reported)
                fields |= {"current": str(current), "reported_at": str(reported)}
        polls += 1
        percent, behind = max(percent, 100 * (done(now) - seen)), max(behind, now - seen_at)
        late = now - (seconds + stall + finishing)
        if late >= 0:
            return Watched(polls, percent, behind, late)
        seen_at, seen = now, done(now)
        rate = {} if estimator.rate is None else {"rate": f"{estimator.rate:.4g}"}
        now += read(now, state="running", started_at="0", heartbeat=str(now), **fields, **rate).poll_after


def read(now: float, **fields: str) -> Progress:
    record = {"actor": "work", "queue": "default", "version": "1", "heartbeat": "0", **fields}
    return Progress.from_record("m1", record, now=now, lost_after=15)


#: The figures of docs/json.md: seconds, requests, percent behind, seconds behind at the most.
EVEN_JOBS = [(10, 21, 5.1, 0.5), (60, 83, 1.3, 0.8), (600, 86, 1.3, 7.6), (3600, 368, 0.3, 10.0)]


@pytest.mark.parametrize(("seconds", "polls", "percent", "behind"), EVEN_JOBS)
def test_an_even_job_costs_few_requests_and_its_bar_is_not_far_behind(
    seconds: float, polls: int, percent: float, behind: float
) -> None:
    seen = watch(seconds)
    assert seen.polls <= polls
    assert seen.percent <= percent and seen.seconds <= behind
    assert seen.late <= 0.5, "its end is foreseen"


@given(seconds=st.floats(1, 7200), total=st.integers(50, 10**6))
def test_no_even_job_is_shown_more_than_about_one_percent_or_one_second_late(seconds: float, total: int) -> None:
    seen = watch(seconds, total=total)
    # What lies between two reports nobody can know; and until three reports have told the rate, 3 % of the time passes.
    step = 100 / total
    assert seen.percent <= 1.3 + 3 * step or seen.seconds <= 1.0
    assert seen.polls <= 60 + 33 * 4 + seconds / 9


@pytest.mark.parametrize(("seconds", "polls"), [(10, 21), (60, 80), (600, 165), (3600, 470)])
@pytest.mark.parametrize("total", [28_000, 1])
def test_without_a_total_or_a_report_the_time_so_far_is_the_measure(seconds: float, polls: int, total: int) -> None:
    seen = watch(seconds, total=total, is_known=total == 1)
    assert seen.polls <= polls
    assert seen.seconds <= max(0.5, 0.031 * seconds)


def test_a_stalled_job_is_asked_about_ever_more_rarely() -> None:
    seen = watch(10, stalls_at=5, stall=300)
    assert seen.polls <= 150
    assert seen.seconds <= 0.031 * 300


def test_a_bar_at_its_end_that_does_not_end_is_no_hurry() -> None:
    assert watch(60, finishing=60).polls <= watch(60).polls + 65
    assert watch(10, finishing=600).polls <= 190


def retry(delay: float, late: float = 0.0) -> list[float]:
    """The moments of the polls of a message that is to be retried, until the retry has begun."""
    moments = [0.0]
    while moments[-1] <= delay + late:
        moments.append(moments[-1] + read(moments[-1], state="retrying", retry_at=str(delay)).poll_after)
    return moments


def test_a_retry_in_forty_seconds_is_asked_for_when_it_is_due() -> None:
    moments = retry(40)
    assert len(moments) <= 6
    assert 40 < moments[-1] <= 40.5


@given(delay=st.floats(0, 3600))
def test_each_retry_is_seen_soon_after_it_is_due(delay: float) -> None:
    assert retry(delay)[-1] <= delay + 0.5


def test_a_retry_that_no_worker_takes_is_asked_for_ever_more_rarely() -> None:
    assert len(retry(10, late=600)) <= 160


def waiting(seconds: float, position: int) -> int:
    """How often a message is asked for that waits so long at a place of its queue."""
    now, polls = 0.0, 0
    while now < seconds:
        polls += 1
        record = {"actor": "a", "queue": "q", "version": "1", "state": "enqueued", "enqueued_at": "0"}
        now += Progress.from_record("m1", record, now=now, lost_after=15, place=(position, 500)).poll_after
    return polls


@pytest.mark.parametrize(("position", "polls"), [(1, 165), (20, 125), (100, 60)])
def test_who_is_far_back_in_the_queue_asks_rarely(position: int, polls: int) -> None:
    assert waiting(600, position) <= polls


def test_who_is_next_is_told_soon() -> None:
    assert read(0.5, state="enqueued", enqueued_at="0").poll_after == 0.5


def test_a_message_that_waits_for_its_time_is_asked_for_ever_more_rarely() -> None:
    assert read(1.0, state="delayed", enqueued_at="0").poll_after == 0.5
    assert read(3600, state="delayed", enqueued_at="0").poll_after == LONGEST_SECONDS


def test_a_lost_worker_is_not_back_in_a_moment() -> None:
    assert poll_after(state="lost", silence=20.0) == 2.0
    assert poll_after(state="lost", silence=400.0) == LONGEST_SECONDS


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "skipped"])
def test_what_has_ended_needs_no_more_asking(state: str) -> None:
    assert poll_after(state=state) == LONGEST_SECONDS


amounts = st.one_of(st.integers(0, 10**300), st.floats(0, 1e308))
durations = st.floats(0, 1e9)


@given(
    state=st.sampled_from(list(State)),
    silence=durations,
    current=amounts,
    total=st.none() | amounts,
    rate=st.none() | st.floats(5e-324, 1e308),
    elapsed=st.none() | durations,
    retry_in=st.none() | durations,
    queue_position=st.none() | st.integers(1, 10**9),
)
def test_it_is_never_too_soon_or_too_late(**known: Any) -> None:
    assert SHORTEST_SECONDS <= poll_after(**known) <= LONGEST_SECONDS

"""The poll interval: the number of polls of a job, and how far its bar is behind, in simulated jobs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_progress import Progress, State
from dramatiq_progress.polling import LONGEST_SECONDS, SHORTEST_SECONDS, poll_after, retry_after
from dramatiq_progress.stores.decoding import decode
from dramatiq_progress.stores.pace import QueuePosition
from dramatiq_progress.worker.observing.rate import RateEstimator

REPORT_SECONDS = 0.1


class Watched(NamedTuple):
    """The polls of one bar, how far it was behind at most (in percent and seconds), and how late it showed the end."""

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
    """Simulate a job of this many seconds, and a bar that polls after `poll_after`.

    The job runs steadily, except for a `stall` of this many seconds. With `finishing` it runs on after its last report.
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
    return decode("m1", record, now=now, lost_after=15)


#: The figures of docs/json.md: seconds, polls, and the maximum lag in percent and in seconds.
EVEN_JOBS = [(10, 21, 5.1, 0.5), (60, 83, 1.3, 0.8), (600, 86, 1.3, 7.6), (3600, 368, 0.3, 10.0)]


@pytest.mark.parametrize(("seconds", "polls", "percent", "behind"), EVEN_JOBS)
def test_a_steady_job_costs_few_polls_and_its_bar_is_not_far_behind(
    seconds: float, polls: int, percent: float, behind: float
) -> None:
    seen = watch(seconds)
    assert seen.polls <= polls
    assert seen.percent <= percent and seen.seconds <= behind
    assert seen.late <= 0.5, "its end is estimated"


@pytest.mark.slow(6)
@given(seconds=st.floats(1, 7200), total=st.integers(50, 10**6))
def test_no_steady_job_is_shown_more_than_about_one_percent_or_one_second_late(seconds: float, total: int) -> None:
    seen = watch(seconds, total=total)
    # Progress between two reports is unknown, and the rate is unknown until the third report (3 % of the time).
    step = 100 / total
    assert seen.percent <= 1.3 + 3 * step or seen.seconds <= 1.0
    assert seen.polls <= 60 + 33 * 4 + seconds / 9


@pytest.mark.parametrize(("seconds", "polls"), [(10, 21), (60, 80), (600, 165), (3600, 470)])
@pytest.mark.parametrize("total", [28_000, 1])
def test_without_a_total_or_a_report_the_interval_follows_the_elapsed_time(
    seconds: float, polls: int, total: int
) -> None:
    seen = watch(seconds, total=total, is_known=total == 1)
    assert seen.polls <= polls
    assert seen.seconds <= max(0.5, 0.031 * seconds)


def test_a_stalled_job_is_polled_less_and_less_often() -> None:
    seen = watch(10, stalls_at=5, stall=300)
    assert seen.polls <= 150
    assert seen.seconds <= 0.031 * 300


def test_a_job_that_stays_at_its_end_is_polled_less_and_less_often() -> None:
    assert watch(60, finishing=60).polls <= watch(60).polls + 65
    assert watch(10, finishing=600).polls <= 190


def retry(delay: float, late: float = 0.0) -> list[float]:
    """Return the times of the polls of a retrying message, until the retry has started."""
    moments = [0.0]
    while moments[-1] <= delay + late:
        moments.append(moments[-1] + read(moments[-1], state="retrying", retry_at=str(delay)).poll_after)
    return moments


def test_a_retry_in_forty_seconds_is_polled_when_it_is_due() -> None:
    moments = retry(40)
    assert len(moments) <= 6
    assert 40 < moments[-1] <= 40.5


@given(delay=st.floats(0, 3600))
def test_each_retry_is_noticed_soon_after_it_is_due(delay: float) -> None:
    assert retry(delay)[-1] <= delay + 0.5


def test_a_retry_that_no_worker_starts_is_polled_less_and_less_often() -> None:
    assert len(retry(10, late=600)) <= 160


def waiting(seconds: float, position: int) -> int:
    """Return the number of polls of a message that waits this long at this queue position."""
    now, polls = 0.0, 0
    queued = QueuePosition(position, 500, None)
    while now < seconds:
        polls += 1
        record = {"actor": "a", "queue": "q", "version": "1", "state": "enqueued", "enqueued_at": "0"}
        now += decode("m1", record, now=now, lost_after=15, queued=queued).poll_after
    return polls


@pytest.mark.parametrize(("position", "polls"), [(1, 165), (20, 125), (100, 60)])
def test_a_message_far_back_in_the_queue_is_polled_rarely(position: int, polls: int) -> None:
    assert waiting(600, position) <= polls


def test_the_next_message_in_the_queue_is_polled_soon() -> None:
    assert read(0.5, state="enqueued", enqueued_at="0").poll_after == 0.5


def test_a_delayed_message_is_polled_less_and_less_often() -> None:
    assert read(1.0, state="delayed", enqueued_at="0").poll_after == 0.5
    assert read(3600, state="delayed", enqueued_at="0").poll_after == LONGEST_SECONDS


def test_a_lost_message_is_polled_less_often() -> None:
    assert poll_after(state="lost", silence=20.0) == 2.0
    assert poll_after(state="lost", silence=400.0) == LONGEST_SECONDS


@pytest.mark.parametrize(("outage", "seconds"), [(0, 2), (10, 2), (60, 6), (200, 20), (300, 30), (86_400, 30)])
def test_an_unavailable_store_is_polled_less_and_less_often(outage: float, seconds: float) -> None:
    assert retry_after(outage) == seconds


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "skipped"])
def test_a_finished_message_has_the_longest_interval(state: str) -> None:
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
def test_the_interval_is_always_within_its_bounds(**known: Any) -> None:
    assert SHORTEST_SECONDS <= poll_after(**known) <= LONGEST_SECONDS

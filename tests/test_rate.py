"""The rate: of fast and slow work, after pauses, and when the work starts over or grows."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dramatiq_progress import Progress, State
from dramatiq_progress.stores.decoding import decode
from dramatiq_progress.worker.observing.rate import RateEstimator


def after(samples: Iterable[tuple[float, float]]) -> RateEstimator:
    """Return an estimator after samples of these moments and amounts."""
    estimator = RateEstimator(0.0)
    for now, current in samples:
        estimator.sample(current, now)
    return estimator


def steady(rate: float, interval: float, seconds: float, begin: float = 0.0) -> list[tuple[float, float]]:
    """Return samples of even work, from 0."""
    steps = int(seconds / interval)
    return [(begin + step * interval, step * interval * rate) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("rate", "interval", "seconds"),
    [(1000, 0.1, 5), (1e6, 0.1, 600), (5, 0.2, 3), (1 / 60, 60, 300), (1 / 600, 600, 3000), (0.001, 0.1, 60)],
)
def test_even_work_has_a_constant_rate(rate: float, interval: float, seconds: float) -> None:
    assert after(steady(rate, interval, seconds)).rate == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    "samples",
    [[], [(1, 10)], [(1, 10), (10, 20)], [(0.1, 1), (0.2, 2), (0.3, 3), (0.4, 4)], [(5, 0), (6, 0), (9, 0)]],
)
def test_too_few_samples_have_no_rate(samples: list[tuple[float, float]]) -> None:
    assert after(samples).rate is None


def test_time_before_the_first_step_does_not_count() -> None:
    loading = [(30.0, 0.0)]
    assert after([*loading, *steady(100, 0.1, 4, begin=30)]).rate == pytest.approx(100, rel=0.01)


def test_the_rate_follows_a_change_of_speed() -> None:
    fast = steady(100, 0.1, 60)
    now, done = fast[-1]
    slow = [(now + step * 0.1, done + step * 1) for step in range(1, 600)]
    assert after([*fast, *slow]).rate == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("pause", [30, 600, 36_000])
def test_a_pause_does_not_change_the_rate(pause: float) -> None:
    before = steady(100, 0.1, 20)
    now, done = before[-1]
    afterwards = [(now + pause + step * 0.1, done + step * 10) for step in range(1, 30)]
    assert after([*before, *afterwards]).rate == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("gap", [6, 30, 600])
def test_a_gap_in_the_samples_does_not_change_the_rate(gap: float) -> None:
    """No samples are taken while the store is unreachable, and the work continues."""
    before = steady(10, 0.1, 20)
    afterwards = [(20 + gap + step * 0.1, 200 + gap * 10 + step) for step in range(1, 30)]
    assert after([*before, *afterwards]).rate == pytest.approx(10, rel=0.02)


def test_work_that_starts_over_is_measured_again() -> None:
    checking = steady(10_000, 0.1, 10)
    importing = [(10.1, 0.0), *steady(50, 0.1, 5, begin=10.1)]
    assert after([*checking, *importing]).rate == pytest.approx(50, rel=0.01)
    assert after([*checking, (10.1, 0.0), (10.2, 5.0)]).rate is None


def test_numbers_of_any_size_are_accepted() -> None:
    assert after([(1, 10**300), (2, 2 * 10**300), (4, 3 * 10**300)]).rate == pytest.approx(7e299, rel=0.5)
    assert after([(1, 1e-300), (2, 2e-300), (4, 3e-300)]).rate is not None
    assert after([(1, 1), (1, 2), (1, 3), (0.5, 4)]).rate is None


# The time left


def read(now: float, state: State = State.RUNNING, **fields: str) -> Progress:
    record = {"state": state, "actor": "a", "queue": "q", "version": "1", "heartbeat": str(now), **fields}
    return decode("m1", record, now=now, lost_after=15)


def test_the_time_left_counts_down_between_reports_and_is_never_negative() -> None:
    fields = {"current": "500", "total": "1000", "rate": "50.0", "reported_at": "100.0"}
    assert (read(100, **fields).rate, read(100, **fields).eta) == (50.0, 10.0)
    assert read(104, **fields).eta == 6.0
    # Overdue: "0 s left" would be wrong.
    assert read(160, **fields).eta is None


def test_the_time_left_follows_a_total_that_grows() -> None:
    fields = {"current": "500", "rate": "50.0", "reported_at": "100.0"}
    assert read(100, total="2000", **fields).eta == 30.0
    assert read(100, total="400", **fields).eta == 0.0
    assert read(100, **fields).eta is None


@pytest.mark.parametrize("state", [State.ENQUEUED, State.RETRYING, State.DONE, State.FAILED])
def test_only_a_running_message_has_time_left(state: State) -> None:
    fields = {"current": "500", "total": "1000", "rate": "50.0", "reported_at": "100.0"}
    assert (read(100, state, **fields).rate, read(100, state, **fields).eta) == (None, None)


def test_there_is_no_time_left_without_a_rate() -> None:
    assert read(100, current="500", total="1000", rate="null", reported_at="100.0").eta is None
    assert read(100, current="500", total="1000").eta is None

"""The contract of all stores for schedules: each tick is one scheduler's, whatever is lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.scheduler.serving import Serving
from dramatiq_progress.schedules.options import build_schedule
from dramatiq_progress.stores import Store, schedules
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.schedules import Declared, ScheduleRecord, Schedules
from tests.reading import seconds_left
from tests.waiting import TIMEOUT_SECONDS, wait_until

NAME = "nightly"
SECOND = timedelta(seconds=1)


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def in_store(store: Store) -> Schedules:
    return Schedules(store)


class Scheduler:
    """A scheduler that sends one schedule."""

    def __init__(self, in_store: Schedules) -> None:
        self.in_store = in_store

    def declare(
        self,
        *,
        times: str = "daily",
        known: datetime | None = None,
        unsent: Mapping[datetime, str] = MappingProxyType({}),
    ) -> None:
        assert self.in_store.declare([Declared(NAME, times, 60.0, known, unsent)]) == [None]

    def set(self, field: str, value: str) -> None:
        """Set a field of the record."""
        key = self.in_store._key(NAME)
        if isinstance(self.in_store.store, MemoryStore):
            self.in_store.store._records[key][field] = value
        else:
            self.in_store.store._servers.send([("HSET", key, field, value)])

    def claim(self, tick: datetime, message_id: str) -> tuple[str, str]:
        claim = self.in_store.claim(NAME, tick, message_id, ttl=60.0)
        return claim.verdict, claim.message_id

    def skip(self, tick: datetime, *, count: bool = True) -> str:
        return self.in_store.skip(NAME, tick, count=count, ttl=60.0).verdict

    def confirm(self, tick: datetime | None, message_id: str) -> None:
        self.in_store.confirm(NAME, tick, message_id, ttl=60.0)

    def read(self) -> ScheduleRecord:
        return self.in_store.read([NAME])[0]


@pytest.fixture
def scheduler(in_store: Schedules) -> Scheduler:
    return Scheduler(in_store)


@pytest.fixture
def due(scheduler: Scheduler, not_held: None) -> datetime:
    """A declared schedule, and a tick that is due."""
    scheduler.declare(known=scheduler.read().now - timedelta(hours=1))
    return scheduler.read().now.replace(microsecond=0) - SECOND


def test_a_new_schedule_is_due_from_now(scheduler: Scheduler) -> None:
    assert scheduler.read().last is None
    before = scheduler.read().now
    scheduler.declare()
    found = scheduler.read()
    assert found.last is not None and before <= found.last <= found.now
    assert scheduler.claim(before, "a") == ("taken", "")
    # Not again: another scheduler starts, or the same one restarts.
    scheduler.declare()
    assert scheduler.read().last == found.last


def test_one_of_many_schedulers_gets_a_tick(scheduler: Scheduler, due: datetime) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: scheduler.claim(due, f"m{number}"), range(40)))
    [winner] = [message_id for verdict, message_id in answers if verdict == "claimed"]
    assert [each.message_id for each in scheduler.read().open] == [winner]
    assert sum(verdict == "taken" for verdict, _ in answers) == 39


def test_a_claim_whose_answer_was_lost_is_answered_again(scheduler: Scheduler, due: datetime) -> None:
    assert scheduler.claim(due, "m1") == scheduler.claim(due, "m1") == ("claimed", "m1")
    scheduler.confirm(due, "m1")
    assert scheduler.claim(due, "m1") == ("taken", "")


@pytest.mark.parametrize("ttl", [2.0, 600.0])
def test_a_confirmation_keeps_the_record_for_its_ttl_and_never_shorter_than_before(
    in_store: Schedules, not_held: None, ttl: float
) -> None:
    """The record of a schedule that is due once a year must last two years, also if it is sent by hand."""
    in_store.declare([Declared(NAME, "yearly", 300.0, None)])
    in_store.confirm(NAME, None, "m1", ttl=ttl)
    left = seconds_left(in_store.store, in_store._key(NAME))
    # Less than the difference to the other one of the two.
    assert max(ttl, 300.0) - TIMEOUT_SECONDS < left <= max(ttl, 300.0)


def test_the_latest_tick_only_rises(scheduler: Scheduler, due: datetime) -> None:
    assert scheduler.claim(due, "m1") == ("claimed", "m1")
    assert scheduler.claim(due - SECOND, "m2") == ("taken", "")
    assert scheduler.read().last == due


def test_a_tick_is_early_by_the_clock_of_the_store(scheduler: Scheduler, due: datetime) -> None:
    now = scheduler.read().now
    before = scheduler.read().last
    assert scheduler.claim(now + timedelta(hours=1), "m1") == ("early", "")
    assert scheduler.read().last == before
    # A host's clock may be a little ahead.
    assert scheduler.claim(now + SECOND, "m2") == ("claimed", "m2")


def test_a_tick_that_is_later_than_a_claim_allows_is_not_claimed(scheduler: Scheduler, due: datetime) -> None:
    before = scheduler.read().last
    claim = scheduler.in_store.claim(NAME, due, "m1", ttl=60.0, late=0.5)
    assert (claim.verdict, scheduler.read().last, scheduler.read().open) == ("late", before, ())
    assert scheduler.in_store.claim(NAME, due, "m1", ttl=60.0, late=3600.0).verdict == "claimed"
    assert scheduler.in_store.claim(NAME, due, "m1", ttl=60.0, late=0.5).verdict == "late", "also its own"


def test_a_claim_that_came_to_nothing_is_given_to_another_scheduler_with_its_id(
    scheduler: Scheduler, due: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scheduler.claim(due, "m1") == ("claimed", "m1")
    assert scheduler.claim(due, "m2") == ("taken", "")
    monkeypatch.setattr(schedules, "LEASE_SECONDS", 0.05)
    wait_until(lambda: scheduler.read().open[0].age > 0.05)
    assert scheduler.claim(due, "m2") == ("claimed", "m1")
    monkeypatch.setattr(schedules, "LEASE_SECONDS", 60.0)
    assert scheduler.claim(due, "m3") == ("taken", ""), "the lease begins again"


def test_a_confirmed_tick_is_closed_and_its_message_is_the_last_one(scheduler: Scheduler, due: datetime) -> None:
    scheduler.claim(due, "m1")
    for _ in range(2):
        scheduler.confirm(due, "m1")
    found = scheduler.read()
    assert (found.open, found.sent_id, found.sent_tick, found.sent) == ((), "m1", due, 1)


def test_a_message_that_is_confirmed_late_does_not_hide_a_later_one(scheduler: Scheduler, due: datetime) -> None:
    scheduler.claim(due - SECOND, "m1")
    scheduler.claim(due, "m2")
    scheduler.confirm(due, "m2")
    scheduler.confirm(due - SECOND, "m1")
    assert (scheduler.read().sent_id, scheduler.read().sent) == ("m2", 2)


def test_a_tick_that_is_given_up_is_closed_without_a_message(scheduler: Scheduler, due: datetime) -> None:
    scheduler.claim(due, "m1")
    scheduler.confirm(due, "")
    assert (scheduler.read().open, scheduler.read().sent_id, scheduler.read().sent) == ((), "", 0)


def test_a_message_that_is_sent_by_hand_is_the_last_one(scheduler: Scheduler) -> None:
    scheduler.confirm(None, "m1")
    found = scheduler.read()
    assert found.sent_tick is not None and abs(found.now - found.sent_tick) < timedelta(minutes=1)
    assert (found.sent_id, found.sent) == ("m1", 1)


def test_a_skipped_tick_is_not_claimed_by_another_scheduler(scheduler: Scheduler, due: datetime) -> None:
    assert scheduler.skip(due - SECOND) == "claimed"
    assert scheduler.skip(due - SECOND) == "taken"
    assert scheduler.skip(due, count=False) == "claimed"
    assert scheduler.claim(due, "m1") == ("taken", "")
    assert (scheduler.read().skipped, scheduler.read().open) == (1, ())


def test_a_schedule_with_other_times_is_due_from_now(scheduler: Scheduler, due: datetime) -> None:
    scheduler.declare(times="hourly")
    assert scheduler.claim(due, "m1") == ("taken", "")
    # While a deployment replaces schedulers, those with the times before still send theirs.
    now = scheduler.read().now
    assert scheduler.claim(now + SECOND, "m2") == ("claimed", "m2")


def test_a_store_that_lost_a_schedule_continues_from_what_its_schedulers_know(scheduler: Scheduler) -> None:
    due = scheduler.read().now.replace(microsecond=0)
    assert scheduler.claim(due, "m1") == ("unknown", "")
    for known in (due - timedelta(minutes=5), due, due - timedelta(minutes=9)):
        scheduler.declare(known=known)
    assert scheduler.read().last == due, "the latest tick that any of them knows"


def test_a_schedule_that_the_store_has_lost_is_not_claimed_before_all_schedulers_have_declared_it(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scheduler has sent the tick that another one, which declares first, hasn't asked for yet."""
    monkeypatch.setattr(schedules, "HOLD_SECONDS", 3600.0)
    sent = scheduler.read().now.replace(microsecond=0)
    scheduler.declare(known=sent - SECOND)
    for give in (scheduler.claim(sent, "m1")[0], scheduler.skip(sent)):
        assert give == "held"
    assert scheduler.read().is_held and scheduler.read().open == ()
    scheduler.declare(known=sent)
    assert scheduler.claim(sent, "m1")[0] == "held"
    # As if the schedule had been lost almost an hour ago, and then an hour ago.
    scheduler.set("lost_at", str(sent.timestamp() - 3000))
    assert scheduler.read().is_held
    scheduler.set("lost_at", str(sent.timestamp() - 3600))
    assert not scheduler.read().is_held
    assert scheduler.claim(sent, "m1") == ("taken", "")
    assert scheduler.claim(sent + SECOND, "m2") == ("claimed", "m2")


def test_a_store_whose_clock_is_set_back_holds_no_schedule_until_it_has_caught_up(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a host that starts with an empty store and a wrong clock, before it synchronises that."""
    now = scheduler.read().now.replace(microsecond=0)
    scheduler.declare(known=now - SECOND)
    assert scheduler.claim(now, "m1")[0] == "held"
    # As if the clock had been an hour ahead then.
    scheduler.set("lost_at", str(now.timestamp() + 3600))
    assert not scheduler.read().is_held
    assert scheduler.claim(now, "m1") == ("claimed", "m1")


def test_a_tick_that_a_scheduler_could_not_send_is_open_again_in_a_store_that_lost_it(scheduler: Scheduler) -> None:
    tick = scheduler.read().now.replace(microsecond=0) - SECOND
    scheduler.declare(known=tick - SECOND)
    scheduler.declare(known=tick, unsent={tick: "m1"})
    scheduler.declare(known=tick, unsent={tick: "m2"})
    assert [(each.tick, each.message_id) for each in scheduler.read().open] == [(tick, "m1")]
    scheduler.set("lost_at", "0")
    scheduler.confirm(tick, "m1")
    # Nothing is lost: it was sent by another scheduler.
    scheduler.declare(known=tick, unsent={tick: "m1"})
    assert scheduler.read().open == ()


def test_the_outcome_of_the_last_message_outlives_its_record(scheduler: Scheduler, due: datetime) -> None:
    scheduler.confirm(due - SECOND, "m1")
    scheduler.in_store.conclude({NAME: ("m0", State.FAILED)})
    assert scheduler.read().outcome is None
    scheduler.in_store.conclude({NAME: ("m1", State.DONE)})
    assert scheduler.read().outcome is State.DONE
    scheduler.confirm(due, "m2")
    assert scheduler.read().outcome is None


class ReadTogether(Schedules):
    """The schedules in a store for two schedulers: both have read a schedule before one of them claims a tick."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._have_read = threading.Barrier(2, timeout=60)

    def read(self, names: Sequence[str]) -> list[ScheduleRecord]:
        records = super().read(names)
        self._have_read.wait()
        return records


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[ProgressMiddleware()])
    yield made
    made.close()


@pytest.mark.parametrize(("late", "count"), [(timedelta(minutes=5), 1), (timedelta(days=2), 0)])
@pytest.mark.parametrize("missed", ["once", "all"])
def test_two_schedulers_send_one_moment_once_within_its_grace_period_and_never_later(
    store: Store,
    broker: StubBroker,
    scheduler: Scheduler,
    not_held: None,
    missed: str,
    late: timedelta,
    count: int,
) -> None:
    target = progress_actor(broker=broker, actor_name="once")(lambda *args: None)
    at = scheduler.read().now - late
    schedule = build_schedule(NAME, target, {"at": at, "missed": missed}, default_zone="UTC")
    scheduler.declare(times=schedule.fingerprint, known=at - SECOND)
    together = ReadTogether(store)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(Serving.serve, [Serving(schedule, together) for _ in range(2)], [None, None]))
    assert broker.queues["default"].qsize() == scheduler.read().sent == count
    last = scheduler.read().last
    assert last is not None and schedule.times.after(last) is None, "nothing is due again at the next look"


@pytest.mark.django_db  # serving closes the database connections that other tests have left open
def test_the_log_says_which_times_of_a_schedule_were_missed(
    memory_store: Store, broker: StubBroker, not_held: None, caplog: pytest.LogCaptureFixture
) -> None:
    in_store = Schedules(memory_store)
    now = in_store.read([NAME])[0].now.replace(microsecond=0)
    target = progress_actor(broker=broker, actor_name="missed")(lambda *args: None)
    # Half a day ago, two days before, and the days between.
    noon, days = now - timedelta(hours=12), timedelta(days=2)
    for name, when in (
        ("once", {"at": noon - days}),
        ("daily", {"cron": f"{noon.minute} {noon.hour} * * *"}),
        ("last", {"cron": f"{noon.minute} {noon.hour} * * *"}),
    ):
        schedule = build_schedule(name, target, {**when, "grace": 60}, default_zone="UTC")
        known = noon - (timedelta(hours=1) if name == "last" else days + timedelta(hours=1))
        in_store.declare([Declared(name, schedule.fingerprint, 60.0, known)])
        Serving(schedule, in_store).serve(None)
    minute = noon.replace(second=0)
    once, daily, last = [each.getMessage() for each in caplog.records if "missed" in each.getMessage()]
    assert f"once missed its tick of {noon - days:%Y-%m-%d %H:%M:%S} UTC: it isn't sent (missed=" in once
    assert f"daily missed its ticks from {minute - days:%Y-%m-%d %H:%M:%S} UTC to " in daily
    assert f"last missed its tick of {minute:%Y-%m-%d %H:%M:%S} UTC: it isn't sent (missed=" in last
    assert broker.queues["default"].qsize() == 0


def test_running_schedulers_are_listed_until_they_end_or_stop_their_heartbeats(
    in_store: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_store.live() == []
    for each in ("a:1", "b:2"):
        in_store.keep_alive(each)
    assert in_store.live() == ["a:1", "b:2"]
    in_store.leave("a:1")
    assert in_store.live() == ["b:2"]
    monkeypatch.setattr(schedules, "ALIVE_SECONDS", 0.05)
    assert wait_until(lambda: in_store.live() == [])


def test_reading_no_schedules_and_those_of_an_empty_store(in_store: Schedules) -> None:
    assert in_store.read([]) == []
    [first, second] = in_store.read(["a", "b"])
    assert first.last is second.last is None
    assert abs(first.now - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_key_of_another_type_is_an_error_of_that_schedule_only(redis_store: Any) -> None:
    in_store = Schedules(redis_store)
    in_store.declare([Declared("good", "daily", 60.0, None)])
    redis_store._servers.send([("SET", f"{redis_store.prefix}schedule:bad", "text", "PX", 60_000)])
    good, bad = in_store.read_each(["good", "bad"])
    assert isinstance(good, ScheduleRecord) and isinstance(bad, schedules.StoreUnavailable)

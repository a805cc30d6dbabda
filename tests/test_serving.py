"""One schedule in one scheduler: claim, send and confirmation, and what happens if one of them fails."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pytest
from apscheduler.triggers.interval import IntervalTrigger
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, StoreUnavailable, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.scheduler import claiming, serving
from dramatiq_progress.scheduler.serving import Serving
from dramatiq_progress.scheduler.turns import Turns
from dramatiq_progress.schedules.options import build_schedule
from dramatiq_progress.stores import Store
from dramatiq_progress.stores import schedules as schedules_in_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.schedules import ScheduleRecord, Schedules
from tests.reading import seconds_left
from tests.triggers import ListTrigger
from tests.waiting import wait_until

#: The thread of a schedule closes the database connections that other tests have left open.
pytestmark = pytest.mark.django_db

NAME = "each-hour"
HOUR = timedelta(hours=1)


class FailingBroker(StubBroker):
    """A broker that may be down."""

    is_down = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        if self.is_down:
            raise ConnectionError("Connection refused.")
        return super().enqueue(message, delay=delay)


@pytest.fixture
def broker() -> Iterator[FailingBroker]:
    made = FailingBroker(middleware=[ProgressMiddleware()])
    made.emit_after("process_boot")
    yield made
    made.close()


class Served:
    """A schedule that is due each hour, and was due last ten minutes ago."""

    def __init__(self, broker: FailingBroker, store: Store) -> None:
        self.broker = broker
        self.store = store
        self.in_store = Schedules(store)
        self.actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
        self.tick = self.record().now.replace(microsecond=0) - timedelta(minutes=10)

    def scheduler(self, *, missed_before: timedelta = timedelta(0), **options: Any) -> Serving:
        """Return the schedule in a scheduler of its own, which has looked at the store once."""
        trigger = IntervalTrigger(hours=1, start_date=self.tick - 24 * HOUR)
        given = {"trigger": trigger, "grace": 2 * HOUR, **options}
        made = Serving(build_schedule(NAME, self.actor, given, default_zone="UTC"), self.in_store)
        made.claiming.known = self.tick - HOUR - missed_before
        self.in_store.declare([made.declared(self.record().now)])
        made.note(self.record())
        return made

    def record(self) -> ScheduleRecord:
        return self.in_store.read([NAME])[0]

    def sent(self) -> list[str]:
        """Return the ids of the messages in the queue."""
        queue = self.broker.queues["default"]
        return [dramatiq.Message.decode(each).message_id for each in list(queue.queue)]

    def start(self, message_id: str) -> Attempt:
        attempt = Attempt(message_id, "work", "default")
        self.store.start(attempt)
        return attempt


@pytest.fixture
def served(broker: FailingBroker, store: Store, not_held: None) -> Served:
    return Served(broker, store)


@pytest.fixture
def no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claim may be taken over at once."""
    for module in (schedules_in_store, claiming):
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.0)


def test_a_store_s_clock_that_was_set_back_is_logged_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = served.scheduler(missed_before=-2 * HOUR)
    for _ in range(2):
        scheduler.serve(None)
    assert served.sent() == []
    assert caplog.text.count("each-hour isn't sent again before") == 1


@pytest.fixture
def punctual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick of ten minutes ago isn't late."""
    monkeypatch.setattr(serving, "LATE", HOUR)


@pytest.mark.parametrize("by_clock", [True, False])
def test_a_tick_is_claimed_sent_and_confirmed(served: Served, punctual: None, by_clock: bool) -> None:
    scheduler = served.scheduler()
    assert scheduler.needs_attention(served.record())
    for _ in range(2):
        scheduler.serve(served.tick if by_clock else None)
    [message_id] = served.sent()
    record = served.record()
    assert (record.sent_id, record.sent_tick, record.sent, record.open) == (message_id, served.tick, 1, ())
    assert not scheduler.needs_attention(record)


@pytest.mark.parametrize("missed", ["once", "skip"])
def test_the_record_outlives_the_pause_after_a_tick(served: Served, missed: str) -> None:
    """As of a schedule that is due each hour of a day in December."""
    pause = timedelta(days=336)
    times = [*(served.tick - hours * HOUR for hours in (2, 1, 0)), served.tick + pause]
    scheduler = served.scheduler(missed=missed, trigger=ListTrigger(times))
    scheduler.declared(served.tick - 3 * HOUR)
    scheduler.serve(None)
    record = served.record()
    assert (record.last is not None and record.last >= served.tick, record.sent) == (True, missed == "once")
    assert timedelta(seconds=seconds_left(served.store, served.in_store._key(NAME))) > pause


def test_a_tick_that_is_early_by_the_clock_of_the_store_is_not_sent(served: Served) -> None:
    scheduler = served.scheduler()
    scheduler.serve(None)
    scheduler.serve(served.tick + HOUR)
    assert len(served.sent()) == 1 and served.record().last == served.tick


@pytest.mark.parametrize(
    ("options", "ages"),
    [
        ({"missed": "once"}, [10]),
        ({"missed": "all"}, [130, 70, 10]),
        ({"missed": "skip"}, []),
        *[({"missed": missed, "grace": 60}, []) for missed in ("once", "all", "skip")],
    ],
)
def test_a_host_that_was_suspended_comes_back_with_its_first_missed_tick_and_the_policies_decide(
    served: Served, caplog: pytest.LogCaptureFixture, options: dict[str, Any], ages: list[int]
) -> None:
    caplog.set_level(logging.INFO)
    scheduler = served.scheduler(missed_before=2 * HOUR, **{"grace": 3 * HOUR, **options})
    scheduler.serve(served.tick - 2 * HOUR)
    assert [int(late) // 60 for late in re.findall(r", (\d+) s late", caplog.text)] == ages
    assert len(served.sent()) == len(ages)
    assert not scheduler.needs_attention(served.record()), "nothing is left for the next look"


def test_a_process_that_was_suspended_before_its_claim_sends_nothing_after_the_grace_period(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of catching up, when it has read what is due."""
    scheduler = served.scheduler(grace=60)
    read = served.in_store.read

    def read_long_ago(names: list[str]) -> list[ScheduleRecord]:
        return [each._replace(now=served.tick) for each in read(names)]

    monkeypatch.setattr(served.in_store, "read", read_long_ago)
    scheduler.serve(None)
    monkeypatch.undo()
    assert served.sent() == [] and served.record().open == ()


def test_a_claim_whose_answer_was_lost_is_sent_at_the_next_look_with_its_id(
    served: Served, punctual: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = served.scheduler()
    claim = served.in_store.claim

    def lose_answer(*args: Any, **kwargs: Any) -> Any:
        claim(*args, **kwargs)
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as losing:
        losing.setattr(served.in_store, "claim", lose_answer)
        scheduler.serve(served.tick)
    [open_tick] = served.record().open
    assert served.sent() == [] and scheduler.needs_attention(served.record())
    scheduler.serve(None)
    assert served.sent() == [open_tick.message_id] and served.record().open == ()


def test_a_message_whose_confirmation_failed_is_not_sent_again(
    served: Served, no_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = served.scheduler()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(served.in_store, "confirm", fail)
    scheduler.serve(served.tick)
    monkeypatch.undo()
    assert len(served.record().open) == 1 and scheduler.needs_attention(served.record())
    scheduler.serve(None)
    assert served.record().open == () and len(served.sent()) == 1


def test_what_another_scheduler_has_claimed_is_sent_after_its_lease_with_the_same_id(
    served: Served, no_lease: None, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = served.scheduler()
    served.in_store.claim(NAME, served.tick, "m1", ttl=60)
    scheduler.serve(None)
    assert served.sent() == ["m1"] and served.record().sent_id == "m1"
    assert "another scheduler claimed it" in caplog.text


def test_what_a_worker_has_started_is_not_sent_again(served: Served, no_lease: None) -> None:
    scheduler = served.scheduler()
    served.in_store.claim(NAME, served.tick, "m1", ttl=60)
    served.start("m1")
    scheduler.serve(None)
    assert served.sent() == [] and served.record().sent_id == "m1"


def test_a_claim_is_its_schedulers_for_some_seconds(served: Served) -> None:
    scheduler = served.scheduler()
    served.in_store.claim(NAME, served.tick, "m1", ttl=60)
    scheduler.serve(served.tick)
    scheduler.serve(None)
    assert served.sent() == []


def test_a_process_that_was_suspended_after_its_claim_asks_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = served.scheduler()
    claim = served.in_store.claim

    def claim_and_be_suspended(name: str, tick: datetime, message_id: str, *, ttl: float, late: float) -> Any:
        answer = claim(name, tick, message_id, ttl=ttl, late=late)
        monkeypatch.undo()
        # From now on, any time is too long; meanwhile another scheduler has sent it.
        monkeypatch.setattr(claiming, "LEASE_SECONDS", 0.0)
        served.in_store.confirm(name, tick, message_id, ttl=ttl)
        return answer

    monkeypatch.setattr(served.in_store, "claim", claim_and_be_suspended)
    scheduler.serve(None)
    assert served.sent() == [] and served.record().sent == 1


def test_a_message_that_cannot_be_sent_is_tried_again_and_logged_once(
    served: Served, no_lease: None, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = served.scheduler()
    served.broker.is_down = True
    for _ in range(3):
        scheduler.serve(None)
    assert len(served.record().open) == 1
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "another scheduler" not in caplog.text
    assert "Could not send each-hour" in errors[0].message
    assert "ConnectionError: Connection refused. Trying again" in errors[0].message
    assert "Check the broker." in errors[0].message
    served.broker.is_down = False
    scheduler.serve(None)
    assert len(served.sent()) == 1 and served.record().open == ()


def test_a_message_that_cannot_be_sent_within_its_grace_period_is_given_up(
    served: Served, no_lease: None, caplog: pytest.LogCaptureFixture
) -> None:
    served.scheduler()
    served.in_store.claim(NAME, served.tick, "m1", ttl=60)
    scheduler = served.scheduler(grace=0.001)
    scheduler.serve(None)
    assert served.sent() == [] and (served.record().open, served.record().sent) == ((), 0)
    assert "Giving up each-hour" in caplog.text
    # This scheduler hasn't tried to send it: nothing says that the broker is to blame.
    assert "Check the broker" not in caplog.text


def test_a_tick_is_skipped_while_the_last_message_has_not_finished(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served.store.enqueue("m0", actor="work", queue="default", retries_left=0)
    served.start("m0")
    scheduler = served.scheduler(overlap="skip")
    served.in_store.confirm(NAME, served.tick - HOUR, "m0", ttl=60)
    scheduler.serve(served.tick)
    assert served.sent() == [] and (served.record().skipped, served.record().last) == (1, served.tick)
    assert "its last message m0 hasn't finished" in caplog.text


def test_a_tick_is_sent_when_the_last_message_has_finished(served: Served) -> None:
    served.store.enqueue("m0", actor="work", queue="default", retries_left=0)
    served.store.finish(served.start("m0"), state=State.FAILED)
    scheduler = served.scheduler(overlap="skip")
    served.in_store.confirm(NAME, served.tick - HOUR, "m0", ttl=60)
    scheduler.serve(served.tick)
    assert len(served.sent()) == 1 and served.record().skipped == 0


def test_requests_of_several_threads_are_served_one_at_a_time() -> None:
    running = threading.Lock()
    calls: list[datetime | None] = []
    go_on = threading.Event()

    def function(tick: datetime | None) -> None:
        assert running.acquire(blocking=False), "two at a time"
        calls.append(tick)
        go_on.wait(60)
        running.release()

    turns = Turns(function)
    assert turns.request()
    thread = threading.Thread(target=turns.run)
    thread.start()
    wait_until(lambda: calls)
    tick = datetime(2026, 1, 1)
    assert not turns.request(tick) and not turns.request()
    go_on.set()
    thread.join()
    assert calls == [None, tick], "requests that are made meanwhile are one call"
    assert turns.request()

"""One scheduler in this process: its threads, and schedules that fail."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.scheduler import claiming, serving, triggers
from dramatiq_progress.scheduler import runner as runner_module
from dramatiq_progress.scheduler.runner import Runner
from dramatiq_progress.schedules.options import Schedule, build_schedule
from dramatiq_progress.stores import Store
from dramatiq_progress.stores import schedules as schedules_in_store
from dramatiq_progress.stores.schedules import Declared, Schedules
from dramatiq_progress.worker.recording.recorder import Recorder
from tests.triggers import BrokenTrigger
from tests.waiting import wait_until

#: The threads of schedules close the database connections that other tests have left open.
pytestmark = pytest.mark.django_db


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[ProgressMiddleware()])
    made.emit_after("process_boot")
    yield made
    made.close()


class Schedulers:
    """Makes schedules, and schedulers of them."""

    def __init__(self, broker: StubBroker, store: Store) -> None:
        self.store = store
        self.in_store = Schedules(store)
        self._broker = broker
        self._actor = progress_actor(broker=broker, actor_name="work")(lambda *args: None)
        self._made: list[Runner] = []

    def schedule(self, name: str, **options: Any) -> Schedule:
        return build_schedule(name, self._actor, {"args": [name], **options}, default_zone="UTC")

    def missed(self, name: str) -> Schedule:
        """Return a schedule that was due five minutes ago."""
        [record] = self.in_store.read([name])
        tick = (record.now - timedelta(minutes=5)).replace(microsecond=0)
        made = self.schedule(name, at=tick)
        self.in_store.declare([Declared(name, made.fingerprint, 3600.0, tick - timedelta(minutes=1))])
        return made

    def runner(self, *schedules: Schedule) -> Runner:
        made = Runner(schedules, self.store)
        self._made.append(made)
        return made

    def sent(self) -> list[str]:
        """Return the schedule of each message in the queue."""
        return [dramatiq.Message.decode(each).args[0] for each in list(self._broker.queues["default"].queue)]

    def end(self) -> None:
        """End the threads of runners that were never run."""
        for each in self._made:
            each._threads.shutdown()


@pytest.fixture
def schedulers(
    broker: StubBroker, memory_store: Store, not_held: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Schedulers]:
    # A runner stops the recorder of its process, which other tests use.
    monkeypatch.setattr(runner_module, "get_recorder", Recorder)
    made = Schedulers(broker, memory_store)
    yield made
    made.end()


@pytest.fixture
def thread_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that sets how many threads of schedules can be started."""
    start = threading.Thread.start
    left: list[int] = []

    def start_or_fail(thread: threading.Thread) -> None:
        if left and thread.name.startswith("dramatiq-progress-schedule"):
            if left[0] == 0:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    return left.append


def test_a_scheduler_that_cannot_start_a_thread_ends_with_an_error(
    schedulers: Schedulers, thread_limit: Callable[[int], None]
) -> None:
    runner = schedulers.runner(schedulers.missed("a"))
    thread_limit(0)
    runner.stop()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        runner.run()


def test_a_scheduler_that_can_start_one_thread_only_sends_all_schedules(
    schedulers: Schedulers, thread_limit: Callable[[int], None]
) -> None:
    runner = schedulers.runner(*map(schedulers.missed, "abc"))
    thread_limit(1)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        wait_until(lambda: sorted(schedulers.sent()) == ["a", "b", "c"])
    finally:
        runner.stop()
        thread.join()


@pytest.mark.parametrize("what", ["record", "latest tick"])
def test_a_store_that_loses_what_one_scheduler_has_just_sent_gives_it_to_no_other(
    schedulers: Schedulers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The other one, which looks first, hadn't asked for that tick before."""
    monkeypatch.setattr(schedules_in_store, "HOLD_SECONDS", 1.0)
    caplog.set_level(logging.INFO)
    made = schedulers.schedule("a", every=1, missed="all")
    first, second = schedulers.runner(made), schedulers.runner(made)
    second.look()
    wait_until(lambda: first.look() or schedulers.sent())
    wait_until(lambda: not schedulers.in_store.read(["a"])[0].open)
    [before] = schedulers.in_store.read(["a"])
    record = schedulers.store._records[schedulers.in_store._key("a")]
    if what == "record":
        record.clear()
        second.look()
        first.look()
        assert caplog.text.count("The progress store has lost the latest times of a. They continue in up to 15 s") == 1
    else:
        record["last"] = str(before.last.timestamp() - 1)
        first.look()
    assert schedulers.in_store.read(["a"])[0].last == before.last

    def ticks() -> list[str]:
        return re.findall(r"Sent a for (\S+ \S+)", caplog.text)

    wait_until(lambda: second.look() or first.look() or len(ticks()) >= 4)
    assert len(set(found := ticks())) == len(found)


def test_a_record_that_has_expired_is_no_warning(schedulers: Schedulers, caplog: pytest.LogCaptureFixture) -> None:
    runner = schedulers.runner(replace(schedulers.schedule("off", every=1), enabled=False), schedulers.missed("over"))
    runner.look()
    wait_until(lambda: schedulers.sent() == ["over"] and not schedulers.in_store.read(["over"])[0].open)
    caplog.clear()
    for name in ("off", "over"):
        schedulers.store._records[schedulers.in_store._key(name)].clear()
    runner.look()
    assert all(record.last for record in schedulers.in_store.read(["off", "over"])) and caplog.text == ""


@pytest.mark.parametrize("looks_first", [True, False])
def test_a_store_that_loses_a_tick_that_could_not_be_sent_is_told_of_it(
    schedulers: Schedulers, broker: StubBroker, monkeypatch: pytest.MonkeyPatch, looks_first: bool
) -> None:
    made = schedulers.missed("a")
    monkeypatch.setattr(schedules_in_store, "HOLD_SECONDS", 1.0)
    first, second = schedulers.runner(made), schedulers.runner(made)
    with monkeypatch.context() as failing:
        failing.setattr(broker, "enqueue", lambda *args, **options: 1 / 0)
        wait_until(lambda: second.look() or schedulers.in_store.read(["a"])[0].open)
        [opened] = schedulers.in_store.read(["a"])[0].open
        wait_until(lambda: first.look() or first._all["a"].claiming.known == opened.tick)
        schedulers.store._records[schedulers.in_store._key("a")].clear()
        for runner in (second, first) if looks_first else (first, second):
            runner.look()
    assert [(each.tick, each.message_id) for each in schedulers.in_store.read(["a"])[0].open] == [opened[:2]]
    monkeypatch.setattr(schedules_in_store, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(claiming, "LEASE_SECONDS", 0.0)
    wait_until(lambda: first.look() or schedulers.sent())
    queue = broker.queues["default"].queue
    assert [dramatiq.Message.decode(each).message_id for each in list(queue)] == [opened.message_id]


def test_what_is_due_while_a_scheduler_stops_is_neither_sent_nor_an_error(
    schedulers: Schedulers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = schedulers.runner(schedulers.schedule("a", every=3600))
    runner.stop()
    runner.run()
    runner._on_time("a", schedulers.in_store.read(["a"])[0].now)
    assert schedulers.sent() == []
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []
    assert "has stopped." in caplog.messages[-1]


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger that raised is tried again at once."""
    monkeypatch.setattr(triggers, "RETRY_AFTER", timedelta(milliseconds=50))


@pytest.mark.parametrize("good_calls", [0, 1, 2, 3, 5])
def test_a_trigger_that_raises_harms_no_other_schedule(
    schedulers: Schedulers, quick_retries: None, caplog: pytest.LogCaptureFixture, good_calls: int
) -> None:
    """Neither in the timekeeper's thread nor at a look."""
    trigger = BrokenTrigger(good_calls)
    runner = schedulers.runner(
        schedulers.schedule("bad", trigger=trigger),
        schedulers.schedule("good", every=1),
        schedulers.missed("missed"),
    )
    runner.look()
    wait_until(lambda: "missed" in schedulers.sent())
    runner._timekeeper.start()
    try:
        # There is no look meanwhile.
        wait_until(lambda: trigger.calls > good_calls + 3)
        count = schedulers.sent().count("good")
        wait_until(lambda: schedulers.sent().count("good") >= count + 2)
        runner.look()
    finally:
        runner._timekeeper.shutdown(wait=True)
    logged = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [each.getMessage().partition(". ")[0] for each in logged] == [
        "Can't compute the times of bad: ValueError: no calendar for\nthis <year>"
    ]
    assert logged[0].exc_info


def test_a_trigger_that_raises_again_after_some_minutes_is_logged_again(
    schedulers: Schedulers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "LOG_INTERVAL_SECONDS", 0.0)
    runner = schedulers.runner(schedulers.schedule("bad", trigger=BrokenTrigger(0)))
    for _ in range(2):
        runner.look()
    assert caplog.text.count("Can't compute the times of bad") == 2


def test_a_trigger_that_works_again_is_sent_again(schedulers: Schedulers) -> None:
    trigger = BrokenTrigger(0)
    runner = schedulers.runner(schedulers.schedule("bad", trigger=trigger))
    runner.look()
    trigger.good_calls = 10**9
    wait_until(lambda: runner.look() or schedulers.sent())


@pytest.mark.parametrize(
    ("others", "text"),
    [([], "1 schedule; bad"), (["good"], "2 schedules; next is good at .*; bad")],
)
def test_the_log_of_the_start_has_the_error_of_a_trigger(
    schedulers: Schedulers, caplog: pytest.LogCaptureFixture, others: list[str], text: str
) -> None:
    caplog.set_level(logging.INFO)
    made = [schedulers.schedule(each, every=3600) for each in others]
    runner = schedulers.runner(schedulers.schedule("bad", trigger=BrokenTrigger(0)), *made)
    runner.stop()
    runner.run()
    reason = r" can't be sent: ValueError: no calendar for\nthis <year>\."
    assert any(re.fullmatch(f"Scheduler .* starts with {text}{reason}", each) for each in caplog.messages)

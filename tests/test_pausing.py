"""Messages that are paused and resumed: in a queue, in a delay, before a retry, between two items."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Middleware, Pipelines, Retries
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

from dramatiq_progress import (
    PauseOutcome,
    Pausing,
    Progress,
    ProgressObserver,
    State,
    apause,
    aresume,
    cancel,
    pause,
    progress_actor,
    progress_group,
    resume,
)
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.outcomes import Start
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.worker.sending.again import PAUSED_OPTION
from tests.reading import read, when
from tests.steps import until_asked
from tests.waiting import wait_until

#: A cursor of the first attempt, which has done one of two items.
FIELDS = {"cursor": '[1,[],"",1,null]', "current": "1", "total": "2"}
RESUMED, PAUSED = Pausing(PauseOutcome.RESUMED, State.PAUSED), Pausing(PauseOutcome.PAUSED, State.PAUSED)


# ---- The record ----


def attempt(number: int = 0, **options: Any) -> Attempt:
    return Attempt("m1", "work", "default", 3, token=f"token-{time.monotonic_ns()}", number=number, **options)


def send(store: Store, delay: float | None = None) -> None:
    assert store.enqueue("m1", actor="work", queue="default", retries_left=3, delay=delay)


def running(store: Store, *, cursor: str | None = FIELDS["cursor"]) -> Attempt:
    """Return an attempt that runs, and can be resumed unless its cursor is None."""
    send(store)
    made = attempt(resumable=cursor is not None)
    store.start(made)
    store.report([(made, FIELDS | {"cursor": cursor} if cursor is not None else {"current": "1"})])
    return made


@pytest.mark.parametrize("delay", [None, 300])
def test_a_message_that_waits_is_paused_at_once_and_resumed_as_it_was(store: Store, delay: float | None) -> None:
    send(store, delay)
    before = read("m1").state
    assert store.pause("m1") == Pausing(PauseOutcome.PAUSED, before)
    paused = read("m1")
    assert (paused.state, paused.pause_requested, paused.complete) == (State.PAUSED, True, False)
    assert paused.as_dict()["progress"]["pending"] is True
    assert store.pause("m1") == PAUSED
    assert store.pause("m1", wanted=False) == RESUMED
    resumed = read("m1")
    assert (resumed.state, resumed.pause_requested, resumed.version) == (before, False, paused.version + 1)
    assert store.pause("m1", wanted=False) == Pausing(PauseOutcome.RESUMED, before)
    assert read("m1").version == resumed.version


def test_a_retry_that_is_paused_keeps_its_time(store: Store) -> None:
    store.finish(running(store, cursor=None), state=State.RETRYING, retry_in=300, fields={"current": "1", "total": "4"})
    assert store.pause("m1") == Pausing(PauseOutcome.PAUSED, State.RETRYING)
    paused = read("m1")
    assert (paused.state, paused.percent, paused.retry_in) == (State.PAUSED, 25, None)
    assert paused.as_dict()["progress"]["pending"] is False
    store.pause("m1", wanted=False)
    resumed = read("m1")
    assert resumed.state is State.RETRYING and resumed.retry_in == pytest.approx(300, abs=60)
    # Once it is due, it waits in its queue.
    store.pause("m1")
    assert not store.enqueue("m1", actor="work", queue="default", retries_left=2, due=True)
    assert read("m1").state is State.PAUSED
    store.pause("m1", wanted=False)
    assert read("m1").state is State.ENQUEUED


@pytest.mark.parametrize("cursor", [FIELDS["cursor"], ""])
def test_a_running_message_is_asked_at_its_next_report(store: Store, cursor: str) -> None:
    job = running(store, cursor=cursor)
    assert not job.pause_requested
    assert store.pause("m1") == Pausing(PauseOutcome.REQUESTED, State.RUNNING)
    assert store.pause("m1") == Pausing(PauseOutcome.REQUESTED, State.RUNNING)
    asked = read("m1")
    assert (asked.state, asked.pause_requested) == (State.RUNNING, True)
    store.report([(job, {})])
    assert job.pause_requested
    change = store.finish(job, state=State.ENQUEUED, yields=True, fields=FIELDS)
    assert (change.written, change.state) == (True, State.PAUSED)
    paused = read("m1")
    assert (paused.state, paused.percent, paused.continues, paused.attempt) == (State.PAUSED, 50, True, 1)
    assert paused.usual is None and paused.queue_position is None
    assert store.pause("m1", wanted=False) == RESUMED
    assert (read("m1").state, read("m1").percent, read("m1").pause_requested) == (State.ENQUEUED, 50, False)


def test_a_running_message_that_can_not_be_gone_on_from_is_not_paused(store: Store) -> None:
    running(store, cursor=None)
    version = read("m1").version
    answer = store.pause("m1")
    assert answer == Pausing(PauseOutcome.NOT_RESUMABLE, State.RUNNING) and not answer
    assert (read("m1").pause_requested, read("m1").version) == (False, version)


def test_a_request_is_taken_back_before_the_worker_has_it(store: Store) -> None:
    job = running(store)
    store.pause("m1")
    assert store.pause("m1", wanted=False) == Pausing(PauseOutcome.RESUMED, State.RUNNING)
    assert not read("m1").pause_requested
    # The worker had it already, and makes room.
    change = store.finish(job, state=State.ENQUEUED, yields=True, fields=FIELDS)
    assert change.state is State.ENQUEUED


@pytest.mark.parametrize("paused", [True, False])
def test_the_end_of_a_job_that_makes_room_may_come_twice(store: Store, paused: bool) -> None:
    """The answer to the first was lost. A worker that took the second for refused would drop the message."""
    job = running(store)
    if paused:
        store.pause("m1")
    answers = [store.finish(job, state=State.ENQUEUED, yields=True, fields=FIELDS) for _ in range(2)]
    assert [each.written for each in answers] == [True, True]
    assert {each.state for each in answers} == {State.PAUSED if paused else State.ENQUEUED}


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.SKIPPED])
def test_a_job_that_ends_before_it_makes_room_has_ended(store: Store, state: State) -> None:
    job = running(store)
    store.pause("m1")
    store.finish(job, state=state, fields=FIELDS)
    assert (read("m1").state, read("m1").pause_requested) == (state, False)
    assert store.pause("m1") == Pausing(PauseOutcome.FINISHED, state)
    assert store.pause("m1", wanted=False) == Pausing(PauseOutcome.FINISHED, state)


def test_a_job_that_fails_before_it_makes_room_is_paused_before_its_retry(store: Store) -> None:
    job = running(store)
    store.pause("m1")
    assert store.finish(job, state=State.RETRYING, retry_in=300, fields=FIELDS).state is State.PAUSED
    store.pause("m1", wanted=False)
    assert read("m1").state is State.RETRYING and read("m1").retry_in == pytest.approx(300, abs=60)


def test_a_retry_that_is_paused_and_can_not_be_sent_has_failed(store: Store) -> None:
    job = running(store, cursor=None)
    store.finish(job, state=State.RETRYING, retry_in=300)
    store.pause("m1")
    assert store.finish(job, state=State.FAILED)
    assert (read("m1").state, read("m1").pause_requested) == (State.FAILED, False)


def test_a_paused_message_is_not_started_and_nothing_is_counted(store: Store) -> None:
    send(store)
    store.pause("m1")
    version = read("m1").version
    for _ in range(20):
        assert store.start(attempt()) == Start("paused", metadata="")
    assert (read("m1").state, read("m1").version, read("m1").attempt) == (State.PAUSED, version, 0)
    store.pause("m1", wanted=False)
    start = store.start(attempt())
    assert (start.verdict, start.deliveries, read("m1").attempt) == ("run", 1, 1)


def test_a_job_whose_worker_died_is_paused_when_it_is_delivered_again(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    dead = running(store)
    wait_until(lambda: read("m1").state is State.LOST)
    assert store.pause("m1") == Pausing(PauseOutcome.REQUESTED, State.LOST)
    start = store.start(attempt())
    # The message carries its place from now on.
    assert (start.verdict, start.previous, start.kept) == ("paused", State.RUNNING, FIELDS)
    assert (read("m1").state, read("m1").percent) == (State.PAUSED, 50)
    # It was only frozen: the message is sent again already.
    assert store.report([(dead, {})]) == ["superseded"]
    assert not store.finish(dead, state=State.ENQUEUED, yields=True)
    store.pause("m1", wanted=False)
    # Its death counts.
    following = attempt()
    assert (store.start(following).deliveries, following.number) == (1, 2)


@pytest.mark.parametrize("has_run", [True, False])
def test_a_job_that_started_without_the_store_is_asked_at_its_next_report(store: Store, has_run: bool) -> None:
    if has_run:
        store.finish(running(store), state=State.RETRYING, retry_in=1, fields=FIELDS)
    else:
        send(store)
    store.pause("m1")
    job = attempt(resumable=True)
    assert store.start(job, age=1.0).verdict == "run"
    store.report([(job, {})])
    assert job.pause_requested and (read("m1").state, read("m1").pause_requested) == (State.RUNNING, True)


def test_a_message_that_started_without_the_store_and_can_not_be_gone_on_from_runs_on(store: Store) -> None:
    send(store)
    store.pause("m1")
    assert store.start(attempt(), age=1.0).verdict == "run"
    assert (read("m1").state, read("m1").pause_requested) == (State.RUNNING, False)


@pytest.mark.parametrize("is_running", [True, False])
def test_a_cancel_ends_a_pause(store: Store, is_running: bool) -> None:
    if is_running:
        job = running(store)
        store.pause("m1")
        store.cancel("m1", force=True)
        assert store.finish(job, state=State.ENQUEUED, yields=True).state is State.CANCELLED
    else:
        send(store)
        store.pause("m1")
        assert store.cancel("m1", force=True).previous is State.PAUSED
    assert (read("m1").state, read("m1").pause_requested) == (State.CANCELLED, False)
    assert store.start(attempt()).verdict == "cancelled"


def test_a_message_that_is_sent_again_begins_without_a_pause(store: Store) -> None:
    job = running(store)
    store.pause("m1")
    store.finish(job, state=State.DONE)
    send(store)
    assert (read("m1").state, read("m1").pause_requested) == (State.ENQUEUED, False)


def test_there_is_nothing_to_pause_without_a_record(store: Store) -> None:
    for wanted in (True, False):
        answer = store.pause("m1", wanted=wanted)
        assert answer == Pausing(PauseOutcome.NOT_FOUND) and not answer


def test_a_paused_message_is_in_no_line(store: Store) -> None:
    job = running(store)
    store.enqueue("m2", actor="work", queue="default", retries_left=3)
    store.pause("m1")
    store.finish(job, state=State.ENQUEUED, yields=True, fields=FIELDS)
    [other] = store.read(["m2"])
    assert other is not None and (other.queue_position, other.queue_length) == (1, 1)


# ---- Jobs ----


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_progress.worker.sending.again.PAUSE_SECONDS", 0.05)


class Delays(Middleware):
    """Counts the messages that were sent with a delay, and keeps their options."""

    def __init__(self) -> None:
        self.count = 0
        self.options: set[str] = set()

    def after_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
        if delay is not None:
            self.options.update(message.options)
            self.count += 1


class Site:
    """A broker with a worker of two threads, and an actor whose items a test allows."""

    def __init__(self) -> None:
        self.results = StubBackend()
        middleware = [AsyncIO(), Pipelines(), Results(backend=self.results)]
        self.delays = Delays()
        middleware += [Retries(max_retries=1, min_backoff=1, max_backoff=1), ProgressMiddleware(), self.delays]
        self.broker = StubBroker(middleware=middleware)
        self.worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=2)
        self.done: list[Any] = []
        self.prepared = 0
        self._allowed = threading.Semaphore(0)
        self.actor = progress_actor(broker=self.broker, actor_name="go", store_results=True)(self.go)

    def go(self, progress_observer: ProgressObserver, items: int = 10) -> str:
        self.prepared += 1
        for item in progress_observer.track(range(items), resume=True):
            assert self._allowed.acquire(timeout=60)
            self.done.append(item)
        return "all"

    def allow(self, items: int) -> None:
        self._allowed.release(items)

    def wait_for_rounds(self) -> None:
        """Wait until paused messages came to the worker twice, and were sent again each time."""
        before = self.delays.count
        wait_until(lambda: self.delays.count >= before + 2)


@pytest.fixture
def site(store: Store, settings: Any) -> Iterator[Site]:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2, "FLUSH_INTERVAL": 0.02}
    made = Site()
    yield made
    made.worker.stop()
    made.broker.close()


def test_a_running_job_is_paused_after_its_item_and_goes_on_where_it_was(site: Site) -> None:
    message = site.actor.send()
    site.worker.start()
    site.allow(3)
    wait_until(lambda: read(message).current == 3)
    assert pause(message) == Pausing(PauseOutcome.REQUESTED, State.RUNNING)
    until_asked(message.message_id)
    site.allow(1)
    paused = when(message, State.PAUSED)
    assert (paused.current, paused.percent, paused.attempt) == (4, 40, 1)
    site.allow(100)
    site.wait_for_rounds()
    assert (site.done, site.prepared, read(message).version) == ([0, 1, 2, 3], 1, paused.version)
    assert resume(message) == RESUMED
    done = when(message, State.DONE)
    assert (site.done, done.attempt, done.current) == (list(range(10)), 2, 10)
    assert message.get_result(backend=site.results, block=True) == "all"


def test_a_job_is_paused_in_its_first_item(site: Site) -> None:
    message = site.actor.send()
    site.worker.start()
    wait_until(lambda: read(message).total == 10)
    assert pause(message)
    until_asked(message.message_id)
    site.allow(1)
    assert when(message, State.PAUSED).current == 1


def test_a_job_that_waits_in_its_queue_is_paused_and_skipped(site: Site) -> None:
    changes: list[tuple[State | None, State]] = []

    def note(sender: type, progress: Progress, previous: State | None, **_: Any) -> None:
        changes.append((previous, progress.state))

    state_changed.connect(note)
    try:
        message = site.actor.send()
        assert pause(message.message_id) == Pausing(PauseOutcome.PAUSED, State.ENQUEUED)
        site.allow(100)
        site.worker.start()
        site.wait_for_rounds()
        assert (site.prepared, read(message).state) == (0, State.PAUSED)
        assert resume(message.message_id) == RESUMED
        assert when(message, State.DONE).attempt == 1
        wait_until(lambda: (State.RUNNING, State.DONE) in changes)
    finally:
        state_changed.disconnect(note)
    assert changes[:2] == [(None, State.ENQUEUED), (State.ENQUEUED, State.PAUSED)]
    # A worker may start it, and even end it, before the signal of the resume has read it.
    assert [before for before, _ in changes[2:]].count(State.PAUSED) == 1
    assert message.get_result(backend=site.results, block=True) == "all"


def test_a_plain_actor_is_paused_while_it_waits(site: Site) -> None:
    ran: list[int] = []
    actor = progress_actor(broker=site.broker, actor_name="plain")(lambda: ran.append(1))
    message = actor.send()
    assert pause(message)
    site.worker.start()
    site.wait_for_rounds()
    assert ran == []
    resume(message)
    assert when(message, State.DONE) and ran == [1]


def test_the_age_of_a_paused_message_counts_from_its_next_turn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`AgeLimit` would reject one whose limit is shorter than it stays in the delay queue."""
    monkeypatch.setattr("dramatiq_progress.worker.sending.again.PAUSE_SECONDS", 60)
    message = site.actor.send()
    pause(message)
    sent: list[Message[Any]] = []
    enqueue = site.broker.enqueue

    def note(message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        sent.append(message)
        assert delay == 60_000
        return enqueue(message, delay=delay)

    monkeypatch.setattr(site.broker, "enqueue", note)
    site.worker.start()
    wait_until(lambda: len(sent) == 1)
    assert sent[0].message_timestamp - 1000 * time.time() == pytest.approx(60_000, abs=30_000)
    assert (sent[0].message_id, sent[0].options[PAUSED_OPTION]) == (message.message_id, True)


def test_a_pause_is_no_retry(site: Site) -> None:
    failures = iter([True])

    def work(progress_observer: ProgressObserver) -> None:
        if next(failures, False):
            raise ValueError("once")

    message = progress_actor(broker=site.broker, actor_name="fails")(work).send()
    pause(message)
    site.worker.start()
    site.wait_for_rounds()
    assert read(message).state is State.PAUSED
    resume(message)
    done = when(message, State.DONE)
    assert (done.attempt, done.retries_left) == (2, 0)


def test_a_cancel_of_a_paused_job_is_at_once(site: Site) -> None:
    message = site.actor.send()
    pause(message)
    site.worker.start()
    site.wait_for_rounds()
    assert cancel(message, force=True).previous is State.PAUSED
    assert read(message).state is State.CANCELLED
    site.broker.join("default", timeout=60_000)
    assert (site.prepared, read(message).state) == (0, State.CANCELLED)
    assert not pause(message) and not resume(message)


def test_a_paused_job_goes_on_if_the_store_loses_it(site: Site, store: Store) -> None:
    message = site.actor.send()
    site.worker.start()
    site.allow(3)
    wait_until(lambda: read(message).current == 3)
    pause(message)
    until_asked(message.message_id)
    site.allow(1)
    when(message, State.PAUSED)
    site.allow(100)
    empty(store, message.message_id)
    done = when(message, State.DONE)
    assert (site.done, done.current) == (list(range(10)), 10)


def empty(store: Any, message_id: str) -> None:
    """Remove a record."""
    if isinstance(store, RedisStore):
        with store._servers._make_client() as client:  # type: ignore[attr-defined]
            client.delete(store.key(message_id))
    else:
        store._records.pop(store.key(message_id))


def test_a_paused_message_waits_while_the_store_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was paused when it was sent again, so it isn't taken for one that nothing is known of."""
    message = site.actor.send()
    pause(message)
    site.worker.start()
    site.allow(100)
    wait_until(lambda: PAUSED_OPTION in site.delays.options)
    with monkeypatch.context() as patch:
        for module in ("delivery", "starting"):
            patch.setattr(f"dramatiq_progress.worker.{module}.with_store", lambda *_, **__: None)
        site.wait_for_rounds()
        assert site.prepared == 0
    resume(message)
    when(message, State.DONE)
    assert site.prepared == 1


def test_a_resumed_message_runs_while_the_store_refuses_its_start(site: Site, store: Store, settings: Any) -> None:
    """As a full store does, which takes the resume all the same."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"RESUME_WAIT": 0.5}
    message = site.actor.send()
    pause(message)
    site.worker.start()
    site.allow(100)
    wait_until(lambda: PAUSED_OPTION in site.delays.options)

    def refuse(*_: Any, **__: Any) -> Start:
        raise StoreRefused("OOM command not allowed when used memory > 'maxmemory'")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "start", refuse)
        site.wait_for_rounds()
        assert site.prepared == 0
        resume(message)
        wait_until(lambda: len(site.done) == 10)
    when(message, State.DONE)


def test_a_start_that_is_recorded_late_keeps_the_pause(site: Site, store: Store) -> None:
    message = site.actor.send()
    pause(message)
    is_away = threading.Event()
    start = type(store).start

    def fail(given: Store, attempt: Attempt, *, age: float = 0.0) -> Start:
        if is_away.is_set() or not age:
            raise StoreRefused("not now")
        return start(given, attempt, age=age)

    is_away.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "start", fail)
        site.worker.start()
        wait_until(lambda: site.prepared == 1)
        is_away.clear()
        # The loop waits for it.
        wait_until(lambda: read(message).state is State.RUNNING)
    assert read(message).pause_requested
    until_asked(message.message_id)
    site.allow(1)
    assert when(message, State.PAUSED).current == 1


def test_members_of_a_group_are_paused_one_by_one(site: Site) -> None:
    other = progress_actor(broker=site.broker, actor_name="plain")(lambda: None)
    job = progress_group([site.actor.message(2), other.message()], broker=site.broker).run()
    first = job.children[0]
    assert pause(job) == Pausing(PauseOutcome.COMPOSITE, State.ENQUEUED)
    assert resume(job) == Pausing(PauseOutcome.COMPOSITE, State.ENQUEUED)
    assert all(pause(each) for each in job.children)
    resume(job.children[1])
    site.allow(100)
    site.worker.start()
    when(job.children[1], State.DONE)
    site.wait_for_rounds()
    waiting = read(job)
    assert waiting.parts is not None and (waiting.state, waiting.parts.waiting) == (State.RUNNING, 1)
    resume(first)
    assert when(job, State.DONE).current == 2


def test_a_paused_member_is_skipped_when_its_group_is_cancelled(site: Site) -> None:
    job = progress_group([site.actor.message(2)], broker=site.broker).run()
    pause(job.children[0])
    site.worker.start()
    site.wait_for_rounds()
    assert cancel(job, force=True)
    assert when(job.children[0], State.CANCELLED)
    assert site.prepared == 0


def test_the_next_message_of_a_pipeline_waits_for_one_that_is_paused(site: Site) -> None:
    ends: list[Any] = []
    after = progress_actor(broker=site.broker, actor_name="after")(ends.append)
    pipeline = dramatiq.pipeline([site.actor.message(2), after.message()], broker=site.broker)
    first, second = pipeline.messages
    pipeline.run()
    pause(first)
    site.allow(100)
    site.worker.start()
    site.wait_for_rounds()
    assert (ends, read(first).state) == ([], State.PAUSED)
    resume(first)
    assert when(second, State.DONE) and ends == ["all"]


async def both(message: Any) -> list[PauseOutcome]:
    return [(await apause(message)).outcome, (await aresume(message)).outcome]


def test_async_code_pauses_too(memory_store: Store) -> None:
    send(get_store())
    assert asyncio.run(both("m1")) == [PauseOutcome.PAUSED, PauseOutcome.RESUMED]


@pytest.mark.parametrize("change", [pause, resume])
def test_what_is_no_message_is_an_error(memory_store: Store, change: Callable[[Any], Pausing]) -> None:
    for value in (None, 7, "a b"):
        with pytest.raises(ValueError, match="message"):
            change(value)

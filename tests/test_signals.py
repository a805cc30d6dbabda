"""The signal `state_changed`, for code of the project."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.urls import clear_script_prefix, get_script_prefix, set_script_prefix
from django.utils import timezone, translation
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Retries, TimeLimitExceeded

from dramatiq_progress import (
    Cancellation,
    Cancelled,
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    acancel,
    apause,
    aresume,
    cancel,
    get_progress,
    owned_by,
    pause,
    progress_actor,
    progress_group,
    signals,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import carried_by
from dramatiq_progress.signals import send_state_changed, state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.brokers import as_global_broker, working
from tests.reading import read
from tests.steps import states_during
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until

pytestmark = pytest.mark.usefixtures("store")

Received = list[tuple[State | None, State, int]]


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[Retries(max_retries=1, min_backoff=1, max_backoff=1), ProgressMiddleware()])
    yield made
    made.close()


@pytest.fixture
def received() -> Iterator[Received]:
    """The arguments of the signals: the state before, the state, the attempt."""
    arguments: Received = []

    def receive(sender: type, progress: Progress, previous: State | None, **_: Any) -> None:
        assert sender is Progress
        arguments.append((previous, progress.state, progress.attempt))

    state_changed.connect(receive)
    yield arguments
    state_changed.disconnect(receive)


def work_off(broker: StubBroker) -> None:
    with working(broker, threads=1):
        broker.join("default", fail_fast=False)


def fail_once(progress_observer: ProgressObserver) -> None:
    if progress_observer.attempt == 1:
        raise RuntimeError("the first")


def test_a_receiver_is_called_for_each_change(broker: StubBroker, received: Received) -> None:
    progress_actor(broker=broker)(fail_once).send()
    work_off(broker)
    assert received == [
        (None, State.ENQUEUED, 0),
        (State.ENQUEUED, State.RUNNING, 1),
        (State.RUNNING, State.RETRYING, 1),
        (State.RETRYING, State.ENQUEUED, 1),
        (State.ENQUEUED, State.RUNNING, 2),
        (State.RUNNING, State.DONE, 2),
    ]


def test_a_receiver_that_raises_fails_no_job(broker: StubBroker, received: Received, caplog: Any) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("receiver")

    state_changed.connect(broken)
    try:
        message = progress_actor(broker=broker)(fail_once).send()
        work_off(broker)
    finally:
        state_changed.disconnect(broken)
    progress = get_progress(message.message_id)
    assert progress is not None and progress.state is State.DONE
    assert len(received) == 6
    assert "Error calling" in caplog.text


@pytest.mark.slow(4)
def test_a_job_is_not_lost_while_a_receiver_of_its_start_works(broker: StubBroker, settings: Any) -> None:
    """It has heartbeats. A cancel in the meantime interrupts the actor, which is called afterwards."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.1, "LOST_AFTER": 2.0}
    seen: set[State] = set()
    answers: list[Cancellation] = []
    interrupted = threading.Event()

    def slow(progress: Progress, **_: Any) -> None:
        if progress.state is not State.RUNNING:
            return
        seen.update(states_during(3, progress))
        answers.append(cancel(progress))

    def work(progress_observer: ProgressObserver) -> None:
        try:
            while True:
                progress_observer.increment_progress()
                time.sleep(0.01)
        except Cancelled:
            interrupted.set()
            raise

    state_changed.connect(slow)
    try:
        message = progress_actor(broker=broker, cancellable=True)(work).send()
        work_off(broker)
    finally:
        state_changed.disconnect(slow)
    assert seen == {State.RUNNING}
    assert [each.outcome for each in answers] == [CancelOutcome.REQUESTED]
    assert interrupted.is_set()
    assert get_progress(message).state is State.CANCELLED  # type: ignore[union-attr]


def test_a_job_that_is_interrupted_in_a_receiver_of_its_start_leaves_no_heartbeats(broker: StubBroker) -> None:
    def interrupt(progress: Progress, **_: Any) -> None:
        if progress.state is State.RUNNING:
            # As the time limit of a slow receiver. It is no `Exception`, which would be logged.
            raise TimeLimitExceeded

    runs: list[int] = []
    state_changed.connect(interrupt)
    try:
        message = progress_actor(broker=broker, actor_name="work")(lambda: runs.append(1)).send()
        work_off(broker)
    finally:
        state_changed.disconnect(interrupt)
    failed = get_progress(message)
    assert failed is not None and (failed.state, failed.attempt, runs) == (State.FAILED, 2, [])
    assert not [each for each in get_recorder().bindings() if each.message_id == message.message_id]


def test_a_receiver_is_called_for_the_start_of_a_member_that_is_only_skipped(
    broker: StubBroker, received: Received
) -> None:
    member = progress_actor(broker=broker, actor_name="work", cancellable=True)(lambda: None).message()
    job = progress_group([member], broker=broker).run()
    assert cancel(job)
    received.clear()
    work_off(broker)
    assert received[:2] == [(State.ENQUEUED, State.RUNNING, 1), (State.RUNNING, State.CANCELLED, 1)]


def test_deferred_changes_send_their_signals_later(broker: StubBroker, received: Received, settings: Any) -> None:
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    progress_actor(broker=broker, max_retries=0)(fail_once).send()
    work_off(broker)
    assert received == []
    settings.DRAMATIQ_PROGRESS = good
    wait_until(lambda: [state for _, state, _ in received] == [State.ENQUEUED, State.FAILED])


def test_without_receivers_nothing_is_read(broker: StubBroker, redis_store: Store, valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:

        def reads() -> int:
            statistics: Any = client.info("commandstats")
            return sum(
                int(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha_ro", "eval_ro")
            )

        before = reads()
        progress_actor(broker=broker)(fail_once).send()
        work_off(broker)
        assert reads() == before


@pytest.mark.slow(4)
def test_a_slow_receiver_of_a_deferred_change_delays_no_other_message(
    broker: StubBroker, server: Server, settings: Any
) -> None:
    """The recorder writes the start late; the receiver takes as long as sending an email."""
    settings.DRAMATIQ_PROGRESS = {
        "OPTIONS": {"url": server.url, **PATIENT},
        "FLUSH_INTERVAL": 0.02,
        "HEARTBEAT_INTERVAL": 0.1,
        "LOST_AFTER": 2.0,
    }
    go_on, threads = threading.Event(), []

    def slow(progress: Progress, **_: Any) -> None:
        threads.append(threading.current_thread().name)
        if threads[-1].startswith("dramatiq-progress"):
            assert go_on.wait(60)

    running = threading.Event()

    def work(progress_observer: ProgressObserver) -> None:
        running.set()
        while not progress_observer.cancel_requested and not go_on.is_set():
            progress_observer.increment_progress()
            time.sleep(0.01)

    actor = progress_actor(broker=broker, max_retries=0)(work)
    quick = progress_actor(broker=broker, max_retries=0, actor_name="quick")(lambda: None)
    state_changed.connect(slow)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    try:
        with server.frozen():
            message = actor.send()
            worker.start()
            assert running.wait(30)
        wait_until(lambda: "dramatiq-progress-signals" in threads)
        # In the meantime the job is shown as running, and another one is processed and acknowledged.
        before = wait_until(lambda: get_progress(message.message_id))
        assert states_during(4, message) == {State.RUNNING}
        assert read(message).current > before.current
        other = quick.send()
        wait_until(lambda: (found := get_progress(other.message_id)) is not None and found.state is State.DONE)
    finally:
        go_on.set()
        state_changed.disconnect(slow)
        broker.join("default", fail_fast=False)
        worker.stop()
    assert "dramatiq-progress-recorder" not in threads


@pytest.fixture
def file_database(tmp_path: Path) -> Iterator[str]:
    """The alias of a database whose connections can be closed, unlike the one in memory."""
    alias = "file"
    connections.settings[alias] = {**connections.settings["default"], "NAME": tmp_path / "db"}
    yield alias
    connections.close_all()
    del connections.settings[alias]


def test_receivers_for_messages_that_are_due_survive_a_restart_of_the_database(
    broker: StubBroker, file_database: str
) -> None:
    """The consumer's thread lives as long as the worker, and so would a connection in it."""
    answers: list[Any] = []

    def query(progress: Progress, previous: State | None, **_: Any) -> None:
        if previous is not State.DELAYED:
            return
        connection = connections[file_database]
        if connection.connection is None:
            # By hand, since Django's tests allow queries to their own databases only.
            connection.connection = sqlite3.connect(connection.settings_dict["NAME"])
        try:
            answers.append(connection.connection.execute("SELECT 1").fetchone())
        except Exception as error:
            answers.append(error)
        connection.connection.close()  # as the database does when it restarts

    actor = progress_actor(broker=broker)(lambda: None)
    # Otherwise the worker's thread may send what still waits of its message by itself.
    go_on = threading.Event()
    dramatiq.actor(broker=broker, actor_name="occupies")(lambda: go_on.wait(30)).send()
    state_changed.connect(query)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    try:
        for count in (1, 2, 3):
            actor.send_with_options(delay=1)
            wait_until(lambda count=count: len(answers) == count)  # type: ignore[misc]
    finally:
        go_on.set()
        worker.stop()
        state_changed.disconnect(query)
    assert answers == [(1,)] * 3


def test_a_slow_receiver_for_a_message_that_is_due_delays_no_other_message(broker: StubBroker) -> None:
    """Its own later changes wait for it, so that the order stays."""
    go_on, waits = threading.Event(), threading.Event()
    received: list[tuple[str, State, State | None]] = []

    def slow(progress: Progress, previous: State | None, **_: Any) -> None:
        if previous is State.DELAYED and not waits.is_set():
            waits.set()
            assert go_on.wait(60)
        received.append((progress.id, progress.state, previous))

    actor = progress_actor(broker=broker)(lambda: None)
    # Otherwise a worker's thread may send what still waits of its message by itself.
    are_free = threading.Event()
    occupies = dramatiq.actor(broker=broker, actor_name="occupies")(lambda: are_free.wait(60))
    for _ in range(2):
        occupies.send()
    sent = [actor.message() for _ in range(4)]
    ids = [each.message_id for each in sent]
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    state_changed.connect(slow)
    try:
        for each in sent:
            broker.enqueue(each, delay=1)
        assert waits.wait(60)
        are_free.set()
        wait_until(lambda: all((found := get_progress(each)) and found.state is State.DONE for each in ids))
        other = actor.send()
        wait_until(lambda: (other.message_id, State.DONE, State.RUNNING) in received)
        go_on.set()
        wait_until(lambda: len(received) == 4 * len(sent) + 3)
    finally:
        are_free.set()
        go_on.set()
        worker.stop()
        state_changed.disconnect(slow)
    for each in ids:
        assert [(state, previous) for id, state, previous in received if id == each] == [
            (State.DELAYED, None),
            (State.ENQUEUED, State.DELAYED),
            (State.RUNNING, State.ENQUEUED),
            (State.DONE, State.RUNNING),
        ]


@pytest.mark.parametrize("change", [acancel, apause, aresume])
@pytest.mark.django_db(transaction=True)
def test_a_change_by_async_code_waits_for_no_other_code_and_leaves_no_connection(
    broker: StubBroker, change: Any
) -> None:
    """Such as the job that is cancelled, in the one thread that asgiref has for a worker."""
    seen: list[tuple[str, int]] = []
    ended = threading.Event()

    def receive(**_: Any) -> None:
        seen.append((get_script_prefix(), User.objects.count()))

    async def main() -> Any:
        other = asyncio.create_task(sync_to_async(ended.wait)(60))
        await asyncio.sleep(0)
        try:
            return await change(message)
        finally:
            assert not other.done()
            ended.set()
            await other

    User.objects.create_user("anna")
    message = progress_actor(broker=broker, cancellable=True)(lambda: None).send()
    if change is aresume:
        pause(message)
    state_changed.connect(receive)
    set_script_prefix("/sub/")
    try:
        assert asyncio.run(main())
    finally:
        clear_script_prefix()
        state_changed.disconnect(receive)
    assert seen == [("/sub/", 1)]


class RabbitmqLike(StubBroker):
    """A broker with a connection for each thread, which it keeps when the thread ends, as Dramatiq's for RabbitMQ."""

    def __init__(self) -> None:
        super().__init__(middleware=[Retries(max_retries=1, min_backoff=50, max_backoff=50), ProgressMiddleware()])
        self.local = threading.local()
        self.open: set[object] = set()
        self.opened = 0

    @property
    def connection(self) -> object:
        if not hasattr(self.local, "connection"):
            self.local.connection = object()
            self.open.add(self.local.connection)
            self.opened += 1
        return self.local.connection

    @connection.deleter
    def connection(self) -> None:
        self.open.remove(self.local.connection)
        del self.local.connection

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        assert self.connection
        return super().enqueue(message, delay=delay)


@pytest.fixture
def rabbitmq_like() -> Iterator[RabbitmqLike]:
    made = RabbitmqLike()
    with as_global_broker(made):
        yield made
        made.close()


def test_a_thread_for_receivers_leaves_no_connection_of_the_broker(
    rabbitmq_like: RabbitmqLike, memory_store: Store
) -> None:
    noted = dramatiq.actor(broker=rabbitmq_like, actor_name="noted", queue_name="other")(lambda: None)
    actor = progress_actor(broker=rabbitmq_like, cancellable=True)(lambda: None)

    def receive(**_: Any) -> None:
        noted.send()

    async def view() -> None:
        for _ in range(3):
            cancel(actor.send())

    state_changed.connect(receive)
    try:
        asyncio.run(view())
        # The receivers' connections are closed, and the one of this thread isn't.
        assert (rabbitmq_like.opened, len(rabbitmq_like.open)) == (7, 1)
        message = actor.send_with_options(delay=10)
        with working(rabbitmq_like, threads=1, queues={"default"}):
            wait_until(lambda: read(message).state is State.DONE)
    finally:
        state_changed.disconnect(receive)
    # Of this thread, the consumer and the worker's thread, which Dramatiq closes with the broker.
    wait_until(lambda: len(rabbitmq_like.open) <= 3)


def test_a_slow_receiver_of_due_messages_delays_no_signal_of_a_job_that_runs(memory_store: Store) -> None:
    """The worker's thread sends what still waits of its message by itself."""
    broker = StubBroker(middleware=[ProgressMiddleware()])
    actor = progress_actor(broker=broker)(lambda: None)
    lock = threading.Lock()
    received: list[tuple[str, State]] = []
    go_on = threading.Event()

    def receive(progress: Progress, previous: State | None, **_: Any) -> None:
        if previous is State.DELAYED and progress.id == messages[0].message_id:
            assert go_on.wait(30)
        with lock:
            received.append((progress.id, progress.state))

    messages: list[Any] = []
    messages += [actor.send_with_options(delay=10) for _ in range(5)]
    state_changed.connect(receive)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    try:
        for each in messages[1:]:
            wait_until(lambda each=each: (each.message_id, State.DONE) in received)
            mine = [state for id, state in received if id == each.message_id]
            assert mine == [State.ENQUEUED, State.RUNNING, State.DONE]
    finally:
        go_on.set()
        worker.stop()
        broker.close()
        state_changed.disconnect(receive)
    assert len(received) == 15


def test_signals_that_are_lost_when_a_worker_stops_are_logged(
    memory_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def receive(**_: Any) -> None:
        go_on.wait(30)

    state_changed.connect(receive)
    try:
        for name in ("m1", "m2"):
            memory_store.enqueue(name, actor="work", queue="default", retries_left=0)
            send_state_changed(memory_store, name, None, late=True)
        wait_until(lambda: signals._late_sender._sending == "m1")
        signals.finish_sending(time.monotonic())
        assert "Stopping while 1 signals state_changed wait" in caplog.text
    finally:
        go_on.set()
        signals.finish_sending(time.monotonic() + 30)
        state_changed.disconnect(receive)


@pytest.fixture
def queries() -> Iterator[list[tuple[str, State, Any]]]:
    """The queries of a sync and an async receiver: its kind, the state, and the number of users, or an error."""
    done: list[tuple[str, State, Any]] = []

    def query(progress: Progress, **_: Any) -> None:
        try:
            done.append(("sync", progress.state, User.objects.count()))
        except Exception as error:
            done.append(("sync", progress.state, error))

    async def query_async(progress: Progress, **_: Any) -> None:
        try:
            done.append(("async", progress.state, await User.objects.acount()))
        except Exception as error:
            done.append(("async", progress.state, error))

    for each in (query, query_async):
        state_changed.connect(each)
    yield done
    for each in (query, query_async):
        state_changed.disconnect(each)


@pytest.mark.django_db(transaction=True)
def test_receivers_can_use_the_database_when_a_message_is_sent_and_cancelled_in_an_event_loop(
    broker: StubBroker, queries: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.create_user("anna")
    actor = progress_actor(broker=broker, cancellable=True)(lambda: None)

    async def view() -> list[Any]:
        message = actor.send()
        return [bool(pause(message)), bool(cancel(message))]

    async def request() -> list[Any]:
        # As Django's handler for ASGI does.
        async with ThreadSensitiveContext():
            return await view()

    assert asyncio.run(request()) == [True, True]
    assert queries == [
        (kind, state, 1) for state in (State.ENQUEUED, State.PAUSED, State.CANCELLED) for kind in ("sync", "async")
    ]
    assert caplog.text == ""


@pytest.mark.django_db(transaction=True)
def test_receivers_can_use_the_database_when_an_async_actor_sends_a_message(queries: list[Any]) -> None:
    broker = StubBroker(middleware=[AsyncIO(), ProgressMiddleware()])
    broker.emit_after("process_boot")

    @progress_actor(broker=broker, queue_name="other")
    def inner() -> None: ...

    @progress_actor(broker=broker)
    async def outer(progress_observer: ProgressObserver) -> None:
        inner.send()
        assert len(queries) == 6  # both are enqueued, and this one runs

    message = outer.send()
    with working(broker, threads=1, queues={"default"}):
        broker.join("default")
    broker.close()
    progress = get_progress(message)
    assert progress is not None and progress.state is State.DONE
    kinds = [(kind, state) for kind, state, _ in queries]
    assert kinds == [
        (kind, state)
        for state in (State.ENQUEUED, State.RUNNING, State.ENQUEUED, State.DONE)
        for kind in ("sync", "async")
    ]
    assert {found for *_, found in queries} == {0}


@pytest.mark.django_db(transaction=True)
def test_receivers_have_the_language_and_the_owner_of_a_caller_in_an_event_loop(
    broker: StubBroker,
) -> None:
    user = User.objects.create_user("anna")
    actor = progress_actor(broker=broker)(lambda: None)
    notify = progress_actor(broker=broker, actor_name="notify")(lambda: None)
    found: list[Any] = []

    def receive(progress: Progress, **_: Any) -> None:
        if progress.actor == actor.actor_name:
            zone = timezone.get_current_timezone_name()
            found.append((translation.get_language(), zone, carried_by(notify.send())))

    async def view() -> Any:
        with translation.override("de"), timezone.override("Asia/Tokyo"), owned_by(user):
            return actor.send()

    state_changed.connect(receive)
    try:
        message = asyncio.run(view())
    finally:
        state_changed.disconnect(receive)
    assert found == [("de", "Asia/Tokyo", carried_by(message))] and carried_by(message)


def test_a_change_in_an_event_loop_without_receivers_starts_no_thread(
    broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    actor = progress_actor(broker=broker, cancellable=True)(lambda: None)
    cancel(actor.send())  # the store's connection, and the recorder

    async def view() -> Any:
        monkeypatch.setattr(threading.Thread, "start", note)
        return cancel(actor.send())

    assert asyncio.run(view())
    assert started == []

"""The signal `state_changed`, for code of the project."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries, TimeLimitExceeded

from dramatiq_progress import (
    Cancellation,
    Cancelled,
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    cancel,
    get_progress,
    progress_actor,
    progress_group,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.worker.recorder import get_recorder
from tests.conftest import PATIENT
from tests.store_server import Server
from tests.waiting import wait_until

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
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    broker.join("default", fail_fast=False)
    worker.stop()


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
        until = time.monotonic() + 3
        while time.monotonic() < until:
            seen.add(get_progress(progress).state)  # type: ignore[union-attr]
            time.sleep(0.01)  # leaves CPU time to the recorder
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
    assert not [each for each in get_recorder().observers() if each.message_id == message.message_id]


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
        until = time.monotonic() + 4
        seen = set()
        while time.monotonic() < until:
            reading = get_progress(message.message_id)
            assert reading is not None
            seen.add(reading.state)
            time.sleep(0.01)  # leaves CPU time to the recorder
        assert seen == {State.RUNNING}
        assert reading.current > before.current
        other = quick.send()
        wait_until(lambda: (found := get_progress(other.message_id)) is not None and found.state is State.DONE)
    finally:
        go_on.set()
        state_changed.disconnect(slow)
        broker.join("default", fail_fast=False)
        worker.stop()
    assert "dramatiq-progress-recorder" not in threads

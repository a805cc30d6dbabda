"""`state_changed` tells code of the project what happens to its messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from dramatiq_progress import Progress, ProgressObserver, State, get_progress, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("store")

Heard = list[tuple[State | None, State, int]]


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[Retries(max_retries=1, min_backoff=1, max_backoff=1), ProgressMiddleware()])
    yield made
    made.close()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What a receiver was told: the state before, the state, the attempt."""
    told: Heard = []

    def receive(sender: type, progress: Progress, previous: State | None, **_: Any) -> None:
        assert sender is ProgressMiddleware
        told.append((previous, progress.state, progress.attempt))

    state_changed.connect(receive)
    yield told
    state_changed.disconnect(receive)


def work_off(broker: StubBroker) -> None:
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    broker.join("default", fail_fast=False)
    worker.stop()


def fail_once(progress_observer: ProgressObserver) -> None:
    if progress_observer.attempt == 1:
        raise RuntimeError("the first")


def test_a_receiver_hears_of_each_change(broker: StubBroker, heard: Heard) -> None:
    progress_actor(broker=broker)(fail_once).send()
    work_off(broker)
    assert heard == [
        (None, State.ENQUEUED, 0),
        (State.ENQUEUED, State.RUNNING, 1),
        (State.RUNNING, State.RETRYING, 1),
        (State.RETRYING, State.ENQUEUED, 1),
        (State.ENQUEUED, State.RUNNING, 2),
        (State.RUNNING, State.DONE, 2),
    ]


def test_a_receiver_that_raises_harms_nothing(broker: StubBroker, heard: Heard, caplog: Any) -> None:
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
    assert len(heard) == 6
    assert "Error calling" in caplog.text


def test_what_was_told_late_is_announced_late(broker: StubBroker, heard: Heard, settings: Any) -> None:
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    progress_actor(broker=broker, max_retries=0)(fail_once).send()
    work_off(broker)
    assert heard == []
    settings.DRAMATIQ_PROGRESS = good
    wait_until(lambda: [state for _, state, _ in heard] == [State.ENQUEUED, State.FAILED])


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

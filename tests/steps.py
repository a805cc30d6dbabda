"""Jobs in this process that run step by step under a test's control."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from dramatiq_progress import ProgressObserver, State, get_progress, progress_actor
from dramatiq_progress.message_ids import MessageLike, message_id_of
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import get_store
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.waiting import TIMEOUT_SECONDS, wait_until


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """A broker with a worker of two threads."""
    made = StubBroker(middleware=[Retries(max_retries=1, min_backoff=100, max_backoff=100), ProgressMiddleware()])
    worker = dramatiq.Worker(made, worker_timeout=10, worker_threads=2)
    worker.start()
    yield made
    worker.stop()
    made.close()


class Steps:
    """An actor that does as many steps as a test allows, and counts them."""

    def __init__(self, broker: dramatiq.Broker, total: int = 10, *, actor_name: str = "steps") -> None:
        self.total = total
        self.taken = 0
        self._allowed = threading.Semaphore(0)
        self.attempts: list[int] = []
        self.actor = progress_actor(broker=broker, actor_name=actor_name)(self.run)

    def run(self, progress_observer: ProgressObserver) -> None:
        progress_observer.set_metadata(kind="steps")
        for _ in progress_observer.track(range(self.total), description="Stepping"):
            assert self._allowed.acquire(timeout=TIMEOUT_SECONDS)
            self.taken += 1
        self.attempts.append(progress_observer.attempt)
        progress_observer.set_result("all")

    def go(self, steps: int) -> None:
        wanted = self.taken + steps
        self._allowed.release(steps)
        wait_until(lambda: self.taken == wanted)


def until_asked(message_id: str) -> None:
    """Wait until this process, whose worker runs a message, knows that a pause of it was requested."""

    def is_asked() -> bool:
        # The attempt's field is set earlier, when the job may still begin another item.
        bindings = get_recorder().bindings()
        return any(each.message_id == message_id and each.interruption.yields for each in bindings)

    wait_until(is_asked)


def states_during(seconds: float, message: MessageLike) -> set[State]:
    """Read a running job of this process again and again for some seconds, and return the states.

    A reading that is more than half a second later than the one before isn't counted, nor is that time: this process
    was stopped, and its heartbeats with it. The next readings are those after a new heartbeat, for which it waits.
    """
    states: set[State] = set()
    counted, read_at = 0.0, float("-inf")
    while counted < seconds:
        heartbeat = record_of(message)["heartbeat"]
        reading = get_progress(message)
        since, read_at = read_at, time.monotonic()
        if read_at - since > 0.5:
            wait_for_heartbeat_after(heartbeat, message)
            read_at = time.monotonic()
            continue
        assert reading is not None
        states.add(reading.state)
        counted += read_at - since
        time.sleep(0.01)  # leaves CPU time to the recorder
    return states


def wait_for_heartbeat_after(heartbeat: str, message: MessageLike) -> None:
    # Shorter than a receiver that must not hold up the heartbeats waits.
    wait_until(lambda: record_of(message)["heartbeat"] != heartbeat, timeout=30)


def record_of(message: MessageLike) -> Any:
    """Return the fields of the record of a message, as stored."""
    store: Any = get_store()
    key = store.key(message_id_of(message))
    return store._read_answers(store._call(store._read_calls([key])))[0][1]

"""Jobs in this process that run step by step under a test's control."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from dramatiq_progress import ProgressObserver, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.waiting import wait_until


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
            assert self._allowed.acquire(timeout=30)
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
        attempts = [binding.bound_attempt for binding in get_recorder().bindings()]
        return any(each is not None and each.message_id == message_id and each.pause_requested for each in attempts)

    wait_until(is_asked)

"""In place of Django's `ImmediateBackend`: a worker runs until the task has ended."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress.backends import DramatiqBackend


class ImmediateBackend(DramatiqBackend):
    """A backend whose results are those of finished tasks."""

    def enqueue_as(self, *args: Any) -> Any:
        broker = dramatiq.get_broker()
        assert isinstance(broker, StubBroker)
        broker.flush_all()
        result = super().enqueue_as(*args)
        worker = Worker(broker, worker_timeout=10, worker_threads=1)
        worker.start()
        try:
            for queue in broker.get_declared_queues():
                broker.join(queue, fail_fast=False)
            worker.join()
        finally:
            worker.stop()
        result.refresh()
        return result

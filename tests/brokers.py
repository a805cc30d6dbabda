"""Workers for a broker in a test's own process, and the broker that Dramatiq uses if none is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq import Broker


@contextmanager
def working(broker: Broker, *, threads: int = 2, queues: set[str] | None = None) -> Iterator[None]:
    """Run a worker in a ``with`` block, which stops also if an assertion there fails."""
    worker = dramatiq.Worker(broker, queues=queues, worker_timeout=10, worker_threads=threads)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


@contextmanager
def as_global_broker(broker: Broker) -> Iterator[None]:
    """Set the global broker in a ``with`` block."""
    before = dramatiq.broker.global_broker
    dramatiq.set_broker(broker)
    try:
        yield
    finally:
        dramatiq.broker.global_broker = before

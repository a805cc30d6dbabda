"""Brokers in a test's own process, and workers for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq import Broker


@contextmanager
def working(broker: Broker, *, threads: int = 1) -> Iterator[None]:
    """Run a worker in a ``with`` block, also if an assertion in it fails."""
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=threads)
    worker.start()
    try:
        yield
    finally:
        worker.stop()

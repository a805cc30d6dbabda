"""The actors that the worker processes of the benchmarks run."""

import os
import time
from typing import TYPE_CHECKING

import dramatiq

if TYPE_CHECKING:
    from dramatiq_progress import ProgressObserver


def noop() -> None:
    """An actor that does nothing."""


def ten_minutes(progress_observer: "ProgressObserver") -> None:
    """An actor that can be resumed after each of 60,000 items."""
    for _ in progress_observer.track(range(60_000), resume=True):
        time.sleep(0.01)


if os.environ.get("BENCH_PLAIN"):
    actor = dramatiq.actor(noop)
else:
    from dramatiq_progress import progress_actor

    actor = progress_actor(noop)
    long_job = progress_actor(queue_name=os.environ.get("BENCH_QUEUE", "default"))(ten_minutes)

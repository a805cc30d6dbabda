"""The actors that the worker processes of the benchmarks run."""

import os

import dramatiq


def noop() -> None:
    """Nothing, as a message."""


if os.environ.get("BENCH_PLAIN"):
    actor = dramatiq.actor(noop)
else:
    from dramatiq_progress import progress_actor

    actor = progress_actor(noop)

"""The actors that the worker processes of the benchmarks run."""

import os

import dramatiq


def noop() -> None:
    """An actor that does nothing."""


if os.environ.get("BENCH_PLAIN"):
    actor = dramatiq.actor(noop)
else:
    from dramatiq_progress import progress_actor

    actor = progress_actor(noop)

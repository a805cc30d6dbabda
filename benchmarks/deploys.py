"""16. A deploy: how long a worker takes to exit after SIGTERM, with eight jobs of ten minutes and without any.

Two processes with four threads each run all eight jobs, which make room between two items. Dramatiq itself takes some
seconds to exit. With ``BENCH_RABBITMQ_URL`` set, also on that RabbitMQ server, in queues of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from uuid import uuid4

from benchmarks.measuring import Row, compare, report, store

JOBS = 8
#: The environment's folder of programs isn't on the PATH of `make bench`.
DRAMATIQ = str(Path(sys.executable).with_name("dramatiq"))
WORKER = f"{DRAMATIQ} django_dramatiq.setup benchmarks.tasks --processes 2 --threads 4"
#: Logged by each process of a worker.
READY = "Worker process is ready for action."
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0


def main() -> None:
    with store() as url:
        brokers = {"Redis": url}
        if rabbitmq := os.environ.get("BENCH_RABBITMQ_URL"):
            brokers["RabbitMQ"] = rabbitmq
        for name, broker in brokers.items():
            os.environ["BENCH_BROKER_URL"] = broker
            sides = {"eight 10-minute jobs": lambda: _exit(JOBS), "idle": lambda: _exit(0)}
            row = compare(f"16. exit of a worker after SIGTERM, {name}", "s", sides)
            busy, idle = map(median, row.figures.values())
            more = Row("16. … beyond the idle one's", "s", {"jobs": [busy - idle]}, bar=1, bar_unit="s")
            report(row, more)


def _exit(jobs: int) -> float:
    """Return the seconds from SIGTERM to the exit of a worker that runs this many jobs."""
    # Otherwise a worker would go on with the jobs of the last one.
    os.environ["BENCH_QUEUE"] = f"deploys-{uuid4()}"
    # Otherwise one process would fetch all jobs, twice as many as it has threads.
    environment = os.environ | {"dramatiq_queue_prefetch": "4"}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            worker = subprocess.Popen(WORKER.split(), env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            _wait_until(lambda: log.read_text().count(READY) == 2)
            command = [sys.executable, "-m", "benchmarks.sending", "jobs", str(jobs)]
            sent = json.loads(subprocess.check_output(command))
            _wait_until(lambda: all(map(_has_begun, sent)))
            began = time.perf_counter()
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE_SECONDS)
            return time.perf_counter() - began
        finally:
            worker.kill()
            worker.wait()


def _has_begun(message_id: str) -> bool:
    from dramatiq_progress import get_progress

    progress = get_progress(message_id)
    return progress is not None and progress.current > 0


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()

"""14. Django's tasks: the cost of a task that does nothing, compared with a tracked message that does nothing.

Both are sent and processed as in messages.py, without the two lines in Django's log for each task. Needs Django 6.0 or
newer: it runs in the second environment if the first has an older one.
"""

from __future__ import annotations

import os
import subprocess
from functools import partial

import django

from benchmarks.measuring import Row, compare, report, store
from benchmarks.messages import DRAMATIQ, MESSAGES, THREADS, Side, left, send, worked
from benchmarks.track_step import SECOND_ENVIRONMENT

MESSAGES["task"] = MESSAGES["progress"]
SIDES = {
    "task": Side("task", f"{DRAMATIQ} --threads {THREADS}", {"BENCH_TASKS": "1"}),
    "progress_actor": Side("progress", f"{DRAMATIQ} --threads {THREADS}", {}),
}
#: Each row's question and target.
SENDER = ("14. sender's CPU time per message", 1.5)
WORKER = ("14. worker's CPU time per message", 1.4)


def main() -> None:
    if django.VERSION >= (6, 0):
        measure()
        return
    python = SECOND_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        report(*(Row(question, "µs", bar=bar) for question, bar in (SENDER, WORKER)))
        return
    subprocess.run([python, "-m", "benchmarks.django_tasks"], check=True)


def measure() -> None:
    with store() as url:
        import redis

        os.environ["BENCH_BROKER_URL"] = url
        found: dict[str, list[float]] = {name: [] for name in SIDES}
        with redis.Redis.from_url(url) as client:

            def measured(name: str) -> float:
                client.flushdb()
                side = SIDES[name]
                sent = send(side)
                found[name].append(sent["cpu"])
                return worked(side, partial(left, client, side.kind))[1]

            worker = compare(WORKER[0], "µs", {name: partial(measured, name) for name in SIDES}, bar=WORKER[1])
    report(Row(SENDER[0], "µs", found, bar=SENDER[1]), worker)


if __name__ == "__main__":
    main()

"""7. Messages that do nothing: the number per second that a worker process processes, and that a thread sends.

The messages are sent first. Then a worker starts. It is timed from the first poll that finds some of them done to the
one that finds all done, so that its start doesn't count. Broker and progress (or Celery's results) are in the same
Valkey server. Each side has eight threads; Celery's prefork has one child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.measuring import Row, compare, report, store
from benchmarks.processes import cpu_seconds, process

#: By kind of sender. Celery takes longer for each message.
MESSAGES = {"plain": 4_000, "progress": 4_000, "least": 4_000, "group": 4_000, "celery": 1_000}
THREADS = 8
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 120

DRAMATIQ = "dramatiq django_dramatiq.setup benchmarks.tasks --processes 1"
CELERY = "celery --app benchmarks.celery_app worker --loglevel ERROR --without-gossip --without-mingle --pool"
#: Key of the queue of Dramatiq's Redis broker.
DRAMATIQ_MESSAGES = "dramatiq:default.msgs"


class Side(NamedTuple):
    """A sender and a worker: the kind for sending.py, the worker's command, and its environment."""

    kind: str
    worker: str
    environment: dict[str, str]


WIDE = {"dramatiq_queue_prefetch": "512"}
PLAIN = {"BENCH_PLAIN": "1"}
#: A PING for each wait: the minimum for a middleware that uses the store.
LEAST = PLAIN | {"BENCH_LEAST": "1"}
SIDES = {
    "plain": Side("plain", f"{DRAMATIQ} --threads {THREADS}", PLAIN),
    "progress": Side("progress", f"{DRAMATIQ} --threads {THREADS}", {}),
    "plain, prefetch 512": Side("plain", f"{DRAMATIQ} --threads {THREADS}", PLAIN | WIDE),
    "progress, prefetch 512": Side("progress", f"{DRAMATIQ} --threads {THREADS}", WIDE),
    "PINGs": Side("least", f"{DRAMATIQ} --threads {THREADS}", LEAST),
    "PINGs, prefetch 512": Side("least", f"{DRAMATIQ} --threads {THREADS}", LEAST | WIDE),
    "Celery, threads": Side("celery", f"{CELERY} threads --concurrency {THREADS}", {}),
    "Celery, prefork": Side("celery", f"{CELERY} prefork --concurrency 1", {}),
}


def main() -> None:
    with store() as url:
        import redis

        os.environ["BENCH_BROKER_URL"] = url
        cpu: dict[str, list[float]] = {name: [] for name in SIDES}
        sends: dict[str, list[float]] = {}
        sends_cpu: dict[str, list[float]] = {}
        with redis.Redis.from_url(url) as client:

            def measured(name: str) -> float:
                client.flushdb()
                side = SIDES[name]
                sent = send(side)
                sends.setdefault(side.kind, []).append(sent["per_second"])
                sends_cpu.setdefault(side.kind, []).append(sent["cpu"])
                per_second, cost = worked(side, partial(left, client, side.kind))
                cpu[name].append(cost)
                return per_second

            found = compare("", "messages/s", {name: partial(measured, name) for name in SIDES}).figures

    def row(what: str, unit: str, figures: dict[str, list[float]], ours: str, other: str, **bar: Any) -> None:
        report(Row(f"7. {what}", unit, {ours: figures[ours], other: figures[other]}, **bar))

    for prefetch, bar in (("", 0.9), (", prefetch 512", 0.6)):
        plain, ours = "plain" + prefetch, "progress" + prefetch
        row("no-op messages processed", "messages/s", found, ours, plain, bar=bar, at_most=False)
        row("worker's CPU time per message", "µs", cpu, ours, plain, bar=1.6)
        row("minimum: messages processed", "messages/s", found, "PINGs" + prefetch, plain)
        row("minimum: worker's CPU time per message", "µs", cpu, "PINGs" + prefetch, plain)
    for other in ("Celery, threads", "Celery, prefork"):
        row("no-op messages processed", "messages/s", found, "progress", other, bar=2, at_most=False)
    row("messages sent", "messages/s", sends, "progress", "plain", bar=0.6, at_most=False)
    row("messages sent", "messages/s", sends, "progress", "celery")
    row("minimum: messages sent", "messages/s", sends, "least", "plain")
    row("minimum: sender's CPU time per message", "µs", sends_cpu, "least", "plain")
    row("sender's CPU time per message", "µs", sends_cpu, "progress", "plain", bar=1.6)


def send(side: Side) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.sending", side.kind, str(MESSAGES[side.kind])]
    environment = os.environ | side.environment
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return dict(json.loads(output))


def left(client: Any, kind: str) -> int:
    """Return the number of messages that aren't done."""
    if kind != "celery":
        return int(client.hlen(DRAMATIQ_MESSAGES))
    # A finished task has a result.
    results = sum(1 for _ in client.scan_iter("celery-task-meta-*", count=10_000))
    return MESSAGES[kind] - results


def worked(side: Side, messages_left: Callable[[], int]) -> tuple[float, float]:
    """Run a worker, and return its messages per second, and its CPU time per message in µs."""
    with process(sys.executable, "-m", *side.worker.split(), **side.environment) as pid:
        deadline = time.monotonic() + PATIENCE_SECONDS

        def poll_until(enough: int) -> tuple[int, float, float]:
            """Poll until at most this many messages are left; return their number, the time and the CPU time."""
            while (left := messages_left()) > enough:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{side.worker}: {left:,} messages are left after {PATIENCE_SECONDS} s")
                time.sleep(POLL_SECONDS)
            return left, time.perf_counter(), cpu_seconds(pid)

        done, began, used_before = poll_until(MESSAGES[side.kind] - 1)
        _, ended, used = poll_until(0)
    return done / (ended - began), (used - used_before) / done * 1e6


if __name__ == "__main__":
    main()

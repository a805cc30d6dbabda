"""Sends messages as fast as one thread can, in a separate process, and prints the figures; see messages.py."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def main() -> None:
    kind, messages = sys.argv[1], int(sys.argv[2])
    if kind == "group":
        return send_group(messages)
    if kind == "jobs":
        return send_jobs(messages)
    send = sender(kind)
    send()  # imports and connections of the first one don't count
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in range(messages - 1):
        send()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(json.dumps({"per_second": (messages - 1) / seconds, "cpu": cpu / (messages - 1) * 1e6}))


def send_group(count: int) -> None:
    import django

    django.setup()
    from benchmarks.tasks import actor
    from dramatiq_progress import progress_group

    progress_group([actor.message() for _ in range(count)]).run()
    print("{}")


def send_jobs(count: int) -> None:
    import django

    django.setup()
    from benchmarks.tasks import long_job

    print(json.dumps([long_job.send().message_id for _ in range(count)]))


def sender(kind: str) -> Callable[[], object]:
    import django

    django.setup()
    if kind == "celery":
        from benchmarks.celery_app import noop

        return noop.delay
    if kind == "task":
        from benchmarks.noop_task import noop as task

        return task.enqueue
    from benchmarks.tasks import actor

    return actor.send


if __name__ == "__main__":
    main()

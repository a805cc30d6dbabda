"""A site with three packages that use Django's tasks through their public API, with our backend: what each has seen.

They have tables, so this is a process of its own: ``python -m tests.task_consumers <folder>`` prints JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import dramatiq
from django.conf import settings
from dramatiq.middleware import Retries

from tests.waiting import wait_until


def configure(folder: Path) -> None:
    """Set Django up, with a StubBroker, a store in memory and a database file."""
    settings.configure(
        SECRET_KEY="only for tests",
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "db",
                "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
            }
        },
        INSTALLED_APPS=["django_dramatiq", "dramatiq_progress", "tasks_monitor", "django_periodic_tasks", "crontask"],
        ROOT_URLCONF="tests.urls",
        TASKS={"default": {"BACKEND": "dramatiq_progress.backends.DramatiqBackend"}},
        DRAMATIQ_BROKER={
            "BROKER": "dramatiq.brokers.stub.StubBroker",
            "OPTIONS": {},
            "MIDDLEWARE": ["dramatiq_progress.middleware.ProgressMiddleware"],
        },
        DRAMATIQ_PROGRESS={"STORE": "dramatiq_progress.stores.memory.MemoryStore"},
    )
    django.setup()


def monitored() -> list[list[Any]]:
    """Return the rows of django-tasks-monitor of some tasks: each has its end."""
    from django.tasks import task_backends
    from tasks_monitor.models import TaskRecord
    from tasks_monitor.retry import retry

    from tests import django_tasks as tasks

    cancelled = tasks.note.using(run_after=django.utils.timezone.now() + timedelta(days=1)).enqueue("never")
    task_backends["default"].cancel(cancelled.id, force=True)
    results = [tasks.add.enqueue(1, 2), tasks.fail.enqueue("no"), tasks.fail_first.using(max_retries=1).enqueue(1)]
    wait_until(lambda: finished(*results))
    again = retry(TaskRecord.objects.get(result_id=results[1].id))
    wait_until(lambda: finished(again.result_id))
    ids = [cancelled.id, *(each.id for each in results), again.result_id]
    rows = [TaskRecord.objects.get(result_id=each) for each in ids]
    return [[each.task_name, each.status, each.attempts, each.exception_class] for each in rows]


def finished(*results: Any) -> bool:
    """Return whether the rows of some results have their last states."""
    from tasks_monitor.models import TaskRecord

    ids = [getattr(each, "id", each) for each in results]
    return TaskRecord.objects.filter(result_id__in=ids, status__in=["SUCCESSFUL", "FAILED"]).count() == len(ids)


def periodic() -> list[list[Any]]:
    """Return the arguments and the status of what the scheduler of django-periodic-tasks has sent."""
    from django_periodic_tasks.models import ScheduledTask
    from django_periodic_tasks.scheduler import PeriodicTaskScheduler
    from tasks_monitor.models import TaskRecord

    due = django.utils.timezone.now() - timedelta(seconds=1)
    ScheduledTask.objects.create(
        name="each minute",
        task_path="tests.django_tasks.give",
        cron_expression="* * * * *",
        args=["periodic"],
        priority=5,
        next_run_at=due,
    )
    PeriodicTaskScheduler().tick()
    sent = TaskRecord.objects.filter(task_path="tests.django_tasks.give")
    wait_until(lambda: finished(*sent.values_list("result_id", flat=True)))
    return [[each.args, each.priority, each.status] for each in sent]


def by_cron() -> list[str]:
    """Return the statuses of what the scheduler of django-crontask has sent."""
    from apscheduler.triggers.date import DateTrigger
    from crontask import cron, scheduler
    from tasks_monitor.models import TaskRecord

    from tests import django_tasks as tasks

    # By default APScheduler drops a job if its thread starts more than a second late.
    scheduler.configure(job_defaults={"misfire_grace_time": None})
    cron(DateTrigger(timezone="UTC"))(tasks.nothing)
    thread = threading.Thread(target=scheduler.start)
    thread.start()
    sent = TaskRecord.objects.filter(task_path="tests.django_tasks.nothing")
    wait_until(lambda: sent.exists() and finished(*sent.values_list("result_id", flat=True)))
    scheduler.shutdown()
    thread.join()
    return list(sent.values_list("status", flat=True))


def main(folder: str) -> None:
    configure(Path(folder))
    from django.core.management import call_command
    from django.tasks.signals import task_finished

    call_command("migrate", verbosity=0)
    ends: Counter[str] = Counter()
    task_finished.connect(lambda task_result, **_: ends.update([task_result.id]), weak=False)
    broker = dramatiq.get_broker()
    broker.add_middleware(Retries(min_backoff=1, max_backoff=1))
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    seen = {"monitored": monitored(), "periodic": periodic(), "by_cron": by_cron()}
    worker.stop()
    sys.stdout.write(json.dumps(seen | {"ends": sorted(set(ends.values()))}))


if __name__ == "__main__":
    main(*sys.argv[1:])

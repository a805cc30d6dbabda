"""The Django settings of the benchmarks. Environment variables choose the store and the broker."""

import os
from typing import Any

SECRET_KEY = "only for benchmarks"  # noqa: S105
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.urls"
INSTALLED_APPS = ["django_dramatiq", "dramatiq_progress", "celery_progress"]

STORE_URL = os.environ.get("BENCH_STORE_URL", "")
BROKER_URL = os.environ.get("BENCH_BROKER_URL", "")
CELERY_BROKER_URL = BROKER_URL or "memory://"
PROGRESS_MIDDLEWARE = "dramatiq_progress.middleware.ProgressMiddleware"

if BROKER_URL:
    BROKER = "rabbitmq.RabbitmqBroker" if BROKER_URL.startswith("amqp") else "redis.RedisBroker"
else:
    BROKER = "stub.StubBroker"
DRAMATIQ_BROKER = {
    "BROKER": f"dramatiq.brokers.{BROKER}",
    "OPTIONS": {"url": BROKER_URL} if BROKER_URL else {},
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Pipelines",
        "dramatiq.middleware.Retries",
        # Plain Dramatiq is measured without this package.
        *([] if os.environ.get("BENCH_PLAIN") else [PROGRESS_MIDDLEWARE]),
        *(["benchmarks.least.RoundTripsOnly"] if os.environ.get("BENCH_LEAST") else []),
    ],
}
if os.environ.get("BENCH_TASKS"):
    TASKS = {"default": {"BACKEND": "dramatiq_progress.backends.DramatiqBackend"}}
    # Django logs the start and the end of each task, and Dramatiq's workers write that to the terminal.
    LOGGING = {"version": 1, "loggers": {"django.tasks": {"level": "WARNING"}}}
# A busy machine must not look like an outage.
DRAMATIQ_PROGRESS: dict[str, Any] = {"OPTIONS": {"url": STORE_URL, "socket_timeout": 5.0}} if STORE_URL else {}
# Like celery-progress: any client that knows the id may read.
DRAMATIQ_PROGRESS["PERMISSION"] = "dramatiq_progress.permissions.anyone_with_link"
# 10,000 clients that read, and some that don't.
DRAMATIQ_PROGRESS["MAX_STREAMS"] = 0
if "BENCH_SCHEDULES" in os.environ:
    TIME_ZONE = "UTC"
    DRAMATIQ_PROGRESS["SCHEDULES"] = {
        f"each-second-{number}": {"send": "benchmarks.tasks.actor", "every": 1}
        for number in range(int(os.environ["BENCH_SCHEDULES"]))
    }
if "BENCH_LOST_AFTER" in os.environ:
    DRAMATIQ_PROGRESS["LOST_AFTER"] = float(os.environ["BENCH_LOST_AFTER"])

"""The settings of the tests. In the test process: a StubBroker and memory; child processes choose by environment."""

import json
import os
from typing import Any

from tests import policies
from tests.waiting import PATIENT

SECRET_KEY = "only for tests"
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
UPLOADS = os.environ.get("TEST_UPLOADS", "")
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_dramatiq",
    "dramatiq_progress",
    "celery_progress",
    "tests",
]
MIDDLEWARE: list[str] = json.loads(os.environ.get("TEST_DJANGO_MIDDLEWARE", "[]"))
SECURE_CSP, CONTENT_SECURITY_POLICY = policies.read(os.environ.get("TEST_POLICY", "{}"))
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

BROKER_URL = os.environ.get("TEST_BROKER_URL", "")
STORE_URL = os.environ.get("TEST_STORE_URL", "")

broker: dict[str, Any]
if BROKER_URL.startswith("redis"):
    broker = {"BROKER": "dramatiq.brokers.redis.RedisBroker", "OPTIONS": {"url": BROKER_URL}}
elif BROKER_URL.startswith("amqp"):
    broker = {"BROKER": "dramatiq.brokers.rabbitmq.RabbitmqBroker", "OPTIONS": {"url": BROKER_URL}}
else:
    broker = {"BROKER": "dramatiq.brokers.stub.StubBroker", "OPTIONS": {}}

DRAMATIQ_BROKER = {
    **broker,
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.ShutdownNotifications",
        "dramatiq.middleware.CurrentMessage",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Pipelines",
        "dramatiq.middleware.Retries",
        "dramatiq.middleware.AsyncIO",
        "dramatiq_progress.middleware.ProgressMiddleware",
        *json.loads(os.environ.get("TEST_BROKER_MIDDLEWARE", "[]")),
    ],
}
# It imports Celery, which isn't installed.
DRAMATIQ_IGNORED_MODULES = json.loads(os.environ.get("TEST_IGNORED_MODULES", '["celery_progress.tasks"]'))
TASKS: dict[str, Any] = {
    "default": {
        "BACKEND": "dramatiq_progress.backends.DramatiqBackend",
        "QUEUES": os.environ.get("TEST_TASK_QUEUES", "default").split(),
        "OPTIONS": json.loads(os.environ.get("TEST_TASK_OPTIONS", "{}")),
    },
}
DRAMATIQ_PROGRESS = {"OPTIONS": {"url": STORE_URL, **PATIENT}} if STORE_URL else {}
DRAMATIQ_PROGRESS |= json.loads(os.environ.get("TEST_PROGRESS", "{}"))
broker["OPTIONS"] |= json.loads(os.environ.get("TEST_BROKER_OPTIONS", "{}"))

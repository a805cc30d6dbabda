"""The Django settings of the benchmarks; the store is chosen by each of them."""

import os

SECRET_KEY = "only for benchmarks"  # noqa: S105
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.urls"
INSTALLED_APPS = ["django_dramatiq", "dramatiq_progress", "celery_progress"]
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": ["dramatiq.middleware.Retries", "dramatiq_progress.middleware.ProgressMiddleware"],
}
STORE_URL = os.environ.get("BENCH_STORE_URL", "")
DRAMATIQ_PROGRESS = {"OPTIONS": {"url": STORE_URL}} if STORE_URL else {}
CELERY_RESULT_BACKEND = STORE_URL

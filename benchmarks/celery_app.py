"""The Celery application for comparison: its broker and results are in the Valkey server of the benchmark."""

from celery import Celery
from django.conf import settings

app = Celery("benchmarks", broker=settings.CELERY_BROKER_URL, backend=settings.STORE_URL)
# celery-progress's view uses the default application of its thread.
app.set_default()


@app.task(bind=True)
def reporting(self: object) -> None:
    """A task for celery-progress's recorder to report on."""


@app.task
def noop() -> None:
    """A task that does nothing."""

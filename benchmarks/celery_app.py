"""The Celery application that everything is measured against: broker and results in the Valkey of the benchmark."""

from celery import Celery
from django.conf import settings

app = Celery("benchmarks", broker=settings.CELERY_BROKER_URL, backend=settings.STORE_URL)
# celery-progress's view asks the application that is the default of whichever thread it runs in.
app.set_default()


@app.task(bind=True)
def reporting(self: object) -> None:
    """What celery-progress's recorder takes reports of."""


@app.task
def noop() -> None:
    """Nothing, as a task."""

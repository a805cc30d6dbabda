"""A task of Django's, which has them from version 6.0 on. It runs on the same workers as the actors in `tasks`."""

import time
from collections import Counter

import airportsdata
from django.tasks import task

from .csv_file import batches
from .tasks import BATCH_ROWS, QUEUE

PAUSE_SECONDS = 0.05
SHOWN_COUNTRIES = 5


@task(queue_name=QUEUE, takes_context=True)
def count_countries(context):
    airports = list(airportsdata.load().values())
    countries = Counter()
    context.progress.set_progress(0, len(airports), description="Counting")
    for batch in batches(airports, BATCH_ROWS):
        countries.update(airport["country"] for airport in batch)
        context.progress.increment_progress(len(batch))
        time.sleep(PAUSE_SECONDS)
    # Public: the bar shows it.
    context.progress.set_result(f"The airports are in {len(countries)} countries.")
    # Private: only code can read it, as `return_value`.
    return dict(countries.most_common(SHOWN_COUNTRIES))

"""The background jobs of the example. Dramatiq's workers find them because the module is called `tasks`."""

import csv
import io
import time
import zipfile

from django.urls import reverse
from django.utils import timezone

from dramatiq_progress import Cancelled, ProgressObserver, UserFacingError, progress_actor

from .csv_file import CsvFile, batches
from .models import Export, Import, Row

# Names of our own, so that the demo's workers never take a message of another project on a shared RabbitMQ.
QUEUE = "example"
SLOW_QUEUE = "example-slow"
BATCH_ROWS = 500


@progress_actor(queue_name=QUEUE, max_retries=3, throws=UserFacingError)
def import_rows(progress_observer: ProgressObserver, import_id: str, pause_seconds: float = 0) -> None:
    source = Import.objects.get(pk=import_id)
    # Dramatiq delivers at least once. A second delivery of a finished import has nothing to do ...
    if source.finished_at is None:
        # ... and one whose worker died begins again, without the rows that the first one left.
        source.rows.all().delete()
        csv_file = CsvFile(source.file.path)
        source.header = csv_file.header()
        # The first pass checks every row and counts them: nothing is written unless all are good.
        source.row_count = sum(1 for _ in progress_observer.track(csv_file.rows(), description="Checking"))

        progress_observer.set_progress(0, source.row_count, "Importing")
        try:
            for batch in batches(csv_file.rows(), BATCH_ROWS):
                Row.objects.bulk_create(Row(source=source, line=line, values=values) for line, values in batch)
                progress_observer.increment_progress(len(batch))
                time.sleep(pause_seconds)
        except Cancelled:
            # Whoever cancels an import wants none of it.
            source.rows.all().delete()
            raise

        source.finished_at = timezone.now()
        source.save()
    progress_observer.set_result({"imported": source.row_count})


@progress_actor(queue_name=QUEUE, max_retries=3, throws=UserFacingError)
def export_rows(progress_observer: ProgressObserver, export_id: str, pause_seconds: float = 0) -> None:
    export = Export.objects.get(pk=export_id)
    sources = list(Import.finished.order_by("created_at"))
    progress_observer.set_progress(0, sum(source.row_count for source in sources))

    # Written beside its place and moved there when it is whole, so that nobody downloads half a file.
    unfinished = export.path.with_suffix(".part")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, source in enumerate(sources, start=1):
            with archive.open(f"{number:03}-{source.file_stem}.csv", "w") as member:
                writer = csv.writer(io.TextIOWrapper(member, "utf-8", newline="", write_through=True))
                writer.writerow(source.header)
                rows = source.rows.values_list("values", flat=True).iterator()
                for batch in batches(rows, BATCH_ROWS):
                    for values in batch:
                        writer.writerow(values)
                        progress_observer.increment_progress(description=f"Packing {source.name}")
                    time.sleep(pause_seconds)
    unfinished.replace(export.path)

    progress_observer.set_result({"url": reverse("download", args=[export.pk])})


@progress_actor(queue_name=SLOW_QUEUE, max_retries=0)
def small_job(progress_observer: ProgressObserver, seconds: float) -> None:
    steps = 50
    for _ in progress_observer.track(range(steps), description="Working"):
        time.sleep(seconds / steps)


@progress_actor(queue_name=QUEUE, max_retries=3, min_backoff=2_000, max_backoff=3_000)
def fail_twice(progress_observer: ProgressObserver) -> None:
    for step in progress_observer.track(range(10), description="Calling the bank"):
        time.sleep(0.1)
        if step == 4 and progress_observer.attempt < 3:
            raise ConnectionError("The bank did not answer.")


@progress_actor(queue_name=QUEUE, throws=UserFacingError)
def fail_with_a_message(progress_observer: ProgressObserver) -> None:
    for step in progress_observer.track(range(20), description="Paying invoices"):
        time.sleep(0.1)
        if step == 12:
            raise UserFacingError("Invoice 2026-0013 has no address. Add one, then start again.")


@progress_actor(queue_name=QUEUE, max_retries=0)
def fail_for_good(progress_observer: ProgressObserver) -> None:
    for step in progress_observer.track(range(20), description="Paying invoices"):
        time.sleep(0.1)
        if step == 5:
            # An exception may hold what users should not see: it goes to the worker's log, not to the page.
            raise RuntimeError("no such account: DE02 1203 0000 0000 2020 51")

"""The background jobs of the example. django-dramatiq finds them because the module is called `tasks`."""

import csv
import io
import time
import zipfile
from datetime import timedelta

from django.core.files.base import ContentFile
from django.urls import reverse
from django.utils import timezone
from PIL import Image, UnidentifiedImageError

from dramatiq_progress import Cancelled, ProgressObserver, UserFacingError, progress_actor, scheduled

from .csv_file import CsvFile, batches
from .models import Export, Import, Photo, Row

# On a shared RabbitMQ, these names separate the demo's messages from those of other projects.
QUEUE = "example"
SLOW_QUEUE = "example-slow"
BATCH_ROWS = 500
THUMBNAIL_SIZE = (160, 120)


@progress_actor(queue_name=QUEUE, max_retries=3, cancellable=True)
def import_rows(progress_observer: ProgressObserver, import_id: str, pause_seconds: float = 0) -> None:
    source = Import.objects.get(pk=import_id)
    # Dramatiq delivers at least once. A second delivery of a complete import has nothing to do.
    if source.finished_at is None:
        csv_file = CsvFile(source.file.path)
        checking, importing = progress_observer.steps("Checking", "Importing", weights=(1, 9))
        if not checking.done:
            # The first pass checks and counts all rows: nothing is written unless all are valid.
            with checking:
                source.header = csv_file.header()
                source.row_count = sum(1 for _ in progress_observer.track(csv_file.rows()))
                source.save()
        # Rows of an attempt that this one doesn't resume, since the store has lost its place.
        progress_observer.once("clean", source.rows.all().delete)

        rows = csv_file.rows()
        try:
            with importing:
                for batch in progress_observer.track(rows, source.row_count, resume="rows", batch=BATCH_ROWS):
                    new = [Row(source=source, line=line, values=values) for line, values in batch]
                    # The last batch of a worker that was killed may come twice.
                    Row.objects.bulk_create(new, ignore_conflicts=True)
                    time.sleep(pause_seconds)
        except Cancelled:
            # A cancelled import leaves no rows.
            source.rows.all().delete()
            raise

        source.finished_at = timezone.now()
        source.save()
    progress_observer.set_result({"imported": source.row_count})


@progress_actor(title="Export", queue_name=QUEUE, max_retries=3, cancellable=True)
def export_rows(progress_observer: ProgressObserver, export_id: str, pause_seconds: float = 0) -> None:
    export = Export.objects.get(pk=export_id)
    sources = list(Import.finished.order_by("created_at"))
    progress_observer.set_progress(0, sum(source.row_count for source in sources))

    # The file is moved to its final path when it is complete, so that an incomplete one can't be downloaded.
    unfinished = export.path.with_suffix(".part")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
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
    finally:
        # A cancelled export leaves no file.
        unfinished.unlink(missing_ok=True)

    progress_observer.set_result({"url": reverse("download", args=[export.pk])})


@progress_actor(queue_name=QUEUE, max_retries=3, cancellable=True)
def resize_photo(photo_id: str, pause_seconds: float = 0) -> None:
    # One message of a group: views.photos_page sends it for each photo. It reports nothing: the group counts it.
    photo = Photo.objects.get(pk=photo_id)
    time.sleep(pause_seconds)
    try:
        with Image.open(photo.file) as picture:
            picture.thumbnail(THUMBNAIL_SIZE)
            content = io.BytesIO()
            picture.save(content, "JPEG")
    except UnidentifiedImageError:
        # Fails without a retry.
        raise UserFacingError(f"{photo} is damaged.") from None
    photo.thumbnail.save(f"{photo.pk}.jpg", ContentFile(content.getvalue()))


@progress_actor(queue_name=SLOW_QUEUE, max_retries=0, cancellable=True)
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


@progress_actor(queue_name=QUEUE)
def fail_with_a_message(progress_observer: ProgressObserver) -> None:
    for step in progress_observer.track(range(20), description="Paying invoices"):
        time.sleep(0.1)
        if step == 12:
            raise UserFacingError("Invoice 2026-0013 has no address. Add one, then start again.")


@progress_actor(queue_name=QUEUE, max_retries=0)
def fail_with_an_exception(progress_observer: ProgressObserver) -> None:
    for step in progress_observer.track(range(20), description="Paying invoices"):
        time.sleep(0.1)
        if step == 5:
            # An exception's message may be confidential: it is logged by the worker and not shown on the page.
            raise RuntimeError("no such account: DE02 1203 0000 0000 2020 51")


@scheduled(every=timedelta(minutes=1), overlap="skip")
@progress_actor(queue_name=QUEUE, max_retries=0)
def count_rows(progress_observer: ProgressObserver) -> None:
    """Slow on purpose, so that you see its bar each minute."""
    for _ in progress_observer.track(range(40), description="Counting"):
        time.sleep(0.5)
    progress_observer.set_result({"rows": Row.objects.count()})


@scheduled(cron="0 3 * * *")
@progress_actor(queue_name=QUEUE, max_retries=3)
def remove_leftovers(progress_observer: ProgressObserver) -> None:
    yesterday = timezone.now() - timedelta(days=1)
    exports = Export.objects.filter(created_at__lt=yesterday)
    for export in progress_observer.track(exports, description="Removing exports", resume="exports"):
        export.path.unlink(missing_ok=True)
        export.delete()
    # Imports that were cancelled while they waited for a worker.
    imports = Import.objects.filter(finished_at=None, created_at__lt=yesterday)
    for source in progress_observer.track(imports, description="Removing imports", resume="imports"):
        source.file.delete(save=False)
        source.delete()

"""Imported files, their rows, exports, and photos."""

import uuid
from pathlib import PurePath

from django.conf import settings
from django.db import models
from django.utils.text import slugify


class FinishedImports(models.Manager):
    """Complete imports only: rows of running and failed ones are neither shown nor exported."""

    def get_queryset(self):
        return super().get_queryset().filter(finished_at__isnull=False)


class Import(models.Model):
    """One uploaded CSV file. It is complete when `finished_at` is set."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    file = models.FileField(upload_to="imports/", max_length=255)
    header = models.JSONField(default=list)
    row_count = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    objects = models.Manager()
    finished = FinishedImports()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self):
        return self.name

    @property
    def file_stem(self):
        """The name without its extension, as a safe file name."""
        return slugify(PurePath(self.name).stem) or "rows"


class Row(models.Model):
    """One row of an imported file: its line in the file, and its values as a list of strings."""

    source = models.ForeignKey(Import, on_delete=models.CASCADE, related_name="rows")
    line = models.PositiveIntegerField()
    values = models.JSONField()

    class Meta:
        ordering = ("line",)
        # If one message is processed twice at the same time, the database rejects the second copy of a line.
        constraints = (models.UniqueConstraint(fields=("source", "line"), name="example_row_once"),)

    def __str__(self):
        return f"{self.source}, line {self.line}"


class Export(models.Model):
    """One ZIP of all complete imports. Its file exists after a worker has created it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"Export of {self.created_at:%Y-%m-%d %H:%M}"

    @property
    def path(self):
        return settings.EXPORTS_DIR / f"{self.pk}.zip"


class Photo(models.Model):
    """One photo of a job that resizes many. It has a thumbnail after a worker has resized it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # The message id of the group.
    job = models.CharField(max_length=64, db_index=True)
    number = models.PositiveSmallIntegerField()
    file = models.ImageField(upload_to="photos/")
    thumbnail = models.ImageField(upload_to="thumbnails/")

    class Meta:
        ordering = ("number",)

    def __str__(self):
        return f"Photo {self.number}"

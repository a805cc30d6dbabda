"""What the example keeps: imported files, their rows, and exports."""

import uuid
from pathlib import PurePath

from django.conf import settings
from django.db import models
from django.utils.text import slugify


class FinishedImports(models.Manager):
    """Only the imports that are whole: rows of a running or a broken one are not shown and not exported."""

    def get_queryset(self):
        return super().get_queryset().filter(finished_at__isnull=False)


class Import(models.Model):
    """One uploaded CSV file. It is whole once `finished_at` is set."""

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
        """The name without its ending, safe as a file name anywhere."""
        return slugify(PurePath(self.name).stem) or "rows"


class Row(models.Model):
    """One row of an imported file: its line in the file, and its values as a list of strings."""

    source = models.ForeignKey(Import, on_delete=models.CASCADE, related_name="rows")
    line = models.PositiveIntegerField()
    values = models.JSONField()

    class Meta:
        ordering = ("line",)
        # Should one message be worked on twice at the same moment, the database refuses to take a line twice.
        constraints = (models.UniqueConstraint(fields=("source", "line"), name="example_row_once"),)

    def __str__(self):
        return f"{self.source}, line {self.line}"


class Export(models.Model):
    """One ZIP of all the finished imports; its file is there once a worker has made it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"Export of {self.created_at:%Y-%m-%d %H:%M}"

    @property
    def path(self):
        return settings.EXPORTS_DIR / f"{self.pk}.zip"

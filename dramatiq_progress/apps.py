"""The Django application: it brings template tags, static files and system checks."""

from contextlib import suppress

import django
from django.apps import AppConfig


class DramatiqProgressConfig(AppConfig):
    """Progress bars for Dramatiq."""

    name = "dramatiq_progress"
    verbose_name = "Dramatiq progress"

    def ready(self) -> None:
        """Register the checks, and declare the actors that run tasks if a backend of ``TASKS`` is ours."""
        from . import checks  # noqa: F401

        if django.VERSION >= (6, 0):
            from django.tasks import task_backends
            from django.tasks.exceptions import InvalidTaskBackend

            for alias in task_backends:
                # Django's check reports a backend that can't be made.
                with suppress(InvalidTaskBackend):
                    # Not by the class, which most projects don't import.
                    if declare := getattr(task_backends[alias], "declare_dramatiq_actors", None):
                        declare()

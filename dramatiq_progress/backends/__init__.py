"""Django's own tasks (``django.tasks``) on Dramatiq, with progress bars.

::

    TASKS = {"default": {"BACKEND": "dramatiq_progress.backends.DramatiqBackend"}}

A task is a tracked message of one of the actors in dispatch.py. `TaskRun` (run.py) goes along with it, beside its
record; results.py makes a `TaskResult` of both.

Raises:
  ImproperlyConfigured: Django is older than 6.0.
"""

import django
from django.core.exceptions import ImproperlyConfigured

if django.VERSION < (6, 0):
    raise ImproperlyConfigured(
        f"dramatiq_progress.backends requires Django 6.0 or newer, which has django.tasks; this is Django "
        f"{django.get_version()}. Declare actors with @progress_actor instead."
    )

from .backend import DramatiqBackend
from .task import ProgressContext, ProgressResult, ProgressTask

__all__ = ["DramatiqBackend", "ProgressContext", "ProgressResult", "ProgressTask"]

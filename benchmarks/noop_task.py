"""A task of Django's that does nothing, for django_tasks.py."""

from django.tasks import task


@task
def noop() -> None: ...

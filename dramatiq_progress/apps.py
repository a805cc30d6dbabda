"""The Django application: it brings template tags, static files and system checks."""

from django.apps import AppConfig


class DramatiqProgressConfig(AppConfig):
    """Progress bars for Dramatiq."""

    name = "dramatiq_progress"
    verbose_name = "Dramatiq progress"

    def ready(self) -> None:
        """Register the checks."""
        from . import checks  # noqa: F401

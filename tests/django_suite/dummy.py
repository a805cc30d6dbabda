"""In place of Django's `DummyBackend`: tasks are sent, and no worker runs."""

from __future__ import annotations

from typing import Any, ClassVar

from django.tasks.base import TaskResult

from dramatiq_progress.backends import DramatiqBackend
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.outcomes import Change


class DummyBackend(DramatiqBackend):
    """A backend that knows all results, as the tests of Django's expect."""

    _ids: ClassVar[list[str]] = []

    @property
    def results(self) -> list[TaskResult]:
        return [self.get_result(each) for each in self._ids]

    def enqueue_as(self, *args: Any) -> Any:
        result = super().enqueue_as(*args)
        self._ids.append(result.id)
        return result

    def clear(self) -> None:
        for each in self._ids:
            get_store().withdraw(each, Change(True, version=1), queue="default")
        self._ids.clear()

"""Tasks of Django 6 as targets of schedules, with any backend."""

from __future__ import annotations

import sys
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from django.tasks import TaskResultStatus, task

from dramatiq_progress import State, get_progress
from dramatiq_progress.scheduler.targets import has_finished, is_tracked, misfit, send, was_delivered
from dramatiq_progress.schedules.declaring import is_target, name_of
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests import django_tasks


def nothing(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("name", ["immediate.ImmediateBackend", "dummy.DummyBackend"])
def test_a_task_of_another_backend_is_sent(
    settings: Any, memory_store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings.TASKS = {"default": {"BACKEND": f"django.tasks.backends.{name}"}}
    made = task(nothing)
    # A backend may import the task by its path.
    monkeypatch.setattr(sys.modules[__name__], "nothing", made)
    assert is_target(made) and not is_tracked(made) and name_of(made) == f"{__name__}.nothing"
    result_id = send(made, (1,), {}, "m1")
    assert result_id != "m1", "it chooses the ids of its results"
    if name == "dummy.DummyBackend":
        assert not has_finished(made, result_id, memory_store)
        assert has_finished(made, "unknown", memory_store)


def test_a_task_of_this_backend_has_the_claimed_id_and_a_bar(memory_store: Store) -> None:
    assert is_target(django_tasks.add) and is_tracked(django_tasks.add)
    message_id = "00000000-0000-4000-8000-000000000001"
    assert send(django_tasks.add, (1, 2), {}, message_id) == message_id
    progress = get_progress(message_id)
    assert progress is not None and (progress.state, progress.actor) == (State.ENQUEUED, django_tasks.add.module_path)
    assert not has_finished(django_tasks.add, message_id, memory_store)


def test_a_task_was_certainly_sent_once_a_worker_has_started_it(memory_store: Store) -> None:
    message_id = "00000000-0000-4000-8000-000000000002"
    assert not was_delivered(django_tasks.add, message_id, memory_store)
    send(django_tasks.add, (1, 2), {}, message_id)
    assert not was_delivered(django_tasks.add, message_id, memory_store)
    attempt = Attempt(message_id, django_tasks.add.module_path, "default")
    memory_store.start(attempt)
    assert was_delivered(django_tasks.add, message_id, memory_store)
    memory_store.finish(attempt, state=State.DONE)
    assert was_delivered(django_tasks.add, message_id, memory_store)


def test_a_task_that_waits_for_a_retry_was_certainly_sent(memory_store: Store) -> None:
    result = SimpleNamespace(status=TaskResultStatus.READY, attempts=1)
    backend = SimpleNamespace(supports_get_result=True, enqueue_as=nothing, get_result=lambda result_id: result)
    task = SimpleNamespace(get_backend=lambda: backend)
    assert was_delivered(task, "m1", memory_store)
    result.attempts = 0
    assert not was_delivered(task, "m1", memory_store)
    # The ids of its results are its own.
    del backend.enqueue_as
    result.attempts = 1
    assert not was_delivered(task, "m1", memory_store)


def test_the_context_is_no_argument_of_a_schedule() -> None:
    assert misfit(django_tasks.import_rows, (["a"],), {}) == ""
    assert "missing a required argument: 'rows'" in misfit(django_tasks.import_rows, (), {})


def test_arguments_of_a_task_are_json() -> None:
    task = SimpleNamespace(func=lambda day: None)
    assert misfit(task, ("2026-01-01",), {}) == ""
    assert "datetime.date" in misfit(task, (date(2026, 1, 1),), {})

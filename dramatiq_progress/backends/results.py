"""From what is stored of a task to Django's `TaskResult`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.tasks.base import Task, TaskError, TaskResultStatus
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend
from django.utils.module_loading import import_string
from dramatiq.middleware import SkipMessage

from dramatiq_progress.errors import Cancelled, GivenUp
from dramatiq_progress.progress import FINAL_STATES, State

from .task import ProgressResult

#: The status of each state; of all others it is READY.
STATUSES = {
    State.RUNNING: TaskResultStatus.RUNNING,
    State.LOST: TaskResultStatus.RUNNING,
    State.DONE: TaskResultStatus.SUCCESSFUL,
    **dict.fromkeys((State.FAILED, State.CANCELLED, State.SKIPPED), TaskResultStatus.FAILED),
}

#: The last error of a task that failed without an exception: its class and its text.
DERIVED_ERRORS: dict[State, tuple[type[BaseException], str]] = {
    State.FAILED: (GivenUp, "The task was given up, since each of its workers was killed."),
    State.CANCELLED: (Cancelled, "The task was cancelled."),
    State.SKIPPED: (SkipMessage, "The task was skipped."),
}


def load_task(path: str, options: Mapping[str, Any]) -> Task[..., Any]:
    """Return the task at a dotted path, with these options.

    Where the project doesn't have it any more, or the settings don't allow it, it is one that raises the reason when it
    is run: its result can still be read.
    """
    try:
        found = import_string(path)
        if not isinstance(found, Task):
            raise InvalidTask(f"{path} isn't a task.")
        changes = {name: value for name, value in options.items() if getattr(found, name, value) != value}
        return replace(found, **changes) if changes else found
    except (ImportError, InvalidTask, InvalidTaskBackend) as error:
        return _unusable_task(path, options, error)


def _unusable_task(path: str, options: Mapping[str, Any], reason: Exception) -> Task[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise reason

    fail.__module__, _, fail.__qualname__ = path.rpartition(".")
    values = {"priority": 0, "run_after": None, "takes_context": False, "func": fail, **options}
    # Without its checks, which it would fail.
    task = object.__new__(Task)
    for field in fields(Task):
        object.__setattr__(task, field.name, values[field.name])
    return task


def make_result(
    result_id: str,
    about: Mapping[str, Any],
    state: State,
    stored: Mapping[str, str],
    *,
    attempted_at: float | None = None,
    ended_at: float | None = None,
) -> ProgressResult:
    """Return the result of a task.

    Parameters:
      about: See `TaskRun`.
      state: The state of its message.
      stored: The fields that are stored beside the record.
      attempted_at: Start of the last attempt, as a Unix time.
      ended_at: End of a finished task, as a Unix time.
    """
    result = ProgressResult(
        task=load_task(about["path"], task_options(about)),
        id=result_id,
        status=TaskResultStatus.READY,
        enqueued_at=moment(float(stored.get("enqueued_at", about["sent_at"]))),
        started_at=moment(float(stored["started_at"])) if "started_at" in stored else None,
        last_attempted_at=None if attempted_at is None or "started_at" not in stored else moment(attempted_at),
        finished_at=None,
        args=about["args"],
        kwargs=about["kwargs"],
        backend=about["backend"],
        errors=[],
        worker_ids=_worker_ids(stored),
        metadata=json.loads(stored.get("metadata", "{}")),
    )
    update_result(result, state, stored, ended_at)
    return result


def update_result(result: ProgressResult, state: State, stored: Mapping[str, str], ended_at: float | None) -> None:
    """Change a result to that of a message in this state. The parameters are those of `make_result`."""
    changes: dict[str, Any] = {"status": STATUSES.get(state, TaskResultStatus.READY), "errors": _errors(stored, state)}
    if state in FINAL_STATES and ended_at is not None:
        changes["finished_at"] = moment(ended_at)
    if state is State.DONE:
        changes["_return_value"] = json.loads(stored.get("value", "null"))
    for name, value in changes.items():
        object.__setattr__(result, name, value)


def task_options(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task that differ from those in its decorator, from what is stored about it."""
    run_after = about.get("run_after")
    return {
        **about["options"],
        "backend": about["backend"],
        "run_after": None if run_after is None else datetime.fromisoformat(run_after),
    }


def moment(seconds: float) -> datetime:
    """Return a Unix time as Django's `timezone.now` returns the current one."""
    return datetime.fromtimestamp(seconds, tz=UTC) if settings.USE_TZ else datetime.fromtimestamp(seconds)


def last_attempt(stored: Mapping[str, str]) -> int:
    """Return the number of the last attempt that has run, 0 if none has."""
    return max(_numbered(stored, "worker:"), default=0)


def _errors(stored: Mapping[str, str], state: State) -> list[TaskError]:
    errors = [TaskError(**json.loads(text)) for _, text in sorted(_numbered(stored, "error:").items())]
    if state in DERIVED_ERRORS and not (state is State.FAILED and f"error:{last_attempt(stored)}" in stored):
        kind, text = DERIVED_ERRORS[state]
        errors.append(TaskError(exception_class_path=path_of(kind), traceback=f"{path_of(kind)}: {text}\n"))
    return errors


def _worker_ids(stored: Mapping[str, str]) -> list[str]:
    # Those of old attempts aren't kept; their number is, since `TaskResult.attempts` counts this list.
    workers = _numbered(stored, "worker:")
    return [workers.get(number, "") for number in range(1, last_attempt(stored) + 1)]


def _numbered(stored: Mapping[str, str], prefix: str) -> dict[int, str]:
    return {int(name.removeprefix(prefix)): text for name, text in stored.items() if name.startswith(prefix)}


def path_of(kind: type) -> str:
    """Return the dotted path of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"

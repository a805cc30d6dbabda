"""The classes of Django's tasks, with what this backend adds to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from django.tasks.base import TASK_REFRESH_ATTRS, Task, TaskContext, TaskResult
from django.tasks.exceptions import InvalidTask
from django.utils.functional import Promise
from dramatiq import Message

from dramatiq_progress.worker.observing.observer import ProgressObserver


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """A task with this backend's options. ``@task`` accepts them from Django 6.1 on, `using` on every version.

    Attributes:
      max_retries: How often it is retried. None: the backend's option.
      time_limit: Milliseconds after which an attempt is interrupted. None: the backend's option.
      publish_result: Whether the return value is also the public result, which the page receives.
      title: The name of the job for users: a string, or a lazy translation, which is stored in the language of the
        sender. Empty: the function's name in words.
      cancellable: Whether it can be cancelled. None: ``DRAMATIQ_PROGRESS["CANCELLABLE"]``.
      metadata: The first value of `ProgressContext.metadata`.
    """

    max_retries: int | None = None
    time_limit: int | None = None
    publish_result: bool = False
    title: str | Promise = ""
    cancellable: bool | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)

    def using(
        self,
        *,
        max_retries: int | None = None,
        time_limit: int | None = None,
        publish_result: bool | None = None,
        title: str | Promise | None = None,
        cancellable: bool | None = None,
        metadata: dict[str, Any] | None = None,
        **changes: Any,
    ) -> ProgressTask:
        """Return a task with other options; those that are None stay.

        Raises:
          TypeError: There is no such option.
          InvalidTask: The value of an option is invalid.
        """
        options = sorted({each.name for each in fields(self)} - {"func", "takes_context"})
        if unknown := sorted(set(changes) - set(options)):
            raise TypeError(f"using() has no option {', '.join(unknown)}. The options are {', '.join(options)}.")
        own = {
            "max_retries": max_retries,
            "time_limit": time_limit,
            "publish_result": publish_result,
            "title": title,
            "cancellable": cancellable,
            "metadata": metadata,
        }
        # Not super(): a dataclass with slots is another class than the one that this method was defined in.
        changed: Any = Task.using(self, **changes)
        task: ProgressTask = replace(changed, **{name: value for name, value in own.items() if value is not None})
        return task

    def message(self, *args: Any, **kwargs: Any) -> Message[Any]:
        """Return a message that runs the task, as a member of a `progress_group` or a `progress_pipeline`.

        Its ``message_id`` is the id of the result. In a pipeline the task gets the return value of the one before as a
        further positional argument.

        Raises:
          InvalidTask: The task isn't one of `DramatiqBackend`, or has a `run_after`.
          TypeError: An argument isn't JSON, or a value of the metadata.
          ValueError: The arguments are over 256 KiB of JSON, or the metadata are over 16 KiB.
        """
        make = getattr(self.get_backend(), "make_message", None)
        if make is None:
            raise InvalidTask(f'Only tasks of DramatiqBackend have messages; this one\'s backend is "{self.backend}".')
        message: Message[Any] = make(self, args, kwargs)
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressResult(TaskResult):  # type: ignore[type-arg, misc]  # neither generic nor unfrozen in Django
    """The result of a task.

    Attributes:
      metadata: The values in `ProgressContext.metadata`, as last saved.
    """

    metadata: dict[str, Any] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read the result again."""
        self._take(self.task.get_backend().get_result(self.id))

    async def arefresh(self) -> None:
        """`refresh`, for async code."""
        self._take(await self.task.get_backend().aget_result(self.id))

    def _take(self, result: TaskResult[..., Any]) -> None:
        for name in (*TASK_REFRESH_ATTRS, "metadata"):
            object.__setattr__(self, name, getattr(result, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressContext(TaskContext):  # type: ignore[type-arg, misc]  # as above
    """The context of a task that takes one.

    Attributes:
      progress: The observer: what is reported here is public, and shown on the page.
      metadata: Private values beside the task's arguments, for instance the id of a trace. They survive retries, and
        are saved when an attempt ends, and by `save_metadata`. Provisional: it follows a proposal for Django
        (https://github.com/django/new-features/issues/141), and will change with it.
    """

    progress: ProgressObserver
    metadata: dict[str, Any]
    _save: Callable[[dict[str, Any]], None] = field(repr=False)

    def save_metadata(self) -> None:
        """Save `metadata` now.

        Raises:
          TypeError: A value isn't JSON.
          ValueError: It is over 16 KiB of JSON.
        """
        self._save(self.metadata)

    async def asave_metadata(self) -> None:
        """`save_metadata`, for async code."""
        await asyncio.to_thread(self.save_metadata)

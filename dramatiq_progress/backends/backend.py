"""`DramatiqBackend`: sends tasks as messages, and reads their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any
from uuid import uuid4

from django.core.checks import CheckMessage, Error, Info
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.json import normalize_json
from dramatiq import Message
from dramatiq import broker as dramatiq_broker
from dramatiq.middleware import AsyncIO

from dramatiq_progress.cancellation import Cancellation, cancel
from dramatiq_progress.error_texts import show
from dramatiq_progress.message_ids import MESSAGE_ID, message_id_of
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import carried_by, note_owner, owned_by
from dramatiq_progress.worker.sending.options import TITLE_OPTION
from dramatiq_progress.worker.tracking import CANCELLABLE_OPTION

from .dispatch import Band, declare_actors, declare_queues, get_broker, known_queues, max_priority, priority_options
from .options import Options, is_count, is_limit, read_options
from .results import moment
from .run import (
    MAX_ARGUMENTS_BYTES,
    MAX_METADATA_BYTES,
    TASK_OPTION,
    TaskRun,
    encode,
    read_result,
    send_signal,
    sending,
)
from .task import ProgressResult, ProgressTask

#: The fields of a `ProgressTask` that its message carries if they aren't the default.
OWN_FIELDS: dict[str, Any] = {
    "max_retries": None,
    "time_limit": None,
    "publish_result": False,
    "title": "",
    "cancellable": None,
    "metadata": {},
}


class DramatiqBackend(BaseTaskBackend):
    """A backend of Django's tasks whose workers are Dramatiq's.

    The id of a result is the message's: it is what the template tag, the JSON and `cancel` accept.

    Raises:
      InvalidTaskBackend: ``OPTIONS`` has an unknown key or an invalid value. See `Options`.
    """

    task_class = ProgressTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True
    #: `ProgressContext.metadata`, as proposed for Django.
    supports_metadata = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._options: Options = read_options(alias, self.options)
        known_queues.update(self.queues)
        self._has_async_tasks = False

    def declare_dramatiq_actors(self) -> None:
        """Declare the actors that run tasks, so that a worker knows them, unless the broker lacks our middleware."""
        broker = dramatiq_broker.global_broker
        if broker is not None and any(isinstance(each, ProgressMiddleware) for each in broker.middleware):
            declare_actors(broker)

    def validate_task(self, task: Task[..., Any]) -> None:
        """Check a task, when it is declared and when it is enqueued. The broker isn't used.

        Raises:
          InvalidTask: Its function or one of its options is invalid.
        """
        super().validate_task(task)
        if isinstance(task, ProgressTask):
            if task.max_retries is not None and not is_count(task.max_retries):
                raise InvalidTask(f"max_retries={show(task.max_retries)}: it must be a whole number, 0 for none.")
            if task.time_limit is not None and not is_limit(task.time_limit):
                raise InvalidTask(f"time_limit={show(task.time_limit)}: it must be a whole number of milliseconds.")
            if task.cancellable is not None and not isinstance(task.cancellable, bool):
                raise InvalidTask(f"cancellable={show(task.cancellable)}: it must be True or False.")
            if not isinstance(task.publish_result, bool):
                raise InvalidTask(f"publish_result={show(task.publish_result)}: it must be True or False.")
            if not isinstance(task.metadata, dict):
                raise InvalidTask(f"metadata={show(task.metadata)}: it must be a dict, as in metadata={{'trace': id}}.")
            if not isinstance(task.title, str | Promise):
                raise InvalidTask(f"title={show(task.title)}: it must be a text, as in title=str(path).")
        known_queues.add(task.queue_name)
        self._has_async_tasks = self._has_async_tasks or iscoroutinefunction(task.func)

    def enqueue(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> ProgressResult:
        """Send a task to the workers.

        Raises:
          InvalidTask: See `validate_task`.
          TypeError: An argument isn't JSON, or a value of the metadata.
          ValueError: The arguments are over 256 KiB of JSON, or the metadata are over 16 KiB.
        """
        return self.enqueue_as(task, args, kwargs, str(uuid4()))

    def enqueue_as(
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result_id: str
    ) -> ProgressResult:
        """`enqueue`, with the id that the result will have.

        Raises:
          ValueError: It isn't an id that a message can have.
        """
        message, run, result = self._prepare(task, args, kwargs, message_id_of(result_id))
        # At the call: at the commit, an owned_by block has ended, and a request's user may be known no more.
        note_owner(message, is_tracked=True)
        send = partial(self._send, message, run, result)
        if alias := self._options.on_commit:
            transaction.on_commit(send, using=DEFAULT_DB_ALIAS if alias is True else alias)
        else:
            send()
        return result

    def make_message(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Message[Any]:
        """Return the message of a task, as a member of a group or a pipeline. Its id is that of the result.

        Raises:
          InvalidTask: See `validate_task`. Or the task has a `run_after`: a group and a pipeline have a delay.
          TypeError: See `enqueue`.
          ValueError: See `enqueue`.
        """
        if task.run_after is not None:
            raise InvalidTask("A member of a group or a pipeline has no run_after: pass a delay to run().")
        return self._prepare(task, args, kwargs, str(uuid4()))[0]

    def get_result(self, result_id: str) -> ProgressResult:
        """Return the result of a task.

        Raises:
          TaskResultDoesNotExist: There is none, or not any more, or it is another backend's.
          StoreUnavailable: The store can't be reached.
        """
        found = read_result(result_id) if MESSAGE_ID.fullmatch(str(result_id)) else None
        if found is None or found[0].backend != self.alias:
            raise TaskResultDoesNotExist(result_id)
        return found[0]

    def cancel(self, result_id: str, *, force: bool = False) -> Cancellation:
        """Cancel a task, as `dramatiq_progress.cancel` does with a message."""
        return cancel(result_id, force=force)

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return the mistakes in the configuration of this backend. Those of the broker are reported without it."""
        found: list[CheckMessage] = []
        database = self._options.on_commit
        if isinstance(database, str) and database not in connections:
            found.append(
                Error(
                    f'TASKS["{self.alias}"]["OPTIONS"]["on_commit"] is {show(database)}, which isn\'t the alias of a '
                    "database.",
                    hint=f"Set it to True for the default database, or to one of {', '.join(connections)}.",
                    id="dramatiq_progress.E012",
                )
            )
        broker = dramatiq_broker.global_broker
        if broker is None:
            return found
        if self._has_async_tasks and not any(isinstance(each, AsyncIO) for each in broker.middleware):
            found.append(
                Error(
                    f'TASKS["{self.alias}"] has async tasks, and the broker doesn\'t have the AsyncIO middleware, so '
                    "that time limits can't interrupt them.",
                    hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.AsyncIO"',
                    id="dramatiq_progress.E007",
                )
            )
        if hasattr(broker, "max_priority") and not max_priority(broker):
            found.append(
                Info(
                    "The RabbitMQ broker has no max_priority, so tasks are worked on in three bands of priority.",
                    hint='Set "max_priority" in the OPTIONS of DRAMATIQ_BROKER, for instance to 10. RabbitMQ refuses '
                    "to change a queue that exists: delete it first.",
                    id="dramatiq_progress.I002",
                )
            )
        return found

    def _prepare(
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result_id: str
    ) -> tuple[Message[Any], TaskRun, ProgressResult]:
        """Return the message of a task, its private data, and the result that `enqueue` returns."""
        self.validate_task(task)
        result = ProgressResult(
            task=task,
            id=result_id,
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
            metadata=dict(getattr(task, "metadata", {})),
        )
        message = self._message(result)
        run = TaskRun(message)
        if len(run.about) > MAX_ARGUMENTS_BYTES:
            # Exactly: a large part of it may be something else.
            encode([result.args, result.kwargs], MAX_ARGUMENTS_BYTES, "the arguments")
        return message, run, result

    def _message(self, result: ProgressResult) -> Message[Any]:
        task, options, broker = result.task, self._options, get_broker()
        declare_actors(broker)
        band = Band.of(task.priority)
        queue = band.queue(task.queue_name, broker)
        if queue not in broker.queues:
            declare_queues(broker, task.queue_name)
        own = {name: getattr(task, name) for name, value in OWN_FIELDS.items() if getattr(task, name, value) != value}
        if "title" in own:
            # A lazy one in the language of the sender, also if that is another one at the commit.
            own["title"] = str(own["title"])
        if "metadata" in own:
            # A copy: the dict may change before the commit.
            own["metadata"] = normalize_json(own["metadata"])
            encode(own["metadata"], MAX_METADATA_BYTES, "the metadata")
        limit = own.get("time_limit", options.time_limit)
        return Message(
            queue_name=queue,
            actor_name=band.actor_name,
            args=(task.module_path, result.args, result.kwargs),
            kwargs={},
            options={
                TASK_OPTION: {
                    "backend": self.alias,
                    "options": {"priority": task.priority, "queue_name": task.queue_name, **own},
                    "run_after": None if task.run_after is None else task.run_after.isoformat(),
                    "keep": options.result_ttl,
                },
                "max_retries": own.get("max_retries", options.max_retries),
                # A title is public, unlike the metadata of tasks.
                **({TITLE_OPTION: own["title"]} if "title" in own else {}),
                **({CANCELLABLE_OPTION: own["cancellable"]} if "cancellable" in own else {}),
                **({} if limit is None else {"time_limit": limit}),
                **priority_options(broker, task.priority),
            },
            message_id=result.id,
        )

    def _send(self, message: Message[Any], run: TaskRun, result: ProgressResult) -> None:
        run_after = result.task.run_after
        delay = None if run_after is None else _delay_until(run_after)
        # Without an owner since the call, it doesn't get the one of the commit.
        with sending(run), nullcontext() if carried_by(message) else owned_by(None):
            get_broker().enqueue(message, delay=delay)
        enqueued_at = float(run.stored.get("enqueued_at", message.message_timestamp / 1000))
        object.__setattr__(result, "enqueued_at", moment(enqueued_at))
        send_signal(task_enqueued, "task_enqueued", type(self), result)


def _delay_until(run_after: datetime) -> int | None:
    """Return the delay in milliseconds with which a message starts at this time or up to 2 ms later; never earlier."""
    remaining = run_after - timezone.now()
    if remaining <= timedelta():
        return None
    # Dramatiq's brokers add the delay to whole milliseconds of their clock: both are rounded down.
    return remaining // timedelta(milliseconds=1) + 2

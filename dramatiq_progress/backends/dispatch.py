"""The actors that run tasks: one for each band of priorities, with its queues.

Not an actor per task: a worker rejects the message of an unknown actor, and a task that was renamed must fail with an
error that its sender can read. Any broker works in the order of bands, since each has a queue of its own. A RabbitMQ
broker with ``max_priority`` has one queue, in which it orders messages by all of Django's priorities.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from enum import StrEnum
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.tasks.base import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from django.tasks.signals import task_started
from dramatiq import Broker, Message
from dramatiq import broker as dramatiq_broker
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.worker import Worker

from dramatiq_progress.actors import progress_actor, synchronous
from dramatiq_progress.worker.current import this_thread
from dramatiq_progress.worker.observing.interruption import is_cancel, is_yield
from dramatiq_progress.worker.observing.observer import ProgressObserver
from dramatiq_progress.worker.sending.again import is_sent_again
from dramatiq_progress.worker.tracking import COMPANION_OPTION, count_retries, keep_result

from .run import TASK_OPTION, TaskRun, is_sending, make_run, send_enqueued
from .task import ProgressContext

ACTOR_NAME = "django_task"

#: Held while the actors are declared, which two threads may do at the same time with their first tasks.
_declaring = threading.Lock()

#: The queues that backends list and that tasks name, in this process.
known_queues: set[str] = set()


class Band(StrEnum):
    """A band of Django's priorities, by the suffix of its actor and its queues."""

    HIGH = ".high"
    NORMAL = ""
    LOW = ".low"

    @classmethod
    def of(cls, priority: int) -> Band:
        """Return the band of a priority: above 0, 0, or below."""
        return cls.HIGH if priority > 0 else cls.LOW if priority < 0 else cls.NORMAL

    @property
    def actor_name(self) -> str:
        """The name of the band's actor."""
        return f"{ACTOR_NAME}{self}"

    def queue(self, name: str, broker: Broker) -> str:
        """Return the band's queue in place of one that a task names."""
        return name if max_priority(broker) else f"{name}{self}"


#: The priorities of the bands' actors, by which a worker orders the messages that it has fetched: the lowest first.
ACTOR_PRIORITIES = {Band.HIGH: TASK_MIN_PRIORITY, Band.NORMAL: 0, Band.LOW: TASK_MAX_PRIORITY}


class TaskMiddleware(Middleware):
    """Lets workers consume the queues of all bands, and sends the signal of tasks in groups and pipelines."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Declare the queues of all bands, and add them to the worker's list, if it has one."""
        for queue in known_queues:
            declare_queues(broker, queue)
        # The attribute isn't documented: Dramatiq has no other way to add queues to ``--queues``.
        if chosen := worker.consumer_whitelist:
            chosen |= {band.queue(name, broker) for name in known_queues & chosen for band in Band}

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Send `task_enqueued`, if the backend's `enqueue` doesn't, for a task that is sent for the first time."""
        is_moved = this_thread.is_consumer and delay is None
        is_known = is_sending(message.message_id) or is_moved or is_sent_again(message) or count_retries(message)
        if TASK_OPTION in message.options and not is_known:
            send_enqueued(message)


def get_broker() -> Broker:
    """Return the broker that tasks are sent to.

    Raises:
      ImproperlyConfigured: There is none.
    """
    if dramatiq_broker.global_broker is None:
        raise ImproperlyConfigured(
            'Tasks need a Dramatiq broker: add "django_dramatiq" to INSTALLED_APPS and DRAMATIQ_BROKER to the settings.'
        )
    return dramatiq_broker.global_broker


def declare_actors(broker: Broker) -> None:
    """Declare the actors that run tasks. Idempotent.

    Raises:
      ImproperlyConfigured: The broker has no `ProgressMiddleware`.
    """
    if is_declared(broker):
        return
    with _declaring:
        if is_declared(broker):
            return
        for band in Band:
            options: dict[str, Any] = {COMPANION_OPTION: make_run}
            progress_actor(
                actor_name=band.actor_name,
                queue_name=band.queue("default", broker),
                priority=ACTOR_PRIORITIES[band],
                broker=broker,
                **options,
            )(run_task)
        broker.add_middleware(TaskMiddleware())


def is_declared(broker: Broker) -> bool:
    """Return whether the actors that run tasks are declared."""
    return list(Band)[-1].actor_name in broker.actors


def declare_queues(broker: Broker, queue: str) -> None:
    """Declare the queues of all bands in place of one that tasks name. Idempotent."""
    for band in Band:
        broker.declare_queue(band.queue(queue, broker))


def max_priority(broker: Broker) -> int | None:
    """Return the highest priority that the broker's queues order messages by; None if they don't."""
    return getattr(broker, "max_priority", None)


def priority_options(broker: Broker, priority: int) -> dict[str, int]:
    """Return the message options for one of Django's priorities, of which the highest number is the highest."""
    highest = max_priority(broker)
    if not highest:
        return {}
    share = (priority - TASK_MIN_PRIORITY) / (TASK_MAX_PRIORITY - TASK_MIN_PRIORITY)
    return {"broker_priority": round(share * highest)}


def run_task(observer: ProgressObserver, path: str, args: Sequence[Any], kwargs: Mapping[str, Any], *piped: Any) -> Any:
    """Run a task. The function of the actors.

    Parameters:
      piped: In a pipeline, the return value of the task before.

    Returns:
      In a pipeline, the return value for the task that follows.

    Raises:
      SkipMessage: The task has ended before, and its message was delivered again.
    """
    delivery = this_thread.delivery
    run = None if delivery is None else delivery.attempt.companion
    if delivery is None or not isinstance(run, TaskRun):
        raise RuntimeError("A task is run by a worker: enqueue it, or call the task itself.")
    if delivery.is_ignored:
        # In a pipeline it has one.
        keep_result(delivery.message)
        raise SkipMessage(f"Task {run.message_id} has ended before.")
    attempt = delivery.attempt
    try:
        result = run.begin()
        task = result.task
        task_started.send_robust(type(task.get_backend()), task_result=result)
        if task.takes_context:
            context = ProgressContext(
                task_result=result,
                progress=observer,
                metadata=result.metadata,
                _save=lambda metadata: run.save_metadata(attempt, metadata),
            )
            args = (context, *args)
        value = run.note_value(_call(task.func, [*args, *piped], kwargs))
        if getattr(task, "publish_result", False):
            observer.set_result(value)
        # Otherwise None, since other middleware may log or store what actors return.
        return value if delivery.message.options.get("pipe_target") else None
    except BaseException as error:
        if not is_cancel(error) and not is_yield(error) and not isinstance(error, SkipMessage):
            run.note_exception(error)
        raise


def _call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if not iscoroutinefunction(function):
        return function(*args, **kwargs)
    # Without Dramatiq's AsyncIO, in this thread: time limits don't interrupt it while it waits.
    call = async_to_sync(function) if get_event_loop_thread() is None else synchronous(function)
    return call(*args, **kwargs)

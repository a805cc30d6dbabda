"""The targets of schedules: actors of Dramatiq's, and tasks of Django's with any backend."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dramatiq import Actor, get_encoder

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.owners import owned_by
from dramatiq_progress.stores import Store
from dramatiq_progress.worker.tracking import TRACKED_OPTION


def is_tracked(target: Any) -> bool:
    """Return whether messages of an actor have progress, or a task's backend has results."""
    if isinstance(target, Actor):
        return bool(target.options.get(TRACKED_OPTION))
    return bool(target.get_backend().supports_get_result)


def misfit(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return why a function can't be called with these arguments; empty if it can, or that is unknown."""
    return _unencodable(target, args, kwargs) or _unbindable(target, args, kwargs)


def _unencodable(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    try:
        if isinstance(target, Actor):
            get_encoder().encode({"args": args, "kwargs": kwargs})
        else:
            # Only a Django that has tasks gets here.
            from django.utils.json import normalize_json

            normalize_json({"args": args, "kwargs": kwargs})
    except Exception as error:  # the encoder may be the project's own
        return reason_of(error)
    return ""


def _unbindable(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    try:
        signature = inspect.signature(target.fn if isinstance(target, Actor) else target.func)
    except Exception:  # an annotation that can't be evaluated, a callable without a signature
        return ""
    # A task gets its context first.
    given = [None, *args] if getattr(target, "takes_context", False) else args
    try:
        signature.bind(*given, **kwargs)
    except TypeError as error:
        return reason_of(error)
    return ""


def send(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], message_id: str) -> str:
    """Send one message, without an owner.

    A backend of tasks gets the id if it has a method ``enqueue_as(task, args, kwargs, id)``; otherwise it chooses one.

    Returns:
      The id of the message, or of the task's result.
    """
    with owned_by(None):
        if isinstance(target, Actor):
            message = target.message_with_options(args=args, kwargs=kwargs)
            message = message.copy(message_id=message_id)
            target.broker.enqueue(message)
            return message_id
        backend = target.get_backend()
        if (enqueue_as := getattr(backend, "enqueue_as", None)) is not None:
            return str(enqueue_as(target, args, kwargs, message_id).id)
        return str(backend.enqueue(target, args, kwargs).id)


def was_delivered(target: Any, message_id: str, store: Store) -> bool:
    """Return whether a worker has started this message, so that it was certainly sent. False if that is unknown.

    Raises:
      StoreUnavailable: The store can't be reached.
    """
    if not is_tracked(target):
        return False
    if isinstance(target, Actor):
        [progress] = store.read([message_id])
        return progress is not None and not progress.state.is_pending
    backend = target.get_backend()
    if not hasattr(backend, "enqueue_as"):
        # Its id isn't the one that was claimed.
        return False
    # Only a Django that has tasks gets here.
    from django.tasks import TaskResultStatus

    result = _result_of(backend, message_id)
    # One that waits for a retry is READY again.
    return result is not None and bool(result.status != TaskResultStatus.READY or result.attempts)


def has_finished(target: Any, message_id: str, store: Store) -> bool:
    """Return whether a message has finished, or its record has expired.

    Raises:
      StoreUnavailable: The store can't be reached.
    """
    if isinstance(target, Actor):
        [progress] = store.read([message_id])
        return progress is None or progress.complete
    result = _result_of(target.get_backend(), message_id)
    return result is None or bool(result.is_finished)


def _result_of(backend: Any, message_id: str) -> Any:
    """Return the result of a task, or None if its backend has none."""
    # Only a Django that has tasks gets here.
    from django.tasks.exceptions import TaskResultDoesNotExist

    try:
        return backend.get_result(message_id)
    except TaskResultDoesNotExist:
        return None

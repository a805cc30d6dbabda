"""The delivery and the observer that a thread or a coroutine works on, and what an actor's function does to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from django.conf import settings
from dramatiq.middleware import SkipMessage

from .observing.binding import Binding
from .observing.observer import ProgressObserver
from .resuming.cursor import CURSOR_OPTION
from .tracking import AnyMessage

if TYPE_CHECKING:
    from .delivery import Delivery

logger = logging.getLogger(__name__)


class _Thread(threading.local):
    """The role of this thread, and the delivery it works on. A worker's thread works on one message at a time."""

    delivery: Delivery | None = None
    is_consumer = False
    is_worker = False


this_thread = _Thread()

_observer: ContextVar[ProgressObserver | None] = ContextVar("dramatiq_progress_observer", default=None)


def current_observer() -> ProgressObserver | None:
    """Return the observer of the actor that is running in this thread or coroutine; None outside any.

    Threads that an actor starts don't see it: pass them the observer.
    """
    return _observer.get()


@contextmanager
def observing(observer: ProgressObserver) -> Iterator[ProgressObserver]:
    """Make an observer the current one in a ``with`` block."""
    before = _observer.set(observer)
    try:
        yield observer
    finally:
        _observer.reset(before)


def current_delivery() -> Delivery | None:
    """Return the delivery that this thread, or this coroutine, works on."""
    delivery = this_thread.delivery
    if delivery is None and (observer := current_observer()) is not None and observer._binding.delivery is not None:
        # The body of an async actor runs in the event loop's thread.
        delivery = observer._binding.delivery()
    return delivery


def delivery_of(message: AnyMessage) -> Delivery | None:
    """Return the delivery that this thread, or this coroutine, works on, if it is one of this message."""
    delivery = current_delivery()
    return delivery if delivery is not None and delivery.attempt.message_id == message.message_id else None


def open_observer(actor_name: str) -> ProgressObserver:
    """Return the observer for a call of an actor's function.

    The worker's own call of the message's actor gets the one that is bound to the message. Every other call (outside a
    worker, or of one actor inside another) gets a detached one.

    Raises:
      SkipMessage: The message was cancelled, or has exceeded ``MAX_DELIVERIES``.
    """
    delivery = this_thread.delivery
    if delivery is not None and delivery.binding is None and delivery.message.actor_name == actor_name:
        return delivery.open()
    # Inside a job an invalid report must not fail it. (The body of an async actor has no delivery in its thread, but an
    # observer in its context.)
    outer = current_observer()
    is_in_job = delivery is not None or this_thread.is_worker or outer is not None
    made = Binding(actor_name=actor_name, strict=settings.DEBUG or not is_in_job)
    # What an async actor sends in a call of another one is sent by its own message.
    made.delivery = None if outer is None else outer._binding.delivery
    return ProgressObserver(made)


def end_cancelled(observer: ProgressObserver) -> None:
    """End the delivery that this observer is bound to, if any: `Cancelled` has left the actor's function.

    Raises:
      SkipMessage: Instead of `Cancelled`, which Dramatiq would log as an error and `Retries` would retry.
    """
    if (delivery := delivery_to(observer)) is not None:
        delivery.is_cancelled = True
        attempt = delivery.attempt
        # Not who has requested it: owners are never shown.
        logger.info("Message %s (%s) was interrupted and is cancelled.", attempt.message_id, attempt.actor)
        raise SkipMessage(f"Message {attempt.message_id} was cancelled.")


def note_exception(observer: ProgressObserver) -> None:
    """Note that an exception leaves the actor's function: copy the cursor into the message, for its next attempt.

    Here, before any middleware acts on the exception, so that their order doesn't matter.
    """
    if (delivery := delivery_to(observer)) is None or not (carried := observer._binding.carried()):
        return
    options = delivery.message.options
    options[CURSOR_OPTION] = carried
    if observer._binding.resumption().has_moved and "retries" in options:
        # Only failures at the same place count.
        options["retries"] = 0


def end_yielded(observer: ProgressObserver) -> None:
    """End the delivery that this observer is bound to, if any: a loop has made room.

    Raises:
      SkipMessage: Instead of `Interrupted`, which Dramatiq would log as an error and `Retries` would retry.
    """
    if (delivery := delivery_to(observer)) is not None:
        delivery.note_yield()
        raise SkipMessage(f"Message {delivery.attempt.message_id} goes on later.")


def delivery_to(observer: ProgressObserver) -> Delivery | None:
    """Return the delivery that this thread works on, if the observer is bound to it."""
    delivery = this_thread.delivery
    return delivery if delivery is not None and delivery.binding is observer._binding else None

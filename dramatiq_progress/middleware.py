"""The Dramatiq middleware: a message's life becomes states in the store, and each delivery gets its observer.

Nothing here depends on the place in the middleware list. What a delivery came to is decided when its message is acked
or rejected, since an ``after_process_message`` cannot always tell a last failure from one that is retried: it runs
from the end of the list, and so before that of `Retries` when it is listed after it (Dramatiq 2.2).
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from dramatiq import Actor, Broker, Message, MessageProxy
from dramatiq.common import q_name
from dramatiq.middleware import Middleware, Retries, SkipMessage
from dramatiq.worker import ConsumerThread, Worker

from .errors import StoreUnavailable, UserFacingError
from .observer import MAX_DESCRIPTION_CHARACTERS, ProgressObserver
from .progress import State
from .recorder import get_recorder
from .stores import Store, get_store
from .stores.base import Fence, Start

#: The option by which a broker knows the actors that were declared with `progress_actor`.
TRACKED_OPTION = "progress_actor"

AnyMessage = Message[Any] | MessageProxy
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Delivery:
    """One delivery of a message to a worker: what has happened to it so far, in the worker's thread."""

    def __init__(self, message: AnyMessage, retries_left: int | None) -> None:
        self.message_id = message.message_id
        self.actor = message.actor_name
        self.queue = q_name(message.queue_name)
        self.retries = int(message.options.get("retries", 0))
        self.retries_left = retries_left
        self.fence: Fence | None = None
        self.observer: ProgressObserver | None = None
        self.unseen = False
        self.skipped = False
        self.retried = False
        self.exception: BaseException | None = None

    def open(self) -> ProgressObserver:
        """Tell the store that the actor runs, and bind an observer to this delivery.

        Raises:
          SkipMessage: The message was cancelled.
        """
        start = self._start()
        if start is not None and start.verdict == "cancelled":
            self.unseen = True
            raise SkipMessage(f"Message {self.message_id} was cancelled.")
        self.unseen = start is not None and start.verdict == "unseen"
        self.fence = start.fence if start is not None else None
        self.observer = ProgressObserver(
            message_id=self.message_id,
            actor_name=self.actor,
            # Without an answer of the store, what Dramatiq knows: it counts retries, not redeliveries.
            attempt=self.fence.attempt if self.fence else 1 + self.retries,
            fence=self.fence,
            metadata=start.metadata if start is not None else "{}",
            strict=settings.DEBUG,
        )
        if self.fence is not None:
            get_recorder().open(self.observer)
        return self.observer

    def _start(self) -> Start | None:
        return attempted(
            lambda store: store.start(
                self.message_id,
                token=secrets.token_hex(8),
                actor=self.actor,
                queue=self.queue,
                retries_left=self.retries_left,
            )
        )

    def finish(self, state: State, *, retry_in: float | None = None) -> None:
        """Write how the attempt ended, with the values it reported last."""
        if self.unseen:
            return
        fields: dict[str, str] = {}
        if self.observer is not None:
            get_recorder().close(self.observer)
            fields = self.observer.collect_all(with_result=state is State.DONE)
        if state is State.FAILED and isinstance(self.exception, UserFacingError):
            fields["result"] = json.dumps(str(self.exception)[:MAX_DESCRIPTION_CHARACTERS])
        attempted(
            lambda store: store.finish(
                self.message_id,
                fence=self.fence,
                actor=self.actor,
                queue=self.queue,
                state=state,
                fields=fields,
                retry_in=retry_in,
            )
        )


class _Thread(threading.local):
    """What this thread is, and the delivery it works on. A worker's thread works on one message at a time."""

    delivery: Delivery | None = None
    is_consumer = False


_thread = _Thread()


def open_observer(actor_name: str) -> ProgressObserver:
    """The observer for a call of an actor's function.

    The worker's own call of the message's actor gets the one that is bound to the message. Every other call (outside
    a worker, or of one actor inside another) gets a detached one.

    Raises:
      SkipMessage: The message was cancelled.
    """
    delivery = _thread.delivery
    if delivery is None:
        return ProgressObserver(actor_name=actor_name)
    if delivery.observer is not None or delivery.actor != actor_name:
        # Inside a job a report that cannot be shown must not fail it.
        return ProgressObserver(actor_name=actor_name, strict=settings.DEBUG)
    return delivery.open()


class ProgressMiddleware(Middleware):
    """Records the states of all messages of actors that were declared with `progress_actor`.

    It may stand anywhere in the list of middleware.
    """

    @property
    def actor_options(self) -> set[str]:
        """The options that `progress_actor` sets."""
        return {TRACKED_OPTION}

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        """Remember that this thread moves delayed messages to their queues."""
        _thread.is_consumer = True

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Record the message before a worker can see it; at ``after_enqueue`` one may have ended it already."""
        actor = tracked_actor(broker, message)
        if actor is None:
            return
        seconds = None if delay is None else delay / 1000
        delivery = _delivery_of(message)
        if delivery is not None:
            delivery.finish(State.RETRYING, retry_in=seconds or 0.0)
            return
        attempted(
            lambda store: store.enqueue(
                message.message_id,
                actor=message.actor_name,
                queue=q_name(message.queue_name),
                retries_left=count_retries_left(broker, message, actor),
                delay=seconds,
                due=_thread.is_consumer and delay is None,
            )
        )

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Note that a retry has been sent. One that could not be (Dramatiq then drops the message) has failed."""
        delivery = _delivery_of(message)
        if delivery is not None:
            delivery.retried = True

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Note the delivery; the record says `running` when the actor is called, after all other middleware."""
        _thread.delivery = self._begin(broker, message)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note what the actor raised."""
        delivery = self._ensure_delivery(broker, message)
        if delivery is not None:
            delivery.exception = exception

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Note that the message was skipped, perhaps by a middleware that is listed before this one."""
        delivery = self._ensure_delivery(broker, message)
        if delivery is not None:
            delivery.skipped = True

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Write how the message ended. An exception without a retry is final: there is no `Retries` middleware."""
        delivery = self._end(message)
        if delivery is None:
            return
        if delivery.skipped:
            delivery.finish(State.SKIPPED)
        elif delivery.exception is None:
            delivery.finish(State.DONE)
        elif not delivery.retried:
            delivery.finish(State.FAILED)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Write that the message failed, or was skipped for being too old."""
        delivery = self._end(message)
        if delivery is not None:
            delivery.finish(State.SKIPPED if delivery.skipped else State.FAILED)
        elif _is_unknown(broker, message):
            # Rejected by the consumer's thread. Whether it is tracked only its record can tell.
            Delivery(message, retries_left=0).finish(State.FAILED)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Write what is left."""
        get_recorder().stop()

    def _begin(self, broker: Broker, message: MessageProxy) -> Delivery | None:
        actor = tracked_actor(broker, message)
        if actor is None:
            return None
        return Delivery(message, count_retries_left(broker, message, actor))

    def _ensure_delivery(self, broker: Broker, message: MessageProxy) -> Delivery | None:
        # A middleware that is listed before this one may have ended the message before it came to us.
        if _delivery_of(message) is None:
            _thread.delivery = self._begin(broker, message)
        return _thread.delivery

    def _end(self, message: MessageProxy) -> Delivery | None:
        delivery = _delivery_of(message)
        if delivery is not None:
            _thread.delivery = None
        return delivery


def attempted(action: Callable[[Store], T]) -> T | None:
    """Do something with the store, or do without it: progress never harms the job.

    Returns:
      What the action returned; None when the store could not do it, which is logged.
    """
    try:
        return action(get_store())
    except StoreUnavailable as error:
        logger.warning("A change of state was not recorded; the job goes on. %s", error)
    except Exception:
        logger.exception("A change of state was not recorded; the job goes on.")
    return None


def tracked_actor(broker: Broker, message: AnyMessage) -> Actor[..., Any] | None:
    """The message's actor, if it was declared with `progress_actor` on this broker."""
    actor = broker.actors.get(message.actor_name)
    return actor if actor is not None and actor.options.get(TRACKED_OPTION) else None


def count_retries_left(broker: Broker, message: AnyMessage, actor: Actor[..., Any]) -> int | None:
    """How often Dramatiq will try the message again; None where it has no limit or asks a function.

    The options are looked up as `Retries` does: on the message, then on the actor, then the default.
    """
    retries = next((each for each in broker.middleware if isinstance(each, Retries)), None)
    if retries is None:
        return 0
    if actor.options.get("retry_when", retries.retry_when) is not None:
        return None
    limit = message.options.get("max_retries", actor.options.get("max_retries", retries.max_retries))
    return None if limit is None else max(0, limit - message.options.get("retries", 0))


def _delivery_of(message: AnyMessage) -> Delivery | None:
    delivery = _thread.delivery
    return delivery if delivery is not None and delivery.message_id == message.message_id else None


def _is_unknown(broker: Broker, message: MessageProxy) -> bool:
    # The copy in a delay queue is none of ours: its end is not the message's.
    is_delayed_copy = q_name(message.queue_name) != message.queue_name
    return not is_delayed_copy and message.actor_name not in broker.actors

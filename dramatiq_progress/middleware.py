"""The Dramatiq middleware: a message's life becomes states in the store, and each delivery gets its observer.

Nothing here depends on the place in the middleware list. What a delivery came to is decided when its message is acked
or rejected, since an ``after_process_message`` cannot always tell a last failure from one that is retried: it runs
from the end of the list, and so before that of `Retries` when it is listed after it (Dramatiq 2.2).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from django.conf import settings
from dramatiq import Actor, Broker, Message, MessageProxy
from dramatiq.common import q_name
from dramatiq.middleware import Middleware, Retries, SkipMessage
from dramatiq.worker import ConsumerThread, Worker, WorkerThread

from .conf import configuration
from .errors import StoreUnavailable, UserFacingError
from .observer import ProgressObserver, current_observer
from .owners import begin_job, carried_by, end_job, note_owner
from .progress import State
from .recorder import NO_STORE, get_recorder
from .signals import state_changed
from .stores import Store, get_store
from .stores.base import Attempt, Start
from .values import shown_text

#: The option by which a broker knows the actors that were declared with `progress_actor`.
TRACKED_OPTION = "progress_actor"

#: The option of an actor that can, or cannot, be cancelled.
CANCELLABLE_OPTION = "cancellable"

#: What the user is told of a message that has stopped its workers too often (``MAX_DELIVERIES``).
GIVEN_UP = "The task was given up: its worker stopped in the middle of it several times."

AnyMessage = Message[Any] | MessageProxy
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Delivery:
    """One delivery of a message to a worker: what has happened to it so far, in the worker's thread."""

    def __init__(self, message: AnyMessage, retries_left: int | None, *, cancellable: bool = True) -> None:
        self.message = message
        self.attempt = Attempt(
            message.message_id,
            message.actor_name,
            q_name(message.queue_name),
            retries_left,
            cancellable,
            # Dramatiq counts retries, not redeliveries; the store's count takes the place of this one.
            least=1 + _whole(message.options.get("retries"), 0),
            owner=carried_by(message),
        )
        # A broker that works on messages inside `enqueue` comes back to the one before.
        self.outer = _thread.delivery
        self.observer: ProgressObserver | None = None
        self.unseen = False
        self.given_up = False
        self.skipped = False
        self.cancelled = False
        self.retried = False
        self.exception: BaseException | None = None

    def open(self) -> ProgressObserver:
        """Tell the store that the actor runs, and bind an observer to this delivery.

        Raises:
          SkipMessage: The message was cancelled, or it has stopped its workers too often.
        """
        start = attempted(self._start)
        if start is not None:
            self._heed(start)
        self.observer = ProgressObserver(attempt=self.attempt, start=self._start, strict=settings.DEBUG)
        if start is not None:
            self.observer.started(start)
        if not self.unseen:
            get_recorder().open(self.observer)
        return self.observer

    def _start(self, store: Store, age: float) -> Start:
        start = store.start(self.attempt, age=age)
        if start.verdict == "run" or start.previous is not None:
            announce(store, self.attempt.message_id, start.previous)
        return start

    def _heed(self, start: Start) -> None:
        if start.verdict == "cancelled":
            self.unseen = True
            raise SkipMessage(f"Message {self.attempt.message_id} was cancelled.")
        self.unseen = start.verdict == "unseen"
        limit = configuration().max_deliveries
        if limit and start.deliveries > limit and isinstance(self.message, MessageProxy):
            self.given_up = True
            self.message.fail()
            why = f"Message {self.attempt.message_id} of {self.attempt.actor} was started {limit} times and never ended"
            logger.error(
                "%s: it is given up (MAX_DELIVERIES) and rejected. If another message stopped the worker that both "
                "were in, send it again from the dead letters.",
                why,
            )
            raise SkipMessage(why)

    def finish(self, state: State, *, retry_in: float | None = None) -> None:
        """Write how the attempt ended, with the values it reported last."""
        if self.unseen:
            return
        fields: dict[str, str] = {}
        if self.observer is not None:
            self.observer.end()
            get_recorder().close(self.observer)
            fields = self.observer.collect_all(with_result=state is State.DONE)
        if state is State.FAILED and (told := self._told_to_user()):
            fields["result"] = told
        # One that was given up has been started, and one whose observer is there.
        began = self.observer is not None or self.given_up

        def write(store: Store, age: float) -> None:
            change = store.finish(self.attempt, state=state, fields=fields, retry_in=retry_in, began=began, age=age)
            if change.written:
                announce(store, self.attempt.message_id, change.previous)

        attempted(write, defer=True)

    def _told_to_user(self) -> str | None:
        """What the actor said to the user, or we, as JSON."""
        if self.given_up:
            return json.dumps(GIVEN_UP)
        if not isinstance(self.exception, UserFacingError):
            return None
        text = shown_text(self.exception).strip()
        return json.dumps(text) if text else None


class _Thread(threading.local):
    """What this thread is, and the delivery it works on. A worker's thread works on one message at a time."""

    delivery: Delivery | None = None
    is_consumer = False
    is_worker = False


_thread = _Thread()


def open_observer(actor_name: str) -> ProgressObserver:
    """The observer for a call of an actor's function.

    The worker's own call of the message's actor gets the one that is bound to the message. Every other call (outside
    a worker, or of one actor inside another) gets a detached one.

    Raises:
      SkipMessage: The message was cancelled.
    """
    delivery = _thread.delivery
    if delivery is not None and delivery.observer is None and delivery.attempt.actor == actor_name:
        return delivery.open()
    # Inside a job a report that cannot be shown must not fail it. (An async actor's body has no delivery in its
    # thread, but an observer in its context.)
    is_in_job = delivery is not None or _thread.is_worker or current_observer() is not None
    return ProgressObserver(actor_name=actor_name, strict=settings.DEBUG or not is_in_job)


def end_cancelled(observer: ProgressObserver) -> None:
    """`Cancelled` has left a function that had this observer: end the delivery, if the observer is bound to one.

    Raises:
      SkipMessage: In place of `Cancelled`, which Dramatiq would log as an error and `Retries` try again.
    """
    delivery = _thread.delivery
    if delivery is not None and delivery.observer is observer:
        delivery.cancelled = True
        raise SkipMessage(f"Message {delivery.attempt.message_id} was cancelled.")


class ProgressMiddleware(Middleware):
    """Records the states of all messages of actors that were declared with `progress_actor`.

    It may stand anywhere in the list of middleware.
    """

    @property
    def actor_options(self) -> set[str]:
        """The options that `progress_actor` sets."""
        return {TRACKED_OPTION, CANCELLABLE_OPTION}

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        """Remember that this thread moves delayed messages to their queues."""
        _thread.is_consumer = True

    def after_worker_thread_boot(self, broker: Broker, thread: WorkerThread) -> None:
        """Remember that this thread works on messages."""
        _thread.is_worker = True

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Record the message before a worker can see it; at ``after_enqueue`` one may have ended it already."""
        actor = tracked_actor(broker, message)
        owner = note_owner(message, is_tracked=actor is not None)
        if actor is None:
            return
        seconds = None if delay is None else delay / 1000
        delivery = _delivery_of(message)
        if delivery is None and _is_early_retry(message, delay):
            delivery = _thread.delivery = self._begin(broker, message)
        if delivery is not None:
            delivery.finish(State.RETRYING, retry_in=seconds or 0.0)
            return
        due = _thread.is_consumer and delay is None

        def write(store: Store, age: float) -> None:
            change = store.enqueue(
                message.message_id,
                actor=message.actor_name,
                queue=q_name(message.queue_name),
                retries_left=count_retries_left(broker, message, actor),
                cancellable=is_cancellable(actor),
                delay=seconds,
                due=due,
                owner=owner,
                age=age,
            )
            if change.written:
                announce(store, message.message_id, change.previous)

        # That a delayed message was due is soon told by its start.
        attempted(write, defer=not due)

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Note that a retry has been sent. One that could not be (Dramatiq then drops the message) has failed."""
        delivery = _delivery_of(message)
        if delivery is not None:
            delivery.retried = True

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Note the delivery; the record says `running` when the actor is called, after all other middleware."""
        begin_job(message)
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
            delivery.finish(State.CANCELLED if delivery.cancelled else State.SKIPPED)
        elif not delivery.retried:
            delivery.finish(State.DONE if delivery.exception is None else State.FAILED)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Write that the message failed, or was skipped for being too old."""
        delivery = self._end(message)
        if delivery is not None:
            was_skipped = delivery.skipped and not delivery.given_up
            delivery.finish(State.SKIPPED if was_skipped else State.FAILED)
        elif _is_unknown(broker, message):
            # Rejected by the consumer's thread. Whether it is tracked only its record can tell.
            Delivery(message, retries_left=0).finish(State.FAILED)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Write what is left."""
        get_recorder().stop()

    def _begin(self, broker: Broker, message: AnyMessage) -> Delivery | None:
        actor = tracked_actor(broker, message)
        if actor is None:
            return None
        return Delivery(message, count_retries_left(broker, message, actor), cancellable=is_cancellable(actor))

    def _ensure_delivery(self, broker: Broker, message: MessageProxy) -> Delivery | None:
        # A middleware that is listed before this one may have ended the message before it came to us.
        if _delivery_of(message) is None:
            _thread.delivery = self._begin(broker, message)
        return _thread.delivery

    def _end(self, message: MessageProxy) -> Delivery | None:
        end_job(message)
        delivery = _delivery_of(message)
        if delivery is not None:
            _thread.delivery = delivery.outer
        return delivery


def attempted(action: Callable[[Store, float], T], *, defer: bool = False) -> T | None:
    """Do something with the store, or do without it: progress never harms the job.

    Parameters:
      action: Takes the store, and the seconds since this call, which are 0 unless it is deferred.
      defer: Have it done later when the store cannot do it now.

    Returns:
      What the action returned; None when the store could not do it.
    """
    try:
        return action(get_store(), 0.0)
    except NO_STORE as error:
        if defer:
            get_recorder().defer(action, error)
        else:
            get_recorder().trouble(error)
    except Exception:
        logger.exception("A change of state was not recorded; the job goes on.")
    return None


def announce(store: Store, message_id: str, previous: State | None) -> None:
    """Tell the receivers of `state_changed`, if there are any."""
    if not state_changed.receivers:
        return
    try:
        progress = store.read([message_id])[0]
    except StoreUnavailable as error:
        logger.warning("A change of state is not announced. %s", error)
        return
    if progress is not None and progress.state is not previous:
        # Whose it is concerns those who ask for it, and nobody else.
        state_changed.send_robust(ProgressMiddleware, progress=replace(progress, owner=""), previous=previous)


def tracked_actor(broker: Broker, message: AnyMessage) -> Actor[..., Any] | None:
    """The message's actor, if it was declared with `progress_actor` on this broker."""
    actor = broker.actors.get(message.actor_name)
    return actor if actor is not None and actor.options.get(TRACKED_OPTION) else None


def is_cancellable(actor: Actor[..., Any]) -> bool:
    """Whether an actor can be cancelled."""
    return bool(actor.options.get(CANCELLABLE_OPTION, True))


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
    return None if limit is None else max(0, _whole(limit, 0) - _whole(message.options.get("retries"), 0))


def _whole(value: object, otherwise: int) -> int:
    # What somebody put into a message's options is theirs to mend; Dramatiq tells them.
    return value if isinstance(value, int) else otherwise


def _delivery_of(message: AnyMessage) -> Delivery | None:
    delivery = _thread.delivery
    return delivery if delivery is not None and delivery.attempt.message_id == message.message_id else None


def _is_early_retry(message: AnyMessage, delay: int | None) -> bool:
    # The retry of a message that a middleware listed before ours refused with an error before it came to us.
    return _thread.is_worker and _thread.delivery is None and delay is not None and bool(message.options.get("retries"))


def _is_unknown(broker: Broker, message: MessageProxy) -> bool:
    # The copy in a delay queue is none of ours: its end is not the message's.
    is_delayed_copy = q_name(message.queue_name) != message.queue_name
    return not is_delayed_copy and message.actor_name not in broker.actors

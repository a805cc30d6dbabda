"""The Dramatiq middleware: records each message's state, and binds an observer to each delivery.

Works at any position in the middleware list. The outcome is recorded on ack or nack: ``after_process_message`` runs in
reverse list order, so a middleware listed after `Retries` can't tell a final failure from a retry (Dramatiq 2.2).
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from dramatiq import Actor, Broker, Message, MessageProxy
from dramatiq.common import q_name
from dramatiq.middleware import Middleware
from dramatiq.worker import ConsumerThread, Worker, WorkerThread

from .owners import begin_job, end_job, note_owner
from .progress import State
from .stores.composites import Contribution
from .worker.current import current_delivery, delivery_of, this_thread
from .worker.delivery import Delivery
from .worker.recording.recorder import get_recorder
from .worker.resuming.cursor import CURSOR_OPTION
from .worker.sending.again import ROUND_OPTION, SendAgainFailed, stop_fetching
from .worker.sending.enqueueing import Send, forget_send, is_recorded, log_invalid_id, watch_sends
from .worker.sending.membership import path_of
from .worker.sending.options import ESTIMATE_KEY_OPTION, estimate_key_of, metadata_of, title_of
from .worker.tracking import (
    CANCELLABLE_OPTION,
    COMPANION_OPTION,
    TRACKED_OPTION,
    YIELD_OPTION,
    AnyMessage,
    companion_of,
    count_retries_left,
    has_valid_id,
    is_cancellable,
    tracked_actor,
    yield_after,
)


class ProgressMiddleware(Middleware):
    """Records the states of all messages of actors that were declared with `progress_actor`.

    It may be at any position in the list of middleware.

    Raises:
      ImproperlyConfigured: It is in Django's ``MIDDLEWARE``, which passes a request handler.
    """

    def __init__(self, get_response: object = None) -> None:
        if get_response is not None:
            raise ImproperlyConfigured(
                'ProgressMiddleware is Dramatiq middleware. Move "dramatiq_progress.middleware.ProgressMiddleware" '
                "from Django's MIDDLEWARE to the MIDDLEWARE of DRAMATIQ_BROKER. Django's MIDDLEWARE may have "
                '"dramatiq_progress.requests.OwnerMiddleware".'
            )

    @property
    def actor_options(self) -> set[str]:
        """The options that `progress_actor` sets."""
        return {TRACKED_OPTION, CANCELLABLE_OPTION, COMPANION_OPTION, ESTIMATE_KEY_OPTION, YIELD_OPTION}

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        """Note that this thread moves delayed messages to their queues."""
        this_thread.is_consumer = True

    def after_worker_thread_boot(self, broker: Broker, thread: WorkerThread) -> None:
        """Note that this thread processes messages, and start the recorder."""
        this_thread.is_worker = True
        # Not in the first actor's thread, whose time limit could end it: see threads.py.
        get_recorder().start()

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """Watch the broker's sends from now on, if the actor is tracked."""
        if actor.options.get(TRACKED_OPTION):
            watch_sends(broker)

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Record the message before it is visible to workers; at ``after_enqueue`` one may have finished it already."""
        if is_recorded(message):
            return
        actor = tracked_actor(broker, message)
        owner = note_owner(message, is_tracked=actor is not None)
        if actor is None:
            if not has_valid_id(message):
                log_invalid_id(message)
            return
        seconds = None if delay is None else delay / 1000
        delivery = delivery_of(message)
        if delivery is None and _is_early_retry(message, delay):
            delivery = this_thread.delivery = self._begin(broker, message)
        if delivery is not None:
            if delivery.is_running:
                # Not a retry: the actor enqueues its own message for another round. This one continues until it ends.
                delivery.next_round = seconds or 0.0
                message.options.pop(CURSOR_OPTION, None)
                message.options[ROUND_OPTION] = delivery.attempt.token
            else:
                delivery.finish(State.RETRYING, retry_in=seconds or 0.0)
            return
        companion = companion_of(actor, message)
        due = this_thread.is_consumer and delay is None
        path, children, contribution = path_of(message), None, None
        if path and due:
            # Its composite is no longer delayed.
            contribution = Contribution(path, owner, {})
        elif not path and (sender := current_delivery()) is not None and sender.children.path:
            children = sender.children
            contribution = children.adopt(message, owner, cancellable=is_cancellable(actor, message), delay=seconds)
        Send(
            message.message_id,
            actor=message.actor_name if companion is None else companion.name,
            queue=q_name(message.queue_name),
            retries_left=count_retries_left(broker, message, actor),
            cancellable=is_cancellable(actor, message),
            delay=seconds,
            due=due,
            owner=owner,
            title=title_of(message),
            metadata=metadata_of(message),
            estimate_key=estimate_key_of(message, actor),
            # A member is shown by its composite.
            is_listed=not path and children is None,
            companion=companion,
            contribution=contribution,
            children=children,
        ).record()

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """Note that the message was sent. If a retry can't be sent, Dramatiq drops the message, and it has failed."""
        forget_send(message)
        delivery = delivery_of(message)
        if delivery is not None and not delivery.is_running:
            delivery.is_retried = True

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Note the delivery. Its start is recorded when the actor is called, after all other middleware."""
        self._end_processed(broker)
        begin_job(message)
        this_thread.delivery = self._begin(broker, message)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note the exception that the actor raised."""
        delivery = self._ensure_delivery(broker, message)
        if delivery is not None:
            delivery.exception = exception
            delivery.is_processed = True

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Note that the message was skipped, possibly by a middleware that is listed before this one."""
        delivery = self._ensure_delivery(broker, message)
        if delivery is not None:
            delivery.is_skipped = delivery.is_processed = True

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Record the outcome of an acknowledged message."""
        if (delivery := self._end(message)) is not None:
            try:
                delivery.finish_acked(broker)
            except SendAgainFailed:
                # Dramatiq calls this hook again, in some seconds.
                this_thread.delivery = delivery
                raise

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Record the outcome of a rejected message."""
        if (delivery := self._end(message)) is not None:
            delivery.finish_nacked()
        elif _is_unknown(broker, message):
            # Rejected by the consumer's thread. Only the record shows whether the message is tracked.
            Delivery(message, retries_left=0).finish(State.FAILED)

    # Some brokers emit this one only. After `before_ack` no delivery is left for it.
    after_ack = before_ack

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Record the outcome if the broker has emitted no ``before_nack``."""
        if (delivery := self._end(message)) is not None:
            delivery.finish_nacked()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Note that messages may run."""
        get_recorder().begin_work()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Let the resumable messages yield, so that another worker continues them."""
        get_recorder().request_yield()
        stop_fetching(worker)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Write what is left."""
        get_recorder().stop()

    def _begin(self, broker: Broker, message: AnyMessage) -> Delivery | None:
        actor = tracked_actor(broker, message)
        if actor is None:
            return None
        return Delivery(
            message,
            count_retries_left(broker, message, actor),
            cancellable=is_cancellable(actor, message),
            estimate_key=estimate_key_of(message, actor),
            companion=companion_of(actor, message),
            yield_after=yield_after(actor),
        )

    def _ensure_delivery(self, broker: Broker, message: MessageProxy) -> Delivery | None:
        # A middleware that is listed before this one may have ended the message before this one's hook was called.
        if delivery_of(message) is None:
            this_thread.delivery = self._begin(broker, message)
        return this_thread.delivery

    def _end_processed(self, broker: Broker) -> None:
        """Record the outcome of deliveries that the broker has neither acked nor nacked: it emits no such hooks."""
        while (delivery := this_thread.delivery) is not None and delivery.is_processed:
            this_thread.delivery = delivery.outer
            end_job(delivery.message)
            delivery.finish_acked(broker)

    def _end(self, message: MessageProxy) -> Delivery | None:
        end_job(message)
        delivery = delivery_of(message)
        if delivery is not None:
            this_thread.delivery = delivery.outer
        return delivery


def _is_early_retry(message: AnyMessage, delay: int | None) -> bool:
    # A retry of a message that a middleware listed before this one failed before this one's hook was called.
    is_retry = delay is not None and bool(message.options.get("retries"))
    return is_retry and this_thread.is_worker and this_thread.delivery is None


def _is_unknown(broker: Broker, message: MessageProxy) -> bool:
    # Not the copy in a delay queue, whose end isn't the message's.
    is_delayed_copy = q_name(message.queue_name) != message.queue_name
    return not is_delayed_copy and message.actor_name not in broker.actors

"""Messages that are sent again without a failure: they made room for others, are paused, or begin another round.

A paused message waits in the delay queue. Each time it is delivered, it is skipped and sent there again. Only its
record says that it is paused: if the record is lost, the message runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from dramatiq import Broker, Worker
from dramatiq.brokers.redis import _RedisConsumer
from dramatiq.common import q_name
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import MiddlewareError

from dramatiq_progress.worker.resuming.cursor import CURSOR_OPTION
from dramatiq_progress.worker.tracking import AnyMessage, keep_result

#: How long a paused message stays in the delay queue each time: the longest delay of all brokers (SQS).
PAUSE_SECONDS = 15

#: The option of a message that was paused when it was sent again: if the store gives no answer, it stays so.
PAUSED_OPTION = "progress_paused"

#: The message option of a message that its own actor has sent again: the token of the attempt that did.
ROUND_OPTION = "progress_round"

logger = logging.getLogger(__name__)


class SendAgainFailed(MiddlewareError, BrokerConnectionError):
    """The broker doesn't take a message that is to go on later.

    Both: Dramatiq (2.2) passes on a `MiddlewareError` of a hook, and tries again after a `BrokerConnectionError`. After
    any other error the message would be acknowledged, and be lost.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # Dramatiq's


class Again:
    """A message that is sent again, while its delivery only ends.

    Parameters:
      message: The message as it was delivered.
      kept: What it brings to its next attempt, the cursor first. Empty: what it brings already.
      is_paused: Whether its record says already that it is paused.

    Attributes:
      is_recorded: Whether its record says already that it waits, or is paused.
      is_paused: Whether it goes to the delay queue.
    """

    def __init__(self, message: AnyMessage, kept: Mapping[str, str] = MappingProxyType({}), *, is_paused: bool = False):
        self._copy = message.copy(options={CURSOR_OPTION: dict(kept)} if kept else {})
        keep_result(message)
        self.is_recorded = self.is_paused = is_paused

    def send(self, broker: Broker) -> None:
        """Send it.

        Raises:
          SendAgainFailed: The broker doesn't take it.
        """
        delay = PAUSE_SECONDS * 1000 if self.is_paused else None
        # Its age counts from its next turn: `AgeLimit` is about the time that a message waits.
        again = self._copy.copy(message_timestamp=int(time.time() * 1000) + (delay or 0))
        was_paused = again.options.pop(PAUSED_OPTION, False)
        if self.is_paused:
            again.options[PAUSED_OPTION] = True
        try:
            with _sending_again(again.message_id):
                broker.enqueue(again, delay=delay)
        except Exception as error:
            raise SendAgainFailed(f"Message {again.message_id} could not be sent again: {error}") from error
        if not was_paused:
            how = "is paused" if self.is_paused else "makes room, and goes on later"
            logger.info("Message %s (%s) %s.", again.message_id, again.actor_name, how)


_again: ContextVar[str | None] = ContextVar("dramatiq_progress_again", default=None)


@contextmanager
def _sending_again(message_id: str) -> Iterator[None]:
    token = _again.set(message_id)
    try:
        yield
    finally:
        _again.reset(token)


def is_sent_again(message: AnyMessage) -> bool:
    """Return whether this context is sending a message again, to go on later."""
    return message.message_id == _again.get()


def stop_fetching(worker: Worker) -> None:
    """Let a worker that shuts down fetch no more messages: those sent again would wait in it until its last job ends.

    On Redis: after 1.2 s instead of 10.7 s another worker goes on, beside a job of 14 s (Dramatiq 2.2). The attribute
    isn't documented; the consumer of the delay queue goes on, and gives the heartbeats. RabbitMQ has nothing like
    it that works for all queues: quorum queues refuse consumers with a global prefetch and close the connection (3.10).
    """
    for thread in worker.consumers.values():
        consumer = thread.consumer
        if isinstance(consumer, _RedisConsumer) and q_name(consumer.queue_name) == consumer.queue_name:
            consumer.prefetch = 0

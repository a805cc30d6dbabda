"""The record of a message that is being sent, and its removal if the send fails.

Dramatiq has no hook for a send that fails: the argument isn't serialisable, the broker is down. The broker's
``enqueue`` is wrapped for that. Every send passes through it: an actor's, a retry's, a pipeline's, a group's callback.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from dramatiq import Broker, Message

from dramatiq_progress.signals import send_state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.companion import Companion
from dramatiq_progress.stores.composites import UNSENT, CompositeAnswer, Contribution
from dramatiq_progress.stores.outcomes import Change
from dramatiq_progress.worker.recording.best_effort import with_store
from dramatiq_progress.worker.recording.recorder import get_recorder
from dramatiq_progress.worker.tracking import AnyMessage

from .again import is_sent_again
from .children import Children

logger = logging.getLogger(__name__)


class Send:
    """One message that this thread is sending.

    Parameters:
      message_id: The message's id.
      due: Whether the consumer's thread moves it from its delay queue.
      companion: Private data of the message, if it has any.
      contribution: The contribution to its composite, sent with it.
      children: Those of its sender, if it is one of them.
      **options: Further arguments of `Store.enqueue`.
    """

    def __init__(
        self,
        message_id: str,
        *,
        queue: str,
        owner: str,
        due: bool,
        companion: Companion | None = None,
        contribution: Contribution | None = None,
        children: Children | None = None,
        **options: Any,
    ) -> None:
        self.message_id = message_id
        self.queue = queue
        self.owner = owner
        self.due = due
        self._companion = companion
        self._contribution = contribution
        self._children = children
        self._is_added = False
        self._options = options
        self._change: Change | None = None
        self._has_failed = False

    def record(self) -> None:
        """Record the message, before it is visible to workers."""
        # Not for a message that is due, which exists in its delay queue.
        if not self.due:
            _this_thread.sends[self.message_id] = self
        # Not deferred for a message that is due: its start follows soon.
        size = 0 if self._companion is None else self._companion.size
        with_store(self.message_id, self._write, defer=not self.due, size=size)

    def withdraw(self) -> None:
        """Remove the record again: the message could not be sent."""
        self._has_failed = True
        if self._children is not None:
            self._children.confirm(self.message_id)
        change, contribution = self._change, self._contribution if self._is_added else None
        if contribution is None and not change:
            return

        def remove(store: Store, age: float) -> None:
            if contribution is not None:
                unsent = contribution._replace(slots={self.message_id: UNSENT})
                get_recorder().composites.contribute(store, [unsent], age=age)
            if change:
                store.withdraw(self.message_id, change, queue=self.queue, owner=self.owner)

        with_store(self.message_id, remove, defer=True)

    def _write(self, store: Store, age: float) -> None:
        if self._has_failed:
            # Deferred, and the message was never sent.
            return
        self._change = store.enqueue(
            self.message_id,
            queue=self.queue,
            owner=self.owner,
            due=self.due,
            companion=self._companion,
            contribution=self._contribution,
            age=age,
            **self._options,
        )
        if self._change.written:
            send_state_changed(store, self.message_id, self._change.previous, late=bool(age))
        if self._contribution is not None and self._change.composite is not None:
            get_recorder().composites.note_sent(store, self._contribution, self._change.composite, age=age)
            if self._children is not None and isinstance(self._change.composite, CompositeAnswer):
                self._is_added = True
                self._children.confirm(self.message_id)


class _Thread(threading.local):
    """The sends of this thread that the broker hasn't confirmed."""

    def __init__(self) -> None:
        self.sends: dict[str, Send] = {}


_this_thread = _Thread()


class BulkSend:
    """The messages of a group or a pipeline that this context is sending: they are recorded before the first is sent.

    Parameters:
      message_ids: Their ids.

    Attributes:
      unsent: Those that the broker hasn't confirmed.
    """

    def __init__(self, message_ids: Iterable[str]) -> None:
        self.unsent = set(message_ids)
        self._unannounced = set(self.unsent)

    def __enter__(self) -> BulkSend:
        self._token = _bulk_send.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _bulk_send.reset(self._token)

    def announce(self, message_id: str) -> bool:
        """Return whether a message is one of these, at its first enqueue. Some brokers process it in there."""
        if message_id not in self._unannounced:
            return False
        self._unannounced.remove(message_id)
        return True


_bulk_send: ContextVar[BulkSend | None] = ContextVar("dramatiq_progress_bulk_send", default=None)


def is_recorded(message: AnyMessage) -> bool:
    """Return whether a message that is about to be sent has been recorded with others."""
    if is_sent_again(message):
        return True
    bulk = _bulk_send.get()
    return bulk is not None and bulk.announce(message.message_id)


def forget_send(message: AnyMessage) -> None:
    """Note that a message was sent."""
    _this_thread.sends.pop(message.message_id, None)
    if (bulk := _bulk_send.get()) is not None:
        bulk.unsent.discard(message.message_id)


def watch_sends(broker: Broker) -> None:
    """Withdraw the record of a message if the broker's ``enqueue`` raises. Idempotent."""
    enqueue = broker.enqueue
    if getattr(enqueue, "is_watched_for_progress", False):
        return

    @functools.wraps(enqueue)
    def watched(message: Message[Any], *args: Any, **kwargs: Any) -> Message[Any]:
        try:
            return enqueue(message, *args, **kwargs)
        except BaseException:
            send = _this_thread.sends.pop(message.message_id, None)
            if send is not None:
                send.withdraw()
            raise

    watched.is_watched_for_progress = True  # type: ignore[attr-defined]
    broker.enqueue = watched  # type: ignore[method-assign]


def log_invalid_id(message: AnyMessage) -> None:
    """Log that a message can't be tracked under its id."""
    logger.error(
        "Sending a message of %s without progress: its id can't be part of a URL. Use 1 to 64 of A-Z, a-z, 0-9, _ and "
        "-: %.100r",
        message.actor_name,
        message.message_id,
    )

"""Django signals, for code that acts when the state of a message changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from django.db import connections
from django.dispatch import Signal
from dramatiq.worker import ConsumerThread

from .errors import StoreUnavailable
from .event_loop import close_connections, run_outside_event_loop
from .owners import sent_for
from .progress import Progress, State
from .stores import Store
from .threads import SingleThread

#: Sent in the process that changed a message's state: the sender's, or a worker's. Receivers run in the thread that
#: made the change. They run in a thread of their own, and the database connections that they open are closed
#: afterwards, for a change that had to wait for the store, for one that Dramatiq's consumer makes (a message is due),
#: and for later changes of the same message while these are being sent. If the change is made in an event loop, they
#: run in another thread with the caller's context variables, language, time zone and URLs, for which the loop waits.
#:
#: Arguments: ``sender`` (the class `Progress`), ``progress`` (a `Progress`, as read just after the change),
#: ``previous`` (the `State` before; None when there was no record). A receiver that raises is logged. While there are
#: receivers, each change costs a round trip to the store, to read the progress.
state_changed = Signal()

#: Sent after a waiting message was cancelled, by the process that cancelled it, with its ``message_id``. For this
#: package only: `state_changed` costs a read of the store for each change of any message.
message_cancelled = Signal()

#: Number of late signals that wait for slow receivers; the oldest are dropped first.
WAITING_LIMIT = 10_000

#: The progress after a change, and the state before.
Change = tuple[Progress, State | None]

logger = logging.getLogger(__name__)


def send_state_changed(
    store: Store, message_id: str, previous: State | None, *, state: State | None = None, late: bool = False
) -> None:
    """Send the `state_changed` signal, if it has receivers.

    Parameters:
      state: The state that the change made, if another process may change it again before it is read. Then nothing is
        sent, since that process sends the later state.
      late: Send it in a thread of its own, without waiting: the change was made by the recorder, and a slow receiver
        must not hold up other messages. Also done for all changes by a consumer's thread, and while an earlier signal
        of the message is being sent so.
    """
    send_states_changed(store, {message_id: previous}, state=state, late=late)


def send_states_changed(
    store: Store, previous: Mapping[str, State | None], *, state: State | None = None, late: bool = False
) -> None:
    """`send_state_changed` for several messages, which are read at once: their ids, and the state of each before."""
    if not previous or not state_changed.receivers:
        return
    try:
        found = store.read(list(previous))
    except StoreUnavailable as error:
        logger.warning(
            "Not sending state_changed for message %s: its progress could not be read. %s",
            ", ".join(islice(previous, 3)),
            error,
        )
        return
    # Its thread moves all messages of a queue that are due, and Django doesn't close its database connections.
    late = late or isinstance(threading.current_thread(), ConsumerThread)
    changes = [
        (progress, before)
        for progress, before in zip(found, previous.values(), strict=True)
        if progress is not None and progress.state is not before and (state is None or progress.state is state)
    ]

    def send() -> None:
        for progress, before in changes:
            for change in _late_sender.take(progress, before, late=late):
                _send(*change)

    if changes:
        call_receivers(send, "state_changed")


def call_receivers(send: Callable[[], None], name: str) -> None:
    """Call a function that sends a signal by `send_robust`, and log any error: the change has been made.

    It is called outside an event loop. Inside, `send_robust` raises if a receiver is async, and other receivers can't
    use the database.

    Parameters:
      name: The signal's name, for the log.
    """
    try:
        run_outside_event_loop(send)
    except Exception:
        logger.exception("Unexpected error while sending %s. Please report this as a bug.", name)


def finish_sending(deadline: float) -> None:
    """Wait for the receivers of late signals, until a time by `time.monotonic`."""
    _late_sender.join(deadline)


def _send(progress: Progress, previous: State | None) -> None:
    # Receivers get no owner, which is needed for permissions only.
    state_changed.send_robust(Progress, progress=replace(progress, owner=""), previous=previous)


class _LateSender:
    """Sends signals in a thread of its own, which ends when there is nothing left to send."""

    def __init__(self) -> None:
        # Those of each message, and the message whose signals the thread is sending.
        self._waiting: dict[str, list[Change]] = {}
        self._count = 0
        self._sending = ""
        # Not held while receivers run.
        self._lock = threading.Lock()
        has_more = lambda: bool(self._waiting)  # noqa: E731
        self._thread = SingleThread(self._send_waiting, "dramatiq-progress-signals", has_more=has_more)

    def take(self, progress: Progress, previous: State | None, *, late: bool) -> list[Change]:
        """Keep a signal that is late, or return what the caller is to send now: earlier ones of its message, and it.

        The order of a message's signals stays: it is kept too while the thread sends those before it.
        """
        change = (progress, previous)
        with self._lock:
            if not late and self._sending != progress.id:
                earlier = self._waiting.pop(progress.id, [])
                self._count -= len(earlier)
                return [*earlier, change]
            self._waiting.setdefault(progress.id, []).append(change)
            self._count += 1
            is_full = self._count > WAITING_LIMIT
            if is_full:
                self._drop_oldest()
        if is_full:
            logger.warning(
                "Dropping a late state_changed: %d wait already. Check for slow receivers of the signal.", WAITING_LIMIT
            )
        self._thread.start()
        return []

    def join(self, deadline: float) -> None:
        while self._is_sending() and (rest := deadline - time.monotonic()) > 0:
            self._thread.returned.clear()
            if self._is_sending():
                self._thread.returned.wait(rest)
        if self._count:
            logger.warning(
                "Stopping while %d signals state_changed wait, which are lost when the process ends. Check for slow "
                "receivers of the signal.",
                self._count,
            )

    def _is_sending(self) -> bool:
        return bool(self._waiting) or self._thread.is_running

    def _send_waiting(self) -> None:
        try:
            while changes := self._next():
                for change in changes:
                    # The thread has no owner of its own: what receivers send belongs to the owner of the message.
                    with sent_for(change[0].owner):
                        call_receivers(partial(_send, *change), "state_changed")
                    connections.close_all()
        finally:
            close_connections()

    def _next(self) -> list[Change]:
        with self._lock:
            self._sending = next(iter(self._waiting), "")
            changes = self._waiting.pop(self._sending, [])
            self._count -= len(changes)
            return changes

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._waiting))
        del self._waiting[oldest][0]
        self._count -= 1
        if not self._waiting[oldest]:
            del self._waiting[oldest]


_late_sender = _LateSender()


def _renew_after_fork() -> None:
    global _late_sender
    _late_sender = _LateSender()


os.register_at_fork(after_in_child=_renew_after_fork)

"""Django signals, for code that acts when the state of a message changes."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from django.db import connections
from django.dispatch import Signal

from .errors import StoreUnavailable
from .progress import Progress, State
from .stores import Store
from .threads import SingleThread

#: Sent in the process that changed a message's state: the sender's, or a worker's. Receivers run in the thread that
#: made the change. For a change that had to wait for the store they run in a thread of their own, and the database
#: connections that they open are closed afterwards.
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

logger = logging.getLogger(__name__)


def send_state_changed(
    store: Store, message_id: str, previous: State | None, *, state: State | None = None, late: bool = False
) -> None:
    """Send the `state_changed` signal, if it has receivers.

    Parameters:
      state: The state that the change made, if another process may change it again before it is read. Then nothing is
        sent, since that process sends the later state.
      late: Send it in a thread of its own, without waiting: the change was made by the recorder, and a slow receiver
        must not hold up other messages.
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
    for progress, before in zip(found, previous.values(), strict=True):
        if progress is None or progress.state is before or (state is not None and progress.state is not state):
            continue
        # Receivers get no owner, which is needed for permissions only.
        progress = replace(progress, owner="")
        if late:
            _late_sender.add(progress, before)
        else:
            _send(progress, before)


def finish_sending(deadline: float) -> None:
    """Wait for the receivers of late signals, until a time by `time.monotonic`."""
    _late_sender.join(deadline)


def _send(progress: Progress, previous: State | None) -> None:
    state_changed.send_robust(Progress, progress=progress, previous=previous)


class _LateSender:
    """Sends signals in a thread of its own, which ends when there is nothing left to send."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Progress, State | None]] = deque(maxlen=WAITING_LIMIT)
        has_more = lambda: bool(self._waiting)  # noqa: E731
        self._thread = SingleThread(self._send_waiting, "dramatiq-progress-signals", has_more=has_more)

    def add(self, progress: Progress, previous: State | None) -> None:
        if len(self._waiting) == WAITING_LIMIT:
            logger.warning(
                "Dropping a late state_changed: %d wait already. Check for slow receivers of the signal.", WAITING_LIMIT
            )
        self._waiting.append((progress, previous))
        self._thread.start()

    def join(self, deadline: float) -> None:
        while self._is_sending() and (rest := deadline - time.monotonic()) > 0:
            self._thread.returned.clear()
            if self._is_sending():
                self._thread.returned.wait(rest)

    def _is_sending(self) -> bool:
        return bool(self._waiting) or self._thread.is_running

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                _send(*self._waiting.popleft())
            except Exception:
                logger.exception("Unexpected error while sending state_changed. Please report this as a bug.")
            finally:
                connections.close_all()


_late_sender = _LateSender()


def _renew_after_fork() -> None:
    global _late_sender
    _late_sender = _LateSender()


os.register_at_fork(after_in_child=_renew_after_fork)

"""`cancel`: stops a message that is no longer wanted."""

from __future__ import annotations

from .event_loop import run_in_thread
from .message_ids import MessageLike, message_id_of
from .progress import State
from .signals import message_cancelled, send_state_changed
from .stores import get_store
from .stores.outcomes import Cancellation, CancelOutcome

__all__ = ["CancelOutcome", "Cancellation", "acancel", "cancel"]


def cancel(message: MessageLike, *, force: bool = False) -> Cancellation:
    """Cancel a message of an actor that is declared with ``cancellable=True``. Idempotent.

    One that waits (``enqueued``, ``delayed``, ``retrying``) is ``cancelled`` immediately, and the worker skips it. The
    actor of a running one is interrupted at its next report. See docs/cancel.md.

    Parameters:
      message: A message, its id, or its `Progress`.
      force: Cancel it even if its actor isn't declared so. Its code may not be written for it: what it has begun may
        remain unfinished.

    Returns:
      The outcome; true if the message is cancelled or its actor will be interrupted.

    Raises:
      StoreUnavailable: The store can't be reached. A cancel is never deferred: nothing was cancelled.
      ValueError: The value is no message, and no id that a message can have.
    """
    message_id = message_id_of(message)
    store = get_store()
    answer = store.cancel(message_id, force=force)
    if answer.outcome is CancelOutcome.CANCELLED and answer.previous is not State.CANCELLED:
        send_state_changed(store, message_id, answer.previous)
        message_cancelled.send_robust(None, message_id=message_id)
    return answer


async def acancel(message: MessageLike, *, force: bool = False) -> Cancellation:
    """`cancel`, for async code."""
    return await run_in_thread(lambda: cancel(message, force=force))

"""`cancel`: ends a message that nobody wants any longer, or has its actor told to stop."""

from __future__ import annotations

import asyncio

from .middleware import announce
from .progress import State
from .stores import get_store
from .stores.base import Cancellation, CancelOutcome

__all__ = ["CancelOutcome", "Cancellation", "acancel", "cancel"]


def cancel(message_id: str) -> Cancellation:
    """Cancel a message. It may be called any number of times.

    One that waits (`enqueued`, `delayed`, `retrying`) is `cancelled` at once, and the worker skips it when it comes.
    The actor of one that runs is told with its next report. See docs/cancel.md.

    Returns:
      What came of it; true when the message is cancelled or its actor is told.

    Raises:
      StoreUnavailable: The store cannot be reached. Nothing is kept: try again later, if it is still wanted then.
    """
    store = get_store()
    answer = store.cancel(message_id)
    if answer.outcome is CancelOutcome.CANCELLED and answer.previous is not State.CANCELLED:
        announce(store, message_id, answer.previous)
    return answer


async def acancel(message_id: str) -> Cancellation:
    """`cancel`, for async code."""
    return await asyncio.to_thread(cancel, message_id)

"""`pause` and `resume`: a message waits until it is wanted again, and goes on where it was."""

from __future__ import annotations

from .event_loop import run_in_thread
from .message_ids import MessageLike, message_id_of
from .progress import State
from .signals import send_state_changed
from .stores import get_store
from .stores.outcomes import PauseOutcome, Pausing

__all__ = ["PauseOutcome", "Pausing", "apause", "aresume", "pause", "resume"]


def pause(message: MessageLike) -> Pausing:
    """Let a message wait until `resume` is called. Idempotent.

    One that waits (``enqueued``, ``delayed``, ``retrying``) is ``paused`` immediately. A running one is paused after
    its current item, if it is in a loop of ``track(resume=…)``, or has been in one. See docs/pausing.md.

    Parameters:
      message: A message, its id, or its `Progress`. Not a group or a pipeline: pause its members.

    Returns:
      The outcome; true if the message is paused, or will be unless it finishes before.

    Raises:
      StoreUnavailable: The store can't be reached. A pause is never deferred: nothing was paused.
      ValueError: The value is no message, and no id that a message can have.
    """
    return _change(message, wanted=True)


def resume(message: MessageLike) -> Pausing:
    """Let a paused message go on: at the latest after 15 seconds, and when its queue lets it. Idempotent.

    Parameters:
      message: A message, its id, or its `Progress`.

    Returns:
      The outcome; true if the message isn't paused, and none was requested.

    Raises:
      StoreUnavailable: The store can't be reached. Nothing was resumed.
      ValueError: The value is no message, and no id that a message can have.
    """
    return _change(message, wanted=False)


async def apause(message: MessageLike) -> Pausing:
    """`pause`, for async code."""
    return await run_in_thread(lambda: pause(message))


async def aresume(message: MessageLike) -> Pausing:
    """`resume`, for async code."""
    return await run_in_thread(lambda: resume(message))


def _change(message: MessageLike, *, wanted: bool) -> Pausing:
    message_id = message_id_of(message)
    store = get_store()
    answer = store.pause(message_id, wanted=wanted)
    was_paused = answer.previous is State.PAUSED
    if answer.outcome is PauseOutcome.PAUSED or (answer.outcome is PauseOutcome.RESUMED and was_paused):
        # Nothing is sent if the state is the one before.
        send_state_changed(store, message_id, answer.previous)
    return answer

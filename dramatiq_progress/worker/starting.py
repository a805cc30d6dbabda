"""The start of an attempt: the store's answer says whether the actor is called, and where its loops begin."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from dramatiq import MessageProxy
from dramatiq.middleware import SkipMessage

from dramatiq_progress.conf import configuration
from dramatiq_progress.event_loop import in_event_loop
from dramatiq_progress.progress import State
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import is_child
from dramatiq_progress.stores.outcomes import Change, Start

from .recording.best_effort import with_store
from .sending.again import Again
from .tracking import keep_result

if TYPE_CHECKING:
    from .delivery import Delivery
    from .observing.binding import Binding

#: Pause between two looks at whether a late start was recorded.
LOOK_SECONDS = 0.05

logger = logging.getLogger(__name__)


def check_start(delivery: Delivery, start: Start) -> None:
    """Note what the store has answered to the start.

    Raises:
      SkipMessage: The actor isn't called.
    """
    attempt = delivery.attempt
    if start.verdict == "cancelled":
        delivery.is_ignored = True
        if attempt.companion is not None and start.previous is not None:
            attempt.companion.note_end(State.CANCELLED, Change(True, start.previous, state=State.CANCELLED))
        raise SkipMessage(f"Message {attempt.message_id} was cancelled.")
    if start.verdict == "finished":
        delivery.is_ignored = True
        keep_result(delivery.message)
        raise SkipMessage(f"Message {attempt.message_id} was finished by an earlier delivery.")
    # A message that a member has sent may be there to clean up: it is only skipped if its actor is cancellable.
    if start.is_unwanted and (start.is_forced or attempt.cancellable or not is_child(attempt.path)):
        delivery.is_cancelled = True
        raise SkipMessage(f"The group or pipeline of message {attempt.message_id} was cancelled.")
    if start.verdict == "paused":
        hold(delivery, start.kept)
    delivery.is_ignored = start.verdict == "ignored"
    limit = configuration().max_deliveries
    if limit and start.deliveries > limit and isinstance(delivery.message, MessageProxy):
        delivery.is_given_up = True
        delivery.message.fail()
        logger.error(
            "Message %s (%s) was started %d times without finishing; rejecting it to the dead letters "
            "(MAX_DELIVERIES). Check the worker's memory use and exit status. If another message crashed the "
            "worker, requeue this one.",
            attempt.message_id,
            attempt.actor,
            limit,
        )
        raise SkipMessage(f"Message {attempt.message_id} exceeded MAX_DELIVERIES.")


def is_paused(attempt: Attempt) -> bool:
    """Return whether the record says that it is paused, which a full store still knows; or nothing can be read."""
    read = with_store(attempt.message_id, lambda store, age: store.read([attempt.message_id]))
    return read is None or (read[0] is not None and read[0].state is State.PAUSED)


def hold(delivery: Delivery, kept: Mapping[str, str] = MappingProxyType({})) -> None:
    """Let the message wait on, since it is paused.

    Raises:
      SkipMessage: In each case.
    """
    delivery.is_ignored = True
    delivery.again = Again(delivery.message, kept, is_paused=True)
    raise SkipMessage(f"Message {delivery.attempt.message_id} is paused.")


def wait_for_start(binding: Binding) -> None:
    """Wait for a store that gave no answer at the start: it may know where an earlier attempt got to."""
    # In an event loop this would stop all other tasks.
    if binding.awaits_place and not in_event_loop():
        until = time.monotonic() + _patience()
        while binding.awaits_place and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)


async def wait_for_start_in_loop(binding: Binding) -> None:
    """Wait as `wait_for_start` does, in an event loop."""
    until = time.monotonic() + (_patience() if binding.awaits_place else 0.0)
    while binding.awaits_place and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)


def _patience() -> float:
    """Return how many seconds an actor waits for its start."""
    try:
        return configuration().resume_wait
    except ImproperlyConfigured:
        # It was logged when the attempt started, and an error in the settings fails no job.
        return 0.0

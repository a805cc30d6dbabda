"""Best-effort actions on the store: a job must not fail for its progress. The recorder repeats those that can wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.stores import Store, get_store

from .recorder import get_recorder

T = TypeVar("T")
logger = logging.getLogger(__name__)


def with_store(message_id: str, action: Callable[[Store, float], T], *, defer: bool = False, size: int = 0) -> T | None:
    """Run an action on the store. If the store is unavailable, return None.

    Parameters:
      message_id: The message that the action writes.
      action: Receives the store, and the seconds since this call, which are 0 unless it is deferred.
      defer: Queue the action for later if the store is unavailable.
      size: Bytes of private data that the action holds.

    Returns:
      The action's return value, or None.
    """
    try:
        return action(get_store(), 0.0)
    except (StoreUnavailable, ImproperlyConfigured) as error:
        if defer:
            get_recorder().defer(message_id, action, error, size=size)
    except Exception:
        logger.exception(
            "Unexpected error while recording a state change; the job continues without it. Please report this as a "
            "bug."
        )
    return None

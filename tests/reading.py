"""The progress of a message, as a page would read it."""

from __future__ import annotations

import time

from dramatiq_progress import Progress, State, StoreUnavailable, get_progress
from dramatiq_progress.message_ids import MessageLike
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.waiting import wait_until


def found(message: MessageLike) -> Progress | None:
    """Return the progress of a message; None if it has no record, or while the store is unavailable."""
    try:
        return get_progress(message)
    except StoreUnavailable:
        return None


def read(message: MessageLike) -> Progress:
    """Return the progress of a message, which has a record."""
    progress = get_progress(message)
    assert progress is not None
    return progress


def when(message: MessageLike, *states: State) -> Progress:
    """Wait until a message is in one of these states, and return its progress."""
    progress = wait_until(lambda: seen if (seen := found(message)) is not None and seen.state in states else None)
    assert progress is not None
    return progress


def seconds_left(store: Store, key: str) -> float:
    """Return the seconds after which a key expires; a negative number if it doesn't, or isn't there."""
    if isinstance(store, MemoryStore):
        return store._expires_at.get(key, 0.0) - time.monotonic()
    assert isinstance(store, RedisStore)
    [milliseconds] = store._servers.send([("EVAL", "return redis.call('PTTL', KEYS[1])", "1", key)])
    return float(milliseconds / 1000)

"""Where progress lives between the worker that reports it and the page that shows it, keyed by message id.

`get_store` makes the store that the settings name, once in a process; `get_progress` reads one message from it.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from dramatiq import broker as dramatiq_broker
from dramatiq.broker import Broker
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress.conf import SETTING_NAME, configuration, masked
from dramatiq_progress.progress import Progress

from .base import Store

REDIS_STORE = "dramatiq_progress.stores.redis.RedisStore"
MEMORY_STORE = "dramatiq_progress.stores.memory.MemoryStore"
DEFAULT_URL = "redis://127.0.0.1:6379/0"

__all__ = ["Store", "aget_progress", "get_progress", "get_store"]


class _Current:
    """The store of this process, and what it was made from."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.store: Store | None = None
        self.made_from: object = None


_current = _Current()


def get_store() -> Store:
    """The store that the settings name; it is made at the first call, and again when the settings change.

    Without ``DRAMATIQ_PROGRESS["STORE"]`` it is the Redis of a Redis broker, memory for a StubBroker, and else
    redis://127.0.0.1:6379/0.

    Raises:
      ImproperlyConfigured: The settings name no store that can be made.
    """
    wanted = configuration()
    broker = dramatiq_broker.global_broker
    is_derived = wanted.store is None and not wanted.options
    made_from = (wanted.store, wanted.options, wanted.prefix, broker if is_derived else None)
    with _current.lock:
        if _current.store is None or _current.made_from != made_from:
            if _current.store is not None:
                _current.store.close()
            path, options = _choose(wanted.store, wanted.options, broker)
            _current.store = _make(path, options, prefix=wanted.prefix)
            _current.made_from = made_from
        return _current.store


def get_progress(message_id: str) -> Progress | None:
    """Read the progress of a message; None where the store has no record of it.

    Raises:
      StoreUnavailable: The store cannot be reached.
    """
    return get_store().read([message_id])[0]


async def aget_progress(message_id: str) -> Progress | None:
    """`get_progress`, for async code."""
    return (await get_store().aread([message_id]))[0]


def _choose(path: str | None, options: dict[str, Any], broker: Broker | None) -> tuple[str, dict[str, Any]]:
    if path is not None or options:
        return path or REDIS_STORE, options
    if isinstance(broker, StubBroker):
        return MEMORY_STORE, {}
    return REDIS_STORE, _options_of_broker(broker)


def _options_of_broker(broker: Broker | None) -> dict[str, Any]:
    # dramatiq.brokers.redis and .rabbitmq need packages that not every project installs: known by their attribute.
    pool = getattr(getattr(broker, "client", None), "connection_pool", None)
    if pool is None:
        return {"url": DEFAULT_URL}
    from .connections import options_of_pool

    return options_of_pool(pool)


def _make(path: str, options: dict[str, Any], *, prefix: str) -> Store:
    try:
        store = import_string(path)(prefix=prefix, **options)
    except ImportError as error:
        said = f'{SETTING_NAME}["STORE"] is {path!r}, which cannot be imported: {error}'
        raise ImproperlyConfigured(masked(said)) from None
    except (TypeError, ValueError) as error:
        names = ", ".join(sorted(options)) or "none"
        said = f'{SETTING_NAME}["OPTIONS"] (given: {names}) does not fit {path}: {error}'
        raise ImproperlyConfigured(masked(said)) from None
    if not isinstance(store, Store):
        raise ImproperlyConfigured(f'{SETTING_NAME}["STORE"] is {path!r}, which is no {Store.__qualname__}.')
    return store


def _forget_after_fork() -> None:
    # A child must not use the parent's connections, nor wait for a lock that a thread of the parent held.
    global _current
    _current = _Current()


os.register_at_fork(after_in_child=_forget_after_fork)

"""The store: progress between the worker that reports it and the page that shows it, keyed by message id.

`get_store` creates the store of the settings, once per process; `get_progress` reads one message from it. A write is a
method of `Store` (base.py, reporting.py), which becomes calls of scripts (encoding.py). `redis/` sends them: store,
servers, transport, batching. `memory/` runs the same rules as functions. A read is a method of querying.py, and its
answer becomes a `Progress` in decoding.py.
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

from dramatiq_progress.conf import DEFAULT_PREFIX, SETTING_NAME, Configuration, configuration
from dramatiq_progress.error_texts import masked, show
from dramatiq_progress.message_ids import MessageLike, message_id_of
from dramatiq_progress.progress import Progress

from .base import Store

REDIS_STORE = "dramatiq_progress.stores.redis.RedisStore"
MEMORY_STORE = "dramatiq_progress.stores.memory.MemoryStore"
DEFAULT_URL = "redis://127.0.0.1:6379/0"

#: The namespace of a `dramatiq.brokers.redis.RedisBroker` that was given none.
BROKER_NAMESPACE = "dramatiq"

__all__ = ["Store", "aget_progress", "get_progress", "get_store"]


class _Current:
    """The store of this process, and the settings that it was created from."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.store: Store | None = None
        self.made_from: object = None


_current = _Current()


def get_store() -> Store:
    """Return the store of the settings; it is created at the first call, and again when the settings change.

    Without ``DRAMATIQ_PROGRESS["STORE"]`` it is the Redis of a Redis broker, memory for a StubBroker, and otherwise
    redis://127.0.0.1:6379/0.

    Raises:
      ImproperlyConfigured: The settings name no store that can be created.
    """
    settings = configuration()
    broker = dramatiq_broker.global_broker
    made_from = (settings.store, settings.options, settings.prefix, broker if _is_derived(settings) else None)
    current = _current
    with current.lock:
        if current.store is not None and current.made_from == made_from:
            return current.store
    # Not under the lock: a project's own store class is imported and created here.
    made = _make(settings, broker)
    with current.lock:
        if current.store is not None and current.made_from == made_from:
            made, unused = current.store, made
        else:
            current.store, unused = made, current.store
            current.made_from = made_from
    if unused is not None:
        unused.close()
    return made


def get_progress(message: MessageLike) -> Progress | None:
    """Return the progress of a message; None if the store has no record of it.

    Parameters:
      message: A message, its id, or an earlier `Progress` of it.

    Raises:
      StoreUnavailable: The store can't be reached.
      ValueError: The value is no message, and no id that a message can have.
    """
    message_id = message_id_of(message)
    return get_store().read([message_id])[0]


async def aget_progress(message: MessageLike) -> Progress | None:
    """`get_progress`, for async code."""
    message_id = message_id_of(message)
    return (await get_store().aread([message_id]))[0]


def _make(settings: Configuration, broker: Broker | None) -> Store:
    path, options = _choose(settings, broker)
    prefix = _prefix_for(broker, settings.prefix) if _is_derived(settings) else settings.prefix
    try:
        store = import_string(path)(prefix=prefix, **options)
    except ImportError as error:
        text = f'{SETTING_NAME}["STORE"] is {show(path)}, which can\'t be imported: {error}'
        raise ImproperlyConfigured(masked(text)) from None
    except (TypeError, ValueError) as error:
        names = ", ".join(sorted(options)) or "none"
        text = f'{SETTING_NAME}["OPTIONS"] (given: {names}) doesn\'t fit {path}: {error}'
        raise ImproperlyConfigured(masked(text)) from None
    if not isinstance(store, Store):
        raise ImproperlyConfigured(f'{SETTING_NAME}["STORE"] is {show(path)}, which isn\'t a {Store.__qualname__}.')
    return store


def _is_derived(settings: Configuration) -> bool:
    """Return whether the store is that of the broker."""
    return settings.store is None and not settings.options


def _choose(settings: Configuration, broker: Broker | None) -> tuple[str, dict[str, Any]]:
    if not _is_derived(settings):
        return settings.store or REDIS_STORE, settings.options
    if isinstance(broker, StubBroker):
        return MEMORY_STORE, {}
    return REDIS_STORE, _options_of_broker(broker)


def _prefix_for(broker: Broker | None, prefix: str) -> str:
    # Two projects that share a Redis server are kept apart by the namespaces of their brokers; so are their records.
    # Not separated by a colon: "dramatiq-progress:*" would be the pattern of both.
    namespace = getattr(broker, "namespace", BROKER_NAMESPACE)
    if prefix != DEFAULT_PREFIX or namespace == BROKER_NAMESPACE:
        return prefix
    return f"{prefix.rstrip(':')}@{namespace}:"


def _options_of_broker(broker: Broker | None) -> dict[str, Any]:
    # dramatiq.brokers.redis and .rabbitmq need packages that not every project installs: recognised by an attribute.
    client = getattr(broker, "client", None)
    if client is None:
        return {"url": DEFAULT_URL}
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise ImproperlyConfigured(
            f"The broker's client is a {type(client).__module__}.{type(client).__qualname__}, which doesn't say where "
            f'its server is. Name the store\'s own: {SETTING_NAME} = {{"OPTIONS": {{"url": "redis://…"}}}}'
        )
    from .redis.options import options_of_pool

    return options_of_pool(pool)


def _forget_after_fork() -> None:
    # A child must not use the parent's connections, nor wait for a lock that a thread of the parent held.
    global _current
    _current = _Current()


os.register_at_fork(after_in_child=_forget_after_fork)

"""The event loop of a thread, which must not block: whether there is one, and calls that run outside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

import dramatiq
from asgiref.sync import AsyncToSync
from django.db import connections
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation

T = TypeVar("T")


def in_event_loop() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_outside_event_loop(function: Callable[[], T]) -> T:
    """Call a function that uses the database, in another thread if this one runs an event loop.

    Django forbids database access in an event loop's thread. The other thread has the caller's context variables (the
    owner of what it sends), language, time zone and URLs.
    """
    if not in_event_loop():
        return function()
    # It blocks the event loop, as `send` does.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(copy_context().run, _in_context(function)).result()


async def run_in_thread(function: Callable[[], T]) -> T:
    """Call a function in another thread, as `run_outside_event_loop` does, while the event loop goes on.

    Not in the thread of asgiref's `sync_to_async`: other code of the same request or worker may use that for long, such
    as a job that is to be cancelled.
    """
    return await asyncio.to_thread(_in_context(function))


def close_connections() -> None:
    """Close what this thread has opened: connections to databases, and the broker's.

    Dramatiq (2.2) has one to RabbitMQ for each thread, and keeps those of threads that have ended.
    """
    connections.close_all()
    broker = dramatiq.broker.global_broker
    found = getattr(type(broker), "connection", None)
    if isinstance(found, property) and found.fdel is not None:
        # It wasn't opened, or the broker is away.
        with suppress(Exception):
            found.fdel(broker)


def _in_context(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that calls another one with what Django keeps of the caller, in a copy of its context.

    asgiref (3.13) hides its variables in a copied context from threads that it hasn't started.
    """
    language, zone = translation.get_language(), timezone.get_current_timezone()
    prefix, urlconf = get_script_prefix(), get_urlconf()

    def run() -> T:
        # Its only thread may be the one that waits for this one.
        AsyncToSync.async_single_thread_context.set(None)  # type: ignore[arg-type]
        set_script_prefix(prefix)
        set_urlconf(urlconf)
        try:
            with translation.override(language), timezone.override(zone):
                return function()
        finally:
            close_connections()

    return run

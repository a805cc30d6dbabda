"""The event loop of a thread, which must not block: whether there is one, and a call that runs outside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

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

    Django forbids database access in an event loop's thread.
    """
    if not in_event_loop():
        return function()

    def run() -> T:
        try:
            return function()
        finally:
            connections.close_all()

    # It blocks the event loop, as `send` does.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(run).result()

"""The event loop of a thread, which must not block: whether there is one, and a call that runs outside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from django.db import connections
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
    owner of what it sends), language and time zone.
    """
    if not in_event_loop():
        return function()

    # asgiref (3.13) hides them in a copied context from threads that it hasn't started.
    language, zone = translation.get_language(), timezone.get_current_timezone()

    def run() -> T:
        try:
            with translation.override(language), timezone.override(zone):
                return function()
        finally:
            connections.close_all()

    # It blocks the event loop, as `send` does.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(copy_context().run, run).result()

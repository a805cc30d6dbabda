"""Messages that run, as the worker would have them, in this very process and with a live store and recorder."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq_progress import ProgressObserver
from dramatiq_progress.recorder import get_recorder
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.base import Attempt


@contextmanager
def running(message_id: str = "") -> Iterator[ProgressObserver]:
    """The observer of a message that runs for the length of a block."""
    attempt = Attempt(message_id or secrets.token_hex(8), "work", "default", owner="O" * 22)
    observer = ProgressObserver(attempt=attempt)
    observer.started(get_store().start(attempt))
    get_recorder().open(observer)
    try:
        yield observer
    finally:
        get_recorder().close(observer)

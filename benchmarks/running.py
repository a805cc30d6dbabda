"""Running messages in this process, as in a worker, with a real store and recorder."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq_progress import ProgressObserver
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.recording.recorder import get_recorder


@contextmanager
def running(message_id: str = "") -> Iterator[ProgressObserver]:
    """Yield the observer of a message that runs for the length of a block."""
    attempt = Attempt(message_id or secrets.token_hex(8), "work", "default", owner="O" * 22)
    observer = ProgressObserver(Binding(attempt=attempt, strict=False))
    observer._binding.apply_start(get_store().start(attempt))
    get_recorder().open(observer._binding)
    try:
        yield observer
    finally:
        get_recorder().close(observer._binding)

"""Ending all streams when the server is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from .hub import all_hubs

#: The signals that stop a server.
SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _ShutdownHandler:
    """A signal handler that ends all streams, and then calls the handler that it replaced."""

    def __init__(self, previous: Callable[[int, FrameType | None], Any]) -> None:
        self.previous = previous
        self.was_called = False

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self.was_called = True
        for hub in all_hubs():
            hub.close()
        return self.previous(number, frame)


def end_streams_at_shutdown() -> None:
    """Install a signal handler that ends streams at SIGTERM and Ctrl-C, before the server waits for its connections.

    Without it, uvicorn 0.54 waits until an idle stream ends. It is installed in the main thread only, where Python
    allows it, and only in front of a handler of the server's: without one, the process ends anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SHUTDOWN_SIGNALS:
        previous = signal.getsignal(number)
        if callable(previous) and not isinstance(previous, _ShutdownHandler):
            signal.signal(number, _ShutdownHandler(previous))


def is_shutting_down() -> bool:
    """Whether the server is stopping. A stream that starts now would delay it."""
    handlers = map(signal.getsignal, SHUTDOWN_SIGNALS)
    return any(isinstance(handler, _ShutdownHandler) and handler.was_called for handler in handlers)

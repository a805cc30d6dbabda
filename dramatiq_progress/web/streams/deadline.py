"""The deadline of a stream: the time at which the task that sends it is cancelled.

While a client doesn't read, that task waits in the server's ``send``. It requests no chunk, so the stream can't end by
itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: How long a stream that has ended waits for its client to read.
STALLED_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Deadline:
    """Cancels the task that creates it, unless it is cleared before.

    ASGI servers run each request in a task of its own.

    Parameters:
      on_cancel: Called at that time, also if the task has ended.
    """

    __slots__ = ("_loop", "_on_cancel", "_task", "_timer")

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, ends_at: float) -> None:
        """Cancel the task `STALLED_SECONDS` after this time of the event loop. Call it in the event loop's thread."""
        self._stop_timer()
        if self._task is not None:
            self._timer = self._loop.call_at(ends_at + STALLED_SECONDS, self._cancel)

    def clear(self) -> None:
        """Never cancel the task. It can be called in any thread, and more than once."""
        with suppress(RuntimeError):  # The event loop was closed.
            self._loop.call_soon_threadsafe(self._clear)

    def _clear(self) -> None:
        self._stop_timer()
        self._task = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel(self) -> None:
        task, self._task = self._task, None
        self._on_cancel()
        if task is not None and not task.done():
            logger.info("Cancelling a stream: its client has not read its last %s s.", STALLED_SECONDS)
            task.cancel()

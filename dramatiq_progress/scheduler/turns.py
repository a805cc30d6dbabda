"""`Turns`: the requests of several threads to do one thing, which one thread does at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime


class Turns:
    """Calls a function once or more for requests, never in two threads at the same time.

    Requests that are made meanwhile are answered by one further call.

    Parameters:
      function: Gets the tick of the last request that has one, or None. It must not raise.
    """

    def __init__(self, function: Callable[[datetime | None], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._is_taken = False
        self._is_requested = False
        self._tick: datetime | None = None

    def request(self, tick: datetime | None = None) -> bool:
        """Request a call. Return whether no thread calls `run` yet, so that the caller must provide one.

        Parameters:
          tick: The tick that is due by this host's clock.
        """
        with self._lock:
            self._is_requested, self._tick = True, tick or self._tick
            must_run, self._is_taken = not self._is_taken, True
            return must_run

    def run(self) -> None:
        """Call the function until there are no more requests."""
        while True:
            with self._lock:
                if not self._is_requested:
                    self._is_taken = False
                    return
                self._is_requested, tick, self._tick = False, self._tick, None
            self._function(tick)

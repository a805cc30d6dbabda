"""A circuit breaker: after one command that got no answer, the others do not wait for theirs."""

from __future__ import annotations

import time

#: How often somebody may try a store that does not answer, when no recorder does. (The recorder asks more often; in a
#: process that has one, no job and no request ever waits for a second time-out of the same outage.)
TRY_INTERVAL_SECONDS = 5.0


class Breaker:
    """Whether a server is worth asking, for all threads of a process.

    Its state is two attributes, each written in one step; two threads that try at once do no harm.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._tried_at = 0.0

    def allows(self) -> bool:
        """Whether to ask the server. While it is open, once every `TRY_INTERVAL_SECONDS`."""
        if not self._is_open:
            return True
        if time.monotonic() - self._tried_at < TRY_INTERVAL_SECONDS:
            return False
        self._tried_at = time.monotonic()
        return True

    def open(self) -> None:
        """The server could not be reached."""
        self._tried_at = time.monotonic()
        self._is_open = True

    def close(self) -> None:
        """The server answered."""
        self._is_open = False

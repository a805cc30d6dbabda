"""Round trips over the connections of a redis-py pool: requests go out together, and the answer of each comes back.

By redis-py's connections, and not by its client or its pipeline: what these do around one round trip, mostly for
metrics that nobody reads here, took half of its processor time (redis-py 8.1: 20 of 73 us in a loop, 80 of 320 us of a
poll in a web server with four threads).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

#: For so long a connection that is in use all the time stays out of its pool: to take it from there, which looks if the
#: server has closed it, costs 34 us of such a poll.
KEPT_SECONDS = 1.0


class Request(NamedTuple):
    """One command as its words, and a key of it, which tells the node of a cluster."""

    key: str
    words: Sequence[Any]


class RoundTrips:
    """Makes round trips, over as many connections of a pool as there are threads that make one at the same time.

    Parameters:
      pool: Where its connections come from, and where they go back to.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        # Each with the time until which it is kept. Only used through operations that are atomic in Python.
        self._kept: deque[tuple[Connection, float]] = deque()

    def make(self, requests: Sequence[Request]) -> list[Any]:
        """Send all requests; the answer of each, perhaps an exception. Raises when the server cannot be reached.

        The server may get them twice, where a connection breaks.
        """
        kept = self._take()
        if kept is not None:
            try:
                return self._over(*kept, requests)
            except RedisConnectionError:
                # The server may have closed this one only: nobody has looked. Not after a time-out, of which there is
                # one.
                pass
        return self._over(self._pool.get_connection(), time.monotonic() + KEPT_SECONDS, requests)

    def forget(self) -> None:
        """Give back what is kept."""
        while (kept := self._pop()) is not None:
            self._pool.release(kept[0])

    def _over(self, connection: Connection, until: float, requests: Sequence[Request]) -> list[Any]:
        try:
            answers = _exchange(connection, requests)
        except BaseException:
            self._pool.release(connection)
            raise
        self._kept.append((connection, until))
        return answers

    def _take(self) -> tuple[Connection, float] | None:
        now, process = time.monotonic(), os.getpid()
        while (kept := self._pop()) is not None:
            # A child that was forked with it would get the answers of its parent.
            if now < kept[1] and kept[0].pid == process:
                return kept
            self._pool.release(kept[0])
        return None

    def _pop(self) -> tuple[Connection, float] | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None


def round_trip(pool: ConnectionPool, requests: Sequence[Request]) -> list[Any]:
    """One round trip, as `RoundTrips` makes many."""
    connection = pool.get_connection()
    try:
        return _exchange(connection, requests)
    finally:
        pool.release(connection)


def _exchange(connection: Connection, requests: Sequence[Request]) -> list[Any]:
    try:
        # As often as the `retry` among the store's options wants it.
        answers: list[Any] = connection.retry.call_with_retry(
            lambda: _ask(connection, requests), lambda error: connection.disconnect()
        )
    except BaseException:
        # A thread may be interrupted anywhere, and leave an answer behind that is none of the next one's.
        connection.disconnect()
        raise
    return answers


def _ask(connection: Connection, requests: Sequence[Request]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands([request.words for request in requests]))
    return [_answer(connection) for _ in requests]


def _answer(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error

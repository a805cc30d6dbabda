"""Round trips to one server: commands of several threads are sent together, and each one's answers are returned.

Uses redis-py's connections, not its client, pipeline or pool: what these do around one round trip, mostly for metrics
that nothing here reads, took half of its CPU time (redis-py 8.1: 20 of 73 µs in a loop, 80 of 320 µs of a poll in a web
server with four threads). A connection that is taken from a pool is lost to it if the thread is interrupted before it
is given back; here it is never taken from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .batching import RequestBatcher
from .scripts import Command, command_by_text, teaching


class Packed(NamedTuple):
    """Commands as they are sent.

    Attributes:
      data: Their bytes.
      commands: Their number, and that of their answers.
    """

    data: bytes
    commands: int


class Transport:
    """One server's connection, shared by the threads of a process.

    Parameters:
      make_connection: Creates a connection, which connects when it is used.
    """

    def __init__(self, make_connection: Callable[[], Connection]) -> None:
        self._make_connection = make_connection
        self._connection = make_connection()
        # Whether it is connected, and has no answer left to read. A thread may be interrupted anywhere in an exchange,
        # and must not leave an answer for the next one.
        self._is_clean = False
        self._is_closed = False
        self._batcher: RequestBatcher[Packed] = RequestBatcher(self._exchange, self._exchange_apart)

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answer of each command, which may be an exception, in one round trip.

        If the connection breaks, the server may receive the commands twice. If it was restarted or flushed, and has
        forgotten scripts, their commands are sent again, after the others: the order of commands must not matter.

        Raises:
          redis.ConnectionError, redis.TimeoutError, OSError: The server can't be reached.
          TypeError, UnicodeError: A command can't be encoded; other threads' commands aren't affected.
        """
        answers = self._send_once(commands)
        # The second time only if the server hasn't learned a script, for instance since its text was redirected.
        for prepare in (teaching, partial(map, command_by_text)):
            unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if not unknown:
                break
            found = self._try_once(list(prepare([commands[i] for i in unknown])))
            for i, answer in zip(unknown, found, strict=True):
                answers[i] = answer
        return answers

    def _try_once(self, commands: Sequence[Command]) -> list[Any]:
        # The answers to the other commands must not be lost.
        try:
            return self._send_once(commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)

    def _send_once(self, commands: Sequence[Command]) -> list[Any]:
        # Not redis-py's pack_commands, which checks each word in Python (8.1: 7 % of the CPU time of a read).
        data = b"".join([pack_command(tuple(each)) for each in commands])
        try:
            answers: list[Any] = self._batcher.send(Packed(data, len(commands)))
        finally:
            if self._is_closed:
                self._batcher.call_if_idle(self._disconnect)
        return answers

    def try_to_send(self, commands: Sequence[Command]) -> list[Any]:
        """`send`, with the error as the answer of each command if the server can't be reached."""
        try:
            return self.send(commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the server that the connection leads or led to; None before that is known."""
        connection: Any = self._connection
        return (connection.host, connection.port) if connection.host else None

    def reconnect(self) -> None:
        """Connect again before the next command: to another server, if the connection's address is looked up."""
        self._is_clean = False

    def close(self) -> None:
        """Close the connection, when no command is on its way. A later command opens it, and closes it again."""
        self._is_closed = True
        self._batcher.call_if_idle(self._disconnect)

    def _disconnect(self) -> None:
        self._is_clean = False
        self._connection.disconnect()

    def _exchange(self, requests: Sequence[Packed]) -> list[Any]:
        connection, was_clean = self._connection, self._is_clean
        if connection.pid != os.getpid():
            # A forked child would read the answers of its parent.
            connection = self._connection = self._make_connection()
            was_clean = False
        if not was_clean:
            connection.disconnect()
        self._is_clean = False
        try:
            answers = _send(connection, requests) if was_clean else _connect_and_send(connection, requests)
        except (RedisConnectionError, RedisTimeoutError) as error:
            # The server may have closed an idle connection. After a timeout, only if retries were asked for.
            if not was_clean or (isinstance(error, RedisTimeoutError) and not connection.retry.get_retries()):
                raise
            connection.disconnect()
            answers = _connect_and_send(connection, requests)
        self._is_clean = True
        return answers

    def _exchange_apart(self, requests: Sequence[Packed]) -> list[Any]:
        connection = self._make_connection()
        try:
            return _connect_and_send(connection, requests)
        finally:
            connection.disconnect()


def connection_maker(pool: ConnectionPool) -> Callable[[], Connection]:
    """Return a function that creates connections like those of a pool, outside of it."""
    # A project's own pool may return bytes. Bytes that aren't UTF-8, which only another program writes, must not break
    # the connection for the answers behind them.
    options = {**pool.connection_kwargs, "decode_responses": True, "encoding_errors": "replace"}

    def make() -> Connection:
        # The pool's class and arguments: for a master behind Sentinels it asks them, for TLS it knows the certificates.
        connection: Connection = pool.connection_class(**options)
        return connection

    return make


def _connect_and_send(connection: Connection, requests: Sequence[Packed]) -> list[Any]:
    def attempt() -> list[Any]:
        # Not left to send_packed_command(): it bypasses the connect() that asks a Sentinel (redis-py 8.1).
        connection.connect()
        return _send(connection, requests)

    # As often as the `retry` of the store's options allows.
    answers: list[Any] = connection.retry.call_with_retry(attempt, lambda error: connection.disconnect())
    return answers


def _send(connection: Connection, requests: Sequence[Packed]) -> list[Any]:
    connection.send_packed_command([b"".join([each.data for each in requests])])
    return [[_answer(connection) for _ in range(each.commands)] for each in requests]


def _answer(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error

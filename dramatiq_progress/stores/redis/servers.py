"""The servers of a `RedisStore`: one, or the nodes of a cluster. Commands go in, and the answer of each comes out.

Nothing here waits for a server twice: an unreachable one is reported immediately, and looked up again at the next try.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import redis
from redis.client import PubSub
from redis.exceptions import BusyLoadingError, ClusterDownError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .nodes import NodeHealths
from .scripts import Command
from .transport import Transport, connection_maker

#: The errors of a server that can't be reached. Any other error is its answer to one command.
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ClusterDownError, OSError)


class Servers(ABC):
    """The servers that keep the records of a `RedisStore`.

    Attributes:
      address: Where they are, for errors; without passwords.
      keeps_keys_apart: Whether a command may have one key only, since two may be on two nodes.
    """

    address: str
    keeps_keys_apart = False

    #: Called in any thread after the master was replaced: what was written last may be lost.
    on_replaced: Callable[[], None] = staticmethod(lambda: None)

    _is_closed = False

    def send(self, commands: Sequence[Command], nodes: NodeHealths | None = None) -> list[Any]:
        """Send all commands in one round trip to each server, and return the answers in the same order.

        An answer may be an exception; it is a `NodeUnreachable` for a node of a cluster that can't be reached. After a
        server that can't be reached no other is tried, so that a caller waits for one timeout at most.

        Parameters:
          nodes: The health of each node of a cluster, which is noted. None: send to every node, whatever its health.

        Raises:
          redis.RedisError, OSError: No node of a cluster can be reached.
        """
        try:
            return self._send(commands, nodes)
        finally:
            if self._is_closed:
                self._disconnect()

    def spread(self, keys: Iterable[str]) -> list[str]:
        """Return enough of these keys that each server has at least one of them, after looking up the servers again.

        Raises:
          redis.RedisError, OSError: The servers can't be looked up.
        """
        try:
            return self._spread(keys)
        finally:
            if self._is_closed:
                self._disconnect()

    @contextmanager
    def pubsub(self) -> Iterator[PubSub]:
        """Return a client that receives what is published to any of the servers; it connects when it is used.

        Its connection isn't one of the commands' pool: held permanently, it would be missing there if `max_connections`
        is 1.
        """
        try:
            with self._pubsub() as made:
                yield made
        finally:
            if self._is_closed:
                self._disconnect()

    def is_current(self, pubsub: PubSub) -> bool:
        """Return whether such a client is connected to one of the servers that get the commands. Doesn't block."""
        return True

    @abstractmethod
    def forget(self) -> None:
        """Look up the servers again before the next command: one couldn't be reached, or refused writes."""

    def close(self) -> None:
        """Close all connections; one that a thread is using, when its round trip has ended.

        redis-py's clients connect in the middle of an operation: one that ends later closes what it has opened.
        """
        self._is_closed = True
        self._disconnect()

    @abstractmethod
    def _send(self, commands: Sequence[Command], nodes: NodeHealths | None) -> list[Any]: ...

    @abstractmethod
    def _spread(self, keys: Iterable[str]) -> list[str]: ...

    @abstractmethod
    def _pubsub(self) -> AbstractContextManager[PubSub]: ...

    @abstractmethod
    def _disconnect(self) -> None:
        """Close all connections. The next command opens them again."""


class OneServer(Servers):
    """One server.

    Parameters:
      make_client: Creates a client with connections of its own.
      address: The server's name in errors.
      watchers: The clients of the Sentinels.
    """

    def __init__(
        self, make_client: Callable[[], redis.Redis], address: str, watchers: Sequence[redis.Redis] = ()
    ) -> None:
        self._make_client = make_client
        self.client = make_client()
        self.address = address
        self.watchers = watchers
        self._transport = self._new_transport()

    def _new_transport(self) -> Transport:
        return Transport(connection_maker(self.client.connection_pool))

    def _send(self, commands: Sequence[Command], nodes: NodeHealths | None) -> list[Any]:
        return self._transport.try_to_send(commands)

    def _spread(self, keys: Iterable[str]) -> list[str]:
        return [next(iter(keys))]

    @contextmanager
    def _pubsub(self) -> Iterator[PubSub]:
        with self._make_client() as client, client.pubsub() as made:
            yield made

    def forget(self) -> None:
        self._transport.reconnect()

    def _disconnect(self) -> None:
        self._transport.close()
        for each in (self.client, *self.watchers):
            each.close()

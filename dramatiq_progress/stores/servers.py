"""The servers of a `RedisStore`: one, or the nodes of a cluster. Requests go in, each one's answer comes out.

Nothing here waits for a server twice: what cannot be reached is told at once, and found anew at the next try.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import redis
from redis.client import PubSub
from redis.cluster import PRIMARY, ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .convoy import Convoy
from .round_trips import Request, RoundTrips, round_trip

#: What says that a server cannot be reached, or is not (or no longer) the one to write to; any other error is its
#: answer to one command.
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, ClusterDownError, OSError)

#: What says that another node of the cluster has the key. (`MovedError` is an `AskError`.)
REDIRECTED = (AskError, TryAgainError)

PING = Request("", ("PING",))


class Servers(ABC):
    """Where a `RedisStore` keeps its records.

    Attributes:
      address: Says in an error where they are; without passwords.
      keeps_keys_apart: Whether each command may have one key only, since two may live on two nodes.
    """

    address: str
    keeps_keys_apart = False

    @abstractmethod
    def send(self, requests: Sequence[Request]) -> list[Any]:
        """Send all in one round trip to each server; the answers in the same order, each perhaps an exception.

        After a server that cannot be reached no other is asked, so that a caller waits for one time-out at most.
        """

    @abstractmethod
    def ping(self) -> None:
        """Raise one of `UNREACHABLE` unless all servers that take writes answer."""

    @abstractmethod
    def pubsub(self) -> AbstractContextManager[PubSub]:
        """What hears a publication to any of the servers; it connects when it is used.

        Its connection is none of the commands' pool: held for good, it would lack there where `max_connections` is 1.
        """

    @abstractmethod
    def forget(self) -> None:
        """A server could not be reached: look for it anew before the next command."""

    @abstractmethod
    def close(self) -> None:
        """Free all connections."""


class OneServer(Servers):
    """One server, or the master that Sentinels name: where it is, redis-py asks at each new connection.

    Parameters:
      make_client: Makes a client with connections of its own.
      address: What to call it in errors.
      watchers: The clients of the Sentinels.
    """

    def __init__(
        self, make_client: Callable[[], redis.Redis], address: str, watchers: Sequence[redis.Redis] = ()
    ) -> None:
        self._make_client = make_client
        self.client = make_client()
        self.address = address
        self.watchers = watchers
        self._round_trips = RoundTrips(self.client.connection_pool)
        self._convoy: Convoy[Request] = Convoy(self._round_trips.make)

    def send(self, requests: Sequence[Request]) -> list[Any]:
        return self._convoy.send(requests)

    def ping(self) -> None:
        # By the way of all: where `max_connections` is 1, there is no other.
        (answer,) = self.send([PING])
        if isinstance(answer, Exception):
            raise answer

    @contextmanager
    def pubsub(self) -> Iterator[PubSub]:
        with self._make_client() as client, client.pubsub() as made:
            yield made

    def forget(self) -> None:
        self._round_trips.forget()
        # Idle connections may lead to a master that was demoted, or to a host that is gone: each would cost a time-out.
        self.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        # To a pool of somebody's own, which the client then leaves open.
        self._round_trips.forget()
        for each in (self.client, *self.watchers):
            each.close()


class Cluster(Servers):
    """The nodes of a cluster. redis-py knows which node has a key, and the requests for one node are one pipeline.

    Not redis-py's own pipeline for a cluster: with a frozen node it tries each command again by itself (0.25 s for
    each, measured with 6.2 and 8.1), and since redis-py 8 it asks a node where the keys of each EVALSHA are.

    Parameters:
      make_client: Makes a client, which connects and reads the map of the cluster.
      address: What to call it in errors.
    """

    keeps_keys_apart = True

    def __init__(self, make_client: Callable[[], RedisCluster], address: str) -> None:
        self.address = address
        self._make_client = make_client
        self._client: RedisCluster | None = None
        self._is_stale = False
        self._lock = threading.Lock()
        self._tries = 0

    def send(self, requests: Sequence[Request]) -> list[Any]:
        answers: dict[int, Any] = {}
        failure: Exception | None = None
        try:
            with _doubts_as_errors():
                client = self._current()
                for node, places in _by_node(client, requests):
                    pool = client.get_redis_connection(node).connection_pool
                    found = round_trip(pool, [requests[i] for i in places])
                    answers.update(zip(places, found, strict=True))
                for i in [i for i, answer in answers.items() if isinstance(answer, REDIRECTED)]:
                    answers[i] = _follow(client, requests[i], answers[i])
        except (RedisError, OSError) as error:
            failure = error
        return [answers.get(i, failure) for i in range(len(requests))]

    def ping(self) -> None:
        with _doubts_as_errors():
            client = self._current()
            for node in client.get_primaries():
                # Not PING: a node without its cluster answers that, and refuses everything else.
                state = client.get_redis_connection(node).execute_command("CLUSTER INFO")["cluster_state"]
                if state != "ok":
                    raise ClusterDownError(f"The cluster's state is {state!r} at {node.name}.")

    @contextmanager
    def pubsub(self) -> Iterator[PubSub]:
        with _doubts_as_errors():
            client = self._current()
            # Each node hears what is published to any. By chance, so that not all processes ask the same one.
            node = random.choice(client.get_primaries())  # noqa: S311 - no secret
            pool = client.get_redis_connection(node).connection_pool
        own = redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
        with redis.Redis.from_pool(own) as beside, beside.pubsub() as made:
            yield made

    def forget(self) -> None:
        self._is_stale = True

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _current(self) -> RedisCluster:
        """The client, with a map of the cluster that no failure has put in doubt."""
        if self._client is not None and not self._is_stale:
            return self._client
        tries = self._tries
        with self._lock:
            if self._client is not None and not self._is_stale:
                return self._client
            if self._tries != tries:
                # Threads that wait here for one time-out must not wait for one more each.
                raise RedisConnectionError("The cluster could not be reached just now.")
            try:
                self._client = self._read_map(self._client)
                self._is_stale = False
            finally:
                self._tries += 1
            return self._client

    def _read_map(self, client: RedisCluster | None) -> RedisCluster:
        if client is None:
            return self._make_client()
        try:
            client.nodes_manager.initialize()
        except Exception:
            # None of the nodes that it knew is left. The next try begins with those in the settings.
            self.close()
            raise
        return client


@contextmanager
def _doubts_as_errors() -> Iterator[None]:
    """Where redis-py's map of the cluster and the cluster disagree, it cannot be reached."""
    try:
        yield
    # RedisClusterException is no RedisError. The others come from redis-py's lookups in a map that has just changed
    # (its issues 3815 and 3835).
    except (RedisClusterException, AttributeError, LookupError) as error:
        raise RedisConnectionError(f"{type(error).__name__}: {error}") from error


def _by_node(client: RedisCluster, requests: Sequence[Request]) -> list[tuple[ClusterNode, list[int]]]:
    """The nodes in the order in which the requests need them, each with the places of its requests."""
    found: dict[str, tuple[ClusterNode, list[int]]] = {}
    for i, request in enumerate(requests):
        # Not get_node_from_key: in redis-py 6.2 that does not hear of slots that moved.
        node = client.nodes_manager.get_node_from_slot(client.keyslot(request.key))
        found.setdefault(node.name, (node, []))[1].append(i)
    return list(found.values())


def _follow(client: RedisCluster, request: Request, redirection: Exception) -> Any:
    if isinstance(redirection, AskError) and not isinstance(redirection, MovedError):
        # redis-py 8.1 cannot follow to a node that it does not know, as one that gets its first slot.
        node = ClusterNode(redirection.host, redirection.port, PRIMARY)
        client.nodes_manager.nodes_cache.setdefault(node.name, node)
    try:
        return client.execute_command(*request.words)
    except ResponseError as error:
        if isinstance(error, UNREACHABLE):
            raise
        return error

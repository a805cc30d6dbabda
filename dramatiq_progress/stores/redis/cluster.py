"""The nodes of a cluster, as the servers of a `RedisStore`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from redis.client import PubSub
from redis.cluster import PRIMARY, ClusterNode, RedisCluster, get_node_name
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from dramatiq_progress import jitter
from dramatiq_progress.stores.health import Health, NodeUnreachable

from .nodes import NodeHealths
from .scripts import Command, command_by_text, first_key
from .servers import UNREACHABLE, Servers
from .transport import Transport, connection_maker

#: The errors of a node that doesn't have the key; another has. (`MovedError` is an `AskError`.)
REDIRECTED = (AskError, TryAgainError)

#: The name in place of a node's for slots that no node has.
NO_NODE = "(none)"


class Cluster(Servers):
    """The nodes of a cluster. redis-py maps a key to its node; the commands for one node are one round trip.

    Not redis-py's own pipeline for a cluster: with a frozen node it retries each command on its own (0.25 s each,
    measured with 6.2 and 8.1), and since redis-py 8 it asks a node where the keys of each EVALSHA are.

    Parameters:
      make_client: Creates a client, which connects and reads the map of the cluster.
      address: The cluster's name in errors.
    """

    keeps_keys_apart = True

    def __init__(self, make_client: Callable[[], RedisCluster], address: str) -> None:
        self.address = address
        self._make_client = make_client
        self._client: RedisCluster | None = None
        self._is_stale = False
        self._lock = threading.Lock()
        self._tries = 0
        # By the node's name.
        self._transports: dict[str, Transport] = {}

    def _send(self, commands: Sequence[Command], nodes: NodeHealths | None) -> list[Any]:
        with _doubts_as_errors():
            client = self._current()
        sending = _Sending(commands, nodes)
        for node, indexes in _by_node(client, commands).items():
            sending.exchange(node, indexes, partial(self._exchange, client, node))
        for i, answer in list(sending.answers.items()):
            if isinstance(answer, REDIRECTED):
                # The node that it is redirected to is the one that may give no answer.
                node = _target(answer) or _node_of(client, first_key(commands[i]))
                sending.exchange(node, [i], partial(_follow, client, answer))
        return [sending.answers[i] for i in range(len(commands))]

    def _spread(self, keys: Iterable[str]) -> list[str]:
        with _doubts_as_errors():
            client = self._look()
        missing = {nodes[0].name for nodes in client.nodes_manager.slots_cache.values()}
        found: list[str] = []
        for key in keys:
            if not missing:
                break
            node = _node_of(client, key)
            if node in missing:
                missing.remove(node)
                found.append(key)
        return found

    @contextmanager
    def _pubsub(self) -> Iterator[PubSub]:
        with _doubts_as_errors():
            client = self._current()
            # Each node forwards what is published to any. Chosen at random, to spread processes over the nodes.
            node = jitter.generator.choice(client.get_primaries())
            pool = client.get_redis_connection(node).connection_pool
        own = redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
        with redis.Redis.from_pool(own) as beside, beside.pubsub() as made:
            yield made

    def is_current(self, pubsub: PubSub) -> bool:
        # A node that has left the cluster may stay connected, and receives nothing.
        client, connection = self._client, pubsub.connection
        if client is None or connection is None:
            return True
        return get_node_name(connection.host, connection.port) in client.nodes_manager.nodes_cache

    def forget(self) -> None:
        self._is_stale = True

    def _disconnect(self) -> None:
        transports, self._transports = self._transports, {}
        for transport in transports.values():
            transport.close()
        # Kept: a thread that is reading the map opens its connections again.
        client = self._client
        if client is not None:
            client.close()

    def _exchange(self, client: RedisCluster, name: str, commands: Sequence[Command]) -> list[Any]:
        transport = self._transports.get(name)
        if transport is None:
            if name == NO_NODE:
                raise RedisConnectionError("No node has the slot of this key.")
            with _doubts_as_errors():
                pool = client.get_redis_connection(client.nodes_manager.nodes_cache[name]).connection_pool
            # Another thread may have been first.
            transport = self._transports.setdefault(name, Transport(connection_maker(pool)))
        return transport.send(commands)

    def _current(self) -> RedisCluster:
        """Return the client, with a map of the cluster that no failure has put in doubt."""
        if self._client is not None and not self._is_stale:
            return self._client
        tries = self._tries
        with self._lock:
            if self._client is not None and not self._is_stale:
                return self._client
            if self._tries != tries:
                # Threads that wait here for one timeout must not wait for one more each.
                raise RedisConnectionError("The cluster couldn't be reached just now.")
            return self._update()

    def _look(self) -> RedisCluster:
        """Return the client after reading the map again. Other threads meanwhile use the one that there is."""
        with self._lock:
            return self._update()

    def _update(self) -> RedisCluster:
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
            # No node that it knew is left. The next try starts with those in the settings.
            self._disconnect()
            self._client = None
            raise
        return client


@contextmanager
def _doubts_as_errors() -> Iterator[None]:
    """Raise a connection error where redis-py's map of the cluster and the cluster disagree."""
    try:
        yield
    # RedisClusterException isn't a RedisError. The others come from redis-py's lookups in a map that has just changed
    # (its issues 3815 and 3835).
    except (RedisClusterException, AttributeError, LookupError) as error:
        raise RedisConnectionError(f"{type(error).__name__}: {error}") from error


class _Sending:
    """The answers to commands that are being sent, some of them by several nodes.

    Parameters:
      commands: The commands.
      nodes: The health of each node. None: they are sent whatever it is, and it isn't noted.

    Attributes:
      answers: By the index of the command.
    """

    def __init__(self, commands: Sequence[Command], nodes: NodeHealths | None) -> None:
        self.answers: dict[int, Any] = {}
        self._commands = commands
        self._nodes = nodes
        self._has_failed = False

    def exchange(self, node: str, indexes: Sequence[int], send: Callable[[Sequence[Command]], list[Any]]) -> None:
        """Send some of the commands to one node."""
        health = None if self._nodes is None else self._nodes.of(node)
        if health is not None and (self._has_failed or not health.allows()):
            reason = f"Node {node} gave no answer just now, or wasn't asked after another node gave none."
            self.answers.update({i: NodeUnreachable(reason, health) for i in indexes})
            return
        sent_at = time.monotonic()
        commands = [self._commands[i] for i in indexes]
        try:
            found = send(commands)
        except (RedisError, OSError) as error:
            found = [error] * len(commands)
        failure = next((answer for answer in found if isinstance(answer, UNREACHABLE)), None)
        self._has_failed = self._has_failed or failure is not None
        if self._nodes is not None and health is not None:
            if failure is None:
                health.mark_available()
            else:
                self._nodes.mark_unreachable(node, first_key(commands[0]), failure, sent_at=sent_at)
                found = [_of_node(answer, node, health) for answer in found]
        self.answers.update(zip(indexes, found, strict=True))


def _of_node(answer: Any, node: str, health: Health) -> Any:
    if not isinstance(answer, UNREACHABLE):
        return answer
    error = NodeUnreachable(f"Node {node}: {type(answer).__name__}: {answer}", health)
    error.__cause__ = answer
    return error


def _by_node(client: RedisCluster, commands: Sequence[Command]) -> dict[str, list[int]]:
    """Return the nodes' names in the order in which the commands need them, each with the indexes of its commands."""
    found: dict[str, list[int]] = {}
    for i, command in enumerate(commands):
        found.setdefault(_node_of(client, first_key(command)), []).append(i)
    return found


def _node_of(client: RedisCluster, key: str) -> str:
    """Return the name of the node that has a key."""
    slot = client.keyslot(key)
    try:
        # Not get_node_from_key: in redis-py 6.2 it ignores slots that moved.
        return str(client.nodes_manager.get_node_from_slot(slot).name)
    except (RedisClusterException, LookupError):
        # The cluster may serve its other slots.
        return NO_NODE


def _target(redirection: Exception) -> str:
    return f"{redirection.host}:{redirection.port}" if isinstance(redirection, AskError) else ""


def _follow(client: RedisCluster, redirection: Exception, commands: Sequence[Command]) -> list[Any]:
    [command] = commands
    if isinstance(redirection, AskError) and not isinstance(redirection, MovedError):
        # redis-py 8.1 can't follow to a node that it doesn't know, such as one that gets its first slot.
        node = ClusterNode(redirection.host, redirection.port, PRIMARY)
        client.nodes_manager.nodes_cache.setdefault(node.name, node)
    with _doubts_as_errors():
        try:
            return [client.execute_command(*command)]
        except NoScriptError:
            return [client.execute_command(*command_by_text(command))]
        except ResponseError as error:
            if isinstance(error, UNREACHABLE):
                raise
            return [error]

"""The parts of redis-py that the store uses and that aren't its public API: this fails when a release changes them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import redis
from hiredis import pack_command
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster, get_node_name
from redis.connection import Connection, ConnectionPool
from redis.exceptions import AskError, MovedError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.fixture
def connection(valkey: str) -> Any:
    pool = ConnectionPool.from_url(f"{valkey}/1", decode_responses=True)
    made = pool.get_connection()
    yield made
    pool.release(made)
    pool.disconnect()


def test_commands_are_sent_together_and_answers_are_read_one_by_one(connection: Connection) -> None:
    connection.send_packed_command([pack_command(("ECHO", "a")) + pack_command(("ECHO", "b"))])
    assert [connection.read_response() for _ in range(2)] == ["a", "b"]


def test_a_connection_knows_its_process_and_its_retries(connection: Connection) -> None:
    assert isinstance(connection.pid, int)
    assert isinstance(connection.retry, Retry)
    assert connection.retry.get_retries() >= 0
    assert connection.retry.call_with_retry(lambda: "done", lambda error: None) == "done"
    assert parameters(Retry.call_with_retry)[1:3] == ["do", "fail"]


def test_a_pool_hands_out_connections_without_a_command_name(connection: Connection) -> None:
    required = [
        each
        for each in list(inspect.signature(ConnectionPool.get_connection).parameters.values())[1:]
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    assert required == []
    assert parameters(ConnectionPool.disconnect)[1] == "inuse_connections"


def test_a_cluster_maps_keys_to_nodes() -> None:
    assert {"self", "kwargs", "startup_nodes", "url"} <= set(parameters(RedisCluster.__init__))
    assert {"socket_timeout", "decode_responses"} <= set(REDIS_ALLOWED_KEYS)
    assert callable(RedisCluster.keyslot) and callable(RedisCluster.get_redis_connection)
    node = ClusterNode("127.0.0.1", 6379)
    assert (node.host, node.port) == ("127.0.0.1", 6379) and node.name == get_node_name("127.0.0.1", 6379)


def test_a_redirection_names_its_node() -> None:
    error = AskError("1234 127.0.0.1:7001")
    assert (error.host, error.port) == ("127.0.0.1", 7001)
    assert issubclass(MovedError, AskError)


def test_sentinels_are_asked_at_each_new_connection() -> None:
    pool = redis.sentinel.SentinelConnectionPool("master", redis.sentinel.Sentinel([("127.0.0.1", 1)]))
    assert (pool.service_name, len(pool.sentinel_manager.sentinels)) == ("master", 1)


def test_a_connection_by_sentinels_has_no_address_before_it_connects() -> None:
    manager = redis.sentinel.Sentinel([("127.0.0.1", 1)])
    pool = manager.master_for("master", host="").connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    assert connection.host == ""
    with pytest.raises(MasterNotFoundError):
        manager.discover_master("master")

"""The options of a store: one server, a master that Sentinels monitor, or a cluster; TLS; and invalid options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from dramatiq_progress import StoreUnavailable
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.stores.redis import options as redis_options
from dramatiq_progress.stores.redis.cluster import Cluster
from dramatiq_progress.stores.redis.options import connect, options_of_pool
from dramatiq_progress.stores.redis.servers import OneServer
from tests import topologies
from tests.brokers import as_global_broker
from tests.certificates import Certificates
from tests.store_server import Server
from tests.topologies import Topology
from tests.waiting import PATIENT

SENTINELS = {"sentinels": ["h:1"], "service_name": "progress"}
CLUSTER = {"cluster": True, "startup_nodes": ["h:1"]}


def works(store: Store) -> bool:
    """Return whether a store can be written and read."""
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    return store.read(["m1"])[0] is not None


# Options


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "localhost:6379/0"),
        ({"host": "h", "port": 7, "db": 2}, "h:7/2"),
        ({"url": "redis://h"}, "h:6379/0"),
        ({"url": "redis://h/"}, "h:6379/0"),
        ({"url": "redis://h:7/12"}, "h:7/12"),
        ({"url": "redis://h?db=2"}, "h:6379/2"),
        ({"url": "unix:///run/valkey.sock?db=1"}, "/run/valkey.sock/1"),
        (SENTINELS | {"db": 3, "password": "hunter2"}, "progress of the Sentinels h:1"),
        (CLUSTER | {"db": 0, "password": "hunter2"}, "the cluster of h:1"),
        ({"cluster": True, "url": "rediss://someone:hunter2@h:7/0"}, "the cluster of h:7"),
        ({"cluster": True, "host": "h"}, "the cluster of h:6379"),
    ],
)
def test_the_repr_of_a_store_has_its_address_and_no_password(given: dict[str, Any], address: str) -> None:
    """It doesn't connect before it is used: none of these servers exists."""
    store = RedisStore(prefix="p:", **given)
    assert repr(store) == f"<RedisStore {address} p:>"
    store.close()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("h", ("h", 26379)),
        ("h:7", ("h", 7)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 26379)),
        (("h", 7), ("h", 7)),
        (["h", "7"], ("h", 7)),
        ({"host": "h"}, ("h", 26379)),
        ({"host": "h", "port": 7}, ("h", 7)),
        (ClusterNode("h", 7), ("h", 7)),
    ],
)
def test_an_address_can_be_written_in_several_forms(given: Any, read: tuple[str, int]) -> None:
    servers = connect(sentinels=[given], service_name="progress")
    assert servers.address == f"progress of the Sentinels {read[0]}:{read[1]}"
    servers.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sentinels": ["h:1"]}, '"sentinels" needs "service_name"'),
        (SENTINELS | {"sentinels": []}, '"sentinels" is []; write ["host:26379", …], or leave'),
        (SENTINELS | {"sentinels": "h:1"}, "\"sentinels\" is 'h:1'; write a list"),
        (SENTINELS | {"sentinels": ["h:x"]}, "\"sentinels\" holds 'h:x'; write"),
        (SENTINELS | {"sentinels": ["redis://:hunter2@h"]}, '"sentinels" holds a str; write'),
        (SENTINELS | {"sentinels": [{"host": "h", "password": "hunter2"}]}, "holds a dict of host, password; write"),
        (SENTINELS | {"url": "redis://:hunter2@h"}, 'leave out "url": "sentinels" know where the server is'),
        (SENTINELS | {"host": "h"}, 'leave out "host"'),
        (SENTINELS | {"cluster": True}, 'leave out "cluster"'),
        (SENTINELS | {"colour": "red"}, "colour"),
        (SENTINELS | {"sentinel_kwargs": {"colour": "red"}}, "colour"),
        ({"service_name": "progress"}, 'leave out "service_name": there are no "sentinels"'),
        ({"startup_nodes": ["h:1"]}, 'leave out "startup_nodes": there is no "cluster": True'),
        ({"cluster": True}, '"cluster" needs "startup_nodes"'),
        ({"cluster": True, "startup_nodes": [7]}, '"startup_nodes" holds 7; write'),
        (CLUSTER | {"cluster": "no"}, "\"cluster\" is 'no'; write True or False"),
        (CLUSTER | {"db": 3}, "database 0 only, and 3 is given"),
        ({"cluster": True, "url": "redis://:hunter2@h/2"}, "database 0 only, and 2 is given"),
        ({"cluster": True, "url": "unix:///s.sock"}, "Unix socket"),
        (CLUSTER | {"colour": "red"}, "colour"),
        ({"cluster": True, "url": "redis://h", "ssl": True}, "'ssl'"),
        ({"url": ""}, '["OPTIONS"] (given: url) doesn\'t fit dramatiq_progress.stores.redis.RedisStore: "url" is \'\''),
        ({"url": None}, '"url" is None; write redis://host:6379/0, or leave it out'),
        ({"cluster": True, "url": ""}, "\"url\" is ''; write"),
        ({"host": ""}, '"host" is \'\'; write "redis.example.com", or leave it out. If it is from an environment'),
        ({"host": None, "port": 6380, "unix_socket_path": ""}, '"host" is None; write'),
        ({"unix_socket_path": ""}, "\"unix_socket_path\" is ''; write"),
        ({"cluster": True, "startup_nodes": []}, '"startup_nodes" is []; write ["host:6379", …]'),
        ({1: 2}, '["OPTIONS"] is 1; it must be a dict of the store\'s options by name'),
        ({"url": "redis://:hunter2@h/prod"}, "the path '/prod'; write the number of a database: redis://host:6379/0"),
        ({"url": "redis://h/1/2"}, "the path '/1/2'; write"),
        ({"url": "rediss://h/-1"}, "the path '/-1'; write"),
        ({"url": "redis://h/prod?db=1"}, "the path '/prod'; write"),
        ({"cluster": True, "url": "redis://h/prod"}, "the path '/prod'; write"),
        ({"url": "redis://h:port/0"}, 'write redis://host:6379/0, with "user:password@" in front of the host'),
        ({"url": "redis://:hunter2/hunter2@h/0"}, 'can\'t be read; write redis://host:6379/0, with "user:password@"'),
        ({"url": "redis://u:12/hunter2@h/0"}, 'can\'t be read; write redis://host:6379/0, with "user:password@"'),
    ],
)
def test_the_error_of_invalid_options_says_what_to_write(settings: Any, given: dict[str, Any], message: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": given}
    with pytest.raises(ImproperlyConfigured) as raised:
        get_store()
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("given", [{}, SENTINELS])
def test_timeouts_are_short_for_servers_and_sentinels(given: dict[str, Any]) -> None:
    servers = connect(**given, socket_connect_timeout=1)
    assert isinstance(servers, OneServer)
    for each in (servers.client, *servers.watchers):
        options = each.connection_pool.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.25, 1)
        assert options["retry"].get_retries() == 0
    servers.close()


@pytest.mark.parametrize(
    "given",
    [{"host": "h"}, {"cluster": True, "startup_nodes": ["h:6379"]}, {"url": "redis://h"}],
    ids=lambda each: next(iter(each)),
)
@pytest.mark.parametrize("empty", ["", None])
def test_an_address_that_is_empty_beside_another_one_is_left_out(given: dict[str, Any], empty: str | None) -> None:
    others = {"url", "host", "unix_socket_path"} - given.keys()
    servers = connect(**given, **dict.fromkeys(others, empty))
    assert isinstance(servers, OneServer | Cluster) and "h:6379" in servers.address
    servers.close()


def test_sentinels_can_have_options_of_their_own() -> None:
    servers = connect(**SENTINELS, password="for the server", sentinel_kwargs={"password": "for the Sentinel"})
    assert isinstance(servers, OneServer)
    assert servers.client.connection_pool.connection_kwargs["password"] == "for the server"
    assert servers.watchers[0].connection_pool.connection_kwargs["password"] == "for the Sentinel"
    servers.close()


@pytest.mark.parametrize(
    "given", [{"sentinels": ["127.0.0.1:1"], "service_name": "s"}, {"cluster": True, "startup_nodes": ["127.0.0.1:1"]}]
)
def test_the_error_of_servers_that_are_down_has_no_password(given: dict[str, Any]) -> None:
    hidden = {"sentinel_kwargs": {"password": "hunter2"}} if "sentinels" in given else {}
    store = RedisStore(prefix="p:", password="hunter2", **given, **hidden)
    for command in (store.ping, lambda: store.read(["m1"])):
        with pytest.raises(StoreUnavailable) as raised:
            command()
        assert "127.0.0.1:1" in str(raised.value) and "hunter2" not in str(raised.value)
        # redis-py prints a Sentinel that it could not reach with all its options.
        assert len(str(raised.value)) < 300
    store.close()


# A cluster


def test_reading_many_messages_takes_one_round_trip_per_node(cluster_store: RedisStore, cluster: Topology) -> None:
    """And none to look up the keys of a command, as redis-py's own pipeline does."""
    ids = [f"m{i}" for i in range(100)]
    for each in ids:
        cluster_store.enqueue(each, actor="work", queue="default", retries_left=0)
    calls = cluster_store._read_calls([cluster_store.key(each) for each in ids])
    cluster_store._call(calls)  # now each node knows the script
    # A replica gets the commands that remove the expired keys of earlier tests.
    masters = cluster.masters()
    before = [commands(each) for each in masters]
    assert all(cluster_store._call(calls))
    after = [commands(each) for each in masters]
    sent = [
        {name: now[name] - then.get(name, 0) for name in now if now[name] != then.get(name, 0)}
        for then, now in zip(before, after, strict=True)
    ]
    assert sum(each.get("evalsha", 0) for each in sent) == 100
    assert all(each.keys() <= {"evalsha", "time", "hgetall"} for each in sent), sent


def commands(server: Server) -> dict[str, int]:
    return {
        name.removeprefix("cmdstat_"): found["calls"]
        for name, found in server.ask("INFO", "commandstats").items()
        if not name.startswith(("cmdstat_info", "cmdstat_hello", "cmdstat_client", "cmdstat_replconf", "cmdstat_ping"))
    }


def test_scripts_are_loaded_again_on_a_node_that_forgot_them(cluster_store: Store, cluster: Topology) -> None:
    ids = [f"m{i}" for i in range(20)]
    for each in ids:
        cluster_store.enqueue(each, actor="work", queue="default", retries_left=0)
    master = cluster.master(cluster_store.key("m1"))
    assert master is not None
    master.ask("SCRIPT FLUSH")
    assert all(cluster_store.read(ids))


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(tmp_path: Path, certificates: Certificates) -> Iterator[Server]:
    made = Server(tmp_path, *topologies.IN_MEMORY, certificates=certificates)
    made.start()
    yield made
    made.stop()


def test_a_server_is_reached_over_tls(tls_server: Server, certificates: Certificates) -> None:
    for given in (
        {"url": f"rediss://{tls_server.address}/0", "ssl_ca_certs": certificates.authority},
        {"host": "127.0.0.1", "port": tls_server.port, **certificates.of_client},
    ):
        store = RedisStore(prefix="p:", **given, **PATIENT)
        assert works(store)
        store.close()


def test_a_server_with_an_untrusted_certificate_is_refused(tls_server: Server) -> None:
    store = RedisStore(prefix="p:", url=f"rediss://{tls_server.address}/0", **PATIENT)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        store.ping()
    store.close()


@pytest.mark.parametrize("topology", [topologies.sentinel, topologies.cluster])
def test_sentinels_and_clusters_are_reached_over_tls(topology: Any, tmp_path: Path, certificates: Certificates) -> None:
    with topology(tmp_path, certificates) as made:
        store = RedisStore(prefix="p:", **made.options, **PATIENT)
        assert works(store)
        store.close()


def test_a_cluster_is_reached_by_the_url_of_one_node(cluster: Topology) -> None:
    store = RedisStore(prefix="p:", cluster=True, url=f"redis://{cluster.servers[0].address}", **PATIENT)
    assert works(store)
    store.close()


# The servers of a broker


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://u:p@h:7/3", {"host": "h", "port": 7, "db": 3, "username": "u", "password": "p"}),
        ("rediss://h:7/3", {"host": "h", "port": 7, "db": 3, "ssl": True}),
        ("unix:///s.sock?db=2", {"unix_socket_path": "/s.sock", "db": 2}),
    ],
)
def test_the_address_of_a_brokers_pool_is_used(url: str, expected: dict[str, Any]) -> None:
    found = options_of_pool(redis.ConnectionPool.from_url(url, socket_timeout=99))
    assert found == expected
    RedisStore(prefix="p:", **found)


def test_the_sentinels_of_a_brokers_pool_are_used() -> None:
    manager = Sentinel([("h", 1), ("i", 2)], sentinel_kwargs={"password": "s", "ssl": True, "socket_timeout": 99})
    pool = SentinelConnectionPool("progress", manager, password="p", db=3, ssl=True, ssl_ca_certs="a.pem")
    found = options_of_pool(pool)
    assert found == {
        "sentinels": [("h", 1), ("i", 2)],
        "service_name": "progress",
        "sentinel_kwargs": {"password": "s", "ssl": True},
        **{"password": "p", "db": 3, "ssl": True, "ssl_ca_certs": "a.pem"},
    }
    RedisStore(prefix="p:", **found).close()


def test_the_error_of_a_pool_without_an_address_says_what_to_do() -> None:
    with pytest.raises(ImproperlyConfigured, match="Name the store's own"):
        options_of_pool(redis.ConnectionPool(service_name="progress"))


def test_the_store_of_a_broker_with_sentinels_uses_them(
    settings: Any, sentinels: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There are no options in which to give one.
    monkeypatch.setattr(redis_options, "COMMAND_TIMEOUT_SECONDS", PATIENT["socket_timeout"])
    addresses = [("127.0.0.1", each.port) for each in sentinels.others]
    manager = Sentinel(addresses)
    broker = RedisBroker(client=manager.master_for(topologies.SERVICE_NAME, db=4), middleware=[])
    settings.DRAMATIQ_PROGRESS = {"PREFIX": "of-broker:"}
    try:
        with as_global_broker(broker):
            store = get_store()
            assert works(store)
            assert broker.client.exists("of-broker:m1")
            store.close()
    finally:
        for each in (broker.client, *manager.sentinels):
            each.close()


# ---- Options ----


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"socket_timeout": "5"}, "socket_timeout.*'5'.*seconds"),
        ({"socket_connect_timeout": -1}, "socket_connect_timeout.*-1.*seconds"),
        ({"retry": 3}, "retry.*3.*Retry"),
        ({"protocol": 4}, "protocol.*4.*2 or 3"),
        ({"max_connections": 0}, "max_connections.*at least 1"),
        ({"url": 5}, "url.*5.*text"),
        ({"port": 99_999}, "port.*99999.*65535"),
        ({"port": 10**5000}, "port.*int"),
        ({"db": "zero"}, "db.*'zero'.*whole number"),
        ({"db": 10**5000}, "db.*int"),
        ({"password": 5}, "password.*5.*text"),
        ({"unix_socket_path": 5}, "unix_socket_path.*path"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else next(iter(value)),
)
def test_an_option_of_the_wrong_type_is_an_error_that_names_it(options: dict[str, Any], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        connect(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": 3},
        {"protocol": 2},
        {"health_check_interval": 1},
        {"client_name": "named"},
        {"socket_keepalive": True},
        {"decode_responses": False},
        {"encoding": "utf-8"},
        {"max_connections": 1},
        {"retry": Retry(NoBackoff(), 2)},
        {"single_connection_client": True},
        {"socket_timeout": None},
    ],
    ids=lambda value: next(iter(value)),
)
def test_an_option_of_redis_py_changes_no_value_that_is_read(valkey: str, options: dict[str, Any]) -> None:
    store = RedisStore(prefix="options:", url=f"{valkey}/1", **PATIENT | options)
    assert works(store)
    store.close()


@pytest.mark.parametrize("is_blocking", [False, True])
def test_a_connection_pool_of_the_projects_own_works(valkey: str, is_blocking: bool) -> None:
    """It returns bytes, unless it is told otherwise."""
    kind = redis.BlockingConnectionPool if is_blocking else redis.ConnectionPool
    pool = kind.from_url(f"{valkey}/1")
    store = RedisStore(prefix="pool:", connection_pool=pool)
    assert works(store)
    store.close()
    pool.disconnect()


# ---- The store of a broker ----


def test_the_namespaces_of_two_brokers_keep_their_records_apart(settings: Any, valkey: str) -> None:
    settings.DRAMATIQ_PROGRESS = {}
    prefixes = []
    for options in ({}, {"namespace": "shop"}, {"namespace": "queue"}):
        with as_global_broker(RedisBroker(url=f"{valkey}/1", middleware=[], **options)):
            prefixes.append(get_store().prefix)
    assert prefixes == ["dramatiq-progress:", "dramatiq-progress@shop:", "dramatiq-progress@queue:"]


class Elsewhere:
    """A client that is neither redis-py's nor valkey-py's."""


def test_a_broker_whose_client_does_not_say_where_its_server_is_is_an_error(settings: Any, valkey: str) -> None:
    settings.DRAMATIQ_PROGRESS = {}
    broker = RedisBroker(url=f"{valkey}/1", middleware=[])
    broker.client = Elsewhere()
    with as_global_broker(broker), pytest.raises(ImproperlyConfigured, match=r"Elsewhere.*OPTIONS.*url"):
        get_store()


def test_a_pool_whose_connections_are_simulated_is_an_error(settings: Any) -> None:
    """As of fakeredis: its host and port are redis-py's defaults, and somebody else's server."""

    class FakeConnection(redis.Connection):
        pass

    pool = redis.ConnectionPool(connection_class=FakeConnection, host="localhost", port=6379)
    with pytest.raises(ImproperlyConfigured, match=r"FakeConnection.*OPTIONS.*url"):
        options_of_pool(pool)

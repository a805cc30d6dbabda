"""From a store's options to its `Servers`: one server, the master that Sentinels watch, or a cluster.

Nothing here connects. A mistake in the options is told at once, and no error says a password.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from .servers import Cluster, OneServer, Servers

#: A command that takes longer has failed, and is not tried again in the caller's thread. With redis-py 8's own
#: defaults (5 s, 10 retries) one command on a frozen server blocked for 59.7 s.
COMMAND_TIMEOUT_SECONDS = 0.25

#: The options of the broker's connections that tell where the server is and who we are. Its timeouts and retries are
#: made for a broker, which may block.
ADDRESS_OPTIONS = ("host", "port", "db", "username", "password", "credential_provider", "protocol")

#: Options of `RedisCluster` itself; what it hands on to its connections is in `REDIS_ALLOWED_KEYS`.
CLUSTER_OPTIONS = frozenset(inspect.signature(RedisCluster.__init__).parameters) - {"self", "kwargs"}

#: What tells where a server is, and has no place beside Sentinels.
ELSEWHERE = {"url", "host", "port", "unix_socket_path", "cluster", "startup_nodes"}

SERVER_PORT = 6379
SENTINEL_PORT = 26379


def connect(*, cluster: bool = False, **options: Any) -> Servers:
    """The servers that the options of a `RedisStore` mean.

    Raises:
      TypeError: An option that redis-py does not take.
      ValueError: Options that do not fit together, or a value that cannot be read.
    """
    if not isinstance(cluster, bool):
        raise ValueError(f'"cluster" is {_shown(cluster)}; write True or False.')
    given = {name for name, value in options.items() if value is not None} | ({"cluster"} if cluster else set())
    settled = {**_patience(), **options, "decode_responses": True}
    if "sentinels" in given:
        _refuse(given & ELSEWHERE, '"sentinels" know where the server is')
        return _master_of(**settled)
    _refuse(given & {"service_name", "sentinel_kwargs"}, 'there are no "sentinels"')
    if cluster:
        return _cluster(**settled)
    _refuse(given & {"startup_nodes"}, 'there is no "cluster": True')
    return _one_server(**settled)


def options_of_pool(pool: redis.ConnectionPool) -> dict[str, Any]:
    """The options with which a `RedisStore` reaches the servers of this pool, over connections of its own.

    Raises:
      ImproperlyConfigured: The pool does not say where its server is.
    """
    given = pool.connection_kwargs
    options = _address_options(given)
    if isinstance(pool, SentinelConnectionPool):
        manager = pool.sentinel_manager
        places = [each.connection_pool.connection_kwargs for each in manager.sentinels]
        options["sentinels"] = [(place["host"], place["port"]) for place in places]
        options["service_name"] = pool.service_name
        if sentinel_kwargs := _address_options(manager.sentinel_kwargs):
            options["sentinel_kwargs"] = sentinel_kwargs
    elif issubclass(pool.connection_class, redis.UnixDomainSocketConnection):
        options["unix_socket_path"] = given["path"]
    elif "service_name" in given:
        raise ImproperlyConfigured(
            "The broker's pool does not say where its server is; name the store's own in "
            'DRAMATIQ_PROGRESS["OPTIONS"].'
        )
    if issubclass(pool.connection_class, redis.SSLConnection):
        options["ssl"] = True
    return options


def _patience() -> dict[str, Any]:
    return {
        "socket_timeout": COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": COMMAND_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }


def _one_server(*, url: str | None = None, **options: Any) -> Servers:
    make_client = partial(_client, url, options)
    where = make_client().get_connection_kwargs()
    return OneServer(make_client, f"{where.get('path') or _address(where)}/{where.get('db', 0)}")


def _master_of(
    *,
    sentinels: Sequence[Any],
    service_name: str | None = None,
    sentinel_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Servers:
    addresses = _addresses("sentinels", sentinels, SENTINEL_PORT)
    if not addresses:
        raise ValueError(f'"sentinels" is empty; write ["host:{SENTINEL_PORT}", …].')
    if not service_name:
        raise ValueError('"sentinels" needs "service_name": what their "sentinel monitor" calls the master.')
    # As redis-py does it, what holds for a socket to the master holds for one to a Sentinel.
    of_sockets = {name: value for name, value in options.items() if name.startswith("socket_")}
    manager = Sentinel(addresses, sentinel_kwargs={**_patience(), **of_sockets, **(sentinel_kwargs or {})})
    make_client = partial(manager.master_for, service_name, **options)
    for each in (make_client(), *manager.sentinels):
        _check(each)
    where = ", ".join(f"{host}:{port}" for host, port in addresses)
    return OneServer(make_client, f"{service_name} of the Sentinels {where}", manager.sentinels)


def _cluster(*, url: str | None = None, startup_nodes: Sequence[Any] | None = None, **options: Any) -> Servers:
    # RedisCluster connects when it is made, and leaves out silently what it does not know.
    if unknown := options.keys() - CLUSTER_OPTIONS - set(REDIS_ALLOWED_KEYS):
        raise TypeError(f"RedisCluster takes no {', '.join(sorted(unknown))}.")
    in_url = _read_url(url) if url else {}
    if "path" in in_url or "unix_socket_path" in options:
        raise ValueError("The nodes of a cluster are reached by host and port; a Unix socket leads to one server.")
    if database := (in_url.get("db") or options.pop("db", 0)):
        raise ValueError(f"A cluster has the database 0 only, and {database!r} is given; keep stores apart by PREFIX.")
    _client(url, {name: value for name, value in options.items() if name not in CLUSTER_OPTIONS})
    places = _addresses("startup_nodes", startup_nodes or [], SERVER_PORT)
    if not (places or url or "host" in options):
        raise ValueError('"cluster" needs "startup_nodes", some of its nodes: ["host:6379", …].')

    def make_client() -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in places]
        return RedisCluster(url=url, startup_nodes=nodes, **options)

    named = [f"{host}:{port}" for host, port in places]
    named += [_address(each) for each in (in_url, options) if "host" in each]
    return Cluster(make_client, f"the cluster of {', '.join(named)}")


def _read_url(url: str) -> dict[str, Any]:
    try:
        return dict(parse_url(url))
    except ValueError as error:
        if "port" not in str(error).lower():
            raise
        # Python says what it takes for a port, and that is a password when something in it has to be written otherwise.
        raise ValueError(
            '"url" cannot be read; write redis://user:password@host:6379/0, and in a password "%23" for "#", "%2F" for '
            '"/", "%40" for "@".'
        ) from None


def _client(url: str | None, options: Mapping[str, Any]) -> redis.Redis:
    if url:
        _read_url(url)
    client = redis.Redis.from_url(url, **options) if url else redis.Redis(**options)
    _check(client)
    return client


def _check(client: redis.Redis) -> None:
    # An option that no connection takes would else be told by the first command. This one connects to nothing.
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)


def _refuse(names: Iterable[str], reason: str) -> None:
    if wrong := ", ".join(f'"{name}"' for name in sorted(names)):
        raise ValueError(f"leave out {wrong}: {reason}.")


def _address_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in given.items()
        if value is not None and (name in ADDRESS_OPTIONS or name == "ssl" or name.startswith("ssl_"))
    }


def _address(where: Mapping[str, Any]) -> str:
    return f"{where.get('host')}:{where.get('port', SERVER_PORT)}"


def _addresses(name: str, given: Any, default_port: int) -> list[tuple[str, int]]:
    """Host and port of each: ``"host:port"``, ``("host", port)``, ``{"host": …, "port": …}`` or a `ClusterNode`."""
    shapes = f'"host:{default_port}", ("host", {default_port}) or {{"host": "…", "port": {default_port}}}'
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ValueError(f'"{name}" is {_shown(given)}; write a list of {shapes}.')
    found = []
    for each in given:
        host, port = _host_and_port(each, default_port)
        if (
            not isinstance(host, str)
            or not re.fullmatch(r"[^\s/@:]+|[0-9a-fA-F:.]+", host)
            or not str(port).isdecimal()
        ):
            raise ValueError(f'"{name}" holds {_shown(each)}; write {shapes}.')
        found.append((host, int(port)))
    return found


def _host_and_port(given: Any, default_port: int) -> tuple[Any, Any]:
    match given:
        case str() if found := re.fullmatch(r"(?:\[(.+)\]|([^:\[\]]+))(?::(\w+))?", given):
            return found[1] or found[2], found[3] or default_port
        case {"host": host, **others} if others.keys() <= {"port"}:
            return host, others.get("port", default_port)
        case (host, port):
            return host, port
        case ClusterNode():
            return given.host, given.port
    return None, None


def _shown(given: Any) -> str:
    # What people put in the place of an address may hold a password: a URL, a dict of options.
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    if isinstance(given, str) and "@" not in given:
        return repr(given)
    return f"a {type(given).__name__}"

"""From a store's options to its `Servers`: one server, the master that Sentinels monitor, or a cluster.

Nothing here connects. Invalid options raise immediately, and no error contains a password.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from dramatiq_progress.error_texts import show

from .cluster import Cluster
from .sentinels import SentinelMaster
from .servers import OneServer, Servers

#: A command that takes longer has failed, and isn't retried in the caller's thread. With redis-py 8's own
#: defaults (5 s, 10 retries) one command on a frozen server blocked for 59.7 s.
COMMAND_TIMEOUT_SECONDS = 0.25

SERVER_PORT = 6379
SENTINEL_PORT = 26379

#: The options of the broker's connections that say where the server is and which user connects. Its timeouts and
#: retries are meant for a broker, which may block.
ADDRESS_OPTIONS = ("host", "port", "db", "username", "password", "credential_provider", "protocol")

#: Options of `RedisCluster` itself; those that it passes to its connections are in `REDIS_ALLOWED_KEYS`.
CLUSTER_OPTIONS = frozenset(inspect.signature(RedisCluster.__init__).parameters) - {"self", "kwargs"}

#: Options that say where a server is, with an example of each.
PLACES = {
    "url": "redis://host:6379/0",
    "host": '"redis.example.com"',
    "unix_socket_path": '"/run/redis/redis.sock"',
    "startup_nodes": f'["host:{SERVER_PORT}", …]',
    "sentinels": f'["host:{SENTINEL_PORT}", …]',
}

#: Options that contradict Sentinels.
ELSEWHERE = {*PLACES, "port", "cluster"} - {"sentinels"}

#: Without an example of a password, since errors are written without what may be one.
_UNREADABLE = (
    '"url" can\'t be read; write redis://host:6379/0, with "user:password@" in front of the host, and in a password '
    '"%23" for "#", "%2F" for "/", "%40" for "@".'
)


def connect(*, cluster: bool = False, **options: Any) -> Servers:
    """Return the servers of a `RedisStore` with these options.

    Raises:
      TypeError: An option that redis-py doesn't accept.
      ValueError: Options that contradict each other, or a value that can't be read.
    """
    _check_values(options)
    if not isinstance(cluster, bool):
        raise ValueError(f'"cluster" is {_shown(cluster)}; write True or False.')
    # For one that is empty, redis-py may use localhost although another one is given.
    for name in [name for name in PLACES if not options.get(name)]:
        options.pop(name, None)
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


#: Options of redis-py whose wrong type is noticed by the first command only: what they must be, and a test of it.
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("socket_timeout", "socket_connect_timeout"), ("a number of seconds above 0", lambda v: _is_positive(v))
    ),
    "retry": ("a redis.retry.Retry", lambda v: isinstance(v, Retry)),
    "protocol": ("2 or 3", lambda v: v in (2, 3, "2", "3") and not isinstance(v, bool)),
    "max_connections": ("a whole number of at least 1", lambda v: type(v) is int and v >= 1),
    "health_check_interval": ("a number of seconds, 0 for none", lambda v: v == 0 or _is_positive(v)),
    "port": ("a port, 1 to 65535", lambda v: str(v).isdecimal() and 0 < int(v) < 65536),
    "db": ("a whole number, 0 or more", lambda v: str(v).isdecimal()),
    **dict.fromkeys(("url", "host", "service_name"), ("text", lambda v: isinstance(v, str))),
    **dict.fromkeys(("username", "password", "client_name"), ("text", lambda v: isinstance(v, str | bytes))),
    "unix_socket_path": ("a path", lambda v: isinstance(v, str | Path)),
    "socket_keepalive": ("True or False", lambda v: isinstance(v, bool)),
}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _check_values(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        expected, is_valid = _VALUES.get(name, ("", lambda _: True))
        try:
            fits = value is None or is_valid(value)
        except ValueError:  # an integer of over 4,300 digits
            fits = False
        if not fits:
            raise ValueError(f'"{name}" is {_shown(value)}; it must be {expected}.')
    # redis-py would use localhost.
    named = [name for name in PLACES if name in options]
    if named and not any(options[name] for name in named):
        raise ValueError(
            f'"{named[0]}" is {options[named[0]]!r}; write {PLACES[named[0]]}, or leave it out. If it is from an '
            "environment variable, that isn't set."
        )


def options_of_pool(pool: redis.ConnectionPool) -> dict[str, Any]:
    """Return the options with which a `RedisStore` reaches the servers of this pool, over its own connections.

    Raises:
      ImproperlyConfigured: The pool doesn't contain its server's address.
    """
    given = pool.connection_kwargs
    # By name: valkey-py's classes are called like redis-py's.
    kinds = {each.__name__ for each in pool.connection_class.__mro__}
    if pool.connection_class.__module__.partition(".")[0] not in ("redis", "valkey") or (
        kinds.isdisjoint({"SentinelManagedConnection", "UnixDomainSocketConnection"}) and "host" not in given
    ):
        raise ImproperlyConfigured(
            f"The broker's connections are {pool.connection_class.__module__}.{pool.connection_class.__qualname__}, "
            "which don't say where their server is. Name the store's own: DRAMATIQ_PROGRESS = "
            '{"OPTIONS": {"url": "redis://…"}}'
        )
    options = _address_options(given)
    if isinstance(pool, SentinelConnectionPool):
        manager = pool.sentinel_manager
        addresses = [each.connection_pool.connection_kwargs for each in manager.sentinels]
        options["sentinels"] = [(place["host"], place["port"]) for place in addresses]
        options["service_name"] = pool.service_name
        if sentinel_kwargs := _address_options(manager.sentinel_kwargs):
            options["sentinel_kwargs"] = sentinel_kwargs
    elif "UnixDomainSocketConnection" in kinds:
        options["unix_socket_path"] = given["path"]
    if "SSLConnection" in kinds:
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
    if not service_name:
        raise ValueError('"sentinels" needs "service_name": the name in their "sentinel monitor".')
    # As in redis-py, the socket options of the master are also those of the Sentinels.
    of_sockets = {name: value for name, value in options.items() if name.startswith("socket_")}
    manager, watching = (
        Sentinel(addresses, sentinel_kwargs={**_patience(), **of_sockets, **(sentinel_kwargs or {})}) for _ in range(2)
    )
    where = ", ".join(f"{host}:{port}" for host, port in addresses)
    servers = SentinelMaster(manager, watching, service_name, f"{service_name} of the Sentinels {where}", **options)
    for each in (servers.client, *servers.watchers):
        _check(each)
    return servers


def _cluster(*, url: str | None = None, startup_nodes: Sequence[Any] | None = None, **options: Any) -> Servers:
    # RedisCluster connects when it is created, and silently ignores options that it doesn't know.
    if unknown := options.keys() - CLUSTER_OPTIONS - set(REDIS_ALLOWED_KEYS):
        raise TypeError(f"RedisCluster doesn't accept {', '.join(sorted(unknown))}.")
    in_url = _read_url(url) if url else {}
    if "path" in in_url or "unix_socket_path" in options:
        raise ValueError("The nodes of a cluster are reached by host and port; a Unix socket leads to one server.")
    if database := (in_url.get("db") or options.pop("db", 0)):
        raise ValueError(f"A cluster has the database 0 only, and {database!r} is given; keep stores apart by PREFIX.")
    _client(url, {name: value for name, value in options.items() if name not in CLUSTER_OPTIONS})
    addresses = _addresses("startup_nodes", startup_nodes or [], SERVER_PORT)
    if not (addresses or url or "host" in options):
        raise ValueError('"cluster" needs "startup_nodes", some of its nodes: ["host:6379", …].')

    def make_client() -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in addresses]
        return RedisCluster(url=url, startup_nodes=nodes, **options)

    named = [f"{host}:{port}" for host, port in addresses]
    named += [_address(each) for each in (in_url, options) if "host" in each]
    return Cluster(make_client, f"the cluster of {', '.join(named)}")


def _read_url(url: str) -> dict[str, Any]:
    try:
        found = dict(parse_url(url))
    except ValueError as error:
        if "port" not in str(error).lower():
            raise
        # Python's error quotes what it reads as a port: part of the password, if that has an unescaped character.
        raise ValueError(_UNREADABLE) from None
    path = urlsplit(url).path
    # redis-py would use the database 0, or 12 for "/1/2".
    if "path" not in found and not re.fullmatch(r"/?[0-9]*", path):
        # The path begins in the password, if that has an unescaped slash.
        reason = f'"url" has the path {show(path)}; write the number of a database: redis://host:6379/0.'
        raise ValueError(_UNREADABLE if "@" in path else reason)
    return found


def _client(url: str | None, options: Mapping[str, Any]) -> redis.Redis:
    if url:
        _read_url(url)
    client = redis.Redis.from_url(url, **options) if url else redis.Redis(**options)
    _check(client)
    return client


def _check(client: redis.Redis) -> None:
    # Otherwise an option that no connection accepts raises at the first command. Creating one connects to nothing.
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
    """Return host and port of each. A `ClusterNode` is accepted too."""
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
    # A value in the place of an address may contain a password: a URL, a dict of options.
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    if (isinstance(given, str) and "@" not in given) or isinstance(given, bool | float):
        return show(given)
    if type(given) is int and abs(given) < 10**20:
        return repr(given)
    return f"a {type(given).__name__}"

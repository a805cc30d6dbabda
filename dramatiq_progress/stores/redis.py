"""The store in Redis 7.0+ or Valkey 8+: one hash per message, and Lua scripts as its only writers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from dramatiq_progress.errors import StoreUnavailable

from .base import OPERATIONS, Call, Store
from .breaker import Breaker

#: A command that takes longer has failed, and is not tried again in the caller's thread. With redis-py 8's own
#: defaults (5 s, 10 retries) one command on a frozen server blocked for 59.7 s.
COMMAND_TIMEOUT_SECONDS = 0.25

#: The options of the broker's connections that tell where the server is and who we are. Its timeouts and retries are
#: made for a broker, which may block.
ADDRESS_OPTIONS = ("host", "port", "db", "username", "password", "credential_provider", "protocol")


#: What says that the server cannot be reached; any other error is its answer to one command.
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError)

T = TypeVar("T")


class _Script(NamedTuple):
    text: str
    digest: str


class _Command(NamedTuple):
    script: _Script
    keys: Sequence[str]
    arguments: Sequence[str]
    suffix: str = ""

    def by_digest(self) -> tuple[Any, ...]:
        return f"EVALSHA{self.suffix}", self.script.digest, len(self.keys), *self.keys, *self.arguments

    def by_text(self) -> tuple[Any, ...]:
        # The server then knows the script by its digest.
        return f"EVAL{self.suffix}", self.script.text, len(self.keys), *self.keys, *self.arguments


# With "#!lua" a server that is full refuses a script before it begins. Without it, one that has written anything (an
# HDEL of nothing is enough) may go on and write beyond maxmemory: measured on Valkey 9.1.
def _load(operation: str) -> _Script:
    text = resources.files(__package__).joinpath(f"{operation}.lua").read_text(encoding="utf-8")
    # What EVALSHA calls a script by is its SHA-1; it protects nothing.
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SCRIPTS = {operation: _load(operation) for operation in (*OPERATIONS, "read")}


class RedisStore(Store):
    """Progress in Redis or Valkey, through a client of its own.

    Parameters:
      prefix: What every key begins with.
      url: Address of the server, as `redis.Redis.from_url` takes it (``redis://``, ``rediss://``, ``unix://``).
      **options: Any further keyword argument of `redis.Redis`. A command may take 0.25 s and is not tried again,
        unless `socket_timeout`, `socket_connect_timeout` or `retry` say otherwise.

    Raises:
      TypeError: An option that `redis.Redis` does not take.
      ValueError: A URL that it cannot read.
    """

    def __init__(self, *, prefix: str, url: str | None = None, **options: Any) -> None:
        super().__init__(prefix=prefix)
        settled: dict[str, Any] = {
            "socket_timeout": COMMAND_TIMEOUT_SECONDS,
            "socket_connect_timeout": COMMAND_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            **options,
            "decode_responses": True,
        }
        self._breaker = Breaker()
        self._client = redis.Redis.from_url(url, **settled) if url else redis.Redis(**settled)
        # An option that no connection takes would else be told by the first command. This one connects to nothing.
        pool = self._client.connection_pool
        pool.connection_class(**pool.connection_kwargs)

    def __repr__(self) -> str:
        where = self._client.get_connection_kwargs()
        address = where.get("path") or f"{where.get('host')}:{where.get('port')}"
        return f"<RedisStore {address}/{where.get('db', 0)} {self.prefix}>"

    def ping(self) -> None:
        self._guard(self._client.ping)

    def close(self) -> None:
        self._client.close()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        return self._run([_Command(SCRIPTS[operation], [key], arguments) for operation, key, arguments in calls])

    def _read(self, message_ids: Sequence[str]) -> tuple[float, list[Mapping[str, str]]]:
        keys = [self.key(message_id) for message_id in message_ids]
        [(seconds, microseconds, *records)] = self._run([_Command(SCRIPTS["read"], keys, (), "_RO")])
        # Lua hands a hash over as a flat list: field, value, field, value.
        return int(seconds) + int(microseconds) / 1e6, [
            dict(zip(flat[::2], flat[1::2], strict=True)) for flat in records
        ]

    def _run(self, commands: Sequence[_Command]) -> list[Any]:
        if not self._breaker.allows():
            raise StoreUnavailable(f"{self!r}: it did not answer just now.")
        return self._guard(lambda: self._execute(commands))

    def _execute(self, commands: Sequence[_Command]) -> list[Any]:
        answers = self._send([each.by_digest() for each in commands])
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # A server that was restarted or flushed has forgotten the scripts, and none of these has run.
            for i, answer in zip(unknown, self._send([commands[i].by_text() for i in unknown]), strict=True):
                answers[i] = answer
        if all(isinstance(answer, RedisError) for answer in answers):
            raise answers[0]
        return answers

    def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        # Not Script objects: in a pipeline they ask SCRIPT EXISTS first, one more round trip for each flush.
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)

    def _guard(self, action: Callable[[], T]) -> T:
        try:
            answer = action()
        except (RedisError, OSError) as error:
            if isinstance(error, UNREACHABLE):
                self._breaker.open()
            raise StoreUnavailable(f"{self!r}: {type(error).__name__}: {error}") from error
        self._breaker.close()
        return answer


def options_of_pool(pool: redis.ConnectionPool) -> dict[str, Any]:
    """The options with which a `RedisStore` reaches the server of this pool, over connections of its own.

    Raises:
      ImproperlyConfigured: The pool does not say where its server is, as that of a Sentinel.
    """
    given = pool.connection_kwargs
    if "service_name" in given or isinstance(pool, SentinelConnectionPool):
        raise ImproperlyConfigured(
            'The broker finds its Redis through Sentinel; name the store\'s own server in DRAMATIQ_PROGRESS["OPTIONS"].'
        )
    options = {
        name: value
        for name, value in given.items()
        if value is not None and (name in ADDRESS_OPTIONS or name.startswith("ssl_"))
    }
    if issubclass(pool.connection_class, redis.UnixDomainSocketConnection):
        options["unix_socket_path"] = given["path"]
    if issubclass(pool.connection_class, redis.SSLConnection):
        options["ssl"] = True
    return options

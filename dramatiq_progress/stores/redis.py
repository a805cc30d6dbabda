"""The store in Redis 7.0+ or Valkey 8+: one hash per message, and Lua scripts as its only writers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple
from weakref import WeakSet

from redis.exceptions import NoScriptError, RedisError

from dramatiq_progress.errors import StoreUnavailable

from .base import OPERATIONS, Call, Listener, Store, Subscription
from .breaker import Breaker
from .connections import connect
from .round_trips import Request
from .servers import UNREACHABLE
from .subscription import RedisSubscription


class _Script(NamedTuple):
    text: str
    digest: str


# With "#!lua" a server that is full refuses a script before it begins. Without it, one that has written anything (an
# HDEL of nothing is enough) may go on and write beyond maxmemory: measured on Valkey 9.1.
def _load(operation: str) -> _Script:
    text = resources.files(__package__).joinpath(f"{operation}.lua").read_text(encoding="utf-8")
    # What EVALSHA calls a script by is its SHA-1; it protects nothing.
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


#: redis-py writes a Sentinel that it could not ask with all its options, some 800 characters.
_SENTINEL = re.compile(r"<redis\.client\.Redis\(.*?,host=([^,]+),port=(\d+).*?\)>\)>\)>")

SCRIPTS = {operation: _load(operation) for operation in (*OPERATIONS, "read")}
TEXTS = {script.digest: script.text for script in SCRIPTS.values()}


# EVALSHA for what only reads, too: the script says so itself. (A client for a cluster would have to ask a node
# which words of an EVALSHA_RO are keys.)
def _request(operation: str, keys: Sequence[str], arguments: Sequence[str] = ()) -> Request:
    return Request(keys[0], ("EVALSHA", SCRIPTS[operation].digest, len(keys), *keys, *arguments))


def _by_text(request: Request) -> Request:
    _, digest, *others = request.words
    return Request(request.key, ("EVAL", TEXTS[digest], *others))


class RedisStore(Store):
    """Progress in Redis or Valkey, through a client of its own.

    Parameters:
      prefix: What every key begins with.
      url: Address of the server, as `redis.Redis.from_url` takes it (``redis://``, ``rediss://``, ``unix://``).
      sentinels: Addresses of Sentinels, each ``"host:port"``, ``("host", port)`` or ``{"host": …, "port": …}``; in
        place of a URL.
      service_name: What the Sentinels call the master.
      sentinel_kwargs: Keyword arguments of `redis.Redis` for the connections to the Sentinels themselves.
      cluster: Whether this is a cluster; then `startup_nodes` has the addresses of some nodes, or `url` that of one.
      **options: Any further keyword argument of `redis.Redis`, or of `redis.cluster.RedisCluster`. A command may take
        0.25 s and is not tried again, unless `socket_timeout`, `socket_connect_timeout` or `retry` say otherwise.

    Raises:
      TypeError: An option that redis-py does not take.
      ValueError: Options that do not fit together, or a value that cannot be read.
    """

    def __init__(self, *, prefix: str, **options: Any) -> None:
        super().__init__(prefix=prefix)
        self._breaker = Breaker()
        self._servers = connect(**options)
        self._subscriptions: WeakSet[RedisSubscription] = WeakSet()

    def __repr__(self) -> str:
        return f"<RedisStore {self._servers.address} {self.prefix}>"

    def ping(self) -> None:
        try:
            self._servers.ping()
        except (RedisError, OSError) as error:
            self._found_unreachable()
            raise self._unavailable(error) from error
        self._breaker.close()

    def subscribe(self, listener: Listener) -> Subscription:
        subscription = RedisSubscription(self._servers, self.prefix, listener)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        for subscription in list(self._subscriptions):
            subscription.close()
        self._servers.close()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        return self._run([_request(operation, [key], arguments) for operation, key, arguments in calls])

    def _read(self, message_ids: Sequence[str]) -> list[tuple[float, Mapping[str, str]]]:
        if not message_ids:
            return []
        keys = [self.key(message_id) for message_id in message_ids]
        # One call where that is possible: 100 records take 0.8 ms so, and 2.5 ms in a call for each.
        calls = [[key] for key in keys] if self._servers.keeps_keys_apart else [keys]
        found: list[tuple[float, Mapping[str, str]]] = []
        for answer in self._run([_request("read", each) for each in calls]):
            if isinstance(answer, Exception):
                raise self._unavailable(answer) from answer
            seconds, microseconds, *records = answer
            clock = int(seconds) + int(microseconds) / 1e6
            # A hash is a flat list: field, value, field, value.
            found += [(clock, dict(zip(flat[::2], flat[1::2], strict=True))) for flat in records]
        return found

    def _run(self, requests: Sequence[Request]) -> list[Any]:
        if not self._breaker.allows():
            raise StoreUnavailable(f"{self!r}: it did not answer just now.")
        answers = self._servers.send(requests)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            answers = self._teach(requests, answers)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if any(isinstance(error, UNREACHABLE) for error in errors):
            self._found_unreachable()
        else:
            self._breaker.close()
        if len(errors) == len(answers):
            raise self._unavailable(errors[0]) from errors[0]
        return answers

    def _teach(self, requests: Sequence[Request], answers: Sequence[Any]) -> list[Any]:
        # A server that was restarted or flushed has forgotten the scripts, and none of these has run. By its text it
        # learns a script.
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        found = dict(zip(unknown, self._servers.send([_by_text(requests[i]) for i in unknown]), strict=True))
        return [found.get(i, answer) for i, answer in enumerate(answers)]

    def _found_unreachable(self) -> None:
        self._breaker.open()
        self._servers.forget()

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        said = _SENTINEL.sub(r"\1:\2", str(error))
        return StoreUnavailable(f"{self!r}: {type(error).__name__}: {said}")

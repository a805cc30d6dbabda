"""`RedisStore`: one hash per message in Redis 7.0+ or Valkey 8+, written by Lua scripts only."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from redis.exceptions import ReadOnlyError, RedisError

from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.base import Store
from dramatiq_progress.stores.encoding import Call
from dramatiq_progress.stores.health import NodeUnreachable
from dramatiq_progress.stores.querying import Stored
from dramatiq_progress.stores.subscription import Listener, Subscription

from .nodes import NodeHealths
from .options import connect
from .scripts import command
from .servers import UNREACHABLE
from .subscription import RedisSubscription

#: How redis-py prints a Sentinel that it couldn't reach: with all its options, some 800 characters.
_SENTINEL = re.compile(r"<redis\.client\.Redis\(.*?,host=([^,]+),port=(\d+).*?\)>\)>\)>")

#: A write that changes nothing, since no queue has a name that starts with a digit or a brace: a server may answer PING
#: and block writes.
_PROBE = encoding.Leave(message_id="", patience="0")
#: Number of such names of queues that are tried to find one for each node of a cluster.
_NAMES = 100_000


class RedisStore(Store):
    """Progress in Redis or Valkey, through a client of its own.

    Parameters:
      prefix: Prefix of every key.
      url: URL of the server, as `redis.Redis.from_url` accepts it (``redis://``, ``rediss://``, ``unix://``).
      sentinels: Addresses of Sentinels, each ``"host:port"``, ``("host", port)`` or ``{"host": …, "port": …}``;
        instead of a URL.
      service_name: The name under which the Sentinels monitor the master.
      sentinel_kwargs: Keyword arguments of `redis.Redis` for the connections to the Sentinels themselves.
      cluster: Whether this is a cluster. `startup_nodes` then has the addresses of some nodes, or `url` that of one.
      **options: Any further keyword argument of `redis.Redis`, or of `redis.cluster.RedisCluster`. A command times out
        after 0.25 s and isn't retried, unless `socket_timeout`, `socket_connect_timeout` or `retry` say otherwise.

    Raises:
      TypeError: An option that redis-py doesn't accept.
      ValueError: Options that contradict each other, or a value that can't be read.
    """

    def __init__(self, *, prefix: str, **options: Any) -> None:
        super().__init__(prefix=prefix)
        self._servers = connect(**options)
        self._servers.on_replaced = self.health.mark_replaced
        self._nodes = NodeHealths(self._probe_node)
        self._subscriptions: WeakSet[RedisSubscription] = WeakSet()

    def __repr__(self) -> str:
        return f"<RedisStore {self._servers.address} {self.prefix}>"

    def ping(self) -> None:
        sent_at = time.monotonic()
        try:
            keys = self._servers.spread(self.queue_key(str(number)) for number in range(_NAMES))
            answers = self._servers.send([command(Call("leave", (key,), _PROBE)) for key in keys])
        except (RedisError, OSError) as error:
            answers = [error]
        errors = [self._failure(answer) for answer in answers if isinstance(answer, Exception)]
        unreachable = next((each for each in errors if isinstance(each, StoreUnreachable)), None)
        if unreachable is None or len(answers) > len(errors):
            self.health.mark_available()
        else:
            self._found_unreachable(unreachable, sent_at)
        if errors:
            raise unreachable or errors[0]

    def subscribe(self, listener: Listener) -> Subscription:
        subscription = RedisSubscription(self._servers, self.prefix, listener)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        super().close()
        self._nodes.close()
        for subscription in list(self._subscriptions):
            subscription.close()
        self._servers.close()

    def _read_calls(self, keys: Sequence[str]) -> list[Call]:
        # One call where that is possible: 100 records take 0.8 ms then, and 2.5 ms in a call for each.
        return [Call("read", (key,)) for key in keys] if self._servers.keeps_keys_apart else [Call("read", keys)]

    def _read_answers(self, answers: Sequence[Any]) -> list[tuple[float, Stored]]:
        found: list[tuple[float, Stored]] = []
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                if not isinstance(answer, NodeUnreachable):
                    raise answer
                # One call has one key, where there are nodes.
                found.append((0.0, answer))
                continue
            seconds, microseconds, *records = answer
            clock = int(seconds) + int(microseconds) / 1e6
            found += [(clock, self._record(flat)) for flat in records]
        return found

    def _record(self, flat: Sequence[str]) -> Stored:
        if len(flat) != 1:
            return dict(zip(flat[::2], flat[1::2], strict=True))
        refusal = StoreRefused(f"{self!r}: {flat[0]}")
        if flat[0].startswith("WRONGTYPE"):
            return refusal
        # As for a user without permission to read: that concerns all records.
        raise refusal

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        if not self.health.allows():
            return [StoreUnreachable(f"{self!r}: it gave no answer just now.")] * len(calls)
        sent_at = time.monotonic()
        try:
            answers = self._servers.send([command(call) for call in calls], self._nodes)
        except (RedisError, OSError) as error:
            answers = [error] * len(calls)
        failures = [i for i, answer in enumerate(answers) if isinstance(answer, Exception)]
        if not failures:
            self.health.mark_available()
            return answers
        for i in failures:
            answers[i] = self._failure(answers[i])
        unreachable = next((answers[i] for i in failures if _is_lost(answers[i])), None)
        if unreachable is not None:
            self._found_unreachable(unreachable, sent_at)
        else:
            self.health.mark_available()
        return answers

    def _probe_node(self, key: str) -> None:
        """Raise `StoreUnavailable` unless the node that has the slot of this key accepts writes."""
        try:
            self._servers.spread(())
            # In the same slot, since the braces contain the key.
            [answer] = self._servers.send([command(Call("leave", (self.queue_key(f"{{{key}}}"),), _PROBE))])
        except (RedisError, OSError) as error:
            answer = error
        if isinstance(answer, Exception):
            raise self._failure(answer)

    def _failure(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, NodeUnreachable):
            return error
        if isinstance(error, ReadOnlyError):
            # A master that was demoted: look for the new one before the next command.
            self._servers.forget()
        text = f"{self!r}: {type(error).__name__}: " + _SENTINEL.sub(r"\1:\2", str(error))
        failure = StoreUnreachable(text) if isinstance(error, UNREACHABLE) else StoreRefused(text)
        failure.__cause__ = error
        return failure

    def _found_unreachable(self, error: StoreUnreachable, sent_at: float) -> None:
        self.health.mark_unreachable(error, sent_at=sent_at)
        self._servers.forget()


def _is_lost(failure: StoreUnavailable) -> bool:
    """Whether the store as a whole can't be reached."""
    return isinstance(failure, StoreUnreachable) and not isinstance(failure, NodeUnreachable)

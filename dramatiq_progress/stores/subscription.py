"""How a process hears of every change in a `RedisStore`: one connection, read by one thread, whoever watches.

The scripts publish each change to a channel that is called like the record, and the subscription is to a pattern, the
prefix. A change that nobody here watches costs this thread 11 us (redis-py 8.1 without hiredis); to subscribe to single
channels would save that, and cost one more round trip for each stream that begins.

It is a thread, with redis-py's blocking client: its asyncio one (8.1) may spin without yielding when a connection goes
silent, and stop the event loop with all that runs in it.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from typing import Any

from redis.client import PubSub

from .base import Listener, Subscription
from .servers import Servers

#: How often the server has to show that it is there, and how long it may take.
PING_INTERVAL_SECONDS = 4.0
PING_LIMIT_SECONDS = 2.0
#: How soon the thread notices that it is no longer wanted.
WAIT_SECONDS = 1.0
#: The pause before the next try, at the most; the half of it at the least.
LONGEST_PAUSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class RedisSubscription(Subscription):
    """Tells one listener of all changes below a prefix, and goes on by itself after every kind of failure.

    Parameters:
      servers: Where the records are.
      prefix: What their keys begin with.
      listener: Who hears of changes.
    """

    def __init__(self, servers: Servers, prefix: str, listener: Listener) -> None:
        self._servers = servers
        self._prefix = prefix
        self._listener = listener
        self._closed = threading.Event()
        self._is_broken = False
        threading.Thread(target=self._run, name="dramatiq-progress-subscription", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._servers.pubsub() as pubsub:
                    self._listen(pubsub)
            # Also what nobody foresaw: without this thread every stream would be silent.
            except Exception as error:
                if self._closed.is_set():
                    return
                if not self._is_broken:
                    logger.warning("Streams look for changes every second, since they do not hear of them: %s", error)
                self._is_broken = True
                self._listener.on_break(error)
                self._closed.wait(LONGEST_PAUSE_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - no secret

    def _listen(self, pubsub: PubSub) -> None:
        # "[", "*" and the like may be part of a prefix.
        pubsub.psubscribe(re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*")
        heard_at = pinged_at = time.monotonic()
        while not self._closed.is_set():
            asked_at = time.monotonic()
            message = pubsub.get_message(timeout=WAIT_SECONDS)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                self._take(message)
            elif pinged_at <= heard_at:
                if now - heard_at >= PING_INTERVAL_SECONDS:
                    pinged_at = now
                    pubsub.ping()
            elif asked_at - pinged_at > PING_LIMIT_SECONDS:
                # A network that swallows everything closes no connection. (Asked after the limit: in a process that is
                # too busy to run this thread, the answer may have been there for long.)
                raise TimeoutError(f"the store has been silent for {now - heard_at:.0f} s")

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "pmessage":
            self._listener.on_change(message["channel"].removeprefix(self._prefix))
        elif message["type"] == "psubscribe":
            # Also when redis-py has connected anew by itself, as the option `retry` may have it.
            self._is_broken = False
            self._listener.on_begin()

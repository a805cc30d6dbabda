"""The subscription to all changes in a `RedisStore`: one connection per process, read by one thread.

The scripts publish each change to a channel with the record's name, and the subscription is to a pattern, the prefix. A
change that no stream of this process watches costs the thread 11 µs (redis-py 8.1 without hiredis). Subscribing to
single channels would save that, and cost one more round trip for each new stream.

A thread with redis-py's blocking client: its asyncio client (8.1) may spin without yielding when a connection goes
silent, and stop the event loop with everything in it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Any

from redis.client import PubSub

from dramatiq_progress import jitter
from dramatiq_progress.stores.subscription import Listener, Subscription

from .servers import Servers

#: How often the server must answer, and how long an answer may take.
PING_INTERVAL_SECONDS = 4.0
PING_LIMIT_SECONDS = 2.0
#: How soon the thread notices that the subscription was closed, or that its server was replaced.
WAIT_SECONDS = 1.0
#: The longest pause before the next try; the shortest is half of it.
LONGEST_PAUSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class RedisSubscription(Subscription):
    """Notifies one listener of all changes below a prefix, and recovers from every kind of failure.

    Parameters:
      servers: The servers that keep the records.
      prefix: Prefix of the records' keys.
      listener: The receiver of notifications.
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
            # Any exception: without this thread every stream would be silent.
            except Exception as error:
                if self._closed.is_set():
                    return
                if not self._is_broken:
                    logger.warning(
                        "Lost the subscription to progress changes; streams poll the store every second until it is "
                        "back. Check the connection, and the ACL for PSUBSCRIBE: %s",
                        error,
                    )
                self._is_broken = True
                self._listener.on_break(error)
                self._closed.wait(jitter.shortened(LONGEST_PAUSE_SECONDS))

    def _listen(self, pubsub: PubSub) -> None:
        # A prefix may contain characters that have a meaning in a pattern.
        pubsub.psubscribe(re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*")
        received_at = pinged_at = checked_at = time.monotonic()
        while not self._closed.is_set():
            waited_at = time.monotonic()
            if waited_at - checked_at >= WAIT_SECONDS:
                checked_at = waited_at
                if not self._servers.is_current(pubsub):
                    # Its server was replaced. The old one may keep the connection open, and send nothing.
                    return
            message = pubsub.get_message(timeout=WAIT_SECONDS)
            now = time.monotonic()
            if message is not None:
                received_at = now
                self._take(message)
            elif pinged_at <= received_at:
                if now - received_at >= PING_INTERVAL_SECONDS:
                    pinged_at = now
                    pubsub.ping()
            elif waited_at - pinged_at > PING_LIMIT_SECONDS:
                # A network that drops every packet closes no connection. The time is taken before waiting: in a process
                # that is too busy to run this thread, the answer may have arrived long ago.
                raise TimeoutError(f"no message for {now - received_at:.0f} s")

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "pmessage":
            channel = message["channel"]
            # A project's own connection pool may return bytes.
            text = channel.decode() if isinstance(channel, bytes) else channel
            self._listener.on_change(text.removeprefix(self._prefix))
        elif message["type"] == "psubscribe":
            # Also after redis-py has reconnected on its own, as the option `retry` allows.
            self._is_broken = False
            self._listener.on_begin()

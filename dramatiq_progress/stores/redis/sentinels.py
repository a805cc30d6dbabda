"""The master that Sentinels monitor, as the server of a `RedisStore`."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from redis.client import PubSub
from redis.exceptions import RedisError
from redis.sentinel import Sentinel

from dramatiq_progress.threads import SingleThread

from .nodes import NodeHealths
from .scripts import Command
from .servers import OneServer

#: How often the Sentinels are asked for the master. A master that was replaced as planned accepts writes until they
#: demote it, 10 s later, and those writes are lost.
LOOK_INTERVAL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class SentinelMaster(OneServer):
    """The master that Sentinels name. redis-py asks them at each new connection, and a thread once a second.

    The thread starts at the first command or subscription, also in a forked process. It ends with `close`.

    Parameters:
      manager: The Sentinels that connections ask.
      watching: The Sentinels that the thread asks, over connections of its own: redis-py reorders the list of a manager
        without a lock.
      service_name: The name under which they monitor the master.
      address: The server's name in errors.
      **options: Those of the connections to the master.
    """

    def __init__(self, manager: Sentinel, watching: Sentinel, service_name: str, address: str, **options: Any) -> None:
        # Before a connection has asked the Sentinels it has no host.
        make_client: Callable[[], redis.Redis] = lambda: manager.master_for(service_name, host="", **options)  # noqa: E731
        super().__init__(make_client, address, manager.sentinels)
        self._watching = watching
        self._service_name = service_name
        self._master: tuple[str, int] | None = None
        self._closed = threading.Event()
        # A store that is dropped without being closed ends the thread too.
        watch = partial(_watch, weakref.ref(self), watching, self._closed)
        self._watcher = SingleThread(watch, "dramatiq-progress-sentinels")

    def _send(self, commands: Sequence[Command], nodes: NodeHealths | None) -> list[Any]:
        self._watch()
        return super()._send(commands, nodes)

    @contextmanager
    def _pubsub(self) -> Iterator[PubSub]:
        self._watch()
        with super()._pubsub() as made:
            yield made

    def is_current(self, pubsub: PubSub) -> bool:
        # Each is None until it is known.
        connection, master = pubsub.connection, self._master
        return connection is None or master is None or (connection.host, connection.port) == master

    def close(self) -> None:
        self._closed.set()
        super().close()

    def look(self) -> None:
        """Ask the Sentinels for the master, and send the following commands to it."""
        try:
            master = self._watching.discover_master(self._service_name)
        except (RedisError, OSError):
            # None answers, or there is no master at the moment: commands fail on their own.
            return
        self._master = master
        used = self._transport.address
        if used is not None and used != master:
            logger.info(
                "The Sentinels name %s:%s as the progress store's master, in place of %s:%s; using it.", *master, *used
            )
            # Not `reconnect`: new commands must not wait for those that are on their way to the old one.
            old, self._transport = self._transport, self._new_transport()
            old.close()
            self.on_replaced()

    def _watch(self) -> None:
        if not self._closed.is_set():
            self._watcher.start()


def _watch(reference: weakref.ref[SentinelMaster], watching: Sentinel, closed: threading.Event) -> None:
    while not closed.is_set() and (servers := reference()) is not None:
        try:
            servers.look()
        except Exception:
            logger.exception("Unexpected error while asking the Sentinels. Please report this as a bug.")
        del servers
        closed.wait(LOOK_INTERVAL_SECONDS)
    # Here, since a look that ends after `close` may have connected.
    for each in watching.sentinels:
        each.close()

"""A TCP proxy that delays, cuts or drops the traffic to a server."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: How often a thread that has nothing to forward checks whether to stop.
POLL_SECONDS = 0.05


class Proxy:
    """A proxy for a server of this machine.

    Attributes:
      delay: Seconds after which an answer of the server is forwarded.
      is_mute: Whether it accepts connections, and forwards nothing in either direction.
      is_cut: Whether it accepts no connection, and closes those that are open.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.is_mute = False
        self.is_cut = False
        self._target = port
        self._stopping = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(POLL_SECONDS)
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _begin(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                client = self._listening.accept()[0]
            except TimeoutError:
                continue
            if self.is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
            else:
                self._begin(self._carry, client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Forward both directions of a connection. One thread is enough, since a client waits for its answers."""
        with client, server, suppress(OSError):
            while not (self._stopping or self.is_cut):
                readable = [] if self.is_mute else select.select([client, server], [], [], POLL_SECONDS)[0]
                if self.is_mute:
                    time.sleep(POLL_SECONDS)
                for source in readable:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is server:
                        time.sleep(self.delay)
                    (client if source is server else server).sendall(data)


@contextmanager
def before(port: int) -> Iterator[Proxy]:
    """Run a proxy for the server on a port."""
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()

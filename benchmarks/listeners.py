"""Thousands of clients of event streams in one process: what each was told, and when."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence

#: An event's id, state and count, in the order in which the JSON has them.
EVENT = re.compile(rb'data: \{"id": "([^"]+)".*?"state": "(\w+)".*?"current": (\d+)')
#: So many connect at the same time.
AT_ONCE = 200
#: So soon each has to be told something.
TOLD_SECONDS = 60
#: The receive buffer of a client that does not read, in bytes: so the server soon has no room for more.
SMALL_BUFFER = 4096


class Listener(asyncio.Protocol):
    """One client. It notes what it was told last of each message, and when, and takes up again a stream that ends.

    Attributes:
      told: For each message the newest state and count.
      told_at: For each message and count the time at which it was told, by `time.perf_counter`.
    """

    __slots__ = (
        "_address",
        "_again",
        "_has_left",
        "_port",
        "_query",
        "_reads",
        "_rest",
        "_transport",
        "_was_told",
        "told",
        "told_at",
    )

    def __init__(self, port: int, address: str, message_ids: Sequence[str], reads: bool) -> None:
        self._port = port
        self._address = address
        self._query = "&".join(f"id={each}" for each in message_ids)
        self._reads = reads
        self._rest = b""
        self._was_told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_left = False
        self.told: dict[str, tuple[str, int]] = {}
        self.told_at: dict[tuple[str, int], float] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._rest = b""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(f"GET /progress/stream/?{self._query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if found := EVENT.search(event):
                message_id, state, current = found[1].decode(), found[2].decode(), int(found[3])
                self.told[message_id] = state, current
                self.told_at[message_id, current] = now
                if not self._was_told.done():
                    self._was_told.set_result(None)
                    if not self._reads:
                        self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._was_told.done():
            self._was_told.set_exception(error or ConnectionError(f"the server closed the stream: {self._rest!r}"))
        elif not self._has_left:
            # As any client does it: a stream lives some five minutes.
            self._again = asyncio.get_running_loop().create_task(self.connect())

    async def connect(self) -> None:
        """Begin the stream, or begin it again."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if not self._reads:
            # Before it connects: the window that the server is told of depends on it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.bind((self._address, 0))
        await loop.sock_connect(sock, ("127.0.0.1", self._port))
        await loop.create_connection(lambda: self, sock=sock)

    def leave(self) -> None:
        """Close the connection, without a word."""
        self._has_left = True
        self._transport.abort()

    def heard(self, message_id: str, number: int) -> float:
        """When it was told so much of a message, or more."""
        return min(at for (told_of, told), at in self.told_at.items() if told_of == message_id and told >= number)

    async def was_told(self) -> None:
        """Wait for the first event."""
        await self._was_told


async def listen(port: int, watched: Sequence[Sequence[str]], *, reads: bool = True) -> list[Listener]:
    """A client for each of these lists of ids, all of which have been told something."""
    places = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int, message_ids: Sequence[str]) -> Listener:
        # One address for each: Linux has all of 127.0.0.0/8, and a server may limit what one client has.
        listener = Listener(port, f"127.1.{number // 250}.{1 + number % 250}", message_ids, reads)
        async with places:
            await listener.connect()
            await asyncio.wait_for(listener.was_told(), TOLD_SECONDS)
        return listener

    return await asyncio.gather(*(connect(i, each) for i, each in enumerate(watched)))

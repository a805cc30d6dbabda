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
#: The receive buffer of a client that does not read, in bytes: so the server soon has no room for more.
SMALL_BUFFER = 4096


class Listener(asyncio.Protocol):
    """One client. It notes what it was told last of each message, and when.

    Attributes:
      told: For each message the newest state and count.
      told_at: For each message and count the time at which it was told, by `time.perf_counter`.
      is_open: The server has not ended the stream.
    """

    __slots__ = ("_query", "_rest", "_was_told", "is_open", "reads", "told", "told_at", "transport")

    def __init__(self, message_ids: Sequence[str], reads: bool) -> None:
        self._query = "&".join(f"id={each}" for each in message_ids)
        self._rest = b""
        self._was_told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reads = reads
        self.is_open = True
        self.told: dict[str, tuple[str, int]] = {}
        self.told_at: dict[tuple[str, int], float] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(f"GET /progress/stream/?{self._query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

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
                    if not self.reads:
                        self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if not self._was_told.done():
            self._was_told.set_exception(error or ConnectionError(f"the server closed the stream: {self._rest!r}"))

    def heard(self, message_id: str, number: int) -> float:
        """When it was told so much of a message, or more."""
        return min(at for (told_of, told), at in self.told_at.items() if told_of == message_id and told >= number)

    async def was_told(self) -> None:
        """Wait for the first event."""
        await self._was_told


async def listen(port: int, watched: Sequence[Sequence[str]], *, reads: bool = True) -> list[Listener]:
    """A client for each of these lists of ids, all of which have been told something."""
    places = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()

    async def connect(message_ids: Sequence[str]) -> Listener:
        async with places:
            sock = await _connected(loop, port, None if reads else SMALL_BUFFER)
            _, listener = await loop.create_connection(lambda: Listener(message_ids, reads), sock=sock)
            await asyncio.wait_for(listener.was_told(), 60)
        return listener

    return await asyncio.gather(*(connect(each) for each in watched))


async def _connected(loop: asyncio.AbstractEventLoop, port: int, buffer: int | None) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    if buffer is not None:
        # Before it connects: the window that the server is told of depends on it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    return sock

"""Thousands of clients of event streams in one process, with the events that each received, and when."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence

#: An event's id, state and count, in the order in which the JSON has them.
EVENT = re.compile(rb'data: \{"id": "([^"]+)".*?"state": "(\w+)".*?"current": (\d+)')
#: Number of clients that connect at the same time.
AT_ONCE = 200
#: Each client must receive an event within this time.
FIRST_EVENT_SECONDS = 60
#: Receive buffer of a client that doesn't read, in bytes. It is small, so that the server can soon send no more.
SMALL_BUFFER = 4096


class Listener(asyncio.Protocol):
    """One client. It records the events of each message, and reconnects when a stream ends.

    Attributes:
      latest: The latest state and count of each message.
      received_at: When each count of each message was received, by `time.perf_counter`.
    """

    __slots__ = (
        "_address",
        "_again",
        "_first_event",
        "_has_left",
        "_port",
        "_query",
        "_reads",
        "_rest",
        "_transport",
        "latest",
        "received_at",
    )

    def __init__(self, port: int, address: str, message_ids: Sequence[str], reads: bool) -> None:
        self._port = port
        self._address = address
        self._query = "&".join(f"id={each}" for each in message_ids)
        self._reads = reads
        self._rest = b""
        self._first_event: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_left = False
        self.latest: dict[str, tuple[str, int]] = {}
        self.received_at: dict[tuple[str, int], float] = {}

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
                self.latest[message_id] = state, current
                self.received_at[message_id, current] = now
                if not self._first_event.done():
                    self._first_event.set_result(None)
                    if not self._reads:
                        self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._first_event.done():
            self._first_event.set_exception(error or ConnectionError(f"the server closed the stream: {self._rest!r}"))
        elif not self._has_left:
            # Like any client: a stream lasts some five minutes.
            self._again = asyncio.get_running_loop().create_task(self.connect())

    async def connect(self) -> None:
        """Open the stream, or open it again."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if not self._reads:
            # Before connecting: the advertised window depends on it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.bind((self._address, 0))
        await loop.sock_connect(sock, ("127.0.0.1", self._port))
        await loop.create_connection(lambda: self, sock=sock)

    def leave(self) -> None:
        """Abort the connection."""
        self._has_left = True
        self._transport.abort()

    def received(self, message_id: str, number: int) -> float:
        """Return when it received this count of a message, or a higher one."""
        return min(
            at for (received_id, count), at in self.received_at.items() if received_id == message_id and count >= number
        )

    async def wait_for_event(self) -> None:
        """Wait for the first event."""
        await self._first_event


async def listen(port: int, watched: Sequence[Sequence[str]], *, reads: bool = True) -> list[Listener]:
    """Connect a client for each list of ids, and wait until each has received an event."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int, message_ids: Sequence[str]) -> Listener:
        # An address for each: Linux has all of 127.0.0.0/8, and a server may limit the streams of a client.
        listener = Listener(port, f"127.1.{number // 250}.{1 + number % 250}", message_ids, reads)
        async with slots:
            await listener.connect()
            await asyncio.wait_for(listener.wait_for_event(), FIRST_EVENT_SECONDS)
        return listener

    return await asyncio.gather(*(connect(i, each) for i, each in enumerate(watched)))

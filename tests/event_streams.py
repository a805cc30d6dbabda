"""A client of event streams that records the events, and a runner for streams in this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from dramatiq_progress import Progress
from tests.waiting import wait_until


def run_within(seconds: float, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function, and fail if it takes longer."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(bounded())


async def may_continue(messages: Sequence[Progress]) -> bool:
    """The permission of a stream whose client may read everything."""
    return True


class StreamClient:
    """A client that reads one stream in its own thread.

    Attributes:
      response: Status and headers.
      events: Name and JSON of each event, in order. The default name is ``message``.
      lines: All lines except empty ones.
    """

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self.response = response
        self.events: list[tuple[str, Any]] = []
        self.lines: list[str] = []
        self._connection = connection
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The progress of messages, in order."""
        return [data for name, data in self.events if name == "message"]

    def last(self, message_id: str) -> dict[str, Any]:
        """Return the latest progress of a message. Empty before the first event."""
        return next((each for each in reversed(self.messages) if each["id"] == message_id), {})

    def has_received(self, message_id: str, current: int) -> bool:
        """Whether the latest progress has this `current`."""
        return bool((latest := self.last(message_id)) and latest["progress"]["current"] == current)

    def has_ended(self) -> bool:
        """Whether the server has ended the stream."""
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Close the connection without notice."""
        with suppress(OSError):
            assert self._connection.sock is not None
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        name = "message"
        with suppress(OSError, HTTPException, ValueError, AttributeError):
            while line := self.response.readline():
                text = line.decode().rstrip("\n")
                if text:
                    self.lines.append(text)
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    self.events.append((name, json.loads(text.removeprefix("data: "))))
                    name = "message"


@contextmanager
def open_stream_client(url: str, *message_ids: str, headers: Mapping[str, str] | None = None) -> Iterator[StreamClient]:
    """Open a stream of these messages, and close it at the end of the block."""
    address = urlsplit(url)
    assert address.hostname and address.port
    connection = HTTPConnection(address.hostname, address.port, timeout=60)
    query = "&".join(f"id={each}" for each in message_ids)
    connection.request("GET", f"/progress/stream/?{query}", headers=dict(headers or {}))
    client = StreamClient(connection, connection.getresponse())
    try:
        assert client.response.status == 200, client.response.status
        wait_until(lambda: client.lines)
        yield client
    finally:
        client.leave()

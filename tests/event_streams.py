"""A client of an event stream that keeps all it hears, and what runs one in this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import wait_until


def run_within(seconds: float, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run something asynchronous, and fail when it takes longer."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(bounded())


class Listener:
    """Reads one stream in a thread of its own.

    Attributes:
      response: Status and headers.
      heard: Name and JSON of each event, in order; the name is ``message`` where none is given.
      lines: All lines but empty ones.
    """

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self.response = response
        self.heard: list[tuple[str, Any]] = []
        self.lines: list[str] = []
        self._connection = connection
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was said of messages."""
        return [data for name, data in self.heard if name == "message"]

    def last(self, message_id: str) -> dict[str, Any]:
        """What was said of a message last; empty before."""
        return next((each for each in reversed(self.messages) if each["id"] == message_id), {})

    def is_told(self, message_id: str, current: int) -> bool:
        """Whether it has heard that so much is done."""
        return bool((said := self.last(message_id)) and said["progress"]["current"] == current)

    def has_ended(self) -> bool:
        """Whether the server has ended the stream."""
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Close the connection, without a word."""
        with suppress(OSError):
            assert self._connection.sock is not None
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _listen(self) -> None:
        name = "message"
        with suppress(OSError, HTTPException, ValueError, AttributeError):
            while line := self.response.readline():
                text = line.decode().rstrip("\n")
                if text:
                    self.lines.append(text)
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    self.heard.append((name, json.loads(text.removeprefix("data: "))))
                    name = "message"


@contextmanager
def listen(url: str, *message_ids: str, headers: Mapping[str, str] | None = None) -> Iterator[Listener]:
    """A stream of these messages, from its beginning to the end of the block."""
    address = urlsplit(url)
    assert address.hostname and address.port
    connection = HTTPConnection(address.hostname, address.port, timeout=60)
    query = "&".join(f"id={each}" for each in message_ids)
    connection.request("GET", f"/progress/stream/?{query}", headers=dict(headers or {}))
    listener = Listener(connection, connection.getresponse())
    try:
        assert listener.response.status == 200, listener.response.status
        wait_until(lambda: listener.lines)
        yield listener
    finally:
        listener.leave()

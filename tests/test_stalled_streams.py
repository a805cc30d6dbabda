"""Clients that don't read their stream: it ends like any other, and its slot and its task are released."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.test import AsyncClient

from dramatiq_progress.stores import Store
from dramatiq_progress.web.streams import deadline, event_stream
from dramatiq_progress.web.streams.hub import get_hub
from tests.event_streams import open_stream_client, run_within
from tests.store_server import Server
from tests.streaming_site import begin, report, serve
from tests.waiting import wait_until

# Each starts a web server.
pytestmark = pytest.mark.slow(2)

run = partial(run_within, 30)

#: More than the buffers of a connection hold.
LARGE = "x" * 16_000_000

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/progress/stream/",
    "query_string": b"id=m1",
    "headers": [(b"host", b"testserver")],
    "client": ["192.0.2.1", 1],
}

IsBlocked = Callable[[dict[str, Any]], bool]


class Connection:
    """A connection of an ASGI server: `send` waits while `is_blocked`, as a server's does for a full connection.

    Attributes:
      sent: The messages that were sent.
    """

    def __init__(self, is_blocked: IsBlocked) -> None:
        self.sent: list[dict[str, Any]] = []
        self.has_blocked = asyncio.Event()
        self.is_writable = asyncio.Event()
        self._is_blocked = is_blocked
        self._is_requested = False

    async def receive(self) -> dict[str, Any]:
        if self._is_requested:
            await asyncio.Event().wait()
        self._is_requested = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if not self.is_writable.is_set() and self._is_blocked(message):
            self.has_blocked.set()
            await self.is_writable.wait()
        self.sent.append(message)


def is_event(message: dict[str, Any]) -> bool:
    return b"data: " in message.get("body", b"")


def is_end(message: dict[str, Any]) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body")


def serve_blocked(is_blocked: IsBlocked, then: Callable[[Connection, asyncio.Task[None]], Awaitable[None]]) -> None:
    """Request a stream, and run `then` as soon as its connection is blocked."""

    async def scenario() -> None:
        connection = Connection(is_blocked)
        task = asyncio.ensure_future(get_asgi_application()(SCOPE, connection.receive, connection.send))
        await connection.has_blocked.wait()
        await then(connection, task)

    run(scenario)


async def ends_and_releases_its_slot(connection: Connection, task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    assert get_hub().slots.taken == 0
    assert not any(map(is_end, connection.sent))


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "STALLED_SECONDS", 0.1)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("is_blocked", [is_event, is_end])
def test_a_stream_that_is_not_read_ends_after_its_lifetime(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch, is_blocked: IsBlocked
) -> None:
    monkeypatch.setattr(event_stream, "LIFETIME_SECONDS", 2.0)
    serve_blocked(is_blocked, ends_and_releases_its_slot)


@pytest.mark.usefixtures("short_patience")
def test_a_stream_that_is_not_read_ends_when_the_server_stops(memory_store: Store) -> None:
    async def stop(connection: Connection, task: asyncio.Task[None]) -> None:
        get_hub().close()
        await ends_and_releases_its_slot(connection, task)

    serve_blocked(is_event, stop)


def test_a_stream_that_is_read_slowly_ends_with_a_complete_response(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "LIFETIME_SECONDS", 2.0)

    async def read_after_its_lifetime(connection: Connection, task: asyncio.Task[None]) -> None:
        await asyncio.sleep(2.5)
        assert get_hub().slots.taken == 1
        connection.is_writable.set()
        await task
        assert is_end(connection.sent[-1])
        assert get_hub().slots.taken == 0

    serve_blocked(is_event, read_after_its_lifetime)


@pytest.mark.usefixtures("short_patience")
def test_a_task_may_go_on_after_its_stream_was_read_to_the_end(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "LIFETIME_SECONDS", 0.1)

    async def scenario() -> None:
        response = await AsyncClient().get("/progress/stream/?id=m1")
        async for _ in response.streaming_content:  # type: ignore[attr-defined]
            pass
        await asyncio.sleep(5 * deadline.STALLED_SECONDS)

    run(scenario)


def test_a_client_that_never_reads_occupies_no_slot_of_a_server(server: Server, tmp_path: Path) -> None:
    # It is also the time in which the stream must be counted, and the report be made.
    with serve(tmp_path, server.url, TEST_STREAM_LIFETIME="10") as site:
        idle = site.get("/counts/")
        attempt = begin(site.store)
        with socket.create_connection(site.url.removeprefix("http://").split(":")) as stalled:
            stalled.sendall(b"GET /progress/stream/?id=m1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            wait_until(lambda: site.get("/counts/")["streams"] == 1)
            report(site.store, attempt, 2, description=LARGE)
            wait_until(
                lambda: (
                    (now := site.get("/counts/"))["slots"] == now["streams"] == 0 and now["tasks"] <= idle["tasks"] + 1
                )
            )
            report(site.store, attempt, 3, description="")
            with open_stream_client(site.url, "m1") as other:
                wait_until(lambda: other.has_received("m1", 3))

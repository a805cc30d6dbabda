"""The event stream, with real servers: its events, its costs, its errors and its end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import reverse

from dramatiq_progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.web.streams import event_stream, hub
from tests import proxy
from tests.event_streams import may_continue, open_stream_client, run_within
from tests.store_server import Server
from tests.streaming_site import Site, begin, report, serve
from tests.waiting import BUSY_SECONDS, wait_until

# Most start a web server.
pytestmark = pytest.mark.slow(2)

#: The 5 s that docs/stream.md promises, on a busy machine.
SOON_SECONDS = 5 + BUSY_SECONDS


def subscriptions(server: Server) -> int:
    with server.client() as client:
        return len(client.client_list(_type="pubsub"))


# ---- Events ----


def test_a_stream_sends_the_current_state_and_then_changes(asgi_site: Site) -> None:
    attempt = begin(asgi_site.store)
    with open_stream_client(asgi_site.url, "m1", "gone", "m1") as stream:
        wait_until(lambda: len(stream.events) == 2)
        assert dict(stream.events)["unknown"] == {"unknown": ["gone"]}
        assert stream.last("m1").keys() == asgi_site.get("/progress/m1/").keys()
        report(asgi_site.store, attempt, 2)
        wait_until(lambda: stream.has_received("m1", 2))
        asgi_site.store.enqueue("gone", actor="work", queue="default", retries_left=0)
        wait_until(lambda: stream.last("gone"))
        assert stream.last("gone")["queue_position"] == 1
        asgi_site.store.finish(attempt, state=State.DONE, fields={"result": "[1]"})
        assert wait_until(lambda: stream.last("m1").get("result")) == [1]
        assert not [line for line in stream.lines if line.startswith("id")]


def test_a_heartbeat_is_not_an_event(asgi_site: Site) -> None:
    attempt = begin(asgi_site.store)
    with open_stream_client(asgi_site.url, "m1") as stream:
        wait_until(lambda: stream.events)
        asgi_site.store.report([(attempt, {})])
        report(asgi_site.store, attempt, 2)
        wait_until(lambda: stream.has_received("m1", 2))
        assert [each["progress"]["current"] for each in stream.messages] == [1, 2]


def test_a_stream_is_neither_buffered_nor_cached(server: Server, tmp_path: Path) -> None:
    middleware = json.dumps(["django.middleware.gzip.GZipMiddleware"])
    with serve(tmp_path, server.url, TEST_DJANGO_MIDDLEWARE=middleware) as asgi_site:
        attempt = begin(asgi_site.store)
        with open_stream_client(asgi_site.url, "m1", headers={"Accept-Encoding": "gzip"}) as stream:
            headers = stream.response.headers
            assert headers["Content-Type"] == "text/event-stream"
            assert headers["Content-Encoding"] == "identity"
            assert headers["X-Accel-Buffering"] == "no"
            assert headers["Cache-Control"] == "private, no-store, no-transform"
            report(asgi_site.store, attempt, 2)
            wait_until(lambda: stream.has_received("m1", 2))


def test_changes_without_a_write_are_sent(server: Server, tmp_path: Path) -> None:
    settings = json.dumps({"LOST_AFTER": 1.0, "HEARTBEAT_INTERVAL": 0.5})
    with serve(tmp_path, server.url, TEST_PROGRESS=settings) as asgi_site:
        asgi_site.store.enqueue("first", actor="work", queue="default", retries_left=0)
        asgi_site.store.enqueue("second", actor="work", queue="default", retries_left=0)
        with open_stream_client(asgi_site.url, "m1", "second") as stream:
            begin(asgi_site.store)
            wait_until(lambda: stream.last("second").get("queue_position") == 2)
            wait_until(lambda: stream.last("m1").get("state") == "lost")
            asgi_site.store.start(Attempt("first", "work", "default", 3))
            wait_until(lambda: stream.last("second").get("queue_position") == 1)


# ---- Costs ----


def test_many_streams_share_one_subscription(asgi_site: Site, server: Server) -> None:
    attempt = begin(asgi_site.store)
    with ExitStack() as stack:
        threads = [
            threading.Thread(
                target=lambda: opened.append(stack.enter_context(open_stream_client(asgi_site.url, "m1", "m2")))
            )
            for _ in range(30)
        ]
        opened: list[Any] = []
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        report(asgi_site.store, attempt, 2)
        wait_until(lambda: len(opened) == 30 and all(stream.has_received("m1", 2) for stream in opened))
        wait_until(lambda: subscriptions(server) == 1)
        assert asgi_site.get("/counts/")["watched"] == 2


def test_a_stream_holds_no_thread(server: Server, tmp_path: Path) -> None:
    ordinary = json.dumps(["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"])
    with serve(tmp_path, server.url, TEST_DJANGO_MIDDLEWARE=ordinary) as asgi_site, ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(open_stream_client(asgi_site.url, "m1"))
        wait_until(lambda: asgi_site.get("/counts/")["threads"] < 20)


def test_a_slow_client_gets_the_latest_state_and_no_backlog(asgi_site: Site) -> None:
    attempt = begin(asgi_site.store)
    with (
        socket.create_connection(asgi_site.url.removeprefix("http://").split(":")) as slow,
        open_stream_client(asgi_site.url, "m1") as other,
    ):
        slow.sendall(b"GET /progress/stream/?id=m1 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        wait_until(lambda: asgi_site.get("/counts/")["streams"] == 2)
        for current in range(2, 302):
            report(asgi_site.store, attempt, current, description="x" * 50_000)
        wait_until(lambda: other.has_received("m1", 301))
        asgi_site.store.finish(attempt, state=State.DONE)
        wait_until(lambda: other.last("m1")["complete"])
        slow.settimeout(30)
        events = bytearray()
        while b'"state": "done"' not in events[-100_000:]:
            events += slow.recv(1_000_000)
        assert events.count(b"data: ") < 200


def test_a_client_that_leaves_is_released_while_nothing_is_sent(asgi_site: Site) -> None:
    with open_stream_client(asgi_site.url, "m1") as stays:
        idle = asgi_site.get("/counts/")
        with open_stream_client(asgi_site.url, "m1", "m2") as leaves:
            wait_until(lambda: leaves.events)
            assert asgi_site.get("/counts/")["streams"] == 2
        left_at = time.monotonic()
        wait_until(lambda: (now := asgi_site.get("/counts/"))["streams"] == 1 and now["tasks"] <= idle["tasks"])
        assert time.monotonic() - left_at < SOON_SECONDS
        assert asgi_site.get("/counts/")["watched"] == 1
        assert not stays.has_ended()


# ---- The end, and outages ----


def test_a_stopping_server_ends_its_streams(asgi_site: Site) -> None:
    begin(asgi_site.store)
    with open_stream_client(asgi_site.url, "m1") as stream, open_stream_client(asgi_site.url, "gone") as other:
        stopped_at = time.monotonic()
        asgi_site.process.terminate()
        asgi_site.process.wait(30)
        assert time.monotonic() - stopped_at < SOON_SECONDS
        wait_until(lambda: stream.has_ended() and other.has_ended())
        assert "store_unavailable" not in dict(stream.events)


def test_an_outage_of_the_store_is_sent_and_streams_recover(asgi_site: Site, server: Server) -> None:
    begin(asgi_site.store)
    with open_stream_client(asgi_site.url, "m1") as stream:
        wait_until(lambda: stream.events)
        server.kill()
        wait_until(lambda: stream.events[-1][0] == "store_unavailable")
        assert stream.events[-1][1] == {"error": "store_unavailable"}
        server.start()  # empty
        wait_until(lambda: stream.events[-1] == ("unknown", {"unknown": ["m1"]}))
        attempt = begin(asgi_site.store)
        wait_until(lambda: stream.has_received("m1", 1) and stream.events[-1][0] == "message")
        wait_until(lambda: subscriptions(server) == 1)
        report(asgi_site.store, attempt, 2)
        wait_until(lambda: stream.has_received("m1", 2))


def longest_answer(asgi_site: Site) -> float:
    """Return the duration of the longest request of those within two seconds, in seconds.

    A stream tries an unavailable store once a second, so each measurement includes a try.
    """
    seconds = []
    until = time.monotonic() + 2
    while time.monotonic() < until:
        requested_at = time.monotonic()
        asgi_site.get("/counts/")
        seconds.append(time.monotonic() - requested_at)
    return max(seconds)


def test_a_silent_network_blocks_no_other_request(server: Server, tmp_path: Path) -> None:
    with (
        proxy.before(server.port) as between,
        serve(tmp_path, server.url, seen_as=f"redis://127.0.0.1:{between.port}/0") as asgi_site,
    ):
        attempt = begin(asgi_site.store)
        with open_stream_client(asgi_site.url, "m1") as stream:
            wait_until(lambda: stream.events)
            before = longest_answer(asgi_site)
            between.is_mute = True
            report(asgi_site.store, attempt, 2)
            wait_until(lambda: stream.events[-1][0] == "store_unavailable")
            # Again if it is late: it may be the machine that is busy. What blocks requests does so each time.
            wait_until(lambda: longest_answer(asgi_site) < 1 + 5 * before, timeout=30)
            between.is_mute = False
            wait_until(lambda: stream.has_received("m1", 2))
            report(asgi_site.store, attempt, 3)
            wait_until(lambda: stream.has_received("m1", 3))


def test_changes_without_a_subscription_are_read(asgi_site: Site, server: Server) -> None:
    attempt = begin(asgi_site.store)
    with open_stream_client(asgi_site.url, "m1") as stream:
        wait_until(lambda: stream.events and subscriptions(server) == 1)
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        asgi_site.store.finish(attempt, state=State.DONE)
        wait_until(lambda: stream.last("m1")["complete"])
        wait_until(lambda: subscriptions(server) == 1)


def test_without_the_permission_to_subscribe_streams_poll_the_store(server: Server, tmp_path: Path) -> None:
    server.ask("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels")
    url = server.url.replace("//", "//mute:pw@")
    with serve(tmp_path, url) as asgi_site:
        attempt = begin(asgi_site.store)
        with open_stream_client(asgi_site.url, "m1") as stream:
            report(asgi_site.store, attempt, 2)
            wait_until(lambda: stream.has_received("m1", 2))


# ---- Errors ----


def test_the_stream_has_a_url_of_its_own() -> None:
    assert reverse("dramatiq_progress:stream") == "/progress/stream/"


def test_a_stream_under_wsgi_is_a_501(memory_store: Store, client: Client) -> None:
    response = client.get("/progress/stream/?id=m1")
    assert (response.status_code, response["Content-Type"]) == (501, "application/json")
    assert response.json()["error"] == "not_implemented"
    assert "ASGI" in response.json()["detail"]


def test_a_stream_has_the_errors_of_the_list(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}

    async def ask(query: str) -> tuple[int, Any]:
        response = await AsyncClient().get(f"/progress/stream/?{query}")
        return response.status_code, response.json()

    assert asyncio.run(ask("id=m1")) == (503, {"error": "store_unavailable"})
    status, answer = asyncio.run(ask("id=a b"))
    assert (status, answer["error"]) == (400, "bad_request")


@pytest.mark.parametrize("method", ["head", "post"])
def test_a_stream_requires_get(memory_store: Store, method: str) -> None:
    response = asyncio.run(getattr(AsyncClient(), method)("/progress/stream/?id=m1"))
    assert (response.status_code, response["Allow"]) == (405, "GET")


def test_no_transaction_is_held_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any database: Django rejects other async views."""
    from dramatiq_progress import views

    atomic = connections.settings["default"] | {"ATOMIC_REQUESTS": True}
    for alias in ("default", "reports"):
        monkeypatch.setitem(connections.settings, alias, atomic)
    assert BaseHandler().make_view_atomic(views.stream) is views.stream


# ---- In this process ----


async def open_stream(*message_ids: str) -> AsyncIterator[bytes]:
    response = await AsyncClient().get("/progress/stream/", {"id": list(message_ids)})
    assert isinstance(response, StreamingHttpResponse)
    content = response.streaming_content
    assert isinstance(content, AsyncIterator)
    return content


run = partial(run_within, 30)


async def next_with(chunks: AsyncIterator[bytes], part: bytes) -> bytes:
    while part not in (chunk := await anext(chunks)):
        pass
    return chunk


def test_every_kind_of_store_can_be_streamed(store: Store) -> None:
    async def scenario() -> None:
        attempt = await asyncio.to_thread(begin, store)
        chunks = await open_stream("m1")
        assert (await anext(chunks)).startswith(b"retry: ")
        await next_with(chunks, b'"current": 1,')
        await asyncio.to_thread(report, store, attempt, 2)
        await next_with(chunks, b'"current": 2,')

    run(scenario)


def test_a_comment_is_sent_when_nothing_changes(memory_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.05)

    async def scenario() -> None:
        chunks = await open_stream("m1")
        # On a busy machine comments come before this too.
        await next_with(chunks, b"event: unknown")
        assert [await anext(chunks) for _ in range(2)] == [b":\n\n", b":\n\n"]

    run(scenario)


def test_an_eta_that_is_withdrawn_is_sent_without_a_write(
    memory_store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SWEEP_SECONDS", 0.05)

    async def scenario() -> None:
        report(memory_store, begin(memory_store), 2, rate="0.5")
        chunks = await open_stream("m1")
        assert b'"eta": null' not in await next_with(chunks, b'"current": 2,')
        settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "LOST_AFTER": 60, "HEARTBEAT_INTERVAL": 0.001}
        assert b'"state": "running"' in await next_with(chunks, b'"eta": null')

    run(scenario)


def test_a_stream_ends_after_a_random_lifetime(memory_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LIFETIME_SECONDS", 0.5)

    async def live() -> float:
        began_at = time.monotonic()
        async for _ in await open_stream("m1"):
            pass
        return time.monotonic() - began_at

    async def scenario() -> None:
        lives = await asyncio.gather(*[live() for _ in range(8)])
        assert all(0.4 <= seconds < 2 + BUSY_SECONDS for seconds in lives)
        # Not by these times: after a busy machine has stopped this process, all of them end at once.
        streams = [event_stream.EventStream(["m1"], read=lambda ids: {}, recheck=may_continue) for _ in range(8)]
        assert len({await anext(each) for each in streams}) > 1
        ends = [each._ends_at for each in streams]
        assert max(ends) - min(ends) > 0.01
        for each in streams:
            each.close()

    run(scenario)


def test_a_message_that_may_not_be_read_is_unknown(memory_store: Store) -> None:
    """A denied message sends no further event. A message that is created later is checked then."""
    may_know = {"m2"}

    async def scenario() -> None:
        attempt = begin(memory_store)
        chunks = event_stream.EventStream(
            ["m1", "m2"],
            read=lambda ids: {p.id: False for p in memory_store.read(ids) if p and p.id in may_know},
            recheck=may_continue,
        )
        await anext(chunks)
        first = await anext(chunks)
        assert first.count(b"event: unknown") == 2 and b'"state"' not in first
        report(memory_store, attempt, 2)
        begin(memory_store, "m2")
        second = await anext(chunks)
        assert b'"id": "m2"' in second and b"m1" not in second
        chunks.close()

    run(scenario)


def test_the_subscription_ends_some_time_after_the_last_stream(
    redis_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LINGER_SECONDS", 0.1)
    monkeypatch.setattr(hub, "SWEEP_SECONDS", 0.1)
    # An earlier test's may be about to end.
    earlier = threading.enumerate()

    def subscription_threads() -> list[threading.Thread]:
        threads = [each for each in threading.enumerate() if each not in earlier]
        return [each for each in threads if each.name == "dramatiq-progress-subscription"]

    async def scenario() -> None:
        response = await AsyncClient().get("/progress/stream/?id=m1")
        await anext(response.streaming_content)
        assert len(subscription_threads()) == 1
        await asyncio.to_thread(response.close)
        while subscription_threads():
            await asyncio.sleep(0.01)
        # The next stream subscribes again.
        response = await AsyncClient().get("/progress/stream/?id=m1")
        await anext(response.streaming_content)
        assert len(subscription_threads()) == 1
        await asyncio.to_thread(response.close)

    run(scenario)


def test_a_signal_ends_streams_and_calls_the_previous_handler(memory_store: Store) -> None:
    events: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: events.append(number))

    async def scenario() -> None:
        chunks = await open_stream("m1")
        await anext(chunks)
        signal.raise_signal(signal.SIGTERM)
        async for _ in chunks:
            pass
        assert [each async for each in await open_stream("m1")][1:] == []  # a new stream ends immediately

    try:
        run(scenario)
        assert events == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stream_that_starts_after_the_signal_ends_even_if_no_other_was_open(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LINGER_SECONDS", 0)
    monkeypatch.setattr(hub, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(event_stream, "LIFETIME_SECONDS", 0.1)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)

    async def scenario() -> None:
        assert [each async for each in await open_stream("m1")] != []
        signal.raise_signal(signal.SIGTERM)
        assert [each async for each in await open_stream("m1")] == []

    try:
        run(scenario)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_signal_handler_is_installed_outside_the_main_thread(memory_store: Store) -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    mine = signal.getsignal(signal.SIGTERM)

    async def scenario() -> None:
        await anext(await open_stream("m1"))

    try:
        thread = threading.Thread(target=run, args=[scenario])
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)

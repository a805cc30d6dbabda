"""The permission to stream, checked again while a stream is open, and the limits of streams."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory

from dramatiq_progress import Progress, links, progress_url
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.web import sessions
from dramatiq_progress.web.sessions import refreshed
from dramatiq_progress.web.streams import event_stream, hub
from dramatiq_progress.web.streams.limits import StreamSlots, TooManyStreams, client_of, network_of
from tests.event_streams import may_continue, run_within
from tests.people import People
from tests.streaming_site import begin, report

Reader = Callable[[AsyncIterator[bytes], str], Awaitable[None]]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def quick_rechecks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make streams check the permission again all the time, without a session cache."""
    monkeypatch.setattr(event_stream, "RECHECK_SECONDS", (0.02, 0.04))
    monkeypatch.setattr(sessions, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(sessions, "_cache", sessions._Cache())


@pytest.fixture
def read_until_checked(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Read a stream until its permission was checked again."""
    checks: list[int] = []
    attempts: dict[str, Attempt] = {}
    amounts = itertools.count(1)
    may_still_read = event_stream.may_still_read

    async def counting(*args: Any) -> bool:
        checks.append(1)
        return await may_still_read(*args)

    async def read(chunks: AsyncIterator[bytes], message_id: str) -> None:
        if message_id not in attempts:
            attempts[message_id] = Attempt(message_id, "work", "default")
            await asyncio.to_thread(get_store().start, attempts[message_id])
        before = len(checks)
        while len(checks) == before:
            assert await receives(chunks, attempts[message_id], next(amounts))

    monkeypatch.setattr(event_stream, "may_still_read", counting)
    return read


run = partial(run_within, 60)


def async_client_of(client: Client) -> AsyncClient:
    """Return an async client with the same cookies."""
    made = AsyncClient()
    made.cookies = client.cookies
    return made


async def open_stream(client: AsyncClient, path: str) -> AsyncIterator[bytes]:
    """Open a stream, and read it until the current state was sent."""
    response = await client.get(path)
    assert response.status_code == 200
    chunks: AsyncIterator[bytes] = response.streaming_content  # type: ignore[attr-defined]
    assert (await anext(chunks)).startswith(b"retry")
    assert b'"state"' in await anext(chunks)
    return chunks


async def has_ended(chunks: AsyncIterator[bytes]) -> bool:
    return not [each async for each in chunks if each != b":\n\n"]


async def receives(chunks: AsyncIterator[bytes], attempt: Attempt, current: int) -> bool:
    await asyncio.to_thread(report, get_store(), attempt, current)
    async for chunk in chunks:
        if f'"current": {current},'.encode() in chunk:
            return True
    return False


def log_out(people: People) -> None:
    people.clients["owner"].logout()


def change_password(people: People) -> None:
    people.users["owner"].set_password("new")
    people.users["owner"].save()


def deactivate(people: People) -> None:
    User.objects.filter(username="owner").update(is_active=False)


@pytest.mark.parametrize("end", [log_out, change_password, deactivate])
def test_a_stream_ends_with_the_session_of_its_user(
    people: People, end: Callable[[People], None], read_until_checked: Reader
) -> None:
    message_id = people.send("owner")
    client = async_client_of(people.clients["owner"])
    cookies = client.cookies.copy()

    async def scenario() -> None:
        chunks = await open_stream(client, f"/progress/stream/?id={message_id}")
        for _ in range(3):
            await read_until_checked(chunks, message_id)
        await asyncio.to_thread(end, people)
        assert await has_ended(chunks)

    run(scenario)
    client.cookies = cookies
    assert Client().get(f"/progress/{message_id}/").status_code == 404


def test_a_stream_ends_with_the_session_of_its_visitor(people: People) -> None:
    visitor = people.clients["anonymous"]
    request = RequestFactory().get("/")
    session = request.session = SessionStore()
    message_id = people.send(request)
    session.save()
    visitor.cookies["sessionid"] = session.session_key

    async def scenario() -> None:
        chunks = await open_stream(async_client_of(visitor), f"/progress/stream/?id={message_id}")
        await asyncio.to_thread(session.flush)
        assert await has_ended(chunks)

    run(scenario)


def test_a_stream_ends_with_its_link(
    people: People, monkeypatch: pytest.MonkeyPatch, read_until_checked: Reader
) -> None:
    # A clock that the test advances: on a busy machine, a link might end before its stream is open.
    clock = [time.time()]
    monkeypatch.setattr(links, "time", SimpleNamespace(time=lambda: clock[0]))
    message_id = people.send("owner")
    query = progress_url(message_id, signed_for=3).partition("?")[2]

    async def scenario() -> None:
        chunks = await open_stream(AsyncClient(), f"/progress/stream/?id={message_id}&{query}")
        for _ in range(3):
            await read_until_checked(chunks, message_id)
        # Whole seconds are signed.
        clock[0] += 4
        assert await has_ended(chunks)

    run(scenario)


def test_a_stream_ends_if_its_session_cannot_be_read(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = people.send("owner")

    async def scenario() -> None:
        chunks = await open_stream(async_client_of(people.clients["owner"]), f"/progress/stream/?id={message_id}")
        with monkeypatch.context() as broken:
            broken.setattr(SessionStore, "load", lambda self: 1 / 0)
            assert await has_ended(chunks)

    run(scenario)
    assert "Could not check again who may read a stream" in caplog.text


async def of_another(request: HttpRequest, progress: Progress) -> bool:
    user = await request.auser()
    return user.get_username() == "another"


def test_an_async_permission_is_checked_again(people: People, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "PERMISSION": of_another}
    message_id = people.send()

    async def scenario() -> None:
        chunks = await open_stream(async_client_of(people.clients["another"]), f"/progress/stream/?id={message_id}")
        await asyncio.to_thread(people.clients["another"].logout)
        assert await has_ended(chunks)

    run(scenario)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the sessions that were read."""
    keys: list[str] = []
    load = SessionStore.load

    def loading(self: SessionStore) -> dict[str, Any]:
        keys.append(str(self.session_key))
        return load(self)

    monkeypatch.setattr(SessionStore, "load", loading)
    return keys


def test_streams_of_one_session_share_a_lookup(
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    lookups: list[str],
    read_until_checked: Reader,
) -> None:
    monkeypatch.setattr(sessions, "CACHE_SECONDS", 60.0)
    sent = [people.send("owner") for _ in range(5)]

    async def scenario() -> None:
        client = async_client_of(people.clients["owner"])
        opened = [await open_stream(client, f"/progress/stream/?id={each}") for each in sent]
        for chunks, message_id in zip(opened, sent, strict=True):
            await read_until_checked(chunks, message_id)

    run(scenario)
    # One for each request, and one for all streams that were checked again.
    assert len(lookups) == len(sent) + 1


def test_a_message_without_an_owner_is_not_checked_again(
    people: People, lookups: list[str], read_until_checked: Reader
) -> None:
    message_id = people.send()

    async def scenario() -> None:
        chunks = await open_stream(async_client_of(people.clients["owner"]), f"/progress/stream/?id={message_id}")
        for _ in range(3):
            await read_until_checked(chunks, message_id)

    run(scenario)
    assert lookups == []


def test_a_stream_ends_if_a_new_message_cannot_be_checked(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client reconnects, and gets the error of a stream that starts."""
    # The next check of all messages, which would fail too, isn't due yet.
    monkeypatch.setattr(event_stream, "RECHECK_SECONDS", (60.0, 60.0))

    async def scenario() -> None:
        chunks = await open_stream(
            async_client_of(people.clients["owner"]), f"/progress/stream/?id={people.send()}&id=new"
        )
        with monkeypatch.context() as broken:
            broken.setattr("dramatiq_progress.permissions.linked_ids", lambda request: 1 / 0)
            await asyncio.to_thread(get_store().start, Attempt("new", "work", "default"))
            assert await has_ended(chunks)

    run(scenario)
    assert "Could not check who may read a new message" in caplog.text


def test_a_slow_permission_delays_only_its_own_stream(people: People, settings: Any) -> None:
    is_slow, may_return = threading.Event(), threading.Event()

    def slow(request: HttpRequest, progress: Progress) -> bool:
        if "slow" in request.GET and progress.id == "new":
            is_slow.set()
            may_return.wait(30)
        return True

    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "PERMISSION": slow}
    message_id = people.send()

    async def slow_stream() -> None:
        # Django's ASGI handler gives each request such a context, and so its own thread.
        async with ThreadSensitiveContext():
            chunks = await open_stream(AsyncClient(), f"/progress/stream/?id={message_id}&id=new&slow=1")
            await asyncio.to_thread(get_store().start, Attempt("new", "work", "default"))
            # An event of before, that it is unknown, may come first.
            while b'"id": "new"' not in await anext(chunks):
                pass

    async def scenario() -> None:
        waiting = asyncio.ensure_future(slow_stream())
        async with ThreadSensitiveContext():
            other = await open_stream(AsyncClient(), f"/progress/stream/?id={message_id}")
            await asyncio.to_thread(is_slow.wait, 30)
            attempt = Attempt(message_id, "work", "default")
            await asyncio.to_thread(get_store().start, attempt)
            for current in range(5):
                assert await receives(other, attempt, current)
                await asyncio.sleep(event_stream.RECHECK_SECONDS[1])
        assert not waiting.done()
        may_return.set()
        await waiting

    run(scenario)


# ---- No difference between a message that may not be read and none ----


@pytest.mark.parametrize(("exists", "checks"), [("always", 2), ("later", 1), ("never", 0)])
def test_a_message_that_may_not_be_read_sends_the_events_of_one_that_does_not_exist(
    memory_store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch, exists: str, checks: int
) -> None:
    checked: list[str] = []

    def only_mine(request: HttpRequest, progress: Progress) -> bool:
        checked.append(progress.id)
        return progress.id == "mine"

    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "PERMISSION": only_mine}
    monkeypatch.setattr(hub, "FALLBACK_SWEEP_SECONDS", 0.05)
    mine, other = begin(memory_store, "mine"), Attempt("other", "work", "default")
    unknown, unavailable = (b'event: unknown\ndata: {"unknown": ["other"]}', event_stream.STORE_UNAVAILABLE.strip())
    read_each, failures = memory_store.read_each, iter([StoreUnavailable("away")])

    def failing(message_ids: Sequence[str]) -> Any:
        if failure := next(failures, None):
            raise failure
        return read_each(message_ids)

    async def events_until(chunks: AsyncIterator[bytes], current: int) -> list[bytes]:
        """Return the events that aren't about "mine", until that has got to this number."""
        events: list[bytes] = []
        while not any(f'"current": {current},'.encode() in each for each in events):
            events += (await anext(chunks)).removesuffix(b"\n\n").split(b"\n\n")
        return [each for each in events if b'"id": "mine"' not in each and each != b":"]

    async def scenario() -> None:
        if exists == "always":
            memory_store.start(other)
        response = await AsyncClient().get("/progress/stream/?id=other&id=mine")
        chunks: AsyncIterator[bytes] = response.streaming_content  # type: ignore[attr-defined]
        assert (await anext(chunks)).startswith(b"retry")
        assert await events_until(chunks, 1) == [unknown]
        if exists == "later":
            memory_store.start(other)
        if exists != "never":
            report(memory_store, other, 7)
        report(memory_store, mine, 2)
        assert await events_until(chunks, 2) == []
        monkeypatch.setattr(memory_store, "read_each", failing)
        report(memory_store, mine, 3)
        assert await events_until(chunks, 3) == [unavailable]
        if exists != "never":
            report(memory_store, other, 8)
        report(memory_store, mine, 4)
        assert await events_until(chunks, 4) == []

    run(scenario)
    # When the stream starts, and when its message is first found: not at each change.
    assert checked.count("other") == checks


# ---- A refreshed request ----


def test_a_user_from_a_header_is_read_again(people: People) -> None:
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    assert refreshed(request).user == people.users["owner"]
    deactivate(people)
    assert refreshed(request).user.is_anonymous
    people.users["owner"].delete()
    assert refreshed(request).user.is_anonymous


def test_users_from_a_header_are_not_confused_by_a_shared_session(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CACHE_SECONDS", 60.0)
    session = SessionStore()
    session["a"] = 1
    session.save()
    for name, user in people.users.items():
        request = RequestFactory().get("/")
        request.session, request.user = SessionStore(session.session_key), user
        assert refreshed(request).user == user, name
    of_session = people.clients["owner"].session
    for user in (people.users["owner"], AnonymousUser()):
        request = RequestFactory().get("/")
        request.session, request.user = SessionStore(of_session.session_key), user
        assert refreshed(request).user == user


def test_a_request_without_session_and_user_is_copied_unchanged(people: People) -> None:
    request = RequestFactory().get("/?a=1")
    again = refreshed(request)
    assert again is not request and again.GET == request.GET and not hasattr(again, "user")


# ---- Limits ----


class ClientAt(AsyncClient):
    """A client with this address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def _base_scope(self, **request: Any) -> dict[str, Any]:
        return {**super()._base_scope(**request), "client": [self.address, 1]}


def test_streams_are_limited_per_process_and_per_client(
    memory_store: Store, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "MAX_STREAMS": 3, "MAX_STREAMS_PER_CLIENT": 2}
    caplog.set_level(logging.WARNING)

    async def get(address: str) -> Any:
        return await ClientAt(address).get("/progress/stream/?id=m1")

    async def scenario() -> None:
        first, second = await get("192.0.2.1"), await get("192.0.2.1")
        refused = await get("192.0.2.1")
        assert (refused.status_code, refused.json()) == (429, {"error": "too_many_streams"})
        assert int(refused["Retry-After"]) > 0
        third = await get("192.0.2.2")
        full = await get("192.0.2.3")
        assert (full.status_code, full.json()) == (503, {"error": "too_many_streams"})
        assert int(full["Retry-After"]) > 0 and full["Cache-Control"] == "private, no-store"
        # The first stream was never read, the second was read, and the third is never closed.
        await anext(second.streaming_content)
        for each in (first, second):
            await asyncio.to_thread(each.close)
        del third, each
        gc.collect()
        again = [await get(address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.4")]
        assert [each.status_code for each in again] == [200] * 3
        assert (await get("192.0.2.4")).status_code == 503

    run(scenario)
    # One line for each limit.
    assert len([each for each in caplog.records if "MAX_STREAMS" in each.message]) == 2


def test_a_slot_is_released_if_the_stream_cannot_start(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}, "MAX_STREAMS": 1}

    async def scenario() -> None:
        for _ in range(3):
            answer = await AsyncClient().get("/progress/stream/?id=m1")
            assert answer.json() == {"error": "store_unavailable"}

    run(scenario)


class Holder:
    """A holder of a stream slot."""


def test_a_limit_of_zero_is_no_limit(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 0, "MAX_STREAMS_PER_CLIENT": 0}
    slots, holders = StreamSlots(), [Holder() for _ in range(200)]
    for holder in holders:
        slots.take(holder, "a")
    assert slots.taken == 200


def test_clients_without_an_address_have_the_total_limit_only(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 3, "MAX_STREAMS_PER_CLIENT": 1}
    slots, holders = StreamSlots(), [Holder() for _ in range(4)]
    for holder in holders[:3]:
        slots.take(holder, "")
    with pytest.raises(TooManyStreams):
        slots.take(holders[3], "")


def test_a_slot_is_released_exactly_once(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 2, "MAX_STREAMS_PER_CLIENT": 2}
    slots, first, second = StreamSlots(), Holder(), Holder()
    release = slots.take(first, "a")
    slots.take(second, "a")
    for _ in range(2):
        release()
    del first
    gc.collect()
    assert slots.taken == 1
    slots.take(third := Holder(), "a")
    with pytest.raises(TooManyStreams):
        slots.take(Holder(), "a")
    del second, third
    gc.collect()
    assert slots.taken == 0


def test_a_slot_can_be_released_while_another_is_taken(settings: Any) -> None:
    """Garbage collection runs finalizers at any line of any thread, also in the middle of `take`."""
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 0, "MAX_STREAMS_PER_CLIENT": 0}
    slots = StreamSlots()
    is_done = threading.Event()

    def drop_in_cycles() -> None:
        while not is_done.is_set():
            gc.collect()

    thread = threading.Thread(target=drop_in_cycles)
    thread.start()
    try:
        for number in range(2_000):
            holder = Holder()
            holder.itself = holder  # type: ignore[attr-defined]
            slots.take(holder, f"client {number % 7}")
    finally:
        is_done.set()
        thread.join()
    del holder
    gc.collect()
    assert slots.taken == 0
    slots.take(last := Holder(), "a")
    assert slots._taken_by == {"a": 1} and last


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1:4711", "192.0.2.1:4712", True),
        ("192.0.2.1:4711", "192.0.2.2:4711", False),
        ("[2001:db8::1]:4711", "2001:db8::2", True),
        ("[2001:db8::1]", "[2001:db8:0:1::1]", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("no address\x1b[2J", "no address", False),
    ],
)
def test_an_ipv4_address_or_an_ipv6_network_is_a_client(one: str, other: str, are_one: bool) -> None:
    assert (network_of(one) == network_of(other)) is are_one


FORWARDED = "198.51.100.66, 192.0.2.1, 10.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        (0, FORWARDED, "203.0.113.9"),
        (1, FORWARDED, "10.0.0.1"),
        (2, FORWARDED, "192.0.2.1"),
        (2, "192.0.2.1,10.0.0.1", "192.0.2.1"),
        (2, "192.0.2.1:4711, 10.0.0.1:80", "192.0.2.1"),
        (2, "10.0.0.1", "203.0.113.9"),
        (1, "", "203.0.113.9"),
        (1, None, "203.0.113.9"),
    ],
)
def test_the_address_of_a_client_is_what_the_first_trusted_proxy_has_appended(
    settings: Any, proxies: int, forwarded: str | None, client: str
) -> None:
    settings.DRAMATIQ_PROGRESS = {"TRUSTED_PROXIES": proxies}
    headers = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}
    assert client_of(RequestFactory(REMOTE_ADDR="203.0.113.9").get("/", **headers)) == client


def test_streams_behind_a_unix_socket_are_limited_per_client_if_its_proxy_is_trusted(
    memory_store: Store, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {**settings.DRAMATIQ_PROGRESS, "MAX_STREAMS_PER_CLIENT": 1}
    kept = []

    async def statuses(*addresses: str) -> list[int]:
        answers = [
            await ClientAt("").get("/progress/stream/?id=m1", headers={"X-Forwarded-For": f"192.0.2.66, {each}"})
            for each in addresses
        ]
        kept.extend(answers)
        return [each.status_code for each in answers]

    async def scenario() -> None:
        settings.DRAMATIQ_PROGRESS = limits
        assert await statuses("192.0.2.1", "192.0.2.1") == [200, 200]
        [record] = [each for each in caplog.records if "TRUSTED_PROXIES" in each.message]
        assert "addresses of clients are unknown" in record.message
        settings.DRAMATIQ_PROGRESS = {**limits, "TRUSTED_PROXIES": 1}
        assert await statuses("192.0.2.1", "192.0.2.1", "192.0.2.2") == [200, 429, 200]

    run(scenario)


# ---- A fork ----


def in_child(act: Callable[[], object]) -> int:
    """Run a function in a forked child, and return its exit status: 0 for success, SIGALRM if it takes too long."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)
    status = 1
    try:
        act()
        status = 0
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_inherits_no_lock_of_the_session_cache() -> None:
    is_held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with sessions._cache._lock:
            is_held.set()
            may_release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(30)
    try:
        assert in_child(lambda: sessions._cache.get((SessionStore, "key"), lambda: ("session", None))) == 0
    finally:
        may_release.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_has_stream_slots_of_its_own(memory_store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "MAX_STREAMS": 1}

    def create() -> event_stream.EventStream:
        return event_stream.EventStream(["m1"], read=lambda ids: dict.fromkeys(ids, False), recheck=may_continue)

    async def in_parent() -> None:
        stream = create()
        await anext(stream)
        with pytest.raises(TooManyStreams):
            create()
        # In a thread: the child can't run an event loop inside this one.
        assert await asyncio.to_thread(in_child, lambda: run(stream_in_child)) == 0
        stream.close()

    async def stream_in_child() -> None:
        stream = create()
        assert (await anext(stream)).startswith(b"retry")
        assert (await anext(stream)).startswith(b"event: unknown")
        stream.close()

    run(in_parent)

"""Who may stream, while a stream is open too, and how many streams there may be."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory

from dramatiq_progress import Progress, places, progress_url, requests, streams, views
from dramatiq_progress.places import Place, TooManyStreams, client_of
from dramatiq_progress.requests import refreshed
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.base import Attempt
from tests.event_streams import run_within
from tests.people import People
from tests.streaming_site import report

Reader = Callable[[AsyncIterator[bytes], str], Awaitable[None]]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams ask again all the time, and look at the session each time."""
    monkeypatch.setattr(streams, "ASK_AGAIN_SECONDS", (0.02, 0.04))
    monkeypatch.setattr(requests, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(requests, "_askers", requests._Askers())
    monkeypatch.setattr(places, "_places", places._Places())


@pytest.fixture
def read_until_asked(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Reads a stream, which says all there is to say, until it has been asked whether it may go on."""
    asked: list[int] = []
    goes_on = views._goes_on

    async def counting(*args: Any) -> bool:
        asked.append(1)
        return await goes_on(*args)

    async def read(pieces: AsyncIterator[bytes], message_id: str) -> None:
        attempt = Attempt(message_id, "work", "default")
        await asyncio.to_thread(get_store().start, attempt)
        before, current = len(asked), 0
        while len(asked) == before:
            current += 1
            assert await is_told_of(pieces, attempt, current)

    monkeypatch.setattr(views, "_goes_on", counting)
    return read


run = partial(run_within, 60)


def beside(client: Client) -> AsyncClient:
    """An async client with the same cookies."""
    made = AsyncClient()
    made.cookies = client.cookies
    return made


async def open_stream(client: AsyncClient, path: str) -> AsyncIterator[bytes]:
    """A stream that has said what is."""
    response = await client.get(path)
    assert response.status_code == 200
    pieces: AsyncIterator[bytes] = response.streaming_content  # type: ignore[attr-defined]
    assert (await anext(pieces)).startswith(b"retry")
    assert b'"state"' in await anext(pieces)
    return pieces


async def has_ended(pieces: AsyncIterator[bytes]) -> bool:
    return not [each async for each in pieces if each != b":\n\n"]


async def is_told_of(pieces: AsyncIterator[bytes], attempt: Attempt, current: int) -> bool:
    await asyncio.to_thread(report, get_store(), attempt, current)
    async for piece in pieces:
        if f'"current": {current},'.encode() in piece:
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
    people: People, end: Callable[[People], None], read_until_asked: Reader
) -> None:
    message_id = people.send("owner")
    client = beside(people.clients["owner"])
    cookies = client.cookies.copy()

    async def scenario() -> None:
        pieces = await open_stream(client, f"/progress/stream/?id={message_id}")
        for _ in range(3):
            await read_until_asked(pieces, message_id)
        await asyncio.to_thread(end, people)
        assert await has_ended(pieces)

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
        pieces = await open_stream(beside(visitor), f"/progress/stream/?id={message_id}")
        await asyncio.to_thread(session.flush)
        assert await has_ended(pieces)

    run(scenario)


def test_a_stream_ends_with_its_link(people: People) -> None:
    message_id = people.send("owner")
    query = progress_url(message_id, signed_for=1).partition("?")[2]

    async def scenario() -> None:
        began_at = time.monotonic()
        pieces = await open_stream(AsyncClient(), f"/progress/stream/?id={message_id}&{query}")
        assert await has_ended(pieces)
        assert time.monotonic() - began_at > 0.5

    run(scenario)


def test_a_stream_ends_where_nobody_can_say_who_asks(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = people.send("owner")

    async def scenario() -> None:
        pieces = await open_stream(beside(people.clients["owner"]), f"/progress/stream/?id={message_id}")
        with monkeypatch.context() as broken:
            broken.setattr(SessionStore, "load", lambda self: 1 / 0)
            assert await has_ended(pieces)

    run(scenario)
    assert "Whether a stream may go on" in caplog.text


async def of_another(request: HttpRequest, progress: Progress) -> bool:
    user = await request.auser()
    return user.get_username() == "another"


def test_an_async_permission_is_asked_again(people: People, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "PERMISSION": of_another}
    message_id = people.send()

    async def scenario() -> None:
        pieces = await open_stream(beside(people.clients["another"]), f"/progress/stream/?id={message_id}")
        await asyncio.to_thread(people.clients["another"].logout)
        assert await has_ended(pieces)

    run(scenario)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the sessions that were read."""
    seen: list[str] = []
    load = SessionStore.load

    def loading(self: SessionStore) -> dict[str, Any]:
        seen.append(str(self.session_key))
        return load(self)

    monkeypatch.setattr(SessionStore, "load", loading)
    return seen


def test_streams_of_one_session_look_at_it_once_for_all(
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[str],
    read_until_asked: Reader,
) -> None:
    monkeypatch.setattr(requests, "FRESH_SECONDS", 60.0)
    sent = [people.send("owner") for _ in range(5)]

    async def scenario() -> None:
        client = beside(people.clients["owner"])
        opened = [await open_stream(client, f"/progress/stream/?id={each}") for each in sent]
        for pieces, message_id in zip(opened, sent, strict=True):
            await read_until_asked(pieces, message_id)

    run(scenario)
    # One for each request that began, and one for all that were asked again.
    assert len(looks) == len(sent) + 1


def test_a_message_of_nobody_is_asked_about_once(people: People, looks: list[str], read_until_asked: Reader) -> None:
    message_id = people.send()

    async def scenario() -> None:
        pieces = await open_stream(beside(people.clients["owner"]), f"/progress/stream/?id={message_id}")
        for _ in range(3):
            await read_until_asked(pieces, message_id)

    run(scenario)
    assert looks == []


# ---- A request, looked at again ----


def test_a_user_who_came_by_a_header_is_read_again(people: People) -> None:
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    assert refreshed(request).user == people.users["owner"]
    deactivate(people)
    assert refreshed(request).user.is_anonymous
    people.users["owner"].delete()
    assert refreshed(request).user.is_anonymous


def test_users_who_came_by_a_header_are_not_mixed_up_by_a_session_that_they_share(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "FRESH_SECONDS", 60.0)
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


def test_a_request_without_anybody_stays_as_it_is(people: People) -> None:
    request = RequestFactory().get("/?a=1")
    again = refreshed(request)
    assert again is not request and again.GET == request.GET and not hasattr(again, "user")


# ---- How many ----


class ClientAt(AsyncClient):
    """A client at this address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def _base_scope(self, **request: Any) -> dict[str, Any]:
        return {**super()._base_scope(**request), "client": [self.address, 1]}


def test_a_process_has_so_many_streams_and_a_client_so_many_of_them(
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
        # One that was never begun, one that was, and one that nobody closed.
        await anext(second.streaming_content)
        for each in (first, second):
            await asyncio.to_thread(each.close)
        del third, each
        gc.collect()
        again = [await get(address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.4")]
        assert [each.status_code for each in again] == [200] * 3
        assert (await get("192.0.2.4")).status_code == 503

    run(scenario)
    assert len([each for each in caplog.records if "MAX_STREAMS" in each.message]) == 1


def test_a_place_is_free_again_when_the_stream_could_not_begin(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}, "MAX_STREAMS": 1}

    async def scenario() -> None:
        for _ in range(3):
            answer = await AsyncClient().get("/progress/stream/?id=m1")
            assert answer.json() == {"error": "store_unavailable"}

    run(scenario)


def test_no_limit_is_a_limit_too(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 0, "MAX_STREAMS_PER_CLIENT": 0}
    assert len([Place("a") for _ in range(200)]) == 200


def test_who_has_no_address_is_limited_with_all_others_only(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"MAX_STREAMS": 3, "MAX_STREAMS_PER_CLIENT": 1}
    taken = [Place("") for _ in range(3)]
    with pytest.raises(TooManyStreams):
        Place("")
    taken.pop()
    assert Place("a")


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("no address\x1b[2J", "no address", False),
    ],
)
def test_an_address_is_a_client(one: str, other: str, are_one: bool) -> None:
    assert (client_of(one) == client_of(other)) is are_one

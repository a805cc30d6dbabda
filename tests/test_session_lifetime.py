"""Polls, streams and cancels don't save the session: a page with a bar must not keep its user signed in for ever."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils import timezone

from dramatiq_progress.web import sessions
from dramatiq_progress.web.streams import event_stream
from tests.event_streams import run_within
from tests.people import MIDDLEWARE, People
from tests.servers import ROOT

DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PATHS = ("/progress/{}/", "/progress/{}/?can_cancel", "/progress/?id={}&id=other", "/progress/mine/", "/progress/none/")


def page(request: HttpRequest) -> HttpResponse:
    """Another page of the site."""
    return HttpResponse("")


urlpatterns = [path("progress/", include("dramatiq_progress.urls")), path("page/", page)]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]


@pytest.fixture(params=["with OwnerMiddleware", "without"])
def site(request: pytest.FixtureRequest, people: People, settings: Any) -> People:
    if request.param == "without":
        settings.MIDDLEWARE = MIDDLEWARE[:-1]
    return people


@pytest.fixture
def saved_by_every_request(settings: Any) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True


def age_session(client: Client) -> Any:
    """Set the end of a session to an hour from now, and return it. A save would set it to two weeks from now."""
    end = timezone.now() + timedelta(hours=1)
    assert Session.objects.filter(pk=client.cookies["sessionid"].value).update(expire_date=end) == 1
    return end


def end_of(client: Client) -> Any:
    return Session.objects.get(pk=client.cookies["sessionid"].value).expire_date


def poll(client: Client, message_id: str) -> None:
    for each in PATHS:
        response = client.get(each.format(message_id))
        again = client.get(each.format(message_id), headers={"If-None-Match": response.headers.get("ETag", "")})
        assert not response.cookies and not again.cookies


async def poll_async(client: AsyncClient, message_id: str) -> None:
    for each in PATHS:
        response = await client.get(each.format(message_id))
        assert not response.cookies


async def stream(client: AsyncClient, message_id: str) -> None:
    """Read a stream until its permission was checked again, by the session."""
    # Before it begins: on a busy machine it may be checked again before the first state is read.
    before = len(sessions._cache._entries)
    response = await client.get(f"/progress/stream/?id={message_id}")
    assert len(sessions._cache._entries) == before
    assert response.status_code == 200 and not response.cookies
    chunks: Any = response.streaming_content  # type: ignore[attr-defined]
    # Comments may come first.
    while b'"state"' not in await anext(chunks):
        pass
    while len(sessions._cache._entries) == before:
        await anext(chunks)
    await asyncio.to_thread(response.close)


@pytest.fixture
def quick_rechecks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "RECHECK_SECONDS", (0.02, 0.04))
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.02)
    monkeypatch.setattr(sessions, "_cache", sessions._Cache())


def read_by_every_view(client: Client, message_id: str) -> None:
    """Read the progress of a message with the session of this client, by polls and a stream."""
    asynchronous = AsyncClient()
    asynchronous.cookies = client.cookies
    poll(client, message_id)

    async def scenario() -> None:
        await poll_async(asynchronous, message_id)
        await stream(asynchronous, message_id)

    run_within(60, scenario)


@pytest.mark.usefixtures("quick_rechecks")
def test_no_view_saves_the_session(site: People) -> None:
    client = site.clients["owner"]
    message_id = site.send("owner")
    end = age_session(client)
    read_by_every_view(client, message_id)
    assert client.post(f"/progress/{message_id}/cancel/").status_code == 200
    assert end_of(client) == end


# ---- With SESSION_SAVE_EVERY_REQUEST, Django saves the session ----


@pytest.mark.usefixtures("saved_by_every_request", "quick_rechecks")
def test_a_stream_renews_the_session_only_when_it_is_opened(people: People) -> None:
    message_id = people.send("owner")
    client = AsyncClient()
    client.cookies = people.clients["owner"].cookies

    async def scenario() -> None:
        response = await client.get(f"/progress/stream/?id={message_id}")
        end = await asyncio.to_thread(age_session, people.clients["owner"])
        chunks: Any = response.streaming_content  # type: ignore[attr-defined]
        before = len(sessions._cache._entries)
        while len(sessions._cache._entries) == before:
            await anext(chunks)
        assert await asyncio.to_thread(end_of, people.clients["owner"]) == end
        await asyncio.to_thread(response.close)

    run_within(60, scenario)


@pytest.fixture
def documented_middleware(people: People, settings: Any) -> Iterator[None]:
    """The middleware of docs/security.md."""
    [code] = [each for each in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "SessionMiddleware" in each]
    module = types.ModuleType("shop_sessions")
    exec(code, module.__dict__)  # noqa: S102 - our own
    sys.modules["shop_sessions"] = module
    settings.MIDDLEWARE = ["shop_sessions.SessionsOfPages", *MIDDLEWARE[1:]]
    yield
    del sys.modules["shop_sessions"]


@pytest.mark.usefixtures("saved_by_every_request", "documented_middleware", "quick_rechecks")
def test_the_documented_middleware_keeps_bars_from_renewing_the_session(people: People) -> None:
    client = people.clients["owner"]
    message_id = people.send("owner")
    end = age_session(client)
    read_by_every_view(client, message_id)
    assert end_of(client) == end
    client.get("/page/")
    assert end_of(client) > end
    # An unknown path has no view.
    age_session(client)
    client.get("/nothing/")
    assert end_of(client) > end

"""Every URL of the package with every method and every user: the status, and whether the response reveals a message.

A URL without a row fails. A new URL needs a row and no other test.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.test import AsyncClient
from django.urls import reverse

from dramatiq_progress import State, get_progress, urls
from tests.people import NAMES, People

METHODS = ("GET", "HEAD", "OPTIONS", "POST")
EVERYBODY = set(NAMES)
OWNER_AND_STAFF = {"owner", "staff"}


@dataclass(frozen=True)
class Row:
    """The responses of a URL about a message of `owner`.

    Attributes:
      of_message: Whether the message's id is in the path, and not in the query.
      allowed: The status for users who may see the message, and for the others, by method. Every other method is a 405.
      visible_to: The users who may see the message.
    """

    of_message: bool
    allowed: dict[str, tuple[int, int]]
    visible_to: set[str] = field(default_factory=lambda: OWNER_AND_STAFF)


ROWS = {
    "list": Row(of_message=False, allowed={"GET": (200, 200), "HEAD": (200, 200)}),
    "stream": Row(of_message=False, allowed={"GET": (200, 200)}),
    "mine": Row(of_message=False, allowed={"GET": (200, 200), "HEAD": (200, 200)}, visible_to={"owner"}),
    "detail": Row(of_message=True, allowed={"GET": (200, 404), "HEAD": (200, 404)}),
    "cancel": Row(of_message=True, allowed={"POST": (200, 404)}),
}


def test_every_url_has_a_row() -> None:
    assert {each.name for each in urls.urlpatterns} == set(ROWS)


@pytest.mark.parametrize("name", sorted(EVERYBODY))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("url", sorted({*ROWS, *(str(each.name) for each in urls.urlpatterns)}))
@pytest.mark.django_db(transaction=True)
def test_a_url_reveals_nothing_to_others(people: People, url: str, method: str, name: str) -> None:
    row = ROWS[url]
    message_id = people.send("owner")
    address = reverse(f"dramatiq_progress:{url}", args=[message_id] if row.of_message else [])
    if not row.of_message:
        address += f"?id={message_id}"
    status, body, headers = asyncio.run(request(people, name, method, address))

    is_visible = method in row.allowed and name in row.visible_to
    expected = row.allowed.get(method, (405, 405))
    assert status == expected[0 if is_visible else 1]
    # A response that doesn't contain the state must not reveal that the message exists.
    assert (b'"state"' in body) == (is_visible and method != "HEAD")
    assert "Access-Control-Allow-Origin" not in headers
    if status != 405:
        assert headers["Cache-Control"].startswith("private, no-store")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
    if not is_visible or method != "POST":
        progress = get_progress(message_id)
        assert progress is not None and progress.state is State.ENQUEUED


async def request(people: People, name: str, method: str, path: str) -> tuple[int, bytes, Any]:
    client = AsyncClient()
    client.cookies = people.clients[name].cookies
    response = await getattr(client, method.lower())(path, headers={"Origin": "https://elsewhere.example"})
    if not response.streaming:
        return response.status_code, response.content, response.headers
    chunks = response.streaming_content
    async with asyncio.timeout(30):
        body = await anext(chunks) + await anext(chunks)
    await asyncio.to_thread(response.close)
    return response.status_code, body, response.headers

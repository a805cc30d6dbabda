"""Cancelling over HTTP: who may, what is answered, and what a page is told of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.urls import reverse
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, acancel, cancel, get_progress, progress_actor, progress_url
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.base import Attempt
from tests.people import NAMES, People
from tests.test_permissions import everything_of, use

ANYONE = "dramatiq_progress.permissions.anyone_with_link"


def path(message_id: str) -> str:
    return reverse("dramatiq_progress:cancel", args=[message_id])


def state_of(message_id: str) -> State | None:
    progress = get_progress(message_id)
    return progress and progress.state


def run(store: Store, message_id: str) -> Attempt:
    attempt = Attempt(message_id, "work", "default")
    assert store.start(attempt).verdict == "run"
    return attempt


@pytest.mark.parametrize("sender", ["owner", None])
@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_cancelled_by_its_owner_and_by_staff(people: People, sender: str | None, name: str) -> None:
    message_id = people.send(sender)
    response = people.clients[name].post(path(message_id))
    if name in {"owner": {"owner", "staff"}, None: {"staff"}}[sender]:
        answer = response.json()
        assert (response.status_code, answer["id"], answer["state"]) == (200, message_id, "cancelled")
        assert (answer["cancel_requested"], answer["can_cancel"]) == (True, False)
        assert (state_of(message_id), response["Cache-Control"]) == (State.CANCELLED, "private, no-store")
    else:
        assert response.status_code == 404 and state_of(message_id) is State.ENQUEUED


def test_one_that_runs_is_to_be_cancelled(people: People, memory_store: Store) -> None:
    message_id = people.send("owner")
    run(memory_store, message_id)
    for _ in range(2):
        answer = people.clients["owner"].post(path(message_id)).json()
        assert (answer["state"], answer["cancel_requested"], answer["can_cancel"]) == ("running", True, False)


def test_one_that_has_ended_is_told_as_it_is(people: People, memory_store: Store) -> None:
    message_id = people.send("owner")
    memory_store.finish(run(memory_store, message_id), state=State.DONE)
    response = people.clients["owner"].post(path(message_id))
    answer = response.json()
    assert (response.status_code, answer["state"], answer["cancel_requested"]) == (200, "done", False)


def test_what_its_actor_forbids_is_refused_with_the_reason(people: People, memory_store: Store) -> None:
    broker = StubBroker(middleware=[ProgressMiddleware()])
    message = progress_actor(broker=broker, actor_name="charge", cancellable=False)(lambda: None).send()
    response = people.clients["staff"].post(path(message.message_id))
    assert response.status_code == 409
    assert response.json() == {
        "error": "not_cancellable",
        "detail": 'The actor "charge" is declared with cancellable=False.',
    }
    assert people.clients["another"].post(path(message.message_id)).status_code == 404
    assert not people.clients["staff"].get(f"/progress/{message.message_id}/?can_cancel").json()["can_cancel"]
    broker.close()


@pytest.mark.parametrize("name", ["anonymous", "another"])
@pytest.mark.parametrize("sender", ["owner", None])
def test_not_allowed_and_not_there_are_one_answer(people: People, name: str, sender: str | None) -> None:
    client = people.clients[name]
    ids = people.send(sender), "never-sent"
    not_allowed, not_there = (everything_of(client.post(path(each))) for each in ids)
    assert not_allowed == not_there
    assert (not_there[0], not_there[3]) == (404, b'{"error": "not_found"}')
    assert client.post(path("no:id")).content == not_there[3]


def test_a_signed_link_lets_nobody_cancel(people: People) -> None:
    message_id = people.send("owner")
    query = progress_url(message_id, signed_for=60).partition("?")[2]
    client = people.clients["another"]
    answer = client.get(f"/progress/{message_id}/?{query}&can_cancel")
    assert (answer.status_code, answer.json()["can_cancel"]) == (200, False)
    assert client.post(f"{path(message_id)}?{query}").status_code == 404
    assert state_of(message_id) is State.ENQUEUED


@pytest.mark.parametrize("with_middleware", [True, False])
def test_a_post_from_elsewhere_is_refused(people: People, settings: Any, with_middleware: bool) -> None:
    if with_middleware:
        settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware", *settings.MIDDLEWARE]
    message_id = people.send("owner")
    client = Client(enforce_csrf_checks=True)
    client.force_login(people.users["owner"])
    assert client.post(path(message_id)).status_code == 403
    token = "a" * 32
    client.cookies["csrftoken"] = token
    headers = {"X-CSRFToken": token, "Origin": "https://elsewhere.example"}
    assert client.post(path(message_id), headers=headers).status_code == 403
    assert state_of(message_id) is State.ENQUEUED
    assert client.post(path(message_id), {"csrfmiddlewaretoken": token}).status_code == 200


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "options"])
def test_only_a_post_cancels(people: People, method: str) -> None:
    message_id = people.send("owner")
    response = getattr(people.clients["owner"], method)(path(message_id))
    assert (response.status_code, response["Allow"]) == (405, "POST")
    assert state_of(message_id) is State.ENQUEUED


def test_a_store_that_is_down_is_told(people: People, settings: Any) -> None:
    message_id = people.send("owner")
    use(settings, STORE=None, OPTIONS={"url": "redis://127.0.0.1:1/0"})
    response = people.clients["owner"].post(path(message_id))
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert response["Retry-After"]


# ---- What a page is told ----


def can_cancel(people: People, message_id: str, query: str = "") -> set[str]:
    """Who is told by message and by list that they may cancel it."""
    told = set()
    for name, client in people.clients.items():
        alone = client.get(f"/progress/{message_id}/?{query}")
        listed = client.get(f"/progress/?id={message_id}&{query}").json()["messages"]
        if alone.status_code == 200:
            assert listed[0]["can_cancel"] == alone.json()["can_cancel"]
            told |= {name} if alone.json()["can_cancel"] else set()
    return told


def test_who_may_cancel_is_told_so(people: People) -> None:
    assert can_cancel(people, people.send("owner")) == {"owner", "staff"}


def test_who_may_cancel_a_message_of_nobody_is_told_so_when_they_ask(
    people: People, django_assert_num_queries: Any
) -> None:
    message_id = people.send()
    with django_assert_num_queries(0):
        assert can_cancel(people, message_id) == set()
    assert can_cancel(people, message_id, "can_cancel") == {"staff"}


def test_where_anyone_may_read_its_owner_may_ask(people: People, settings: Any) -> None:
    use(settings, PERMISSION=ANYONE)
    message_id = people.send("owner")
    assert can_cancel(people, message_id) == set()
    assert can_cancel(people, message_id, "can_cancel") == {"owner", "staff"}


@pytest.mark.parametrize("before", ["asked", "cancelled", "done"])
def test_nobody_is_told_that_they_may_cancel_what_cannot_be(people: People, memory_store: Store, before: str) -> None:
    message_id = people.send("owner")
    if before != "cancelled":
        attempt = run(memory_store, message_id)
    if before == "done":
        memory_store.finish(attempt, state=State.DONE)
    else:
        cancel(message_id)
    assert can_cancel(people, message_id, "can_cancel") == set()


@pytest.mark.django_db(transaction=True)
def test_a_stream_says_the_same_as_a_poll(people: People, memory_store: Store) -> None:
    """One event for all who may not cancel, and one for all who may."""
    message_id = people.send("owner")
    run(memory_store, message_id)

    async def hear(name: str) -> list[Any]:
        client = AsyncClient()
        await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get(f"/progress/stream/?id={message_id}")
            pieces: Any = response.streaming_content  # type: ignore[attr-defined]
            heard = []
            while len(heard) < 2:
                if (piece := await anext(pieces)).startswith(b"data: "):
                    heard.append(json.loads(piece.removeprefix(b"data: ")))
                    await acancel(message_id)
            await asyncio.to_thread(response.close)
            return heard

    before = people.clients["owner"].get(f"/progress/{message_id}/").json()
    first, then = asyncio.run(hear("owner"))
    assert (first["can_cancel"], first["cancel_requested"]) == (before["can_cancel"], False) == (True, False)
    assert (then["can_cancel"], then["cancel_requested"]) == (False, True)


@pytest.mark.parametrize(
    ("name", "query", "may"), [("staff", "", False), ("staff", "&can_cancel", True), ("another", "&can_cancel", False)]
)
@pytest.mark.django_db(transaction=True)
def test_a_stream_of_a_message_of_nobody_says_so_to_those_who_ask(
    people: People, name: str, query: str, may: bool
) -> None:
    message_id = people.send()

    async def hear() -> Any:
        client = AsyncClient()
        await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get(f"/progress/stream/?id={message_id}{query}")
            pieces: Any = response.streaming_content  # type: ignore[attr-defined]
            while not (piece := await anext(pieces)).startswith(b"data: "):
                pass
            await asyncio.to_thread(response.close)
            return json.loads(piece.removeprefix(b"data: "))

    assert asyncio.run(hear())["can_cancel"] == may


def test_an_answer_changes_when_a_cancel_is_requested(people: People, memory_store: Store) -> None:
    """Not only its version: a 304 would keep the button."""
    message_id = people.send("owner")
    run(memory_store, message_id)
    client = people.clients["owner"]
    etag = client.get(f"/progress/{message_id}/")["ETag"]
    client.post(path(message_id))
    response = client.get(f"/progress/{message_id}/", headers={"If-None-Match": etag})
    assert response.status_code == 200 and response.json()["cancel_requested"]

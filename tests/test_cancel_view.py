"""Cancelling over HTTP: permissions, responses, and `can_cancel` in the JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.urls import reverse
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, acancel, cancel, get_progress, owned_by, progress_actor, progress_url
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests.people import NAMES, People
from tests.test_permissions import everything_of, use

ANYONE = "dramatiq_progress.permissions.anyone_with_link"


def path(message_id: str) -> str:
    return reverse("dramatiq_progress:cancel", args=[message_id])


def state_of(message_id: str) -> State | None:
    progress = get_progress(message_id)
    return progress and progress.state


def run(store: Store, message_id: str) -> Attempt:
    attempt = Attempt(message_id, "work", "default", cancellable=True)
    assert store.start(attempt).verdict == "run"
    return attempt


@pytest.mark.parametrize("sender", ["owner", None])
@pytest.mark.parametrize("name", NAMES)
def test_the_owner_and_staff_can_cancel_a_message(people: People, sender: str | None, name: str) -> None:
    message_id = people.send(sender)
    response = people.clients[name].post(path(message_id))
    if name in {"owner": {"owner", "staff"}, None: {"staff"}}[sender]:
        answer = response.json()
        assert (response.status_code, answer["id"], answer["state"]) == (200, message_id, "cancelled")
        assert (answer["cancel_requested"], answer["can_cancel"]) == (True, False)
        assert (state_of(message_id), response["Cache-Control"]) == (State.CANCELLED, "private, no-store")
    else:
        assert response.status_code == 404 and state_of(message_id) is State.ENQUEUED


def test_cancelling_a_running_message_requests_the_cancel(people: People, memory_store: Store) -> None:
    message_id = people.send("owner")
    run(memory_store, message_id)
    for _ in range(2):
        answer = people.clients["owner"].post(path(message_id)).json()
        assert (answer["state"], answer["cancel_requested"], answer["can_cancel"]) == ("running", True, False)


def test_cancelling_a_finished_message_changes_nothing(people: People, memory_store: Store) -> None:
    message_id = people.send("owner")
    memory_store.finish(run(memory_store, message_id), state=State.DONE)
    response = people.clients["owner"].post(path(message_id))
    answer = response.json()
    assert (response.status_code, answer["state"], answer["cancel_requested"]) == (200, "done", False)


def test_a_message_whose_actor_is_not_declared_cancellable_is_refused_with_the_reason(
    people: People, memory_store: Store
) -> None:
    """Also for its owner, who may cancel others."""
    broker = StubBroker(middleware=[ProgressMiddleware()])
    with owned_by(people.users["owner"]):
        message = progress_actor(broker=broker, actor_name="charge")(lambda: None).send()
    for name in ("owner", "staff"):
        response = people.clients[name].post(path(message.message_id))
        assert response.status_code == 409
        assert response.json() == {
            "error": "not_cancellable",
            "detail": 'This message of the actor "charge" isn\'t cancellable. Declare the actor with cancellable=True, '
            "and don't send the message with cancellable=False.",
        }
    assert state_of(message.message_id) is State.ENQUEUED
    assert people.clients["another"].post(path(message.message_id)).status_code == 404
    assert not people.clients["staff"].get(f"/progress/{message.message_id}/?can_cancel").json()["can_cancel"]
    broker.close()


@pytest.mark.parametrize("name", ["anonymous", "another"])
@pytest.mark.parametrize("sender", ["owner", None])
def test_not_allowed_and_not_found_are_the_same_response(people: People, name: str, sender: str | None) -> None:
    client = people.clients[name]
    ids = people.send(sender), "never-sent"
    not_allowed, not_found = (everything_of(client.post(path(each))) for each in ids)
    assert not_allowed == not_found
    assert (not_found[0], not_found[3]) == (404, b'{"error": "not_found"}')
    assert client.post(path("no:id")).content == not_found[3]


def test_a_signed_link_does_not_grant_cancelling(people: People) -> None:
    message_id = people.send("owner")
    query = progress_url(message_id, signed_for=60).partition("?")[2]
    client = people.clients["another"]
    answer = client.get(f"/progress/{message_id}/?{query}&can_cancel")
    assert (answer.status_code, answer.json()["can_cancel"]) == (200, False)
    assert client.post(f"{path(message_id)}?{query}").status_code == 404
    assert state_of(message_id) is State.ENQUEUED


@pytest.mark.parametrize("with_middleware", [True, False])
def test_a_post_from_another_site_is_refused(people: People, settings: Any, with_middleware: bool) -> None:
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


def test_an_unavailable_store_is_a_503(people: People, settings: Any) -> None:
    message_id = people.send("owner")
    use(settings, STORE=None, OPTIONS={"url": "redis://127.0.0.1:1/0"})
    response = people.clients["owner"].post(path(message_id))
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert response["Retry-After"]


# ---- can_cancel ----


def can_cancel(people: People, message_id: str, query: str = "") -> set[str]:
    """Return the users for whom `can_cancel` is true, which must be the same in a list."""
    allowed = set()
    for name, client in people.clients.items():
        alone = client.get(f"/progress/{message_id}/?{query}")
        listed = client.get(f"/progress/?id={message_id}&{query}").json()["messages"]
        if alone.status_code == 200:
            assert listed[0]["can_cancel"] == alone.json()["can_cancel"]
            allowed |= {name} if alone.json()["can_cancel"] else set()
    return allowed


def test_can_cancel_is_true_for_the_owner_and_staff(people: People) -> None:
    assert can_cancel(people, people.send("owner")) == {"owner", "staff"}


def test_can_cancel_without_an_owner_is_determined_on_request(people: People, django_assert_num_queries: Any) -> None:
    message_id = people.send()
    with django_assert_num_queries(0):
        assert can_cancel(people, message_id) == set()
    assert can_cancel(people, message_id, "can_cancel") == {"staff"}


def test_can_cancel_with_anyone_with_link_is_determined_on_request(people: People, settings: Any) -> None:
    use(settings, PERMISSION=ANYONE)
    message_id = people.send("owner")
    assert can_cancel(people, message_id) == set()
    assert can_cancel(people, message_id, "can_cancel") == {"owner", "staff"}


@pytest.mark.parametrize("before", ["requested", "cancelled", "done"])
def test_can_cancel_is_false_if_a_cancel_has_no_effect(people: People, memory_store: Store, before: str) -> None:
    message_id = people.send("owner")
    if before != "cancelled":
        attempt = run(memory_store, message_id)
    if before == "done":
        memory_store.finish(attempt, state=State.DONE)
    else:
        cancel(message_id)
    assert can_cancel(people, message_id, "can_cancel") == set()


@pytest.mark.django_db(transaction=True)
def test_a_stream_sends_the_same_can_cancel_as_a_poll(people: People, memory_store: Store) -> None:
    """Clients that may cancel get another event than those that may not."""
    message_id = people.send("owner")
    run(memory_store, message_id)

    async def read_events(name: str) -> list[Any]:
        client = AsyncClient()
        await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get(f"/progress/stream/?id={message_id}")
            chunks: Any = response.streaming_content  # type: ignore[attr-defined]
            events = []
            while len(events) < 2:
                if (chunk := await anext(chunks)).startswith(b"data: "):
                    events.append(json.loads(chunk.removeprefix(b"data: ")))
                    await acancel(message_id)
            await asyncio.to_thread(response.close)
            return events

    before = people.clients["owner"].get(f"/progress/{message_id}/").json()
    first, then = asyncio.run(read_events("owner"))
    assert (first["can_cancel"], first["cancel_requested"]) == (before["can_cancel"], False) == (True, False)
    assert (then["can_cancel"], then["cancel_requested"]) == (False, True)


@pytest.mark.parametrize(
    ("name", "query", "may"), [("staff", "", False), ("staff", "&can_cancel", True), ("another", "&can_cancel", False)]
)
@pytest.mark.django_db(transaction=True)
def test_can_cancel_without_an_owner_is_determined_on_request_in_a_stream(
    people: People, name: str, query: str, may: bool
) -> None:
    message_id = people.send()

    async def read_events() -> Any:
        client = AsyncClient()
        await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get(f"/progress/stream/?id={message_id}{query}")
            chunks: Any = response.streaming_content  # type: ignore[attr-defined]
            while not (chunk := await anext(chunks)).startswith(b"data: "):
                pass
            await asyncio.to_thread(response.close)
            return json.loads(chunk.removeprefix(b"data: "))

    assert asyncio.run(read_events())["can_cancel"] == may


def test_the_etag_changes_when_a_cancel_is_requested(people: People, memory_store: Store) -> None:
    """A 304 would keep the button."""
    message_id = people.send("owner")
    run(memory_store, message_id)
    client = people.clients["owner"]
    etag = client.get(f"/progress/{message_id}/")["ETag"]
    client.post(path(message_id))
    response = client.get(f"/progress/{message_id}/", headers={"If-None-Match": etag})
    assert response.status_code == 200 and response.json()["cancel_requested"]

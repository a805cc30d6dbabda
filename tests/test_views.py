"""The JSON view: what it answers, to whom, and that no cache keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dramatiq_progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.base import Attempt, Report


def url(message_id: str) -> str:
    return reverse("dramatiq_progress:detail", args=[message_id])


def test_the_url_is_the_one_of_the_readme() -> None:
    assert url("abc") == "/progress/abc/"


def test_progress_is_answered_as_json(store: Store, client: Client) -> None:
    attempt = Attempt("m1", "work", "default", 3)
    store.start(attempt)
    store.report([Report(attempt, {"current": "1200", "total": "5000", "description": "Importing"})])
    response = client.get(url("m1"))
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    answer = response.json()
    assert (answer["id"], answer["state"], answer["progress"]["percent"]) == ("m1", "running", 24.0)
    assert "result" not in answer

    store.finish(attempt, state=State.DONE, fields={"result": "[1]"})
    assert client.get(url("m1")).json()["result"] == [1]


def test_an_unknown_message_is_not_found_and_not_pending(store: Store, client: Client) -> None:
    response = client.get(url("never-sent"))
    assert (response.status_code, response.json()) == (404, {"error": "not_found"})


@pytest.mark.parametrize(
    "path",
    [
        "/progress/" + "x" * 65 + "/",
        "/progress/a:b/",
        "/progress/a*/",
        "/progress/%7Bx%7D/",
        "/progress/a%00b/",
        "/progress/a%0A/",
        "/progress/%C3%A9/",
        "/progress/..%2F/",
        "/progress/a%20b/",
    ],
)
def test_what_is_no_message_id_never_reaches_the_store(client: Client, settings: Any, path: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    assert client.get(path).status_code == 404
    assert client.get(url("good")).status_code == 503


def test_a_store_that_is_down_is_said_to_be(client: Client, settings: Any, caplog: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://:hunter2@127.0.0.1:1/0"}}
    response = client.get(url("m1"))
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert int(response["Retry-After"]) > 0
    assert "127.0.0.1:1" in caplog.text and "hunter2" not in caplog.text


def test_no_cache_keeps_an_answer(store: Store, client: Client) -> None:
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    for message_id in ("m1", "gone"):
        response = client.get(url(message_id))
        assert response["Cache-Control"] == "private, no-store"
        assert response["X-Content-Type-Options"] == "nosniff"
        assert "ETag" not in response


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods_are_refused(settings: Any, method: str) -> None:
    settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
    response = getattr(Client(enforce_csrf_checks=True), method)(url("m1"))
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_a_body(memory_store: Store, client: Client) -> None:
    memory_store.enqueue("m1", actor="work", queue="default", retries_left=0)
    response = client.head(url("m1"))
    assert (response.status_code, response.content) == (200, b"")


def test_markup_stays_text(memory_store: Store, client: Client) -> None:
    attempt = Attempt("m1", "work", "default", 3)
    memory_store.start(attempt)
    memory_store.report([Report(attempt, {"description": "</script><img src=x>"})])
    response = client.get(url("m1"))
    assert response.json()["progress"]["description"] == "</script><img src=x>"
    assert response["Content-Type"] == "application/json"
    json.loads(response.content.decode("ascii"))

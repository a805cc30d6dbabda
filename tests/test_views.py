"""The JSON views: their content, their errors, their ETags, and the headers that keep caches away."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse

from dramatiq_progress import State
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from tests.waiting import wait_until

#: The values that change while nothing is written, as in docs/json.md.
CLOCKS = {"elapsed", "rate", "eta", "retry_in", "poll_after"}


def url(message_id: str) -> str:
    return reverse("dramatiq_progress:detail", args=[message_id])


def test_the_url_is_that_of_the_readme() -> None:
    assert url("abc") == "/progress/abc/"


def test_progress_is_returned_as_json(store: Store, client: Client) -> None:
    attempt = Attempt("m1", "work", "default", 3)
    store.start(attempt)
    store.report([(attempt, {"current": "1200", "total": "5000", "description": "Importing"})])
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
def test_an_invalid_message_id_never_reaches_the_store(client: Client, settings: Any, path: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    assert client.get(path).status_code == 404
    assert client.get(url("good")).status_code == 503


def test_an_unavailable_store_is_a_503(client: Client, settings: Any, caplog: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://:hunter2@127.0.0.1:1/0"}}
    response = client.get(url("m1"))
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert response["Retry-After"] == "2"
    assert "hunter2" not in caplog.text


def test_clients_poll_less_often_the_longer_the_store_is_unavailable(client: Client, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    assert client.get(url("m1"))["Retry-After"] == "2"
    get_store().health._changed_at -= 300
    pauses = {int(client.get(path)["Retry-After"]) for path in [url("m1"), "/progress/?id=m1"] * 20}
    # Not all the same, so that they don't all return at the same moment.
    assert len(pauses) > 1 and min(pauses) >= 15 and max(pauses) <= 30


def test_no_cache_keeps_a_response(store: Store, client: Client) -> None:
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    for message_id in ("m1", "gone"):
        response = client.get(url(message_id))
        assert response["Cache-Control"] == "private, no-store"
        assert response["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/progress/m1/", "/progress/?id=m1"])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods_are_refused(settings: Any, method: str, path: str) -> None:
    settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
    response = getattr(Client(enforce_csrf_checks=True), method)(path)
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/progress/m1/", "/progress/?id=m1"])
def test_head_is_get_without_a_body(memory_store: Store, client: Client, path: str) -> None:
    memory_store.enqueue("m1", actor="work", queue="default", retries_left=0)
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response["ETag"] == client.get(path)["ETag"]
    assert client.head(path, headers={"If-None-Match": response["ETag"]}).status_code == 304


def test_json_has_one_encoding_whatever_the_project_has(memory_store: Store, client: Client, settings: Any) -> None:
    """As RFC 8259 (section 8.1) requires."""
    settings.DEFAULT_CHARSET = "utf-16"
    memory_store.start(Attempt("m1", "work", "default", 3))
    assert json.loads(client.get(url("m1")).content.decode("ascii"))["state"] == "running"


def test_markup_stays_text(memory_store: Store, client: Client) -> None:
    attempt = Attempt("m1", "work", "default", 3)
    memory_store.start(attempt)
    memory_store.report([(attempt, {"description": "</script><img src=x>"})])
    response = client.get(url("m1"))
    assert response.json()["progress"]["description"] == "</script><img src=x>"
    assert response["Content-Type"] == "application/json"
    json.loads(response.content.decode("ascii"))


# ---- Not modified ----


def start(store: Store, message_id: str = "m1") -> Attempt:
    attempt = Attempt(message_id, "work", "default", 3)
    store.start(attempt)
    store.report([(attempt, {"current": "1", "total": "10", "rate": "0.5"})])
    return attempt


@pytest.mark.parametrize("path", ["/progress/m1/", "/progress/?id=m1&id=m2&id=gone"])
def test_an_unchanged_response_is_a_304(store: Store, client: Client, path: str) -> None:
    attempt = start(store)
    store.enqueue("m2", actor="work", queue="default", retries_left=0)
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again["ETag"] == first["ETag"]
    assert again["Cache-Control"] == "private, no-store"
    assert float(again["Poll-After"]) > 0

    store.report([(attempt, {"current": "2"})])
    changed = client.get(path, headers={"If-None-Match": first["ETag"]})
    assert changed.status_code == 200
    assert changed["ETag"] != first["ETag"]


def test_running_clocks_do_not_change_the_etag(store: Store, client: Client) -> None:
    start(store)
    etag = client.get(url("m1"))["ETag"]
    elapsed = client.get(url("m1")).json()["elapsed"]
    later = wait_until(lambda: (answer := client.get(url("m1"))).json()["elapsed"] > elapsed and answer)
    assert later["ETag"] == etag


def test_derived_values_change_the_etag_without_a_write(store: Store, client: Client, settings: Any) -> None:
    store.enqueue("first", actor="work", queue="default", retries_left=0)
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    second_in_queue = client.get(url("m1"))
    store.start(Attempt("first", "work", "default", 3))
    first_in_queue = client.get(url("m1"), headers={"If-None-Match": second_in_queue["ETag"]})
    assert (first_in_queue.status_code, first_in_queue.json()["queue_position"]) == (200, 1)
    assert first_in_queue.json()["version"] == second_in_queue.json()["version"]

    start(store, "m2")
    running = client.get(url("m2"))
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "LOST_AFTER": 0.002, "HEARTBEAT_INTERVAL": 0.001}
    lost = wait_until(lambda: (answer := client.get(url("m2"))).json()["state"] == "lost" and answer)
    assert lost["ETag"] != running["ETag"]


def test_an_eta_that_is_withdrawn_changes_the_etag_without_a_write(store: Store, client: Client, settings: Any) -> None:
    """Otherwise a bar would count down an estimate that is no longer true."""
    start(store)
    known = client.get(url("m1"))
    assert known.json()["eta"] > 0
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "LOST_AFTER": 60, "HEARTBEAT_INTERVAL": 0.001}
    headers = {"If-None-Match": known["ETag"]}
    withdrawn = wait_until(lambda: (answer := client.get(url("m1"), headers=headers)).status_code == 200 and answer)
    assert (withdrawn.json()["state"], withdrawn.json()["eta"]) == ("running", None)
    assert withdrawn.json()["version"] == known.json()["version"]


def test_a_304_has_a_poll_after_header(memory_store: Store, client: Client) -> None:
    start(memory_store)
    for path in (url("m1"), "/progress/?id=m1&id=gone"):
        answer = client.get(path)
        messages = [answer.json(), *answer.json().get("messages", [])]
        again = client.get(path, headers={"If-None-Match": answer["ETag"]})
        assert float(again["Poll-After"]) == messages[-1]["poll_after"]
        assert "Poll-After" not in answer
    etag = client.get("/progress/?id=gone")["ETag"]
    assert "Poll-After" not in client.get("/progress/?id=gone", headers={"If-None-Match": etag})


def test_the_etag_is_the_same_behind_compression(memory_store: Store, client: Client, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", "django.middleware.http.ConditionalGetMiddleware"]
    start(memory_store)
    plain = client.get(url("m1"))
    packed = client.get(url("m1"), headers={"Accept-Encoding": "gzip"})
    assert packed["Content-Encoding"] == "gzip"
    assert packed["ETag"] == plain["ETag"]
    for etag in (plain["ETag"], plain["ETag"].removeprefix("W/"), f'"other", {plain["ETag"]}', "*"):
        assert client.get(url("m1"), headers={"If-None-Match": etag, "Accept-Encoding": "gzip"}).status_code == 304


# ---- Many at once ----


def test_the_list_has_a_url_of_its_own() -> None:
    assert reverse("dramatiq_progress:list") == "/progress/"


def test_many_messages_are_returned_in_one_object(store: Store, client: Client) -> None:
    attempt = start(store, "m2")
    store.finish(attempt, state=State.DONE, fields={"result": "[1]"})
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    response = client.get("/progress/?id=m1&id=gone&id=m2&id=m1&other=1")
    assert response.status_code == 200
    answer = response.json()
    assert [each["id"] for each in answer["messages"]] == ["m1", "m2"]
    assert answer["unknown"] == ["gone"]
    for each in answer["messages"]:
        alone = client.get(url(each["id"])).json()
        assert {key: each[key] for key in each.keys() - CLOCKS} == {key: alone[key] for key in alone.keys() - CLOCKS}


def test_a_hundred_messages_cost_one_round_trip(redis_store: Store, client: Client, valkey: str) -> None:
    for number in range(100):
        start(redis_store, f"m{number}")
    path = "/progress/?" + "&".join(f"id=m{number}" for number in range(100))
    client.get(path)
    before = scripts_run(valkey)
    assert len(client.get(path).json()["messages"]) == 100
    assert scripts_run(valkey) - before == 1


def scripts_run(url: str) -> int:
    """Return how many scripts the server has run."""
    with redis.Redis.from_url(url) as client:
        counts = client.info("commandstats")
    return sum(count["calls"] for name, count in counts.items() if name.startswith("cmdstat_eval"))


BAD_QUERIES = [
    ("", "The query has no id"),
    ("other=1", "The query has no id"),
    ("id=", "'' is not a message id"),
    ("id=m1&id=a b", "'a b' is not a message id"),
    ("id=m1,m2", "'m1,m2' is not a message id"),
    ("id=a%00b", "is not a message id"),
    ("id=%FF", "is not a message id"),
    ("id=" + "x" * 65, "is not a message id"),
    ("&".join(f"id=m{number}" for number in range(101)), "The query has 101 ids; the limit is 100"),
    ("&".join("id=m1" for _ in range(1001)), "The query has too many fields"),
    ("id=m1&" + "x" * 10_000_000, "The query has 10,000,006 characters; the limit is 8,000"),
]


@pytest.mark.parametrize(("query", "detail"), BAD_QUERIES, ids=[each[1] for each in BAD_QUERIES])
def test_an_invalid_query_is_explained(client: Client, settings: Any, query: str, detail: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = client.get(f"/progress/?{query}")
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    answer = response.json()
    assert answer["error"] == "bad_request"
    assert detail in answer["detail"] and len(answer["detail"]) < 250
    assert response["Cache-Control"] == "private, no-store"


def test_a_hundred_ids_of_maximum_length_are_accepted(memory_store: Store, client: Client) -> None:
    ids = [f"{number:064}" for number in range(100)]
    assert client.get("/progress/", {"id": ids}).json() == {"messages": [], "unknown": ids}


def test_an_unavailable_store_is_a_503_for_a_list(client: Client, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = client.get("/progress/?id=m1&id=m2")
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert int(response["Retry-After"]) > 0

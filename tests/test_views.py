"""The JSON view: what it answers, to whom, and that no cache keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse

from dramatiq_progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.base import Attempt, Report
from tests.waiting import wait_until

#: What of an answer passes by itself, as docs/json.md has it.
CLOCKS = {"elapsed", "rate", "eta", "retry_in", "poll_after"}


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


def test_markup_stays_text(memory_store: Store, client: Client) -> None:
    attempt = Attempt("m1", "work", "default", 3)
    memory_store.start(attempt)
    memory_store.report([Report(attempt, {"description": "</script><img src=x>"})])
    response = client.get(url("m1"))
    assert response.json()["progress"]["description"] == "</script><img src=x>"
    assert response["Content-Type"] == "application/json"
    json.loads(response.content.decode("ascii"))


# ---- Not modified ----


def begin(store: Store, message_id: str = "m1") -> Attempt:
    attempt = Attempt(message_id, "work", "default", 3)
    store.start(attempt)
    store.report([Report(attempt, {"current": "1", "total": "10", "rate": "0.5"})])
    return attempt


@pytest.mark.parametrize("path", ["/progress/m1/", "/progress/?id=m1&id=m2&id=gone"])
def test_what_has_not_changed_is_not_said_again(store: Store, client: Client, path: str) -> None:
    attempt = begin(store)
    store.enqueue("m2", actor="work", queue="default", retries_left=0)
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again["ETag"] == first["ETag"]
    assert again["Cache-Control"] == "private, no-store"
    assert float(again["Poll-After"]) > 0

    store.report([Report(attempt, {"current": "2"})])
    news = client.get(path, headers={"If-None-Match": first["ETag"]})
    assert news.status_code == 200
    assert news["ETag"] != first["ETag"]


def test_the_passing_of_time_is_no_change(store: Store, client: Client) -> None:
    begin(store)
    etag = client.get(url("m1"))["ETag"]
    elapsed = client.get(url("m1")).json()["elapsed"]
    later = wait_until(lambda: (answer := client.get(url("m1"))).json()["elapsed"] > elapsed and answer)
    assert later["ETag"] == etag


def test_what_a_reader_concludes_is_a_change_without_a_write(store: Store, client: Client, settings: Any) -> None:
    store.enqueue("first", actor="work", queue="default", retries_left=0)
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    second_in_line = client.get(url("m1"))
    store.start(Attempt("first", "work", "default", 3))
    first_in_line = client.get(url("m1"), headers={"If-None-Match": second_in_line["ETag"]})
    assert (first_in_line.status_code, first_in_line.json()["queue_position"]) == (200, 1)
    assert first_in_line.json()["version"] == second_in_line.json()["version"]

    begin(store, "m2")
    running = client.get(url("m2"))
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "LOST_AFTER": 0.002, "HEARTBEAT_INTERVAL": 0.001}
    lost = wait_until(lambda: (answer := client.get(url("m2"))).json()["state"] == "lost" and answer)
    assert lost["ETag"] != running["ETag"]


def test_a_304_says_how_long_to_wait(memory_store: Store, client: Client) -> None:
    begin(memory_store)
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
    begin(memory_store)
    plain = client.get(url("m1"))
    packed = client.get(url("m1"), headers={"Accept-Encoding": "gzip"})
    assert packed["Content-Encoding"] == "gzip"
    assert packed["ETag"] == plain["ETag"]
    for etag in (plain["ETag"], plain["ETag"].removeprefix("W/"), f'"other", {plain["ETag"]}', "*"):
        assert client.get(url("m1"), headers={"If-None-Match": etag, "Accept-Encoding": "gzip"}).status_code == 304


# ---- Many at once ----


def test_the_list_has_a_url_of_its_own() -> None:
    assert reverse("dramatiq_progress:list") == "/progress/"


def test_many_messages_are_answered_in_one_object(store: Store, client: Client) -> None:
    attempt = begin(store, "m2")
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
        begin(redis_store, f"m{number}")
    path = "/progress/?" + "&".join(f"id=m{number}" for number in range(100))
    client.get(path)
    before = scripts_run(valkey)
    assert len(client.get(path).json()["messages"]) == 100
    assert scripts_run(valkey) - before == 1


def scripts_run(url: str) -> int:
    """How often the server was told to run a script, of any kind."""
    with redis.Redis.from_url(url) as client:
        counts = client.info("commandstats")
    return sum(count["calls"] for name, count in counts.items() if name.startswith("cmdstat_eval"))


BAD_QUERIES = [
    ("", "There is no id"),
    ("other=1", "There is no id"),
    ("id=", "'' is no message id"),
    ("id=m1&id=a b", "'a b' is no message id"),
    ("id=m1,m2", "'m1,m2' is no message id"),
    ("id=a%00b", "is no message id"),
    ("id=%FF", "is no message id"),
    ("id=" + "x" * 65, "is no message id"),
    ("&".join(f"id=m{number}" for number in range(101)), "There are 101 ids, at most 100 are answered"),
    ("&".join("id=m1" for _ in range(1001)), "The query has too many fields"),
    ("id=m1&" + "x" * 10_000_000, "The query has 10,000,006 characters, at most 8,000 are read"),
]


@pytest.mark.parametrize(("query", "said"), BAD_QUERIES, ids=[each[1] for each in BAD_QUERIES])
def test_a_query_that_makes_no_sense_is_explained(client: Client, settings: Any, query: str, said: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = client.get(f"/progress/?{query}")
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    answer = response.json()
    assert answer["error"] == "bad_request"
    assert said in answer["detail"] and len(answer["detail"]) < 250
    assert response["Cache-Control"] == "private, no-store"


def test_a_hundred_ids_of_the_longest_are_taken(memory_store: Store, client: Client) -> None:
    ids = [f"{number:064}" for number in range(100)]
    assert client.get("/progress/", {"id": ids}).json() == {"messages": [], "unknown": ids}


def test_a_store_that_is_down_is_said_to_be_of_many(client: Client, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = client.get("/progress/?id=m1&id=m2")
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    assert int(response["Retry-After"]) > 0

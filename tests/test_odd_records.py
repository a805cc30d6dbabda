"""Records that another program, or a later version of this package, has written: not found, and no harm to others."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any

import pytest
import redis
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from dramatiq_progress import CancelOutcome, PauseOutcome, ProgressObserver, State, cancel, get_progress, pause, resume
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import CompositeAnswer, Contribution, Membership, slot
from dramatiq_progress.stores.outcomes import Peek
from dramatiq_progress.worker.observing.binding import Binding

ANYONE = "dramatiq_progress.permissions.anyone_with_link"
GOOD = {"state": "running", "actor": "work", "queue": "default", "version": "1", "attempt": "1", "token": "t"}
FIELDS = (
    *("state", "actor", "queue", "version", "attempt", "retries_left", "current", "total", "rate", "description"),
    *("metadata", "result", "started_at", "ended_at", "enqueued_at", "reported_at", "heartbeat", "retry_at", "owner"),
    *("later", "doubted"),
    *("overall", "step"),
    "parts",
)
ODD = [
    "",
    "null",
    "NaN",
    "Infinity",
    "-1",
    "1e999",
    '"text"',
    "[1]",
    "{}",
    "{",
    "true",
    "nan",
    "inf",
    "9" * 5000,
    '{"a": NaN}',
    '{"a": 1e999}',
    "[" * 990 + "]" * 990,
    "\ud7ff",
    "٣",
    "paused",
    "0.5",
    '[1, 2, "text"]',
    '[1, 2, "text", 0.5, 0.75]',
    '[1, 2, "text", 0.5, true]',
    '[1, 2, "text", 0.75, 0.5]',
    '[1, 2, "text", "a", "b"]',
    '[1, 2, "text", 0, 1e-320]',
    '[3, 2, "text"]',
    '[true, 2, "text"]',
    '[1, 2, ["text"]]',
    '[1, 2, "\\ud800"]',
    f'[1, 1{"0" * 400}, "text"]',
    "1 3 3 0 1 1 0 1 0 0 0 1500 3 0 1 0 0 0 1 c",
    "1 3 3 0 1 1 0 1 0 0 0 9000 3 0 1 0 0 0 1 c",
    "1 3 3 0 -1 1 0 1 0 0 0 1500 3 0 1 nan 0 9 1 c",
    "1 3 3 0 1 1 0 1 0 0 0 1500 3 0 1 1 2 3 1",
]


#: How many generated records `make test` tries.
EXAMPLES = int(os.environ.get("ODD_RECORDS", "60"))


@pytest.fixture
def store(redis_store: Store) -> Store:
    """The store in Valkey: no other program writes to this one's memory."""
    return redis_store


@pytest.fixture(autouse=True)
def open_to_anyone(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"PERMISSION": ANYONE, "CANCEL_PERMISSION": ANYONE}


def write(store: Store, message_id: str, fields: dict[str, str | None]) -> None:
    now = f"{time.time():.6f}"
    record = {**GOOD, "heartbeat": now, "started_at": now, **fields}
    known = {name: text for name, text in record.items() if text is not None}
    key = store.key(message_id)
    with client_of(store) as client:
        client.delete(key)
        client.hset(key, mapping={name: text.encode() for name, text in known.items()})
        client.expire(key, 60)


def client_of(store: Store) -> redis.Redis:
    made: redis.Redis = store._servers._make_client()  # type: ignore[attr-defined]
    return made


def check(client: Client, store: Store) -> None:
    """Assert that an odd record leaves another as it is, wherever both are read."""
    for path in ("/progress/odd/", "/progress/?id=odd&id=good", "/progress/odd/?can_cancel=1"):
        response = client.get(path)
        assert response.status_code in (200, 404)
        json.loads(response.content, parse_constant=pytest.fail)
    listed = client.get("/progress/?id=odd&id=good").json()
    assert "good" in [each["id"] for each in listed["messages"]]
    shown = get_progress("odd")
    if shown is not None:
        json.dumps(shown.as_dict(), allow_nan=False)
    assert cancel("odd").outcome in CancelOutcome
    # A worker that gets the message runs it whatever the record is: a refused start is retried on its own.
    with suppress(StoreRefused):
        store.start(Attempt("odd", "work", "default"))
    membership = Membership("odd", 3, "resize")
    for answer in (
        *store.contribute([Contribution((membership,), "", {"m1": slot(State.DONE, 1, 0, 1)})]),
        *store.peek(["odd"]),
    ):
        assert isinstance(answer, CompositeAnswer | Peek | StoreRefused)


@pytest.mark.parametrize("name", FIELDS)
def test_an_odd_value_hides_no_other_message(store: Store, client: Client, name: str) -> None:
    write(store, "good", {})
    for odd in [*ODD, None]:
        write(store, "odd", {name: odd})
        check(client, store)


@given(fields=st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.sampled_from(ODD), st.text()), max_size=6))
@examples(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_generated_records_hide_no_other_message(store: Store, client: Client, fields: dict[str, str]) -> None:
    write(store, "good", {})
    write(store, "odd", {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()})
    check(client, store)


def test_bytes_that_are_not_utf_8_fail_no_other_reader(store: Store) -> None:
    write(store, "good", {})
    write(store, "odd", {})
    with client_of(store) as client:
        client.hset(store.key("odd"), "description", b"a\xffb")
    assert [each and each.description for each in store.read(["odd", "good"])] == ["a\ufffdb", ""]


def test_a_record_that_cannot_be_read_is_logged_once(store: Store, caplog: Any) -> None:
    write(store, "logged-once", {"current": "1", "total": "[]"})
    for _ in range(5):
        assert store.read(["logged-once"]) == [None]
    assert caplog.text.count("The record of message logged-once can't be read") == 1


def test_a_state_of_a_later_version_is_left_alone(store: Store) -> None:
    """While a deployment replaces processes, both versions see the same records."""
    write(store, "m1", {"state": "frozen"})
    attempt = Attempt("m1", "work", "default", number=2)
    assert get_progress("m1") is None
    assert cancel("m1").outcome is CancelOutcome.NOT_FOUND
    assert pause("m1").outcome is resume("m1").outcome is PauseOutcome.NOT_FOUND
    assert store.start(Attempt("m1", "work", "default")).verdict == "ignored"
    assert store.report([(attempt, {"current": "1"})]) == ["superseded"]
    assert not store.finish(attempt, state=State.DONE)
    assert not store.enqueue("m1", actor="work", queue="default", retries_left=0)
    stored = store._read_answers(store._call(store._read_calls([store.key("m1")])))[0][1]
    assert stored["state"] == "frozen"  # type: ignore[call-overload, index]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [10, 199, 201, 500, 970, 975, 980])
def test_a_result_that_is_accepted_can_be_read(store: Store, client: Client, levels: int) -> None:
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default")))
    observer.set_result(nested(levels))
    store.start(attempt := Attempt("m1", "work", "default"))
    store.finish(attempt, state=State.DONE, fields=observer._binding.final_fields(with_result=True))
    observer._binding.release()
    response = client.get("/progress/m1/")
    assert response.status_code == 200
    assert response.json()["result"] == (nested(levels) if levels <= 200 else None)

"""`Progress`: states, percentage, times, revisions, and the JSON of the HTTP API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dramatiq_progress import Progress, State
from dramatiq_progress.progress import DEFAULT_RESULTS, FINAL_STATES, UsualTimes
from dramatiq_progress.stores.decoding import decode


def progress(**fields: Any) -> Progress:
    return Progress(**{"id": "m1", "actor": "work", "queue": "default", "state": State.RUNNING, **fields})


def from_record(now: float = 100.0, **fields: str) -> Progress:
    record = {"actor": "work", "queue": "default", "version": "1", "heartbeat": "100", **fields}
    return decode("m1", record, now=now, lost_after=15)


#: The table of the design: state, complete, success, pending.
TABLE = [
    ("enqueued", False, None, True),
    ("delayed", False, None, True),
    ("paused", False, None, True),
    ("running", False, None, False),
    ("retrying", False, None, False),
    ("lost", False, None, False),
    ("done", True, True, False),
    ("failed", True, False, False),
    ("cancelled", True, False, False),
    ("skipped", True, False, False),
]


@pytest.mark.parametrize(("state", "complete", "success", "pending"), TABLE)
def test_each_state_has_its_row(state: str, complete: bool, success: bool | None, pending: bool) -> None:
    fields = progress(state=State(state)).as_dict()
    assert fields["state"] == state
    assert (fields["complete"], fields["success"], fields["progress"]["pending"]) == (complete, success, pending)
    assert ("result" in fields) is complete


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({"state": "enqueued", "attempt": "1"}, True),
        ({"state": "delayed", "attempt": "1"}, True),
        ({"state": "paused", "attempt": "1", "pause_requested": "enqueued"}, True),
        ({"state": "paused", "attempt": "1", "pause_requested": "retrying", "cursor": ""}, True),
        ({"state": "paused", "attempt": "1", "pause_requested": "enqueued", "cursor": ""}, False),
        ({"state": "paused", "attempt": "0", "pause_requested": "enqueued"}, False),
        ({"state": "enqueued", "attempt": "0"}, False),
        ({"state": "enqueued", "attempt": "1", "cursor": ""}, False),
        ({"state": "running", "attempt": "1"}, False),
        ({"state": "retrying", "attempt": "1"}, False),
        ({"state": "failed", "attempt": "1"}, False),
    ],
)
def test_an_interrupted_message_with_a_cursor_continues_with_its_values(
    fields: dict[str, str], continues: bool
) -> None:
    reported = {"cursor": '[1,[],"read",6200,null]', "current": "6200", "total": "10000", "description": "Importing"}
    found = from_record(**reported | fields)
    assert found.continues is continues
    shown = found.as_dict()["progress"]
    assert shown["pending"] is (found.state.is_pending and not continues)
    assert (shown["current"], shown["percent"], shown["description"]) == (6200, 62.0, "Importing")


def test_every_state_has_a_row_and_a_text() -> None:
    assert {row[0] for row in TABLE} == set(State)
    assert set(DEFAULT_RESULTS) == FINAL_STATES - {State.DONE}


@pytest.mark.parametrize(
    ("current", "total", "percent"),
    [
        (0, 10, 0.0),
        (29, 100, 29.0),
        (1, 3, 33.3),
        (9999, 10_000, 99.9),
        (99_999, 100_000, 99.9),
        (10, 10, 100.0),
        (12, 10, 100.0),
        (0.5, 2, 25.0),
        (2.9, 100, 2.9),
        (sum([0.1] * 10), 1, 100.0),
        (0.999996, 1, 99.9),
        (2**60, 2**61, 50.0),
        (10**300, 3 * 10**300, 33.3),
        (5, None, None),
        (0, 0, None),
        (5, 0, None),
    ],
)
def test_percent_is_floored_and_capped(current: Any, total: Any, percent: Any) -> None:
    assert progress(current=current, total=total).percent == percent


def test_the_json_has_the_keys_of_the_design() -> None:
    fields = progress(
        title="people.csv",
        current=1200,
        total=5000,
        description="Importing",
        attempt=1,
        retries_left=3,
        elapsed=2.9,
        version=17,
    ).as_dict()
    assert fields == {
        "id": "m1",
        "actor": "work",
        "queue": "default",
        "state": "running",
        "complete": False,
        "success": None,
        "progress": {
            "pending": False,
            "current": 1200,
            "total": 5000,
            "percent": 24.0,
            "description": "Importing",
        },
        "attempt": 1,
        "retries_left": 3,
        "retry_in": None,
        "queue_position": None,
        "queue_length": None,
        "elapsed": 2.9,
        "rate": None,
        "eta": None,
        "cancel_requested": False,
        "pause_requested": False,
        "can_cancel": False,
        "title": "people.csv",
        "step": None,
        "parts": None,
        "usual": None,
        "metadata": {},
        "version": 17,
        "poll_after": 0.5,
    }
    assert json.loads(json.dumps(fields)) == fields


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "m2"},
        {"version": 2},
        {"attempt": 2},
        {"state": State.LOST},
        {"queue_position": 1},
        {"queue_length": 2},
        {"usual": UsualTimes(60, 90, None)},
        {"eta": 3.0},
    ],
)
def test_a_difference_that_a_reader_sees_changes_the_revision(changed: dict[str, Any]) -> None:
    assert progress(**{"version": 1, **changed}).revision != progress(version=1).revision


def test_running_clocks_do_not_change_the_revision() -> None:
    later = progress(elapsed=2.0, rate=1.5, eta=3.0, retry_in=4.0, silence=5.0)
    assert later.revision == progress(elapsed=1.0, eta=6.0).revision


def test_a_snapshot_is_immutable() -> None:
    with pytest.raises(AttributeError):
        progress().current = 5  # type: ignore[misc]


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (14.9, "running"), (15.1, "lost"), (9e6, "lost")])
def test_running_without_a_heartbeat_is_lost(age: float, state: str) -> None:
    assert from_record(now=100 + age, state="running").state == state


def test_only_running_messages_become_lost() -> None:
    for state in set(State) - {State.RUNNING, State.LOST}:
        assert from_record(now=1e6, state=state).state is state


def test_retry_in_counts_down_and_is_never_negative() -> None:
    retrying = {"state": "retrying", "retry_at": "130.0"}
    assert from_record(now=100, **retrying).retry_in == 30.0
    assert from_record(now=110, **retrying).retry_in == 20.0
    assert from_record(now=200, **retrying).retry_in == 0.0
    assert from_record(state="running", retry_at="130.0").retry_in is None


def test_elapsed_increases_until_the_attempt_finishes() -> None:
    assert from_record(now=105, state="running", started_at="100").elapsed == 5.0
    assert from_record(now=900, state="done", started_at="100", ended_at="107.5").elapsed == 7.5
    assert from_record(now=99, state="running", started_at="100").elapsed == 0.0
    # Of a lost attempt: until its last heartbeat.
    lost = from_record(now=900, state="running", started_at="100", heartbeat="104")
    assert (lost.state, lost.elapsed) == (State.LOST, 4.0)
    assert from_record(state="enqueued").elapsed is None


def test_a_finished_message_has_no_retries_left() -> None:
    assert from_record(state="running", retries_left="3").retries_left == 3
    assert from_record(state="running", retries_left="null").retries_left is None
    assert from_record(state="failed", retries_left="3").retries_left == 0


def test_a_result_is_shown_only_when_the_message_has_finished() -> None:
    assert from_record(state="running", result='"early"').result is None
    assert from_record(state="done", result='{"a": 1}').result == {"a": 1}
    assert from_record(state="done").result is None
    assert from_record(state="failed").result == "The task failed."
    assert from_record(state="failed", result='"Line 7 is bad."').result == "Line 7 is bad."


@pytest.mark.parametrize(
    ("fields", "silence"),
    [
        ({"state": "enqueued", "enqueued_at": "90"}, 10),
        ({"state": "delayed", "enqueued_at": "40"}, 60),
        ({"state": "running", "started_at": "70"}, 30),
        ({"state": "running", "started_at": "70", "reported_at": "95"}, 5),
        ({"state": "lost", "started_at": "70", "reported_at": "75"}, 25),
        ({"state": "retrying", "retry_at": "90", "reported_at": "10"}, 10),
        ({"state": "retrying", "retry_at": "140"}, 0),
        ({"state": "failed", "reported_at": "20", "ended_at": "60"}, 40),
    ],
)
def test_silence_is_counted_from_the_last_change(fields: dict[str, str], silence: float) -> None:
    assert from_record(now=100, **fields).silence == silence
    assert "silence" not in from_record(now=100, **fields).as_dict()

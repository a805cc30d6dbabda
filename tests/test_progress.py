"""What a record says to a reader: states, percent, times, and the JSON of the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dramatiq_progress import Progress, State
from dramatiq_progress.progress import DEFAULT_RESULTS, FINAL_STATES


def progress(**fields: Any) -> Progress:
    return Progress(**{"id": "m1", "actor": "work", "queue": "default", "state": State.RUNNING, **fields})


def from_record(now: float = 100.0, **fields: str) -> Progress:
    record = {"actor": "work", "queue": "default", "version": "1", "heartbeat": "100", **fields}
    return Progress.from_record("m1", record, now=now, lost_after=15)


#: The table of the design: state, complete, success, pending.
TABLE = [
    ("enqueued", False, None, True),
    ("delayed", False, None, True),
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
    wire = progress(state=State(state)).as_dict()
    assert wire["state"] == state
    assert (wire["complete"], wire["success"], wire["progress"]["pending"]) == (complete, success, pending)
    assert ("result" in wire) is complete


def test_no_state_is_without_row_or_text() -> None:
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
        (2**60, 2**61, 50.0),
        (10**300, 3 * 10**300, 33.3),
        (5, None, None),
        (0, 0, None),
        (5, 0, None),
    ],
)
def test_percent_is_floored_and_capped(current: Any, total: Any, percent: Any) -> None:
    assert progress(current=current, total=total).percent == percent


def test_the_wire_has_the_keys_of_the_design() -> None:
    wire = progress(
        current=1200, total=5000, description="Importing", attempt=1, retries_left=3, elapsed=2.9, version=17
    ).as_dict()
    assert wire == {
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
        "can_cancel": False,
        "metadata": {},
        "version": 17,
        "poll_after": 0.5,
    }
    assert json.loads(json.dumps(wire)) == wire


def test_a_reading_does_not_change() -> None:
    with pytest.raises(AttributeError):
        progress().current = 5  # type: ignore[misc]


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (14.9, "running"), (15.1, "lost"), (9e6, "lost")])
def test_running_without_sign_of_life_is_lost(age: float, state: str) -> None:
    assert from_record(now=100 + age, state="running").state == state


def test_only_running_messages_are_ever_lost() -> None:
    for state in set(State) - {State.RUNNING, State.LOST}:
        assert from_record(now=1e6, state=state).state is state


def test_retry_in_counts_down_and_is_never_negative() -> None:
    retrying = {"state": "retrying", "retry_at": "130.0"}
    assert from_record(now=100, **retrying).retry_in == 30.0
    assert from_record(now=110, **retrying).retry_in == 20.0
    assert from_record(now=200, **retrying).retry_in == 0.0
    assert from_record(state="running", retry_at="130.0").retry_in is None


def test_elapsed_goes_on_until_the_attempt_ends() -> None:
    assert from_record(now=105, state="running", started_at="100").elapsed == 5.0
    assert from_record(now=900, state="done", started_at="100", ended_at="107.5").elapsed == 7.5
    assert from_record(now=99, state="running", started_at="100").elapsed == 0.0
    # A lost one: until its last sign of life.
    lost = from_record(now=900, state="running", started_at="100", heartbeat="104")
    assert (lost.state, lost.elapsed) == (State.LOST, 4.0)
    assert from_record(state="enqueued").elapsed is None


def test_no_retries_are_left_to_what_has_ended() -> None:
    assert from_record(state="running", retries_left="3").retries_left == 3
    assert from_record(state="running", retries_left="null").retries_left is None
    assert from_record(state="failed", retries_left="3").retries_left == 0


def test_results_show_only_at_the_end() -> None:
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
    ],
)
def test_silence_counts_from_the_last_news(fields: dict[str, str], silence: float) -> None:
    assert from_record(now=100, **fields).silence == silence
    assert "silence" not in from_record(now=100, **fields).as_dict()

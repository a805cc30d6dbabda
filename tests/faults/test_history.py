"""The judge finds what it is there for: each bad history here is bad in one way, and the good ones pass."""

from __future__ import annotations

from typing import Any

import pytest

from dramatiq_progress import Progress, State
from tests.faults.history import Deed, History, Resources, Sample, judge

ENQUEUED, RUNNING, LOST, RETRYING = State.ENQUEUED, State.RUNNING, State.LOST, State.RETRYING
DONE, FAILED = State.DONE, State.FAILED


def seen(state: State, *, attempt: int = 1, version: int, current: int = 0) -> Progress:
    return Progress(
        id="m", actor="work", queue="default", state=state, attempt=attempt, version=version, current=current, total=10
    )


def history(*readings: Progress | None, lives: tuple[int, ...] = (), ended: bool = True, **others: Any) -> History:
    """One message: what was seen of it, a second apart, and the run of its actor that ended at 10, after 2.5 s."""
    samples = [
        Sample(at=1.0 + i, life=lives[i] if lives else 0, message_id="m", progress=reading)
        for i, reading in enumerate(readings)
    ]
    deeds = [Deed(at=1.5, message_id="m", what="began")]
    if ended:
        deeds.append(Deed(at=2.5, message_id="m", what="ended", current=10))
    given: dict[str, Any] = {
        "samples": samples,
        "deeds": deeds,
        "ends": {"m": readings[-1]} if readings else {},
    } | others
    return History(**given)


def good() -> History:
    return history(
        seen(ENQUEUED, attempt=0, version=1), seen(RUNNING, version=2, current=5), seen(DONE, version=3, current=10)
    )


def test_a_good_history_is_good() -> None:
    assert judge(good()) == []


THROUGH_TROUBLE = [
    # Lost, and delivered again.
    history(
        seen(RUNNING, version=2, current=9),
        seen(LOST, version=2, current=9),
        seen(RUNNING, attempt=2, version=3),
        seen(DONE, attempt=2, version=4, current=10),
    ),
    # The store came back empty, and counts anew.
    history(
        seen(RUNNING, attempt=2, version=9, current=5),
        None,
        seen(RUNNING, version=1, current=4),
        seen(DONE, version=2, current=10),
        lives=(0, 1, 1, 1),
    ),
    # Sent again on purpose.
    history(
        seen(DONE, version=5, current=10),
        seen(ENQUEUED, version=6),
        seen(DONE, attempt=2, version=8, current=10),
        deeds=[Deed(0.5, "m", "ended", current=10)],
        openings=[(1.5, "m")],
    ),
    # Failed in the end, and the actor says so too.
    history(
        seen(RETRYING, version=3),
        seen(FAILED, attempt=2, version=5),
        deeds=[Deed(1, "m", "failed", why="Planned"), Deed(2, "m", "failed", why="Planned")],
    ),
    # The store lost it when it had ended.
    history(
        seen(RUNNING, version=1),
        seen(RUNNING, version=2),
        seen(DONE, version=3, current=10),
        None,
        lives=(0, 0, 0, 1),
        gone={"m"},
    ),
    # Failed, and its worker died before it could say so to the broker.
    history(
        seen(FAILED, version=3),
        seen(RUNNING, attempt=2, version=4),
        seen(FAILED, attempt=2, version=5),
        deeds=[Deed(1, "m", "failed", why="Planned")],
    ),
    # Given up, having killed its workers.
    history(seen(FAILED, attempt=3, version=5), ended=False, given_up={"m"}),
]


@pytest.mark.parametrize("history", THROUGH_TROUBLE, ids=range(len(THROUGH_TROUBLE)))
def test_trouble_that_was_told_truthfully_is_good(history: History) -> None:
    assert judge(history) == []


BAD = {
    "an older version was seen again": history(
        seen(RUNNING, version=5, current=2), seen(RUNNING, version=4, current=3), seen(DONE, version=6, current=10)
    ),
    "left a final state": history(
        seen(DONE, version=3, current=10),
        seen(RUNNING, attempt=2, version=4),
        seen(DONE, attempt=2, version=5, current=10),
        deeds=[Deed(0.5, "m", "ended", current=10)],
    ),
    "left a final state, failed": history(
        seen(FAILED, version=3),
        seen(DONE, version=4, current=10),
        deeds=[Deed(0.5, "m", "ended", current=10)],
    ),
    "fell within an attempt": history(
        seen(RUNNING, version=2, current=5), seen(RUNNING, version=3, current=4), seen(DONE, version=4, current=10)
    ),
    "and then its record was gone": history(
        seen(RUNNING, version=2, current=5), None, seen(DONE, version=4, current=10)
    ),
    "never ended": history(seen(RUNNING, version=2, current=5)),
    "has no record": history(seen(RUNNING, version=2), None, lives=(0, 1)),
    "was said to be done before it was": history(seen(DONE, version=2, current=10)),
    "is done, and no run of it ended": history(seen(DONE, version=2, current=10), ended=False),
    "is done at 4, and its actor at [10]": history(
        seen(RUNNING, version=1), seen(RUNNING, version=2), seen(DONE, version=3, current=4)
    ),
    "failed 0.0 % (attempt 1, version 2), and its actor ['began', 'ended']": history(seen(FAILED, version=2)),
    "was to be given up": history(
        seen(RUNNING, version=1), seen(RUNNING, version=2), seen(FAILED, version=3), given_up={"m"}
    ),
    "the actor was harmed by StoreUnavailable": history(
        seen(FAILED, version=2), deeds=[Deed(1, "m", "failed", why="StoreUnavailable")]
    ),
    "the key k never expires": history(eternal_keys=["k"], ends={}),
    "threads of a worker: 4 before, 6 after": history(
        resources=[Resources("threads of a worker", 4, 6, allowed=1)], ends={}
    ),
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_history_is_found_out(complaint: str) -> None:
    complaints = judge(BAD[complaint])
    assert len(complaints) == 1 or complaint.startswith("is done, and no run"), complaints
    assert any(complaint in each for each in complaints), complaints

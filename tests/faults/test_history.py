"""The judge of faults: each bad history here breaks one promise, and the good ones break none."""

from __future__ import annotations

from typing import Any

import pytest

from dramatiq_progress import Progress, State
from dramatiq_progress.progress import Parts
from tests.faults.history import Deed, History, Resources, Sample, judge

ENQUEUED, RUNNING, LOST, RETRYING = State.ENQUEUED, State.RUNNING, State.LOST, State.RETRYING
DONE, FAILED = State.DONE, State.FAILED


def seen(state: State, *, attempt: int = 1, version: int, current: int = 0) -> Progress:
    return Progress(
        id="m", actor="work", queue="default", state=state, attempt=attempt, version=version, current=current, total=10
    )


def history(*readings: Progress | None, lives: tuple[int, ...] = (), ended: bool = True, **others: Any) -> History:
    """Return the history of one message: readings a second apart, and an actor that ended at 10 after 2.5 s."""
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


def test_a_good_history_passes() -> None:
    assert judge(good()) == []


GOOD_AFTER_FAULTS = [
    # Lost, and delivered again.
    history(
        seen(RUNNING, version=2, current=9),
        seen(LOST, version=2, current=9),
        seen(RUNNING, attempt=2, version=3),
        seen(DONE, attempt=2, version=4, current=10),
    ),
    # The store came back empty, and counts from 1.
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
    # Failed in the end, as the actor wrote.
    history(
        seen(RETRYING, version=3),
        seen(FAILED, attempt=2, version=5),
        deeds=[Deed(1, "m", "failed", why="Planned"), Deed(2, "m", "failed", why="Planned")],
    ),
    # The store lost its record after it had finished.
    history(
        seen(RUNNING, version=1),
        seen(RUNNING, version=2),
        seen(DONE, version=3, current=10),
        None,
        lives=(0, 0, 0, 1),
        gone={"m"},
    ),
    # Failed, and its worker died before it could reject the message.
    history(
        seen(FAILED, version=3),
        seen(RUNNING, attempt=2, version=4),
        seen(FAILED, attempt=2, version=5),
        deeds=[Deed(1, "m", "failed", why="Planned")],
    ),
    # Rejected for killing its workers.
    history(seen(FAILED, attempt=3, version=5), ended=False, given_up={"m"}),
]


@pytest.mark.parametrize("history", GOOD_AFTER_FAULTS, ids=range(len(GOOD_AFTER_FAULTS)))
def test_a_history_with_a_fault_that_was_shown_truthfully_passes(history: History) -> None:
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
    "was shown as done before it was": history(seen(DONE, version=2, current=10)),
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
    "ended without the items [3, 7]": history(
        seen(RUNNING, version=1),
        seen(RUNNING, version=2),
        seen(DONE, version=3, current=10),
        deeds=[
            *(Deed(1.5, "m", "item", current=each) for each in (0, 1, 2, 4, 5)),
            *(Deed(1.8, "m", "item", attempt=2, current=each) for each in (5, 6, 8, 9)),
            Deed(2.5, "m", "ended", attempt=2, current=10),
        ],
    ),
    "the key k never expires": history(eternal_keys=["k"], ends={}),
    "threads of a worker: 4 before, 6 after": history(
        resources=[Resources("threads of a worker", 4, 6, allowed=1)], ends={}
    ),
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_history_is_found(complaint: str) -> None:
    complaints = judge(BAD[complaint])
    assert len(complaints) == 1 or complaint.startswith("is done, and no run"), complaints
    assert any(complaint in each for each in complaints), complaints


def seen_group(*, version: int, done: int = 0, failed: int = 0, current: int | None = None) -> Progress:
    """Return a reading of a group of two."""
    over = done + failed
    parts = Parts(total=2, waiting=2 - over, running=0, retrying=0, done=done, failed=failed, cancelled=0, skipped=0)
    state = RUNNING if over < 2 else FAILED if failed else DONE
    current = over if current is None else current
    return Progress(
        id="g", actor="work", queue="", state=state, attempt=1, version=version, current=current, total=2, parts=parts
    )


def group_history(*readings: Progress, begun_again: float | None = None, failed: bool = False) -> History:
    """Return the history of a group: readings a second apart; `a` ended at 2.5 s, and `b` ended or failed then."""
    deeds = [Deed(1.5, "a", "began"), Deed(1.5, "b", "began")]
    if begun_again is not None:
        deeds.append(Deed(begun_again, "a", "began", attempt=2))
    last = Deed(2.5, "b", "failed", why="Planned") if failed else Deed(2.5, "b", "ended")
    return History(
        samples=[Sample(at=1.0 + i, life=0, message_id="g", progress=each) for i, each in enumerate(readings)],
        deeds=[*deeds, Deed(2.5, "a", "ended"), last],
        ends={"g": readings[-1]},
        composites={"g": [["a"], ["b"]]},
    )


HALF, WHOLE = seen_group(version=3, done=1), seen_group(version=7, done=2)
ONE_FAILED = seen_group(version=5, done=1, failed=1)


@pytest.mark.parametrize(
    "history",
    [
        group_history(seen_group(version=1), HALF, WHOLE),
        group_history(HALF, seen_group(version=4), WHOLE, begun_again=1.9),
        group_history(seen_group(version=1), HALF, ONE_FAILED, failed=True),
        group_history(HALF, ONE_FAILED, seen_group(version=6, done=1), WHOLE, begun_again=2.9),
        group_history(HALF, ONE_FAILED, WHOLE, begun_again=2.9),
        group_history(HALF, seen_group(version=4), WHOLE, begun_again=6.9),
    ],
    ids=[
        "done",
        "a member began again",
        "a member failed",
        "a failed member began again",
        "a failed member began again and ended between two looks",
        "a member noted late that it began again",
    ],
)
def test_a_group_that_was_shown_truthfully_passes(history: History) -> None:
    assert judge(history) == []


BAD_GROUPS = {
    "fell within an attempt": group_history(HALF, seen_group(version=4), WHOLE),
    "fell within an attempt, running 50.0 % (attempt 1, version 3)": group_history(
        HALF, seen_group(version=4), WHOLE, begun_again=7.1
    ),
    # One beginning excuses one fall.
    "fell within an attempt, running 50.0 % (attempt 1, version 5)": group_history(
        HALF, seen_group(version=4), seen_group(version=5, done=1), seen_group(version=6), WHOLE, begun_again=1.9
    ),
    "left a final state, failed": group_history(HALF, ONE_FAILED, WHOLE),
    "left a final state, failed 100.0 % (attempt 1, version 8)": group_history(
        HALF,
        ONE_FAILED,
        WHOLE,
        seen_group(version=8, done=1, failed=1),
        seen_group(version=9, done=2),
        begun_again=2.9,
    ),
    "left a final state, done": group_history(
        seen_group(version=1), HALF, WHOLE, seen_group(version=8, done=1, failed=1), begun_again=3.9
    ),
    "g: was shown as done before": group_history(WHOLE, WHOLE),
    "and its actors": group_history(HALF, HALF, WHOLE, failed=True),
    "g: was shown with": group_history(HALF, seen_group(version=4, done=1, current=2), WHOLE),
}


@pytest.mark.parametrize("complaint", BAD_GROUPS)
def test_a_group_that_was_not_shown_truthfully_is_found(complaint: str) -> None:
    complaints = judge(BAD_GROUPS[complaint])
    assert any(complaint in each for each in complaints), complaints

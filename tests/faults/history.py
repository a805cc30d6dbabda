"""The record of a fault: what a reader saw and what actors did; and `judge`, which finds what may never happen.

The rules are the same for every fault.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from dramatiq_progress import Progress, State
from dramatiq_progress.progress import Parts

#: How long after a reader may have seen an attempt its actor notes that it ``began``: its start is in the store before
#: the actor is called, which waits for the CPU and the disk of a busy machine.
NOTED_AFTER_SECONDS = 5.0


@dataclass(frozen=True)
class Sample:
    """One reading of a message; its progress is None if there was no record.

    Attributes:
      at: The time, by `time.monotonic`, which all processes of a machine share.
      life: The number of times that the store had lost records before.
    """

    at: float
    life: int
    message_id: str
    progress: Progress | None


@dataclass(frozen=True)
class Deed:
    """A line that an actor wrote to the ledger: it ``began``, ``ended`` or ``failed``, and its current value.

    Or the number of an ``item`` that a job that resumes has done.
    """

    at: float
    message_id: str
    what: str
    attempt: int = 1
    current: float = 0
    why: str = ""
    tracked: bool = True


@dataclass(frozen=True)
class Resources:
    """A count of a process group's resources before and after a fault; `allowed` is the permitted increase."""

    name: str
    before: int
    after: int
    allowed: int = 0


@dataclass
class History:
    """Everything that is judged.

    Attributes:
      openings: The times at which a finished message was sent again on purpose.
      ends: The last reading of each message, after everything was repaired.
      cancelled: Messages that were cancelled; they may have finished before the request reached them.
      given_up: Messages that must fail for killing their workers.
      gone: Messages that may have no record: they had finished when the store lost its records, or may never be sent.
      composites: By its id, the members of each group and pipeline; each is a list of messages, one after the other.
      growing: Those of them whose later members are unknown until other members send them.
      forgotten: Composites that may lack ends of members, or have no record: the store lost them while workers, which
        remember ends, were killed.
      eternal_keys: Keys in the store that never expire.
    """

    samples: list[Sample] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    openings: list[tuple[float, str]] = field(default_factory=list)
    ends: dict[str, Progress | None] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    composites: dict[str, list[list[str]]] = field(default_factory=dict)
    growing: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    eternal_keys: list[str] = field(default_factory=list)
    resources: list[Resources] = field(default_factory=list)


def judge(history: History) -> list[str]:
    """Return the broken promises; an empty list if there are none."""
    return [
        *_moved_backwards(history),
        *_miscounted(history),
        *_said_done_too_early(history),
        *_harmed(history),
        *_ended_wrongly(history),
        *_left_out(history),
        *(f"the key {key} never expires" for key in history.eternal_keys),
        *(
            f"{each.name}: {each.before} before, {each.after} after"
            for each in history.resources
            if each.after > each.before + each.allowed
        ),
    ]


def _moved_backwards(history: History) -> Iterator[str]:
    before: dict[str, Sample] = {}
    begun_again = {composite: _begun_again(history, composite) for composite in history.composites}
    for sample in history.samples:
        earlier = before.get(sample.message_id)
        before[sample.message_id] = sample
        if earlier is None or earlier.life != sample.life:
            continue
        opened = any(earlier.at <= at <= sample.at and which == sample.message_id for at, which in history.openings)
        reasons = begun_again.get(sample.message_id, [])
        # Each further attempt of a member may once lower its composite, or open it again.
        is_in_time = bool(reasons) and reasons[0] - NOTED_AFTER_SECONDS <= sample.at
        begun = is_in_time and _has_receded(earlier.progress, sample.progress)
        if begun:
            del reasons[0]
        yield from _steps_back(earlier.progress, sample.progress, opened=opened, begun_again=begun)


def _has_receded(earlier: Progress | None, later: Progress | None) -> bool:
    if earlier is None or later is None:
        return False
    # A short retry may start and end between two looks.
    return (later.percent or 0) < (earlier.percent or 0) or (earlier.complete and later.state is not earlier.state)


def _begun_again(history: History, composite: str) -> list[float]:
    """Return the times at which members of a composite began, except for the first of each."""
    members = {message_id for member in history.composites[composite] for message_id in member}
    found = []
    begun = set()
    for deed in history.deeds:
        if deed.what == "began" and deed.message_id in members:
            if deed.message_id in begun:
                found.append(deed.at)
            begun.add(deed.message_id)
    return found


def _steps_back(
    earlier: Progress | None, later: Progress | None, *, opened: bool, begun_again: bool = False
) -> Iterator[str]:
    if earlier is None:
        return
    name = f"{earlier.actor} {earlier.id}"
    if later is None:
        yield f"{name}: {_shown(earlier)}, and then its record was gone"
        return
    if (later.attempt, later.version) < (earlier.attempt, earlier.version):
        yield f"{name}: an older version was seen again, {_shown(earlier)} and then {_shown(later)}"
    if opened:
        return
    # A failed message that is delivered again (by hand, or because it was not acknowledged) runs again.
    tried_again = earlier.state is State.FAILED and (later.attempt > earlier.attempt or begun_again)
    if earlier.complete and later.state is not earlier.state and not tried_again:
        yield f"{name}: left a final state, {_shown(earlier)} and then {_shown(later)}"
    if not begun_again and later.attempt == earlier.attempt and (later.percent or 0) < (earlier.percent or 0):
        yield f"{name}: fell within an attempt, {_shown(earlier)} and then {_shown(later)}"


def _shown(progress: Progress) -> str:
    return f"{progress.state} {progress.percent} % (attempt {progress.attempt}, version {progress.version})"


def _miscounted(history: History) -> Iterator[str]:
    for sample in history.samples:
        if sample.message_id not in history.composites or sample.progress is None:
            continue
        parts = sample.progress.parts
        planned = len(history.composites[sample.message_id])
        may_lack = sample.message_id in history.growing and not sample.progress.complete
        if parts is None or parts.total > planned or (parts.total < planned and not may_lack):
            yield f"{sample.message_id}: has {planned} members, and was shown with {parts}"
        elif sum(asdict(parts).values()) - parts.total != parts.total or sample.progress.current != _over(parts):
            yield f"{sample.message_id}: was shown with {parts} at {sample.progress.current}"


def _over(parts: Parts) -> int:
    return parts.done + parts.failed + parts.cancelled + parts.skipped


def _said_done_too_early(history: History) -> Iterator[str]:
    ended: dict[str, float] = {}
    for deed in history.deeds:
        if deed.what == "ended":
            ended[deed.message_id] = min(deed.at, ended.get(deed.message_id, deed.at))
    for composite, members in history.composites.items():
        ended[composite] = max(ended.get(each, float("inf")) for member in members for each in member)
    reported = set()
    for sample in history.samples:
        if sample.progress is None or sample.progress.state is not State.DONE or sample.message_id in reported:
            continue
        if sample.at < ended.get(sample.message_id, float("inf")):
            reported.add(sample.message_id)
            yield f"{sample.progress.actor} {sample.message_id}: was shown as done before it was"


def _harmed(history: History) -> Iterator[str]:
    for deed in history.deeds:
        # Actors fail on purpose with Planned, and are interrupted by a worker that stops.
        wanted = {"Planned", "Interrupted", "Shutdown"} | (
            {"Cancelled"} if deed.message_id in history.cancelled else set()
        )
        if deed.what == "failed" and deed.why not in wanted:
            yield f"{deed.message_id}: the actor was harmed by {deed.why}"


def _ended_wrongly(history: History) -> Iterator[str]:
    deeds = defaultdict(list)
    for deed in history.deeds:
        deeds[deed.message_id].append(deed)
    for message_id, progress in history.ends.items():
        if progress is None:
            if message_id not in history.gone | history.forgotten:
                yield f"{message_id}: has no record"
        elif not progress.complete and message_id not in history.forgotten:
            done = ", ".join(f"{deed.what} at {deed.at:.1f}" for deed in deeds[message_id]) or "nothing"
            yield f"{message_id}: never ended, {_shown(progress)}; its actor has done: {done}"
        elif message_id in history.composites:
            outcomes = [_outcome(each, deeds) for each in history.composites[message_id]]
            yield from _composite_differs(progress, outcomes, may_lack=message_id in history.forgotten)
        else:
            yield from _differs_from_ledger(history, progress, deeds[message_id])


def _differs_from_ledger(history: History, progress: Progress, deeds: list[Deed]) -> Iterator[str]:
    ended = [deed.current for deed in deeds if deed.what == "ended"]
    if progress.state is State.DONE:
        if not ended:
            yield f"{progress.id}: is done, and no run of it ended"
        elif progress.current not in ended:
            yield f"{progress.id}: is done at {progress.current}, and its actor at {ended}"
    elif progress.id in history.given_up:
        if progress.state is not State.FAILED or ended:
            yield f"{progress.id}: was to be given up, and is {_shown(progress)}, its actor at {ended}"
    elif progress.id in history.cancelled:
        if progress.state is not State.CANCELLED or ended:
            yield f"{progress.id}: was to be cancelled, and is {_shown(progress)}, its actor at {ended}"
    elif ended or not any(deed.what == "failed" for deed in deeds):
        yield f"{progress.id}: {_shown(progress)}, and its actor {[deed.what for deed in deeds]}"


def _left_out(history: History) -> Iterator[str]:
    done: dict[str, set[float]] = defaultdict(set)
    for deed in history.deeds:
        if deed.what == "item":
            done[deed.message_id].add(deed.current)
    ended = {deed.message_id: deed.current for deed in history.deeds if deed.what == "ended"}
    for message_id in done.keys() & ended.keys():
        if lacking := sorted(set(range(int(ended[message_id]))) - done[message_id]):
            yield f"{message_id}: ended without the items {lacking}"


def _outcome(member: list[str], deeds: dict[str, list[Deed]]) -> State | None:
    """Return how a member of a composite ended, by the ledger; None if no actor of it did."""
    for message_id in member:
        if not any(deed.what == "ended" for deed in deeds[message_id]):
            failures = [deed.why for deed in deeds[message_id] if deed.what == "failed"]
            return {"Planned": State.FAILED, "Cancelled": State.CANCELLED}.get(failures[-1]) if failures else None
    return State.DONE


def _composite_differs(progress: Progress, outcomes: list[State | None], *, may_lack: bool) -> Iterator[str]:
    parts = progress.parts
    assert parts is not None
    lacking = (outcomes.count(State.DONE) - parts.done, outcomes.count(State.FAILED) - parts.failed)
    if min(lacking) < 0 or (any(lacking) and not may_lack):
        yield f"{progress.id}: {_shown(progress)} with {parts}, and its actors {outcomes}"
    elif (progress.state is State.DONE) is not (parts.done == parts.total):
        yield f"{progress.id}: {_shown(progress)} with {parts}"

"""What was seen and done while something broke, and the one judge of it all.

A history has no opinion about which fault there was: `judge` names whatever may never be seen, after any of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dramatiq_progress import Progress, State


@dataclass(frozen=True)
class Sample:
    """What a reader saw of a message; None when there was no record.

    Attributes:
      at: When, by `time.monotonic`, which all processes of a machine share.
      life: How often the store had lost records before.
    """

    at: float
    life: int
    message_id: str
    progress: Progress | None


@dataclass(frozen=True)
class Deed:
    """What an actor wrote down: that it ``began``, ``ended`` or ``failed``, and how far it was."""

    at: float
    message_id: str
    what: str
    attempt: int = 1
    current: float = 0
    why: str = ""
    tracked: bool = True


@dataclass(frozen=True)
class Resources:
    """What a group of processes held before a fault and after it; `allowed` is how much more it may hold."""

    name: str
    before: int
    after: int
    allowed: int = 0


@dataclass
class History:
    """All that is judged.

    Attributes:
      openings: When a message was sent again on purpose, after its end.
      ends: What a reader saw of each message when all was healed.
      cancelled: Messages that were to be cancelled; they may have ended before they heard of it.
      given_up: Messages that were to be failed for killing their workers.
      gone: Messages that may have no record: they had ended when the store lost its records.
      eternal_keys: Keys of the store that never expire.
    """

    samples: list[Sample] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    openings: list[tuple[float, str]] = field(default_factory=list)
    ends: dict[str, Progress | None] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    eternal_keys: list[str] = field(default_factory=list)
    resources: list[Resources] = field(default_factory=list)


def judge(history: History) -> list[str]:
    """What was wrong; nothing, if all was as promised."""
    return [
        *_moved_backwards(history),
        *_said_done_too_early(history),
        *_harmed(history),
        *_ended_wrongly(history),
        *(f"the key {key} never expires" for key in history.eternal_keys),
        *(
            f"{each.name}: {each.before} before, {each.after} after"
            for each in history.resources
            if each.after > each.before + each.allowed
        ),
    ]


def _moved_backwards(history: History) -> Iterator[str]:
    before: dict[str, Sample] = {}
    for sample in history.samples:
        earlier = before.get(sample.message_id)
        before[sample.message_id] = sample
        if earlier is None or earlier.life != sample.life:
            continue
        opened = any(earlier.at <= at <= sample.at and which == sample.message_id for at, which in history.openings)
        yield from _steps_back(earlier.progress, sample.progress, opened=opened)


def _steps_back(earlier: Progress | None, later: Progress | None, *, opened: bool) -> Iterator[str]:
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
    # A failed message that is delivered once more (by hand, or for want of an acknowledgement) is tried once more.
    tried_again = earlier.state is State.FAILED and later.attempt > earlier.attempt
    if earlier.complete and later.state is not earlier.state and not tried_again:
        yield f"{name}: left a final state, {_shown(earlier)} and then {_shown(later)}"
    if later.attempt == earlier.attempt and (later.percent or 0) < (earlier.percent or 0):
        yield f"{name}: fell within an attempt, {_shown(earlier)} and then {_shown(later)}"


def _shown(progress: Progress) -> str:
    return f"{progress.state} {progress.percent} % (attempt {progress.attempt}, version {progress.version})"


def _said_done_too_early(history: History) -> Iterator[str]:
    ended: dict[str, float] = {}
    for deed in history.deeds:
        if deed.what == "ended":
            ended[deed.message_id] = min(deed.at, ended.get(deed.message_id, deed.at))
    told = set()
    for sample in history.samples:
        if sample.progress is None or sample.progress.state is not State.DONE or sample.message_id in told:
            continue
        if sample.at < ended.get(sample.message_id, float("inf")):
            told.add(sample.message_id)
            yield f"{sample.progress.actor} {sample.message_id}: was said to be done before it was"


def _harmed(history: History) -> Iterator[str]:
    for deed in history.deeds:
        # Actors fail on purpose with Planned, and a worker that stops interrupts them with Shutdown.
        wanted = {"Planned", "Shutdown"} | ({"Cancelled"} if deed.message_id in history.cancelled else set())
        if deed.what == "failed" and deed.why not in wanted:
            yield f"{deed.message_id}: the actor was harmed by {deed.why}"


def _ended_wrongly(history: History) -> Iterator[str]:
    deeds = defaultdict(list)
    for deed in history.deeds:
        deeds[deed.message_id].append(deed)
    for message_id, progress in history.ends.items():
        if progress is None:
            if message_id not in history.gone:
                yield f"{message_id}: has no record"
        elif not progress.complete:
            yield f"{message_id}: never ended, {_shown(progress)}"
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

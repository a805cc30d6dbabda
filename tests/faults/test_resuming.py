"""Jobs that go on where they were, while their workers and the store are killed: no item is left out."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_progress import State
from dramatiq_progress.progress import GIVEN_UP
from tests.faults import tasks
from tests.faults.scene import PATIENT_PROGRESS, Scene, SceneFactory
from tests.store_server import Server
from tests.waiting import TIMEOUT_SECONDS, wait_until

#: More than a busy machine needs for all faults, at 5 ms each.
ITEMS = 10_000
#: Of an item, in the second job: some two each second.
FAILING = 0.01

#: What happens to the store in the life of each worker, which is killed at its end.
FAULTS = {
    "redis": ["emptied after the kill", "restarted", "emptied", ""],
    "rabbitmq": ["", "", ""],
}


@pytest.mark.slow(25)
@pytest.mark.parametrize("broker", FAULTS)
def test_no_item_is_left_out_and_few_are_done_twice(make_scene: SceneFactory, tmp_path: Path, broker: str) -> None:
    chance = random.Random(18)
    # Fewer than there are kills: these don't count, since the jobs get further in between.
    progress = {**PATIENT_PROGRESS, "MAX_DELIVERIES": 2}
    store = Server(tmp_path, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    scene = make_scene(broker=broker, progress=progress, store=store)
    store.start()
    hurry = tmp_path / "hurry"
    jobs = [scene.send(tasks.go_through, ITEMS, failing, str(hurry)) for failing in (0.0, FAILING)]
    lost_at = 0.0
    for fault in FAULTS[broker]:
        with scene.worker("-p", "1", "-t", "2") as worker:
            until_all_move(scene, jobs)
            if fault in ("restarted", "emptied"):
                start_again(scene, emptied=fault == "emptied")
                until_all_move(scene, jobs)
            time.sleep(chance.uniform(0.1, 1.0))
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        if fault == "emptied after the kill":
            start_again(scene, emptied=True)
            lost_at = time.monotonic()
    with scene.worker("-p", "1", "-t", "2"):
        until_all_move(scene, jobs)
        hurry.touch()
        for job in jobs:
            assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    for job in jobs:
        assert {deed.current for deed in scene.deeds(job, "item")} == set(range(ITEMS))
        assert list(done_although_read(scene, job, lost_at)) == []
        assert list(falls(scene, job, lost_at)) == []
    assert len(scene.deeds(jobs[1], "failed")) > 0


def until_all_move(scene: Scene, jobs: list[dramatiq.Message[Any]]) -> None:
    """Wait until each job is read to have got further."""
    before = [scene.now(job) for job in jobs]

    def moves(job: dramatiq.Message[Any], current: Any) -> bool:
        progress = scene.now(job)
        return progress is not None and progress.state is State.RUNNING and progress.current not in (None, current)

    for job, progress in zip(jobs, before, strict=True):
        wait_until(lambda job=job, current=progress and progress.current: moves(job, current))


def start_again(scene: Scene, *, emptied: bool) -> None:
    """Kill the store, and start it again, with its data or without."""
    if emptied:
        scene.kill_store()
        shutil.rmtree(scene.store.folder / "appendonlydir")
    else:
        scene.store.kill()
    scene.store.start()


def done_although_read(scene: Scene, job: dramatiq.Message[Any], lost_at: float) -> Iterator[tuple[Any, float, Any]]:
    """Yield the items that were done again after a reader had seen that they were done."""
    readings = [
        (sample.at, sample.progress.current)
        for sample in scene.history.samples
        if sample.message_id == job.message_id and sample.progress is not None
    ]
    deeds = sorted(scene.deeds(job, "item"), key=lambda deed: deed.at)
    highest: Any = 0
    has_lost = False
    for deed in deeds:
        if deed.at > lost_at > 0 and not has_lost:
            # What the emptied store knew is lost.
            highest, has_lost = 0, True
            readings = [reading for reading in readings if reading[0] > lost_at]
        while readings and readings[0][0] < deed.at:
            highest = max(highest, readings.pop(0)[1])
        if deed.current is not None and deed.current < highest:
            yield deed.current, deed.at, highest


def falls(scene: Scene, job: dramatiq.Message[Any], lost_at: float) -> Iterator[tuple[Any, ...]]:
    """Yield each reading with a lower percentage than one before, except of what an emptied store has lost."""
    highest, has_lost = 0.0, False
    for sample in scene.history.samples:
        if sample.message_id != job.message_id or sample.progress is None:
            continue
        if sample.at > lost_at > 0 and not has_lost:
            highest, has_lost = 0.0, True
        percent = sample.progress.percent
        if (percent or 0.0) < highest:
            yield highest, sample.at, sample.life, sample.progress.state, sample.progress.attempt, percent
        highest = max(highest, percent or 0.0)


@pytest.mark.slow(15)
@pytest.mark.parametrize("starts", ["later", "at once"])
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_two_copies_do_not_both_go_through_all_items(
    make_scene: SceneFactory, tmp_path: Path, broker: str, starts: str
) -> None:
    """The later one takes over, and the earlier one stops."""
    scene = make_scene(broker=broker, progress=PATIENT_PROGRESS)
    scene.store.start()
    hurry = tmp_path / "hurry"
    job = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry))
    with scene.worker("-p", "1", "-t", "2") as worker:
        until_all_move(scene, [job])
        if starts == "at once":
            # As after a kill between a retry and the acknowledgement: the next worker gets both.
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        else:
            scene.deliver_again(job)
            wait_until(lambda: scene.deeds(job, "failed"))
    if starts == "at once":
        scene.deliver_again(job)
    with scene.worker("-p", "1", "-t", "2"):
        wait_until(lambda: len(scene.deeds(job, "began")) >= 3)
        if starts == "at once":
            wait_until(lambda: scene.deeds(job, "failed"))
        hurry.touch()
        assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    handled = [deed.current for deed in scene.deeds(job, "item")]
    assert set(handled) == set(range(ITEMS))
    # Those of half a second, or of several where the machine is so busy that a write waits.
    assert len(handled) < 1.1 * ITEMS
    assert list(falls(scene, job, 0.0)) == []


@pytest.mark.slow(15)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_an_item_that_kills_its_worker_is_given_up(make_scene: SceneFactory, tmp_path: Path, broker: str) -> None:
    """Only deaths at the same place count."""
    limit = 2
    scene = make_scene(broker=broker, progress={**PATIENT_PROGRESS, "MAX_DELIVERIES": limit})
    scene.store.start()
    message = scene.send(tasks.meet_poison, 100, 30, 60, str(tmp_path / "died"))
    scene.history.given_up.add(message.message_id)
    # The one that gets there isn't counted, since it got further.
    for attempt in range(1, 1 + 1 + limit + 1):
        with scene.worker("-p", "1", "-t", "1") as worker:
            wait_until(lambda attempt=attempt: len(scene.deeds(message, "began")) == attempt)
            worker.wait(TIMEOUT_SECONDS)
    with scene.worker("-p", "1", "-t", "1"):
        failed = scene.when(message, State.FAILED)
        assert (failed.result, failed.percent) == (GIVEN_UP, 60.0)
        scene.heal()
    handled = [deed.current for deed in scene.deeds(message, "item")]
    assert handled == [*range(31), *range(30, 61), *[60] * limit]

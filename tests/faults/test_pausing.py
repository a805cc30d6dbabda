"""Jobs that are paused and resumed, while workers are restarted and killed and the store is emptied."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_progress import PauseOutcome, State, pause, progress_group, resume
from dramatiq_progress.worker.sending import again
from tests.faults import tasks
from tests.faults.scene import PATIENT_PROGRESS, STEADY_REDIS_BROKER, Scene, SceneFactory
from tests.faults.test_deploys import stop
from tests.waiting import wait_until

BROKERS = ["redis", "rabbitmq"]
#: More than a job does before it is hurried, at 5 ms each.
ITEMS = 10_000


def until_it_runs(scene: Scene, *jobs: dramatiq.Message[Any]) -> None:
    """Wait until jobs are seen to have done some items, so that they can be paused."""
    for job in jobs:
        wait_until(lambda job=job: (found := scene.now(job)) is not None and found.current > 5)


def items_of(scene: Scene, job: dramatiq.Message[Any]) -> Counter[float]:
    return Counter(deed.current for deed in scene.deeds(job, "item"))


@pytest.mark.slow(30)
@pytest.mark.parametrize("broker", BROKERS)
def test_jobs_are_paused_and_go_on_where_they_were(make_scene: SceneFactory, tmp_path: Path, broker: str) -> None:
    """Longer than the broker keeps them in the delay queue at once, and while their workers are restarted."""
    progress = {**PATIENT_PROGRESS, "MAX_DELIVERIES": 2}
    scene = make_scene(broker=broker, progress=progress, redis_broker=STEADY_REDIS_BROKER)
    scene.store.start()
    hurry = tmp_path / "hurry"
    running, waiting, unwanted, other = (scene.send(tasks.go_through, ITEMS, 0.0, str(hurry)) for _ in range(4))
    assert pause(waiting).outcome is PauseOutcome.PAUSED
    with scene.worker("-p", "1", "-t", "4") as worker:
        until_it_runs(scene, running, unwanted, other)
        for job in (running, unwanted):
            assert pause(job).outcome is PauseOutcome.REQUESTED
            paused = scene.when(job, State.PAUSED)
            assert paused.current == items_of(scene, job).total() and paused.attempt == 1
        scene.cancel(unwanted)
        assert scene.when(unwanted, State.CANCELLED)
        # It isn't held up.
        before = items_of(scene, other).total()
        wait_until(lambda: items_of(scene, other).total() > before + 5 * again.PAUSE_SECONDS / tasks.STEP_SECONDS / 10)
        stop(worker)
    counts = [items_of(scene, job).total() for job in (running, waiting, unwanted)]
    with scene.worker("-p", "2", "-t", "4"):
        until_it_runs(scene, other)
        before = items_of(scene, other).total()
        # More deliveries than a message may have deaths at the same place.
        wait_until(lambda: items_of(scene, other).total() > before + 4 * again.PAUSE_SECONDS / tasks.STEP_SECONDS / 2)
        assert [items_of(scene, job).total() for job in (running, waiting, unwanted)] == counts
        assert {scene.now(job).state for job in (running, waiting)} == {State.PAUSED}  # type: ignore[union-attr]
        for job in (running, waiting):
            assert resume(job).outcome is PauseOutcome.RESUMED
            assert scene.when(job, State.RUNNING)
        hurry.touch()
        for job in (running, waiting, other):
            assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    for job in (running, waiting, other):
        assert items_of(scene, job) == Counter(range(ITEMS))
    assert scene.now(waiting).attempt == 1  # type: ignore[union-attr]
    assert items_of(scene, unwanted).total() == counts[2]


@pytest.mark.slow(20)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_paused_job_goes_on_when_the_store_was_emptied(make_scene: SceneFactory, tmp_path: Path, broker: str) -> None:
    scene = make_scene(broker=broker, progress=PATIENT_PROGRESS)
    scene.store.start()
    hurry = tmp_path / "hurry"
    job = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry))
    with scene.worker("-p", "1", "-t", "1"):
        until_it_runs(scene, job)
        assert pause(job).outcome is PauseOutcome.REQUESTED
        count = scene.when(job, State.PAUSED).current
        hurry.touch()
        scene.kill_store()
        scene.store.start()
        assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    assert count == next(deed.current for deed in scene.deeds(job, "item") if deed.attempt > 1)
    assert items_of(scene, job) == Counter(range(ITEMS))


@pytest.mark.slow(20)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_job_whose_worker_was_killed_is_paused_when_it_is_delivered_again(
    make_scene: SceneFactory, tmp_path: Path, broker: str
) -> None:
    scene = make_scene(broker=broker, progress=PATIENT_PROGRESS)
    scene.store.start()
    hurry = tmp_path / "hurry"
    group = progress_group([tasks.go_through.message(ITEMS, 0.0, str(hurry))], broker=scene.broker)
    scene.run(group)
    [job] = group.children
    with scene.worker("-p", "1", "-t", "1") as worker:
        until_it_runs(scene, job)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    lost = scene.when(job, State.LOST)
    assert pause(job).outcome is PauseOutcome.REQUESTED
    count = items_of(scene, job).total()
    with scene.worker("-p", "1", "-t", "1"):
        paused = scene.when(job, State.PAUSED)
        assert (paused.current, paused.attempt, items_of(scene, job).total()) == (lost.current, 1, count)
        # It doesn't run, so its group isn't lost without it.
        waiting = wait_until(lambda: (whole := scene.now(group)) is not None and whole.parts.waiting and whole)
        assert (waiting.parts.running, waiting.state, waiting.percent) == (0, State.RUNNING, paused.percent)
        assert resume(job).outcome is PauseOutcome.RESUMED
        hurry.touch()
        assert scene.when(job, State.DONE).attempt == 2
        scene.when(group, State.DONE)
        scene.heal()
    assert items_of(scene, job).keys() == set(range(ITEMS))

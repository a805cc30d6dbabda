"""Workers that are stopped as a deploy does it, while they run jobs that can be resumed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from dramatiq_progress import State, get_progress
from tests.faults import tasks
from tests.faults.scene import PATIENT_PROGRESS, STEADY_REDIS_BROKER, Scene, SceneFactory
from tests.waiting import TIMEOUT_SECONDS, wait_until

ITEMS = 2_000
#: So long that no job ends before its worker is stopped, on a busy machine either.
ITEM_SECONDS = 0.1
#: A worker without jobs takes about 3 s to stop, and a busy machine some more. One that waits for a job takes 200 s.
STOP_SECONDS = 30.0
PROGRESS = {**PATIENT_PROGRESS, "MAX_DELIVERIES": 2}


@pytest.fixture(params=["redis", "rabbitmq"])
def scene(request: pytest.FixtureRequest, make_scene: SceneFactory) -> Scene:
    made = make_scene(broker=request.param, progress=PROGRESS, redis_broker=STEADY_REDIS_BROKER)
    made.store.start()
    return made


@pytest.mark.slow(20)
@pytest.mark.parametrize("scene", ["redis", "rabbitmq", "quorum_rabbitmq"], indirect=True)
def test_jobs_go_on_in_the_next_worker_and_nothing_is_done_twice(scene: Scene, tmp_path: Path) -> None:
    hurry = tmp_path / "hurry"
    jobs = [scene.send(tasks.go_through, ITEMS, 0.0, str(hurry), ITEM_SECONDS) for _ in range(8)]

    def counts() -> list[int]:
        return [len(scene.deeds(job, "item")) for job in jobs]

    # More deploys than a message may have deaths or failures at the same place.
    for _ in range(3):
        before = counts()
        with scene.worker("-p", "2", "-t", "8") as worker:
            wait_until(lambda before=before: all(a > b for a, b in zip(counts(), before, strict=True)))
            stop(worker)
        # Beside the reader, which may not have read the last writes yet.
        shown = [get_progress(job) for job in jobs]
        assert {each.state for each in shown} == {State.ENQUEUED}  # type: ignore[union-attr]
        assert [each.current for each in shown] == counts()  # type: ignore[union-attr]
    with scene.worker("-p", "2", "-t", "8"):
        hurry.touch()
        for job in jobs:
            assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    for job in jobs:
        done = Counter(deed.current for deed in scene.deeds(job, "item"))
        assert done == Counter(range(ITEMS))


@pytest.mark.slow(15)
def test_a_worker_stops_while_the_store_is_down_and_the_job_goes_on_all_the_same(scene: Scene, tmp_path: Path) -> None:
    """The message itself brings its place: the store comes back empty."""
    hurry = tmp_path / "hurry"
    job = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry), ITEM_SECONDS)
    with scene.worker("-p", "1", "-t", "1") as worker:
        wait_until(lambda: len(scene.deeds(job, "item")) > 20)
        scene.kill_store()
        stop(worker)
    scene.store.start()
    with scene.worker("-p", "1", "-t", "1"):
        hurry.touch()
        assert scene.when(job, State.DONE).current == ITEMS
        scene.heal()
    assert Counter(deed.current for deed in scene.deeds(job, "item")) == Counter(range(ITEMS))


def stop(worker: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(TIMEOUT_SECONDS)
    assert time.monotonic() - began < STOP_SECONDS

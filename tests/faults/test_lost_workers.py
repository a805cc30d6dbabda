"""Workers that are killed, frozen or busy: only a dead or stopped one is shown as ``lost``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dramatiq_progress import State
from dramatiq_progress.conf import Configuration
from dramatiq_progress.progress import GIVEN_UP
from tests.faults import tasks
from tests.faults.scene import PATIENT_PROGRESS, QUICK_PROGRESS, STEADY_PROGRESS, Scene, SceneFactory
from tests.waiting import BUSY_SECONDS, TIMEOUT_SECONDS, wait_until

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


@BOTH_BROKERS
def test_a_job_of_a_killed_worker_is_lost_and_then_done_by_another_worker(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    message = scene.send(tasks.wait_for, str(go_on))
    with scene.worker("-p", "1", "-t", "2") as first:
        assert scene.when(message, State.RUNNING, current=1)
        os.killpg(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        first.wait()
        lost = scene.when(message, State.LOST)
        # LOST_AFTER, one poll, and the slack of a busy machine.
        assert time.monotonic() - killed_at < QUICK_PROGRESS["LOST_AFTER"] + BUSY_SECONDS
        # Its reported values are still there, and it is not shown as finished.
        assert (lost.current, lost.total, lost.description, lost.complete) == (1, 2, "Waiting", False)

    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.RUNNING, attempt=2, current=1)
        go_on.touch()
        scene.when(message, State.DONE, attempt=2, current=2)
        scene.heal()


def test_a_silent_job_is_running_and_not_lost(make_scene: SceneFactory) -> None:
    """It reports nothing for twice LOST_AFTER, while its worker sends heartbeats."""
    lost_after = 4.5
    scene = make_scene(progress={**STEADY_PROGRESS, "LOST_AFTER": lost_after})
    scene.store.start()
    with scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        message = scene.send(tasks.sleep_for, 2 * lost_after)
        scene.when(message, State.DONE)
        assert State.LOST not in scene.states(message)
        scene.heal()


@pytest.mark.slow(37)
def test_only_a_job_that_stops_its_whole_process_is_lost(make_scene: SceneFactory, tmp_path: Path) -> None:
    """With the default settings, since the switching of threads doesn't scale with ours."""
    scene = make_scene(progress={})
    scene.store.start()
    go_on = tmp_path / "go-on"
    with (
        scene.worker("-p", "1", "-t", "2", "-Q", "default"),
        scene.worker("-p", "1", "-t", "1", "-Q", "short"),
        scene.worker("-p", "1", "-t", "1", "-Q", "long"),
    ):
        sleeping = scene.send(tasks.sleep_for, 30.0)
        computing = scene.send(tasks.loop_for, 30.0)
        short = scene.send(tasks.hold_gil_shortly, 8, str(go_on))
        long = scene.send(tasks.hold_gil_long, 30, str(go_on))
        scene.when(long, State.LOST)
        assert not scene.deeds(long, "released")
        scene.when(long, State.RUNNING)
        # Not by `released`: a heartbeat may be written before the actor goes on.
        assert time.monotonic() >= scene.deeds(long, "held")[0].at + 30
        go_on.touch()
        scene.heal()
    assert State.LOST not in {*scene.states(sleeping), *scene.states(computing), *scene.states(short)}
    assert scene.when(long, State.DONE).attempt == 1
    assert scene.lasted(computing) > 2 * Configuration().lost_after - 1


def test_a_worker_that_wakes_up_too_late_cannot_move_the_bar(scene: Scene, tmp_path: Path) -> None:
    """It is frozen until another worker has finished its message; then it wakes up and continues."""
    go_on = tmp_path / "go-on"
    message = scene.send(tasks.wait_for, str(go_on))
    with scene.worker("-p", "1", "-t", "1") as frozen:
        scene.when(message, State.RUNNING, current=1)
        os.killpg(frozen.pid, signal.SIGSTOP)
        try:
            scene.when(message, State.LOST)
            with scene.worker("-p", "1", "-t", "1"):
                scene.when(message, State.RUNNING, attempt=2)
                go_on.touch()
                done = scene.when(message, State.DONE)
        finally:
            os.killpg(frozen.pid, signal.SIGCONT)
        wait_until(lambda: len(scene.deeds(message, "ended")) >= 2)
        frozen.terminate()
        frozen.wait(TIMEOUT_SECONDS)
    scene.heal()
    after = scene.when(message, State.DONE)
    assert (after.attempt, after.version) == (2, done.version)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_message_that_kills_its_worker_each_time_is_rejected(make_scene: SceneFactory, broker: str) -> None:
    """RabbitMQ redelivers it while the last heartbeat is recent."""
    scene = make_scene(broker=broker, progress={**PATIENT_PROGRESS, "MAX_DELIVERIES": 2})
    scene.store.start()
    message = scene.send(tasks.kill_worker)
    scene.history.given_up.add(message.message_id)
    for attempt in (1, 2):
        # Dramatiq stops when one of its processes was killed; a supervisor starts it again.
        with scene.worker("-p", "1", "-t", "1") as worker:
            wait_until(lambda attempt=attempt: len(scene.deeds(message, "began")) == attempt)
            worker.wait(TIMEOUT_SECONDS)
    with scene.worker("-p", "1", "-t", "1"):
        failed = scene.when(message, State.FAILED)
        # The last reported values stay.
        assert (failed.attempt, failed.result, failed.percent) == (3, GIVEN_UP, 50.0)
        # The worker is alive, and free for other messages.
        scene.when(scene.send(tasks.report_for, 0.01), State.DONE)
        scene.heal()
    assert len(scene.deeds(message, "began")) == 2

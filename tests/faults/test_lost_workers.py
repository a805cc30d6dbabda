"""Workers that are killed, frozen or busy: `lost` and not slow, and then the truth."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dramatiq_progress import State
from dramatiq_progress.conf import Configuration
from dramatiq_progress.middleware import GIVEN_UP
from tests.faults import tasks
from tests.faults.scene import QUICK_PROGRESS, Scene, SceneFactory
from tests.waiting import wait_until

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


@BOTH_BROKERS
def test_a_job_whose_worker_was_killed_is_lost_and_then_done_by_another(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    message = scene.send(tasks.wait_for, str(go_on))
    with scene.worker("-p", "1", "-t", "2") as first:
        assert scene.when(message, State.RUNNING, current=1)
        os.killpg(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        first.wait()
        lost = scene.when(message, State.LOST)
        # LOST_AFTER and one poll, and what a busy machine needs.
        assert time.monotonic() - killed_at < 1.5 + 1
        # What it reported is still there, and it is not said to have ended.
        assert (lost.current, lost.total, lost.description, lost.complete) == (1, 2, "Waiting", False)

    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.RUNNING, attempt=2, current=1)
        go_on.touch()
        scene.when(message, State.DONE, attempt=2, current=2)
        scene.heal()


def test_a_silent_job_is_running_and_not_lost(scene: Scene, tmp_path: Path) -> None:
    """It reports nothing for several times LOST_AFTER; its worker's heartbeats say that it lives."""
    with scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        message = scene.send(tasks.sleep_for, 5.0)
        scene.when(message, State.DONE)
        assert State.LOST not in scene.states(message)
        scene.heal()


def test_a_busy_job_is_slow_and_only_one_that_stops_its_process_is_lost(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    """At the default settings: Python's and the system's threads are what decides, and they do not scale."""
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
        assert scene.deeds(long, "released")
        go_on.touch()
        scene.heal()
    assert State.LOST not in {*scene.states(sleeping), *scene.states(computing), *scene.states(short)}
    assert scene.when(long, State.DONE).attempt == 1
    assert scene.lasted(computing) > 2 * Configuration().lost_after - 1


def test_a_worker_that_wakes_up_too_late_cannot_move_the_bar(scene: Scene, tmp_path: Path) -> None:
    """Frozen until another worker had taken and finished its message, it wakes up and goes on with it."""
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
        wait_until(lambda: len(scene.deeds(message, "ended")) == 2)
        frozen.terminate()
        frozen.wait(30)
    scene.heal()
    after = scene.when(message, State.DONE)
    assert (after.attempt, after.version) == (2, done.version)


def test_a_message_that_kills_its_worker_each_time_is_given_up(make_scene: SceneFactory) -> None:
    scene = make_scene(progress={**QUICK_PROGRESS, "MAX_DELIVERIES": 2})
    scene.store.start()
    message = scene.send(tasks.kill_worker)
    scene.history.given_up.add(message.message_id)
    for attempt in (1, 2):
        # Dramatiq ends when one of its processes was killed; whoever supervises it starts it again.
        with scene.worker("-p", "1", "-t", "1") as worker:
            wait_until(lambda attempt=attempt: len(scene.deeds(message, "began")) == attempt)
            worker.wait(30)
    with scene.worker("-p", "1", "-t", "1"):
        failed = scene.when(message, State.FAILED)
        # It keeps what it came to.
        assert (failed.attempt, failed.result, failed.percent) == (3, GIVEN_UP, 50.0)
        # The worker lives, and is free for others.
        scene.when(scene.send(tasks.report_for, 0.01), State.DONE)
        scene.heal()
    assert len(scene.deeds(message, "began")) == 2

"""Real worker processes of every kind, with Redis and with RabbitMQ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dramatiq_progress import State, get_progress
from tests import servers
from tests.faults import tasks
from tests.faults.scene import Scene
from tests.waiting import TIMEOUT_SECONDS


@pytest.mark.slow(16)
@pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)
def test_every_broker_has_the_same_states(scene: Scene, tmp_path: Path) -> None:
    waiting, next_one = scene.send(tasks.asynchronous), scene.send(tasks.asynchronous)
    before, behind = scene.when(waiting, State.ENQUEUED), scene.when(next_one, State.ENQUEUED)
    assert (before.queue_position, behind.queue_position, behind.queue_length) == (1, 2, 2)
    with scene.worker("-p", "1", "-t", "2"):
        assert scene.when(waiting, State.DONE).current == 1

        failing = tasks.fail_first.message_with_options(args=(str(tmp_path / "failed"),), **tasks.LATE_RETRY)
        scene.enqueue(failing)
        retrying = scene.when(failing, State.RETRYING)
        assert (retrying.attempt, retrying.current, retrying.retries_left) == (1, 1, 3)
        scene.when(failing, State.DONE, attempt=2, current=2)

        untracked = scene.send(tasks.untracked_for, 0.01)
        assert scene.lasted(untracked) > 0
        assert get_progress(untracked.message_id) is None
        scene.heal()


def test_a_worker_that_its_first_message_kills_had_started(scene: Scene) -> None:
    """As it may before the worker says that it is ready."""
    message = scene.send(tasks.kill_worker)
    booting = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.BootsForever"])}
    with scene.worker("-p", "1", "-t", "1", environment=booting) as worker:
        assert worker.wait(TIMEOUT_SECONDS) != 0
    assert "is ready for action" not in worker.log.read_text()
    assert len(scene.deeds(message, "began")) == 1


def test_a_worker_that_cannot_import_its_actors_fails_with_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"Failed to import module(.|\n)*No module named 'tests\.absent'"),
        servers.worker("-p", "1", log=tmp_path / "worker.log", environment={}, actors="tests.absent"),
    ):
        raise RuntimeError("It has no actors.")


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("dramatiq", ["-p", "2", "-t", "4"]),
        ("dramatiq", ["-p", "2", "-t", "4", "--use-spawn"]),
        ("dramatiq-gevent", ["-p", "1", "-t", "4"]),
    ],
    ids=["fork", "spawn", "gevent"],
)
def test_a_worker_that_is_stopped_records_the_outcome_of_its_jobs(
    steady_scene: Scene, program: str, options: list[str], tmp_path: Path
) -> None:
    """Each final state is written before the process ends."""
    scene = steady_scene
    go_on = tmp_path / "go-on"
    messages = [scene.send(tasks.wait_for, str(go_on)) for _ in range(4)]
    with scene.worker(*options, program=program) as worker:
        for message in messages:
            scene.when(message, State.RUNNING, current=1)
        worker.terminate()
        go_on.touch()
        worker.wait(TIMEOUT_SECONDS)
    for message in messages:
        scene.when(message, State.DONE, attempt=1, current=2)
    scene.heal()
    assert not any(State.LOST in scene.states(message) for message in messages)

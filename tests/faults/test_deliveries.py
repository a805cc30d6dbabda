"""Messages that are delivered twice, redelivered or interrupted: one attempt is visible; nothing moves backwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_progress import State
from tests.faults import tasks
from tests.faults.scene import STEADY_PROGRESS, Scene, SceneFactory, dead_letter
from tests.waiting import TIMEOUT_SECONDS, wait_until

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)
STEADY_WITH_BOTH_BROKERS = pytest.mark.parametrize("steady_scene", ["redis", "rabbitmq"], indirect=True)


@pytest.mark.parametrize("patient_scene", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_that_dies_between_a_retry_and_the_acknowledgement(patient_scene: Scene, tmp_path: Path) -> None:
    """In this case both the retry and the message itself are delivered."""
    scene = patient_scene
    message = scene.send(tasks.fail_first, str(tmp_path / "failed"))
    dying = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.DiesAfterRetry"])}
    with scene.worker("-p", "1", "-t", "2", environment=dying) as worker:
        scene.when(message, State.RETRYING)
        worker.wait(TIMEOUT_SECONDS)
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.DONE, current=2)
        wait_until(lambda: len(scene.deeds(message, "ended")) >= 2)
        scene.heal()


@STEADY_WITH_BOTH_BROKERS
def test_two_copies_of_a_message_at_the_same_time(steady_scene: Scene, tmp_path: Path) -> None:
    scene = steady_scene
    go_on = tmp_path / "go-on"
    message = scene.send(tasks.wait_for, str(go_on))
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.RUNNING, attempt=1, current=1)
        scene.deliver_again(message)
        wait_until(lambda: len(scene.deeds(message, "began")) >= 2)
        # The attempt that started first is shown; the second one waits.
        wait_until(lambda: waits(scene, message))
        assert scene.when(message, State.RUNNING, attempt=1).current == 1
        go_on.touch()
        scene.when(message, State.DONE, current=2)
        wait_until(lambda: len(scene.deeds(message, "ended")) >= 2)
        scene.heal()
    shown = [each.current for each in scene.progresses(message)]
    assert shown == sorted(shown)


def waits(scene: Scene, message: dramatiq.Message[Any]) -> bool:
    """Return whether the store knows a second attempt, and that it was no death of the first one."""
    with scene.store.client() as client:
        later = client.hget(f"dramatiq-progress:{message.message_id}", "later")
    return later is not None and later.split()[1] == "0"


@pytest.mark.slow(25)
def test_deliveries_whose_attempts_are_alive_are_no_deaths(make_scene: SceneFactory, tmp_path: Path) -> None:
    """RabbitMQ redelivers what isn't acknowledged within its consumer_timeout."""
    scene = make_scene(broker="impatient_rabbitmq", progress={**STEADY_PROGRESS, "MAX_DELIVERIES": 2})
    scene.store.start()
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "8"):
        message = scene.send(tasks.wait_for, str(go_on))
        scene.when(message, State.RUNNING, attempt=1, current=1)
        wait_until(lambda: len(scene.deeds(message, "began")) >= 4)
        go_on.touch()
        # Whichever of them ends first.
        assert scene.when(message, State.DONE).percent == 100.0
        wait_until(lambda: len(scene.deeds(message, "ended")) >= 4)
        scene.heal()
    assert {each.attempt for each in scene.progresses(message) if each.state is State.RUNNING} == {1}
    assert {State.LOST, State.FAILED}.isdisjoint(scene.states(message))


@STEADY_WITH_BOTH_BROKERS
def test_a_finished_message_that_is_delivered_again_stays_done(steady_scene: Scene, tmp_path: Path) -> None:
    scene = steady_scene
    done_file = tmp_path / "done"
    done_file.touch()
    with scene.worker("-p", "1", "-t", "2"):
        message = scene.send(tasks.wait_for, str(done_file))
        done = scene.when(message, State.DONE)
        done_file.unlink()
        scene.deliver_again(message)
        wait_until(lambda: len(scene.deeds(message, "began")) >= 2)
        done_file.touch()
        wait_until(lambda: len(scene.deeds(message, "ended")) >= 2)
        scene.heal()
    assert scene.now(message) == done
    assert set(scene.states(message)) <= {State.ENQUEUED, State.RUNNING, State.DONE}


@BOTH_BROKERS
def test_a_dead_letter_that_is_sent_again_by_hand_is_tried_once_more(scene: Scene, tmp_path: Path) -> None:
    good = tmp_path / "good"
    with scene.worker("-p", "1", "-t", "2"):
        message = scene.send(tasks.fail_unless, str(good))
        assert scene.when(message, State.FAILED).attempt == 1
        letter = wait_until(lambda: dead_letter(scene.broker))
        assert letter.message_id == message.message_id
        good.touch()
        scene.open_again(message)
        scene.deliver_again(letter)
        done = scene.when(message, State.DONE)
        assert (done.attempt, done.current) == (2, 2)
        scene.heal()


@STEADY_WITH_BOTH_BROKERS
def test_a_job_that_a_deploy_interrupts_continues_in_the_next_worker(steady_scene: Scene, tmp_path: Path) -> None:
    scene = steady_scene
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2") as worker:
        message = scene.send(tasks.wait_or_be_interrupted, str(go_on))
        scene.when(message, State.RUNNING, current=1)
        worker.terminate()
        worker.wait(TIMEOUT_SECONDS)
    assert scene.deeds(message, "failed")[0].why == "Shutdown"
    assert scene.when(message, State.RETRYING).attempt == 1
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.RUNNING, attempt=2, current=1)
        go_on.touch()
        scene.when(message, State.DONE, current=2)
        scene.heal()
    assert State.LOST not in scene.states(message)

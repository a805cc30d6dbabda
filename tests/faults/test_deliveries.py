"""Messages that come twice, come back, or are interrupted: one attempt is visible, and nothing moves backwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import xq_name

from dramatiq_progress import State
from tests.faults import tasks
from tests.faults.scene import Scene
from tests.waiting import wait_until

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


@BOTH_BROKERS
def test_a_worker_that_dies_between_a_retry_and_the_acknowledgement(scene: Scene, tmp_path: Path) -> None:
    """The retry and the message itself are both delivered then."""
    message = scene.send(tasks.fail_first, str(tmp_path / "failed"))
    dying = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.DiesAfterRetry"])}
    with scene.worker("-p", "1", "-t", "2", environment=dying) as worker:
        scene.when(message, State.RETRYING)
        worker.wait(30)
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.DONE, current=2)
        wait_until(lambda: len(scene.deeds(message, "ended")) == 2)
        scene.heal()


@BOTH_BROKERS
def test_two_copies_of_a_message_at_the_same_time(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    message = scene.send(tasks.wait_for, str(go_on))
    scene.deliver_again(message)
    with scene.worker("-p", "1", "-t", "2"):
        wait_until(lambda: len(scene.deeds(message, "began")) == 2)
        # The one that began later is shown; the first goes on unseen.
        scene.when(message, State.RUNNING, attempt=2, current=1)
        go_on.touch()
        scene.when(message, State.DONE, attempt=2, current=2)
        wait_until(lambda: len(scene.deeds(message, "ended")) == 2)
        scene.heal()


@BOTH_BROKERS
def test_a_finished_message_that_is_delivered_again_stays_done(scene: Scene, tmp_path: Path) -> None:
    done_file = tmp_path / "done"
    done_file.touch()
    with scene.worker("-p", "1", "-t", "2"):
        message = scene.send(tasks.wait_for, str(done_file))
        done = scene.when(message, State.DONE)
        done_file.unlink()
        scene.deliver_again(message)
        wait_until(lambda: len(scene.deeds(message, "began")) == 2)
        done_file.touch()
        wait_until(lambda: len(scene.deeds(message, "ended")) == 2)
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


def dead_letter(broker: Any) -> dramatiq.Message[Any] | None:
    """The message that was rejected to the dead letters of the queue `default`, as an operator would find it."""
    if isinstance(broker, RedisBroker):
        found = broker.client.hvals(f"{broker.namespace}:{xq_name('default')}.msgs")
        return dramatiq.Message.decode(found[0]) if found else None
    _, _, body = broker.channel.basic_get(xq_name("default"), auto_ack=True)
    return dramatiq.Message.decode(body) if body else None


@BOTH_BROKERS
def test_a_job_that_a_deploy_interrupts_goes_on_with_the_next_worker(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2") as worker:
        message = scene.send(tasks.wait_or_be_interrupted, str(go_on))
        scene.when(message, State.RUNNING, current=1)
        worker.terminate()
        worker.wait(30)
    assert scene.deeds(message, "failed")[0].why == "Shutdown"
    assert scene.when(message, State.RETRYING).attempt == 1
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.RUNNING, attempt=2, current=1)
        go_on.touch()
        scene.when(message, State.DONE, current=2)
        scene.heal()
    assert State.LOST not in scene.states(message)

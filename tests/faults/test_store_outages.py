"""A store that is killed, frozen, slow, full or misconfigured: jobs aren't affected, and records become right again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from django.test import Client

from dramatiq_progress import State
from tests.faults import tasks
from tests.faults.scene import PATIENT_PROGRESS, RECOVERY, REFUSAL, TROUBLE, Scene, SceneFactory
from tests.store_server import Server
from tests.waiting import BUSY_SECONDS, wait_until

#: The part by which equal jobs may differ on a busy machine.
TWINS_DIFFER_BY = 0.2

#: Of a job that a test ends when it has seen it after the fault: more than it does before.
ITEMS = 2_000
ITEM_SECONDS = 0.05


@pytest.fixture
def scene(make_scene: SceneFactory) -> Scene:
    """A scene whose sender has the default timeouts, as all of its processes."""
    made = make_scene(is_patient=False)
    made.store.start()
    return made


def takes_as_long(scene: Scene, tracked: dramatiq.Message[Any], untracked: dramatiq.Message[Any]) -> bool:
    """Return whether a job took as long as its untracked twin, except for one timeout."""
    return scene.lasted(tracked) < (1 + TWINS_DIFFER_BY) * scene.lasted(untracked) + 0.5


@pytest.mark.slow(17)
def test_a_store_that_is_killed_during_a_job_and_is_back_empty_after_ten_seconds(
    patient_scene: Scene, tmp_path: Path
) -> None:
    scene = patient_scene
    hurry = tmp_path / "hurry"
    with scene.worker("-p", "1", "-t", "4") as worker, scene.unleaking(worker):
        twins = scene.send(tasks.report_for, 12.0), scene.send(tasks.untracked_for, 12.0)
        lasting = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry), ITEM_SECONDS)
        scene.when(lasting, State.RUNNING)
        scene.kill_store()
        time.sleep(10)  # the fault itself
        assert not scene.deeds(lasting, "ended")
        scene.store.start()
        back_at = time.monotonic()
        scene.when(lasting, State.RUNNING)
        # Two flush intervals and the pause between two probes (1 s at most); less than the outage.
        assert time.monotonic() - back_at < 0.2 + 1.0 + BUSY_SECONDS
        hurry.touch()
        scene.heal()
    assert takes_as_long(scene, *twins)
    assert worker.log.read_text().count(TROUBLE) == worker.log.read_text().count(RECOVERY) == 1


@pytest.mark.slow(13)
def test_a_store_that_is_down_from_before_the_first_message(
    make_scene: SceneFactory, client: Client, tmp_path: Path
) -> None:
    scene = make_scene(broker="rabbitmq", is_patient=False)
    hurry = tmp_path / "hurry"
    began = time.monotonic()
    for _ in range(100):
        scene.outsider.enqueue(tasks.untracked_for.message(0.0))
    without_us = time.monotonic() - began
    began = time.monotonic()
    messages = [scene.send(tasks.report_for, 0.01) for _ in range(100)]
    # One timeout for all; one for each would be 25 s.
    assert time.monotonic() - began < 5 * without_us + BUSY_SECONDS
    with scene.worker("-p", "1", "-t", "4"):
        lasting = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry), ITEM_SECONDS)
        wait_until(lambda: scene.deeds(lasting, "began") and all(scene.deeds(each, "ended") for each in messages))
        response = client.get(f"/progress/{lasting.message_id}/")
        assert response.status_code == 503 and int(response.headers["Retry-After"]) >= 2
        scene.store.start()
        assert scene.when(lasting, State.RUNNING).attempt == 1
        hurry.touch()
        scene.heal()


@pytest.mark.parametrize("fault", ["slow", "mute"])
def test_reports_cost_the_actor_the_same_whatever_the_store_does(scene: Scene, fault: str) -> None:
    with scene.proxied() as proxy, scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        healthy = scene.send(tasks.count_reports, 2.0)
        scene.when(healthy, State.DONE)
        if fault == "slow":
            proxy.delay = 0.5
        else:
            proxy.is_mute = True
        faulty = scene.send(tasks.count_reports, 2.0)
        wait_until(lambda: scene.deeds(faulty, "ended"))
        proxy.delay, proxy.is_mute = 0.0, False
        scene.heal()
    reports = [scene.deeds(message, "ended")[0].current for message in (healthy, faulty)]
    # A report that waited for the store would be a million times slower.
    assert reports[1] > reports[0] / 50
    assert scene.lasted(faulty) < scene.lasted(healthy) + BUSY_SECONDS


@pytest.mark.slow(10)
def test_a_store_that_is_frozen_before_a_job_starts(scene: Scene) -> None:
    with scene.worker("-p", "1", "-t", "4") as worker, scene.unleaking(worker):
        with scene.store.frozen():
            twins = scene.send(tasks.report_for, 6.0), scene.send(tasks.untracked_for, 6.0)
            assert takes_as_long(scene, *twins)
        scene.heal()


@pytest.mark.slow(37)
def test_a_store_that_is_frozen_for_thirty_seconds_at_the_default_settings(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene = make_scene(progress={}, is_patient=False)
    hurry = tmp_path / "hurry"
    scene.store.start()
    with scene.worker("-p", "1", "-t", "4"):
        twins = scene.send(tasks.report_for, 30.0), scene.send(tasks.untracked_for, 30.0)
        lasting = scene.send(tasks.go_through, ITEMS, 0.0, str(hurry), ITEM_SECONDS)
        scene.when(lasting, State.RUNNING)
        with scene.store.frozen():
            assert takes_as_long(scene, *twins)
        scene.when(twins[0], State.DONE)
        assert scene.when(lasting, State.RUNNING).attempt == 1
        hurry.touch()
        scene.heal()


def test_a_full_store_accepts_the_outcome_of_each_job(patient_scene: Scene, tmp_path: Path) -> None:
    scene = patient_scene
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        message = scene.send(tasks.wait_for, str(go_on))
        scene.when(message, State.RUNNING, current=1)
        with scene.store.client() as client:
            client.config_set("maxmemory", "1")
            # A message that is sent while the store is full has no record; its job runs.
            unseen = scene.send(tasks.report_for, 0.01)
            wait_until(lambda: scene.deeds(unseen, "ended"))
            go_on.touch()
            scene.when(message, State.DONE, current=2)
            client.config_set("maxmemory", "0")
        scene.heal()
    assert TROUBLE not in worker.log.read_text()


def test_a_read_only_store_is_written_when_it_accepts_writes_again(patient_scene: Scene, tmp_path: Path) -> None:
    scene = patient_scene
    end, go_on = tmp_path / "end", tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        ending, going_on = scene.send(tasks.wait_for, str(end)), scene.send(tasks.wait_for, str(go_on))
        for message in (ending, going_on):
            scene.when(message, State.RUNNING, current=1)
        with read_only(scene):
            end.touch()
            wait_until(lambda: scene.deeds(ending, "ended"))
            # A message without heartbeats looks like one of a dead worker; a reader can't tell them apart.
            scene.when(going_on, State.LOST)
            assert scene.when(ending, State.LOST).percent != 100
        scene.when(ending, State.DONE)
        scene.when(going_on, State.RUNNING)
        go_on.touch()
        scene.heal()
    assert REFUSAL in worker.log.read_text() and TROUBLE not in worker.log.read_text()


@contextmanager
def read_only(scene: Scene) -> Iterator[None]:
    """Make the store a replica of a server that doesn't exist, as after a failed failover."""
    with scene.store.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


def test_a_store_that_forgets_its_scripts_repeatedly(patient_scene: Scene) -> None:
    scene = patient_scene
    stopping = threading.Event()

    def forget() -> None:
        with scene.store.client() as client:
            while not stopping.wait(0.001):
                client.script_flush("SYNC")

    forgetting = threading.Thread(target=forget)
    with scene.worker("-p", "1", "-t", "4") as worker, scene.unleaking(worker):
        forgetting.start()
        try:
            messages = [scene.send(tasks.report_for, 0.2) for _ in range(20)]
            for message in messages:
                scene.when(message, State.DONE)
        finally:
            stopping.set()
            forgetting.join()
        scene.heal()
    assert TROUBLE not in worker.log.read_text()


def test_a_wrong_password_is_logged_once_and_affects_no_job(
    make_scene: SceneFactory, client: Client, tmp_path: Path
) -> None:
    scene = make_scene(
        # A late answer is an outage of its own, with a line of its own.
        progress=PATIENT_PROGRESS,
        store=Server(tmp_path, "--requirepass", "right"),
    )
    scene.store.start()
    with scene.worker("-p", "1", "-t", "2") as worker:
        messages = [scene.send(tasks.report_for, 0.01) for _ in range(20)]
        wait_until(lambda: all(scene.deeds(each, "ended") for each in messages))
        wait_until(lambda: TROUBLE in worker.log.read_text())
        assert client.get(f"/progress/{messages[0].message_id}/").status_code == 503
        with scene.store.client(password="right") as administrator:
            administrator.config_set("requirepass", "")
            scene.heal()
    [line] = [line for line in worker.log.read_text().splitlines() if TROUBLE in line]
    assert "NOAUTH" in line or "Authentication" in line


def test_an_evicted_record_is_not_found_and_one_that_runs_is_rebuilt(
    scene: Scene, client: Client, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2"):
        finished, running = scene.send(tasks.report_for, 0.01), scene.send(tasks.wait_for, str(go_on))
        scene.when(finished, State.DONE)
        scene.when(running, State.RUNNING, current=1)
        with scene.reader.between_looks, scene.store.client() as administrator:
            scene.lost_records()
            for message in (finished, running):
                administrator.delete(f"dramatiq-progress:{message.message_id}")
        assert client.get(f"/progress/{finished.message_id}/").status_code == 404
        # Its next heartbeat rebuilds it, and its values follow.
        scene.when(running, State.RUNNING, current=1, total=2, description="Waiting")
        go_on.touch()
        scene.heal()


def test_a_worker_that_is_cut_off_from_the_store_only(scene: Scene, tmp_path: Path) -> None:
    end, go_on = tmp_path / "end", tmp_path / "go-on"
    with scene.proxied() as proxy, scene.worker("-p", "1", "-t", "2") as worker, scene.unleaking(worker):
        ending, going_on = scene.send(tasks.wait_for, str(end)), scene.send(tasks.wait_for, str(go_on))
        for message in (ending, going_on):
            scene.when(message, State.RUNNING, current=1)
        proxy.is_cut = True
        scene.when(going_on, State.LOST)
        scene.when(ending, State.LOST)
        end.touch()
        wait_until(lambda: scene.deeds(ending, "ended"))
        proxy.is_cut = False
        # Nothing is refused: the lost attempt is still the latest.
        assert scene.when(going_on, State.RUNNING).attempt == 1
        assert scene.when(ending, State.DONE).attempt == 1
        go_on.touch()
        scene.heal()


def test_reading_and_sending_continue_while_the_store_is_mute(make_scene: SceneFactory, client: Client) -> None:
    """A web process waits for one timeout in an outage, not for one per request or message."""
    scene = make_scene(is_patient=False)
    scene.store.start()
    with scene.store.frozen():
        began = time.monotonic()
        message = scene.send(tasks.report_for, 0.01)
        for _ in range(50):
            assert client.get(f"/progress/{message.message_id}/").status_code == 503
            scene.send(tasks.report_for, 0.01)
        # One for each would be 25 s.
        assert time.monotonic() - began < 2 * BUSY_SECONDS
    with scene.worker("-p", "1", "-t", "4"):
        scene.heal()

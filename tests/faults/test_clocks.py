"""Machines whose clocks differ by an hour: times in records come from the store, and users see no difference."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from dramatiq_progress import State
from tests import servers
from tests.faults import tasks
from tests.faults.scene import STEADY_PROGRESS, Scene, SceneFactory, wrong_clock
from tests.waiting import wait_until

#: Elapsed seconds that depended on the wrong clock would be an hour; no test takes half of one.
HALF_AN_HOUR = 1800


@pytest.fixture
def an_hour_ahead() -> dict[str, str]:
    """The environment of a process whose clock is an hour ahead; its monotonic clock is unchanged."""
    return wrong_clock("+3600")


@pytest.mark.parametrize("steady_scene", ["rabbitmq"], indirect=True)
def test_workers_whose_clocks_differ_by_an_hour(
    steady_scene: Scene, an_hour_ahead: dict[str, str], tmp_path: Path
) -> None:
    scene = steady_scene
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2", environment=an_hour_ahead) as ahead:
        lasting = scene.send(tasks.wait_for, str(go_on))
        scene.when(lasting, State.RUNNING, current=1)
        with scene.worker("-p", "1", "-t", "2"):
            quick = [scene.send(tasks.report_for, 0.1) for _ in range(10)]
            for message in quick:
                scene.when(message, State.DONE)
            running = scene.when(lasting, State.RUNNING)
            assert running.elapsed is not None and running.elapsed < HALF_AN_HOUR
            os.killpg(ahead.pid, signal.SIGKILL)
            ahead.wait()
            again = scene.when(lasting, State.RUNNING, attempt=2)
            assert again.elapsed is not None and again.elapsed < HALF_AN_HOUR
            go_on.touch()
            scene.heal()
    assert not any(State.LOST in scene.states(message) for message in quick)


@pytest.mark.parametrize("ahead", ["worker", "web"])
def test_a_worker_and_a_web_process_whose_clocks_differ_by_an_hour(
    steady_scene: Scene, ahead: str, an_hour_ahead: dict[str, str], tmp_path: Path
) -> None:
    scene = steady_scene
    go_on = tmp_path / "go-on"
    web, worker = ({}, an_hour_ahead) if ahead == "worker" else (an_hour_ahead, {})
    with (
        servers.site(log=tmp_path / "site.log", environment=scene.environment | web) as url,
        scene.worker("-p", "1", "-t", "2", environment=worker),
    ):
        message, failing = (
            scene.send(tasks.wait_for, str(go_on)),
            scene.send(tasks.fail_first, str(tmp_path / "failed")),
        )
        scene.when(message, State.RUNNING, current=1)
        wait_until(lambda: fetch(url, message.message_id)["elapsed"] > 2)
        seen = fetch(url, message.message_id)
        assert (seen["state"], seen["progress"]["percent"]) == ("running", 50.0)
        assert seen["elapsed"] < HALF_AN_HOUR
        assert scene.when(failing, State.DONE).attempt == 2
        go_on.touch()
        scene.heal()
    assert State.LOST not in scene.states(message)


@pytest.mark.slow(16)
def test_an_attempt_continues_after_a_failover_that_lost_its_start_to_a_server_whose_clock_is_behind(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Simulated by one server, whose clock is set back and whose record is replaced by what a replica has."""
    servers.find_program("faketime")
    library, offset = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), tmp_path / "offset"
    offset.write_text("+0")
    scene = make_scene(progress=STEADY_PROGRESS)
    with monkeypatch.context() as patched:
        patched.setenv("LD_PRELOAD", str(library))
        patched.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        patched.setenv("FAKETIME_NO_CACHE", "1")
        patched.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        scene.store.start()
    failed, go_on = tmp_path / "failed", tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2"), scene.store.client() as client:
        # Its record is copied while it waits for its retry.
        message = tasks.fail_first_then_wait.message_with_options(args=(str(failed), str(go_on)), **tasks.LATE_RETRY)
        scene.enqueue(message)
        key = f"dramatiq-progress:{message.message_id}"
        scene.when(message, State.RETRYING)
        replicated = client.hgetall(key)
        scene.when(message, State.RUNNING, attempt=2, current=1)
        # The reader must not see the record that is about to be lost after the loss was noted.
        with scene.reader.between_looks:
            scene.lost_records()
            client.delete(key)
            client.hset(key, mapping=replicated)
            client.expire(key, 3600)
        set_back = tmp_path / "set-back"
        set_back.write_text("-3600")
        set_back.replace(offset)
        wait_until(lambda: client.time()[0] < time.time() - 1800)
        assert scene.when(message, State.RUNNING, attempt=2, current=1).elapsed is not None
        go_on.touch()
        scene.when(message, State.DONE, attempt=2)
        scene.heal()


def fetch(url: str, message_id: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/progress/{message_id}/") as response:
        answer: dict[str, object] = json.load(response)
        return answer

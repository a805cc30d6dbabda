"""Django's tasks, while workers and the store break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from django.tasks import TaskResultStatus, default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from dramatiq_progress import State, StoreUnavailable, get_progress, progress_pipeline
from dramatiq_progress.middleware import ProgressMiddleware
from tests import django_tasks as tasks
from tests.faults.scene import PATIENT_PROGRESS, Scene, SceneFactory, wrong_clock
from tests.servers import ROOT
from tests.waiting import wait_until

HEALING_SECONDS = 180.0


@pytest.fixture(autouse=True)
def global_broker() -> Iterator[None]:
    """Restore the broker that tasks are sent to."""
    before = dramatiq.get_broker()
    yield
    dramatiq.set_broker(before)


@pytest.fixture
def here(patient_scene: Scene) -> Scene:
    """A scene whose broker tasks are sent to."""
    dramatiq.set_broker(patient_scene.broker)
    return patient_scene


def read(result: Any) -> Any:
    """Return the result as it is stored now; None if it isn't, or the store is unavailable."""
    with suppress(StoreUnavailable, TaskResultDoesNotExist):
        return default_task_backend.get_result(result.id)
    return None


def when(result: Any, status: str, *, attempts: int = 0) -> Any:
    """Wait until the stored result has a status, and at least as many attempts, and return it."""

    def found() -> Any:
        now = read(result)
        return now if now is not None and now.status.value == status and now.attempts >= attempts else None

    return wait_until(found, timeout=HEALING_SECONDS)


def finishes(scene: Scene, result: Any) -> int:
    """Count how often Django's receiver of `task_finished` has logged the end of a task, in all workers."""
    logs = "".join(each.read_text() for each in scene.folder.glob("worker-*.log"))
    return sum(
        logs.count(f"Task id={result.id} path={result.task.module_path} state={each}")
        for each in (TaskResultStatus.FAILED, "SUCCESSFUL")
    )


@pytest.mark.parametrize("patient_scene", ["redis", "rabbitmq"], indirect=True)
def test_a_task_whose_worker_was_killed_runs_again(here: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    result = tasks.wait_for.enqueue(str(go_on))
    with here.worker("-p", "1", "-t", "1") as worker:
        when(result, "RUNNING")
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    wait_until(lambda: get_progress(result.id).state is State.LOST)  # type: ignore[union-attr]
    assert read(result).status is TaskResultStatus.RUNNING
    go_on.touch()
    with here.worker("-p", "1", "-t", "1"):
        ended = when(result, "SUCCESSFUL")
        assert (ended.return_value, ended.attempts, len(set(ended.worker_ids))) == ("waited", 2, 2)
        wait_until(lambda: finishes(here, result) == 1)


def test_a_pipeline_of_tasks_whose_worker_was_killed_goes_on(here: Scene, tmp_path: Path) -> None:
    go_on, written = tmp_path / "go-on", tmp_path / "written"
    first, second = tasks.wait_for.message(str(go_on)), tasks.append.message(str(written))
    job = progress_pipeline([first, second]).run()
    with here.worker("-p", "1", "-t", "1") as worker:
        wait_until(lambda: get_progress(first.message_id).state is State.RUNNING)  # type: ignore[union-attr]
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    go_on.touch()
    with here.worker("-p", "1", "-t", "1"):
        wait_until(lambda: get_progress(job).state is State.DONE, timeout=HEALING_SECONDS)  # type: ignore[union-attr]
        ended = default_task_backend.get_result(second.message_id)
        assert (ended.status, ended.args, ended.attempts) == ("SUCCESSFUL", [str(written), "waited"], 1)
        assert written.read_text() == "waited\n"
        wait_until(lambda: finishes(here, ended) == 1)


@pytest.mark.slow(30)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_task_that_kills_its_workers_is_given_up(make_scene: SceneFactory, broker: str) -> None:
    scene = make_scene(broker=broker, progress=PATIENT_PROGRESS | {"MAX_DELIVERIES": 2})
    scene.store.start()
    dramatiq.set_broker(scene.broker)
    result = tasks.kill_worker.enqueue()

    def is_over(worker: Any) -> bool:
        return worker.poll() is not None or read(result).is_finished

    while not read(result).is_finished:
        with scene.worker("-p", "1", "-t", "1") as worker:
            wait_until(lambda worker=worker: is_over(worker), timeout=HEALING_SECONDS)
            if read(result).is_finished:
                wait_until(lambda: finishes(scene, result) == 1)
    ended = read(result)
    assert (ended.status, ended.attempts) == (TaskResultStatus.FAILED, 2)
    assert [each.exception_class.__name__ for each in ended.errors] == ["GivenUp"]
    assert finishes(scene, result) == 1


def test_a_store_that_comes_back_empty_gets_every_result(here: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    running = tasks.wait_for.enqueue(str(go_on))
    with here.worker("-p", "1", "-t", "1"):
        when(running, "RUNNING")
        here.kill_store()
        meanwhile = tasks.fail_first.using(max_retries=0).enqueue(failures=0)
        here.store.start()
        # Written by the sender, and by the recorder of the worker.
        assert when(meanwhile, "READY").kwargs == {"failures": 0}
        assert when(running, "RUNNING", attempts=1).args == [str(go_on)]
        go_on.touch()
        assert when(running, "SUCCESSFUL").return_value == "waited"
        assert when(meanwhile, "SUCCESSFUL").return_value == 1
        wait_until(lambda: finishes(here, meanwhile) == 1)
        assert [finishes(here, each) for each in (running, meanwhile)] == [1, 1]


def test_a_task_that_ends_during_an_outage_keeps_its_return_value(here: Scene, tmp_path: Path) -> None:
    result = tasks.wait_for.enqueue(str(go_on := tmp_path / "go-on"))
    with here.worker("-p", "1", "-t", "1"):
        when(result, "RUNNING")
        here.kill_store()
        go_on.touch()
        wait_until(lambda: finishes(here, result) == 1)
        here.store.start()
        ended = when(result, "SUCCESSFUL")
        assert (ended.return_value, ended.args) == ("waited", [str(go_on)])


def test_rabbitmq_orders_tasks_by_every_priority(
    make_scene: SceneFactory, rabbitmq_url: str, settings: Any, tmp_path: Path
) -> None:
    scene = make_scene(broker="rabbitmq")
    scene.store.start()
    broker = RabbitmqBroker(url=rabbitmq_url, middleware=[ProgressMiddleware()], max_priority=10)
    dramatiq.set_broker(broker)
    settings.TASKS = {"default": settings.TASKS["default"] | {"QUEUES": ["ranked"]}}
    order = tmp_path / "order"
    try:
        for priority in (-100, 50, 0, 100, -50, 10):
            task = tasks.append.using(priority=priority, queue_name="ranked")
            result = task.enqueue(str(order), str(priority))
            assert get_progress(result.id).queue == "ranked"  # type: ignore[union-attr]
        environment = {
            "TEST_BROKER_OPTIONS": json.dumps({"max_priority": 10}),
            "dramatiq_queue_prefetch": "1",
            "TEST_TASK_QUEUES": "default ranked",
        }
        with scene.worker("-p", "1", "-t", "1", "-Q", "ranked", environment=environment):
            wait_until(lambda: order.exists() and len(order.read_text().split()) == 6, timeout=HEALING_SECONDS)
    finally:
        broker.close()
    assert order.read_text().split() == ["100", "50", "10", "0", "-50", "-100"]


def test_workers_started_for_one_queue_take_its_bands(here: Scene, tmp_path: Path) -> None:
    results = [tasks.append.using(priority=each).enqueue(str(tmp_path / "done"), str(each)) for each in (-1, 0, 1)]
    with here.worker("-p", "1", "-t", "1", "-Q", "default"):
        for each in results:
            when(each, "SUCCESSFUL")


def test_the_times_of_a_result_are_the_store_s_whatever_the_clocks_of_hosts_say(here: Scene) -> None:
    environment = os.environ | here.environment | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    before = timezone.now()
    code = "import django; django.setup(); from tests import django_tasks as t; print(t.add.enqueue(1, 2).id)"
    command = (sys.executable, "-c", code)
    sent = subprocess.check_output(command, env=environment | wrong_clock("-3600"), cwd=ROOT, text=True)
    with here.worker("-p", "1", "-t", "1", environment=wrong_clock("+3600")):

        def ended() -> Any:
            with suppress(StoreUnavailable, TaskResultDoesNotExist):
                result = default_task_backend.get_result(sent.strip())
                return result if result.is_finished else None

        result = wait_until(ended, timeout=HEALING_SECONDS)
    assert result.status is TaskResultStatus.SUCCESSFUL
    times = [before, result.enqueued_at, result.started_at, result.finished_at, timezone.now()]
    assert times == sorted(times)

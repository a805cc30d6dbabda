"""Thousands of messages while workers and the store are killed: each record equals the actors' ledger."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dramatiq
import pytest

from dramatiq_progress import progress_group, progress_pipeline
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.faults import tasks
from tests.faults.middleware import stored_file
from tests.faults.scene import HEALING_SECONDS, QUICK_PROGRESS, Scene, SceneFactory
from tests.waiting import wait_until

#: Duration of the faults; `make soak` sets it.
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
#: 2,000 per minute.
MESSAGES_PER_SECOND = 2000 / 60
WORKERS = 2
#: The part of the sends that sends a group or a pipeline, which is about a third of the messages.
COMPOSITES = 0.07
TELLING = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.TellsWhatIsStored"])}
#: Longer than a thread takes to defer a change, from the error of a store that was down.
DEFERRING_SECONDS = 1.0


@pytest.mark.slow(SOAK_SECONDS + 15)
@pytest.mark.timeout(SOAK_SECONDS + 600)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_every_record_equals_the_ledger(make_scene: SceneFactory, broker: str) -> None:
    # No limit: no message is rejected, however often its workers are killed.
    scene = make_scene(broker=broker, progress={**QUICK_PROGRESS, "MAX_DELIVERIES": 0})
    scene.store.start()
    chance = random.Random()
    began = time.monotonic()
    with breaking(scene, chance):
        while (passed := time.monotonic() - began) < SOAK_SECONDS:
            while len(scene.messages) < passed * MESSAGES_PER_SECOND:
                if chance.random() < COMPOSITES:
                    scene.run(composite(scene, chance))
                else:
                    scene.send(tasks.soak, chance.choice(tasks.KINDS))
            time.sleep(0.01)
    with scene.worker("-p", "2", "-t", "8"):
        # Twice the usual time for some thousand messages; less than is left of the timeout.
        scene.heal(timeout=2 * HEALING_SECONDS)


def composite(scene: Scene, chance: random.Random) -> progress_group | progress_pipeline:
    """Return a pipeline, or a group of messages and pipelines."""

    def stages(count: int) -> list[dramatiq.Message[Any]]:
        return [
            tasks.soak.message_with_options(args=[chance.choice(tasks.KINDS)], pipe_ignore=True) for _ in range(count)
        ]

    if chance.random() < 0.3:
        return progress_pipeline(stages(3), broker=scene.broker)
    pipelines = [dramatiq.pipeline(stages(2), broker=scene.broker) for _ in range(2)]
    return progress_group([*stages(4), *pipelines], broker=scene.broker)


@contextmanager
def breaking(scene: Scene, chance: random.Random) -> Iterator[None]:
    """Kill and restart workers and the store, for the length of a block.

    No worker is stopped while it still keeps deferred changes: those would be lost, as documented. The store isn't
    emptied while a process has some, either: a record that is written after a second loss hides that its message has
    ended.
    """
    workers: set[int] = set()
    stopping = threading.Event()
    one_fault_at_a_time = threading.Lock()
    failures: list[BaseException] = []

    def repeat(action: Callable[[], None]) -> None:
        try:
            while not stopping.is_set():
                action()
        except BaseException as error:
            failures.append(error)
            stopping.set()

    def work() -> None:
        with scene.worker("-p", "1", "-t", "8", environment=TELLING) as worker:
            workers.add(worker.pid)
            stopping.wait(chance.uniform(4, 12))
            with one_fault_at_a_time:
                # Also before the worker is stopped at the end.
                wait_until_stored(scene, [worker.pid])
                workers.remove(worker.pid)
                if not stopping.is_set():
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()

    def store() -> None:
        stopping.wait(chance.uniform(5, 15))
        with one_fault_at_a_time:
            if stopping.is_set():
                # The workers stop now.
                return
            wait_until_stored(scene, list(workers))
            scene.kill_store()
            scene.forget_ends()
            stopping.wait(chance.uniform(0.5, 3))
            scene.store.start()

    threads = [threading.Thread(target=repeat, args=[each]) for each in (*[work] * WORKERS, store)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def wait_until_stored(scene: Scene, workers: list[int]) -> None:
    """Wait until the store, which is there, has all that these workers and this process have deferred."""
    since = time.monotonic() + DEFERRING_SECONDS
    files = [stored_file(scene.environment["TEST_LEDGER"], each) for each in workers]

    def is_stored() -> bool:
        with suppress(OSError, ValueError):  # a file is read while it is written
            is_late = time.monotonic() > since and all(float(each.read_text()) > since for each in files)
            return is_late and not get_recorder()._deferred
        return False

    # Only a process that hangs takes longer: a busy machine writes some hundred changes within seconds.
    wait_until(is_stored, timeout=120.0)

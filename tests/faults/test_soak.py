"""Thousands of messages while workers are killed and the store is restarted: each record equals the actors' ledger."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults import tasks
from tests.faults.scene import QUICK_PROGRESS, RECOVERY, TROUBLE, Scene, SceneFactory
from tests.waiting import wait_until

#: For how long things break; `make soak` sets it.
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
#: 2,000 in a minute.
MESSAGES_PER_SECOND = 2000 / 60
WORKERS = 2


@pytest.mark.timeout(SOAK_SECONDS + 300)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_every_record_equals_the_ledger(make_scene: SceneFactory, broker: str) -> None:
    # No job is given up here, however often its workers are killed.
    scene = make_scene(broker=broker, progress={**QUICK_PROGRESS, "MAX_DELIVERIES": 0})
    scene.store.start()
    chance = random.Random()
    began = time.monotonic()
    with breaking(scene, chance):
        while (passed := time.monotonic() - began) < SOAK_SECONDS:
            while len(scene.messages) < passed * MESSAGES_PER_SECOND:
                scene.send(tasks.soak, chance.choice(tasks.KINDS))
            time.sleep(0.01)
    with scene.worker("-p", "2", "-t", "8"):
        scene.heal()


@contextmanager
def breaking(scene: Scene, chance: random.Random) -> Iterator[None]:
    """Workers that are killed and started again, and a store that is, for the length of a block.

    No worker ends that still keeps what the store could not take: that would be lost with it, as is documented.
    """
    stopping = threading.Event()
    one_fault_at_a_time = threading.Lock()
    failures: list[BaseException] = []

    def again_and_again(action: Callable[[], None]) -> None:
        try:
            while not stopping.is_set():
                action()
        except BaseException as error:
            failures.append(error)
            stopping.set()

    def work() -> None:
        with scene.worker("-p", "1", "-t", "8") as worker:
            stopping.wait(chance.uniform(4, 12))
            with one_fault_at_a_time:
                # Also before it is told to stop, when all is over.
                wait_until(lambda: has_recovered(worker))
                if not stopping.is_set():
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()

    def store() -> None:
        stopping.wait(chance.uniform(5, 15))
        with one_fault_at_a_time:
            scene.kill_store()
            stopping.wait(chance.uniform(0.5, 3))
            scene.store.start()

    threads = [threading.Thread(target=again_and_again, args=[each]) for each in (*[work] * WORKERS, store)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def has_recovered(worker: Any) -> bool:
    log = worker.log.read_text()
    return bool(log.count(TROUBLE) == log.count(RECOVERY))

"""Thousands of messages while workers and the store are killed: each record equals the actors' ledger."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import dramatiq
import pytest

from dramatiq_progress import State, StoreUnavailable, get_progress, progress_group, progress_pipeline
from dramatiq_progress.worker.recorder import get_recorder
from tests.faults import tasks
from tests.faults.scene import QUICK_PROGRESS, RECOVERY, TROUBLE, Scene, SceneFactory
from tests.waiting import wait_until

#: Duration of the faults; `make soak` sets it.
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
#: 2,000 per minute.
MESSAGES_PER_SECOND = 2000 / 60
WORKERS = 2
#: The part of the sends that sends a group or a pipeline, which is about a third of the messages.
COMPOSITES = 0.07


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
        scene.heal()


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

    No worker is stopped while it still keeps deferred changes: those would be lost, as documented. The store is not
    emptied again while the sender has some, either.
    """
    stopping = threading.Event()
    one_fault_at_a_time = threading.Lock()
    failures: list[BaseException] = []
    lost_at = 0.0

    def repeat(action: Callable[[], None]) -> None:
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
                # Also before the worker is stopped at the end.
                wait_until(lambda: has_recovered(worker))
                if not stopping.is_set():
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()
                    # Its log says that the store is available before all that it has kept is written.
                    forget(scene, unstored_since(scene, lost_at))

    def store() -> None:
        stopping.wait(chance.uniform(5, 15))
        with one_fault_at_a_time:
            # A record that is written late, after a second loss, hides that its message has ended in between.
            wait_until(lambda: not get_recorder()._has_more())
            if stopping.is_set():
                return
            nonlocal lost_at
            lost_at = time.monotonic()
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


def unstored_since(scene: Scene, moment: float) -> set[str]:
    """Return the messages without a stored outcome that have ended an attempt since a moment of `time.monotonic`."""
    last = {deed.message_id: deed for deed in scene._ledger() if deed.at > moment and deed.what in ("ended", "failed")}
    return {each for each, deed in last.items() if not is_stored(each, deed.what)}


def is_stored(message_id: str, what: str) -> bool:
    try:
        progress = get_progress(message_id)
    except StoreUnavailable:
        return False
    # The record of an attempt that has ended is retrying only until that is stored.
    return progress is not None and (progress.complete or (what == "failed" and progress.state is State.RETRYING))


def forget(scene: Scene, unstored: set[str]) -> None:
    """Note for the judge what only a process that was killed had, and the composites that wait for it."""
    composites = scene.history.composites.items()
    scene.history.forgotten |= unstored
    scene.history.forgotten |= {each for each, members in composites if not unstored.isdisjoint(chain(*members))}


def has_recovered(worker: Any) -> bool:
    log = worker.log.read_text()
    return bool(log.count(TROUBLE) == log.count(RECOVERY))

"""The actors that break, or are broken, and write down what they did in a ledger on disk."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from dramatiq_progress import ProgressObserver, get_progress, progress_actor

QUICK_RETRY = {"min_backoff": 200, "max_backoff": 200}


class Planned(Exception):
    """A failure that a test asked for."""


def note(message_id: str | None, what: str, **more: Any) -> None:
    """Add a line to the ledger; one write, so that no other process's line gets into it."""
    line = json.dumps({"at": time.monotonic(), "message_id": message_id, "what": what, **more}) + "\n"
    ledger = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


def recorded(fn: Callable[..., None]) -> Callable[..., None]:
    """Write down when a run of a tracked actor begins, and how it ends."""

    @functools.wraps(fn)
    def run(progress_observer: ProgressObserver, *args: Any, **kwargs: Any) -> None:
        def tell(what: str, **more: Any) -> None:
            attempt, current = progress_observer.attempt, progress_observer.current
            note(progress_observer.message_id, what, attempt=attempt, current=current, **more)

        tell("began")
        try:
            fn(progress_observer, *args, **kwargs)
        except BaseException as error:
            tell("failed", why=type(error).__name__)
            raise
        tell("ended")

    return run


@progress_actor(max_retries=0)
@recorded
def report_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Reports as fast as a loop over rows might, for so many seconds of work."""
    for _ in progress_observer.track(range(int(seconds * 1000)), description="Working"):
        time.sleep(0.001)


@dramatiq.actor(max_retries=0)
def untracked_for(seconds: float) -> None:
    """The same work, and nobody is told."""
    message_id = CurrentMessage.get_current_message().message_id  # type: ignore[union-attr]
    note(message_id, "began", tracked=False)
    for _ in range(int(seconds * 1000)):
        time.sleep(0.001)
    note(message_id, "ended", tracked=False)


@progress_actor(max_retries=0)
async def asynchronous(progress_observer: ProgressObserver) -> None:
    """Runs on the event loop of the worker."""
    progress_observer.set_progress(1, 1)
    note(progress_observer.message_id, "ended", current=1)


@progress_actor(max_retries=3)
async def report_for_ever(progress_observer: ProgressObserver) -> None:
    """Runs on the event loop of the worker, until something is raised."""
    note(progress_observer.message_id, "began")
    try:
        while True:
            progress_observer.increment_progress()
            await asyncio.sleep(0.005)
    except BaseException as error:
        note(progress_observer.message_id, "failed", why=type(error).__name__)
        raise


@progress_actor(max_retries=0)
@recorded
def wait_for(progress_observer: ProgressObserver, path: str) -> None:
    """Reports, waits until a file appears, and reports again."""
    _wait_for(progress_observer, path)


# A retry that comes due before the worker has stopped is begun by that very worker, and not interrupted again
# (Dramatiq 2.2): with a short backoff it would hold up the deploy all the same.
@progress_actor(notify_shutdown=True, max_retries=3, min_backoff=3000, max_backoff=3000)
@recorded
def wait_or_be_interrupted(progress_observer: ProgressObserver, path: str) -> None:
    """`wait_for`, of an actor that would rather be interrupted than hold up a deploy."""
    _wait_for(progress_observer, path)


def _wait_for(progress_observer: ProgressObserver, path: str) -> None:
    progress_observer.set_progress(1, 2, "Waiting")
    while not Path(path).exists():
        time.sleep(0.01)
    progress_observer.set_progress(2)


@progress_actor(max_retries=0)
@recorded
def loop_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Computes in pure Python and reports nothing meanwhile."""
    progress_observer.set_progress(1, 2)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    progress_observer.set_progress(2)


@progress_actor(max_retries=0)
@recorded
def sleep_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Sleeps and reports nothing meanwhile."""
    progress_observer.set_progress(1, 2)
    time.sleep(seconds)
    progress_observer.set_progress(2)


@recorded
def hold_gil_for(progress_observer: ProgressObserver, seconds: int, path: str) -> None:
    """Computes in C code that keeps the interpreter to itself; then waits until a file appears."""
    progress_observer.set_progress(1, 2)
    time.sleep(0.5)
    note(progress_observer.message_id, "held")
    # What PyDLL calls does not release the interpreter's lock.
    ctypes.PyDLL(None).sleep(seconds)
    note(progress_observer.message_id, "released")
    while not Path(path).exists():
        time.sleep(0.01)
    progress_observer.set_progress(2)


#: On queues of their own, since each stops the whole process of its worker.
hold_gil_shortly = progress_actor(max_retries=0, queue_name="short", actor_name="hold_gil_shortly")(hold_gil_for)
hold_gil_long = progress_actor(max_retries=0, queue_name="long", actor_name="hold_gil_long")(hold_gil_for)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def fail_first(progress_observer: ProgressObserver, path: str) -> None:
    """Fails unless a file is there, and leaves it."""
    progress_observer.set_progress(1, 2)
    if not Path(path).exists():
        Path(path).touch()
        raise Planned
    progress_observer.set_progress(2)


@progress_actor(max_retries=0)
@recorded
def fail_unless(progress_observer: ProgressObserver, path: str) -> None:
    """Fails for good, unless a file is there."""
    progress_observer.set_progress(1, 2)
    if not Path(path).exists():
        raise Planned
    progress_observer.set_progress(2)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def kill_worker(progress_observer: ProgressObserver) -> None:
    """Kills the process that it runs in, when its report has been seen."""
    progress_observer.set_progress(1, 2)
    while (progress := get_progress(str(progress_observer.message_id))) is None or progress.current != 1:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@progress_actor(max_retries=0)
@recorded
def count_reports(progress_observer: ProgressObserver, seconds: float) -> None:
    """Reports without a pause for so many seconds."""
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        count += 1
        progress_observer.set_progress(count, description="Counting")


#: How a job of the soak behaves.
KINDS = ("fast", "slow", "failing", "retried")


@progress_actor(max_retries=1, **QUICK_RETRY)
@recorded
def soak(progress_observer: ProgressObserver, kind: str) -> None:
    """One of many jobs, whose workers are killed and whose store goes away."""
    steps = 100 if kind == "slow" else 5
    for step in progress_observer.track(range(steps), description=kind):
        time.sleep(0.01)
        if step == steps // 2 and (kind == "failing" or (kind == "retried" and progress_observer.attempt == 1)):
            raise Planned

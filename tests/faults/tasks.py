"""Actors for the faults, which write what they do to a ledger on disk."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from dramatiq_progress import ProgressObserver, StoreUnavailable, get_progress, progress_actor
from dramatiq_progress.worker.sending import again
from tests.faults.dying import kill_own_process

#: Duration of a step of `report_for` and of its twin.
STEP_SECONDS = 0.005

#: Instead of 15.
again.PAUSE_SECONDS = 1

QUICK_RETRY = {"min_backoff": 200, "max_backoff": 200}
#: For a message that a test must see while it waits for its retry: with jitter, for 6 s or more.
LATE_RETRY = {"min_backoff": 12_000, "max_backoff": 12_000}


class Planned(Exception):
    """A failure on purpose."""


def note(message_id: str | None, what: str, **more: Any) -> None:
    """Add a line to the ledger, in one write, so that lines of several processes don't mix."""
    line = json.dumps({"at": time.monotonic(), "message_id": message_id, "what": what, **more}) + "\n"
    ledger = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


def recorded(fn: Callable[..., None]) -> Callable[..., None]:
    """Write the beginning and the end of each run of a tracked actor to the ledger."""

    @functools.wraps(fn)
    def run(progress_observer: ProgressObserver, *args: Any, **kwargs: Any) -> None:
        def write(what: str, **more: Any) -> None:
            attempt, current = progress_observer.attempt, progress_observer.current
            note(progress_observer.message_id, what, attempt=attempt, current=current, **more)

        write("began")
        try:
            fn(progress_observer, *args, **kwargs)
        except BaseException as error:
            write("failed", why=type(error).__name__)
            raise
        write("ended")

    return run


@progress_actor(max_retries=0)
@recorded
def report_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Reports 200 times a second, for this many seconds of work."""
    for _ in progress_observer.track(range(round(seconds / STEP_SECONDS)), description="Working"):
        time.sleep(STEP_SECONDS)


@dramatiq.actor(max_retries=0)
def untracked_for(seconds: float) -> None:
    """The same work, without progress."""
    message_id = CurrentMessage.get_current_message().message_id  # type: ignore[union-attr]
    note(message_id, "began", tracked=False)
    for _ in range(round(seconds / STEP_SECONDS)):
        time.sleep(STEP_SECONDS)
    note(message_id, "ended", tracked=False)


@progress_actor(max_retries=0)
async def asynchronous(progress_observer: ProgressObserver) -> None:
    """Runs on the event loop of the worker."""
    progress_observer.set_progress(1, 1)
    note(progress_observer.message_id, "ended", current=1)


@progress_actor(max_retries=3)
async def report_for_ever(progress_observer: ProgressObserver) -> None:
    """Runs on the event loop of the worker, until it is interrupted."""
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


# A retry that is due before the worker has stopped is started by the same worker, and not interrupted again
# (Dramatiq 2.2): with a short backoff it would still delay the deploy. Jitter makes the backoff 6 s or more.
@progress_actor(notify_shutdown=True, max_retries=3, min_backoff=12_000, max_backoff=12_000)
@recorded
def wait_or_be_interrupted(progress_observer: ProgressObserver, path: str) -> None:
    """`wait_for`, for an actor that is interrupted by a deploy."""
    _wait_for(progress_observer, path)


def _wait_for(progress_observer: ProgressObserver, path: str) -> None:
    progress_observer.set_progress(1, 2, "Waiting")
    while not Path(path).exists():
        time.sleep(0.01)
    progress_observer.set_progress(2)


@progress_actor(max_retries=0)
@recorded
def fan_out(progress_observer: ProgressObserver, message_ids: list[str], path: str) -> None:
    """`wait_for`, after the first attempt has sent a message with each of these ids."""
    for message_id in message_ids if progress_observer.attempt == 1 else ():
        report_for.broker.enqueue(report_for.message(0.05).copy(message_id=message_id))
    _wait_for(progress_observer, path)


@progress_actor(max_retries=0)
@recorded
def loop_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Computes in pure Python without reporting."""
    progress_observer.set_progress(1, 2)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    progress_observer.set_progress(2)


@progress_actor(max_retries=0)
@recorded
def sleep_for(progress_observer: ProgressObserver, seconds: float) -> None:
    """Sleeps without reporting."""
    progress_observer.set_progress(1, 2)
    time.sleep(seconds)
    progress_observer.set_progress(2)


@recorded
def hold_gil_for(progress_observer: ProgressObserver, seconds: int, path: str) -> None:
    """Runs C code that holds the GIL; then waits until a file appears."""
    progress_observer.set_progress(1, 2)
    time.sleep(0.5)
    note(progress_observer.message_id, "held")
    # A call by PyDLL doesn't release the GIL.
    ctypes.PyDLL(None).sleep(seconds)
    note(progress_observer.message_id, "released")
    while not Path(path).exists():
        time.sleep(0.01)
    progress_observer.set_progress(2)


#: On separate queues, since each stops the whole process of its worker.
hold_gil_shortly = progress_actor(max_retries=0, queue_name="short", actor_name="hold_gil_shortly")(hold_gil_for)
hold_gil_long = progress_actor(max_retries=0, queue_name="long", actor_name="hold_gil_long")(hold_gil_for)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def fail_first(progress_observer: ProgressObserver, path: str) -> None:
    """Fails unless a file exists, and creates it."""
    progress_observer.set_progress(1, 2)
    if not Path(path).exists():
        Path(path).touch()
        raise Planned
    progress_observer.set_progress(2)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def fail_first_then_wait(progress_observer: ProgressObserver, failed: str, path: str) -> None:
    """Fails unless the first file exists, and creates it; then `wait_for` the second one."""
    if not Path(failed).exists():
        Path(failed).touch()
        raise Planned
    _wait_for(progress_observer, path)


@progress_actor(max_retries=0)
@recorded
def fail_unless(progress_observer: ProgressObserver, path: str) -> None:
    """Fails without a retry, unless a file exists."""
    progress_observer.set_progress(1, 2)
    if not Path(path).exists():
        raise Planned
    progress_observer.set_progress(2)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def kill_worker(progress_observer: ProgressObserver) -> None:
    """Kills its own process, after its report was written."""
    progress_observer.set_progress(1, 2)
    _wait_until_stored(progress_observer, 1)
    kill_own_process()


def _wait_until_stored(progress_observer: ProgressObserver, current: int) -> None:
    """Wait until a report is in the store, however late that answers on a busy machine."""
    while True:
        with suppress(StoreUnavailable):
            progress = get_progress(str(progress_observer.message_id))
            if progress is not None and progress.current == current:
                return
        time.sleep(0.01)


@progress_actor(max_retries=0)
@recorded
def count_reports(progress_observer: ProgressObserver, seconds: float) -> None:
    """Reports without a pause for this many seconds."""
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        count += 1
        progress_observer.set_progress(count, description="Counting")


@progress_actor(max_retries=0)
def tick(progress_observer: ProgressObserver, schedule: str) -> None:
    """Sent by a schedule."""
    note(progress_observer.message_id, "ended", schedule=schedule)


@progress_actor(max_retries=3, **QUICK_RETRY)
@recorded
def go_through(
    progress_observer: ProgressObserver, items: int, failing: float, path: str, seconds: float = STEP_SECONDS
) -> None:
    """Goes on where an earlier attempt got to. Until a file appears, an item takes some time and may fail at random."""
    for item in progress_observer.track(range(items), resume=True):
        if not Path(path).exists():
            if random.random() < failing:
                raise Planned
            time.sleep(seconds)
        note(progress_observer.message_id, "item", attempt=progress_observer.attempt, current=item)


@progress_actor(max_retries=0)
@recorded
def meet_poison(progress_observer: ProgressObserver, items: int, once: int, always: int, path: str) -> None:
    """Kills its own process at an item unless a file exists, which it creates, and always at a second one."""
    for item in progress_observer.track(range(items), resume=True):
        note(progress_observer.message_id, "item", attempt=progress_observer.attempt, current=item)
        if item == always or (item == once and not Path(path).exists()):
            _wait_until_stored(progress_observer, item)
            Path(path).touch()
            kill_own_process()


#: The kinds of jobs in the soak.
KINDS = ("fast", "slow", "failing", "retried", "resumed")


@progress_actor(max_retries=1, yield_after=0.4, **QUICK_RETRY)
@recorded
def soak(progress_observer: ProgressObserver, kind: str) -> None:
    """One of many jobs, whose workers and store are killed. One that resumes makes room twice, too."""
    steps = 100 if kind in ("slow", "resumed") else 5
    fails_once = kind in ("retried", "resumed") and progress_observer.attempt == 1
    for step in progress_observer.track(range(steps), description=kind, resume=kind == "resumed"):
        time.sleep(0.01)
        if step == steps // 2 and (kind == "failing" or fails_once):
            raise Planned
        if kind == "resumed":
            note(progress_observer.message_id, "item", attempt=progress_observer.attempt, current=step)

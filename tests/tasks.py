"""The actors that the tests' worker processes run. Django-dramatiq discovers modules of this name."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import dramatiq

from dramatiq_progress import ProgressObserver, UserFacingError, progress_actor


@progress_actor(max_retries=3, throws=UserFacingError)
def import_rows(progress_observer: ProgressObserver, path: str) -> None:
    """The README's actor, over a file that takes some seconds to import."""
    rows = list(csv.DictReader(Path(path).read_text().splitlines()))
    if not rows:
        raise UserFacingError("The file is empty.")
    for _ in progress_observer.track(rows, description="Importing"):
        time.sleep(0.002)
    progress_observer.set_result({"imported": len(rows)})


@progress_actor(max_retries=2, min_backoff=200, max_backoff=200)
def fail_once(progress_observer: ProgressObserver) -> None:
    """Fails at its first attempt."""
    progress_observer.set_progress(progress_observer.attempt, 2)
    if progress_observer.attempt == 1:
        raise RuntimeError("the first attempt")


@progress_actor
async def asynchronous(progress_observer: ProgressObserver) -> None:
    """Runs on the event loop of the worker."""
    progress_observer.set_progress(1, 1)


@progress_actor
def wait_for_file(progress_observer: ProgressObserver, path: str) -> None:
    """Reports, and then waits until a file appears."""
    progress_observer.set_progress(1, 2, "Waiting")
    while not Path(path).exists():
        time.sleep(0.01)
    progress_observer.set_progress(2)


@dramatiq.actor(max_retries=0)
def plain() -> None:
    """Is not tracked."""

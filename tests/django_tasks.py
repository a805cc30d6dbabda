"""Tasks of Django's that the tests enqueue: importable from Django 6.0 on."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from django.tasks import task

from dramatiq_progress import UserFacingError, current_observer
from tests.faults.dying import kill_own_process

#: The numbers that `note` has received, in this process.
noted: list[Any] = []
#: Lets `wait` go on.
go_on = threading.Event()


@task
def add(a: int, b: int) -> int:
    return a + b


@task
async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def note(value: Any) -> None:
    noted.append(value)


@task
def nothing() -> None: ...


@task
def give(value: Any) -> Any:
    return value


@task
def give_bytes(count: int) -> str:
    return count * "x"


@task
def fail(text: str) -> None:
    raise ValueError(text)


@task
def fail_for_the_user(text: str) -> None:
    raise UserFacingError(text)


@task(takes_context=True)
def fail_first(context: Any, failures: int) -> int:
    context.metadata["attempts"] = context.attempt
    if context.attempt <= failures:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@task(takes_context=True)
def import_rows(context: Any, rows: list[str]) -> dict[str, int]:
    for _ in context.progress.track(rows, description="Importing"):
        pass
    context.progress.set_metadata(kind="rows")
    context.progress.set_result({"imported": len(rows)})
    return {"rows": len(rows)}


@task(takes_context=True)
def trace(context: Any, token: str, *, fails: bool = False) -> str:
    context.metadata["token"] = token
    context.save_metadata()
    if fails:
        raise ValueError(token)
    return token


@task(takes_context=True)
async def trace_async(context: Any, token: str) -> None:
    context.metadata["token"] = token
    await context.asave_metadata()
    noted.append(token)
    while not go_on.is_set():
        await asyncio.sleep(0.01)


@task
def wait() -> None:
    observer = current_observer()
    assert observer is not None
    while not go_on.wait(0.005):
        observer.set_progress(1)


@task(takes_context=True)
def go_through(context: Any, rows: int) -> str:
    """Waits at each row, which is then noted."""
    for row in context.progress.track(range(rows), resume=True):
        go_on.wait(60)
        noted.append(row)
    return "all"


@task
async def wait_async() -> None:
    noted.append("waiting")
    await asyncio.sleep(60)


# ---- For workers in processes of their own ----


@task
def wait_for(path: str) -> str:
    observer = current_observer()
    assert observer is not None
    observer.set_progress(1, 2)
    while not Path(path).exists():
        time.sleep(0.01)
    return "waited"


@task
def kill_worker() -> None:
    kill_own_process()


@task
def append(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text}\n")

"""Background threads: no caller is held up by the start of one, and a single thread is one at a time."""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections import deque
from typing import Any

from dramatiq.middleware import TimeLimitExceeded
from dramatiq.middleware.threading import raise_thread_exception

from dramatiq_progress.threads import SingleThread, start_thread
from tests.waiting import TIMEOUT_SECONDS, wait_until


def test_a_caller_that_is_interrupted_while_it_starts_a_thread_continues(monkeypatch: Any) -> None:
    """`threading.Thread.start` never returns then, with Python 3.11."""
    # A thread that ends at its start, since it got the caller's exception, is reported here.
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr("sys.unraisablehook", lambda arguments: None)
    starts = 0
    ended = False

    def start_many() -> None:
        nonlocal starts
        while not ended:
            try:
                while not ended:
                    start_thread(lambda: None, "test")
                    starts += 1
            except TimeLimitExceeded:
                pass

    callers = [threading.Thread(target=start_many, daemon=True)]
    callers[0].start()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 2 or (starts <= 100 and passed < TIMEOUT_SECONDS):
        if not callers[-1].is_alive():
            # Interrupted where it handled the exception before.
            callers.append(threading.Thread(target=start_many, daemon=True))
            callers[-1].start()
        raise_thread_exception(callers[-1].ident, TimeLimitExceeded)
        time.sleep(0.0005)
    ended = True
    for caller in callers:
        caller.join(TIMEOUT_SECONDS)
        assert not caller.is_alive()
    assert starts > 100


def test_a_single_thread_does_every_item_that_is_added_while_it_ends() -> None:
    items: deque[int] = deque()
    done: list[int] = []
    most = running = 0

    def work() -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        while items:
            done.append(items.popleft())
        running -= 1

    single = SingleThread(work, "test", has_more=lambda: bool(items))
    for item in range(200):
        items.append(item)
        single.start()
        if item % 3:
            wait_until(lambda: not items)
    wait_until(lambda: not single.is_running)
    assert done == list(range(200))
    assert most == 1


def test_a_single_thread_that_never_ran_is_started_again(monkeypatch: Any) -> None:
    worked = threading.Event()
    single = SingleThread(worked.set, "test")
    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", lambda *arguments: None)
        single.start()
    assert not single.is_running

    def start_again() -> bool:
        single.start()
        return worked.is_set()

    wait_until(start_again)


def test_a_single_thread_runs_in_a_forked_process_too() -> None:
    worked, ended = threading.Event(), threading.Event()

    def work() -> None:
        worked.set()
        ended.wait()

    single = SingleThread(work, "test")
    single.start()
    assert worked.wait(TIMEOUT_SECONDS)
    worked.clear()
    child = os.fork()
    if child == 0:
        single.start()
        os._exit(0 if worked.wait(TIMEOUT_SECONDS) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not worked.is_set()
    ended.set()

"""One thread in a process carries reports and signs of life to the store: seldom, soon, and through trouble."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import redis

from dramatiq_progress import Progress, ProgressObserver, State
from dramatiq_progress.recorder import get_recorder
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.base import Attempt
from tests.waiting import wait_until


class Job:
    """A running message of this process, as the middleware opens it."""

    def __init__(self, message_id: str = "m1") -> None:
        self.id = message_id
        attempt = Attempt(message_id, "work", "default", 0)
        self.observer = ProgressObserver(attempt=attempt)
        self.observer.started(get_store().start(attempt))
        get_recorder().open(self.observer)

    def read(self) -> Progress:
        progress = get_store().read([self.id])[0]
        assert progress is not None
        return progress


def set_intervals(settings: Any, **intervals: float) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {name.upper(): value for name, value in intervals.items()}


def script_calls(client: redis.Redis) -> int:
    calls: Any = client.info("commandstats")
    return int(calls.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_lone_report_is_written_without_waiting(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=20)
    job = Job()
    job.observer.set_progress(3, 9, "Reading")
    wait_until(lambda: job.read().current == 3, timeout=10)
    assert (job.read().total, job.read().description) == (9, "Reading")


def test_a_report_does_not_wait_because_of_a_heartbeat(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=60, heartbeat_interval=0.05)
    job = Job()
    heartbeat = lambda: store._read([job.id])[0][1]["heartbeat"]  # noqa: E731
    began = heartbeat()
    wait_until(lambda: heartbeat() != began, timeout=10)
    job.observer.set_progress(3)
    wait_until(lambda: job.read().current == 3, timeout=10)


def test_the_newest_report_is_written_in_the_end(store: Store) -> None:
    job = Job()
    for number in range(50_000):
        job.observer.set_progress(number)
    wait_until(lambda: job.read().current == 49_999)


def test_any_number_of_reports_costs_one_write_in_an_interval(redis_store: Store, settings: Any, valkey: str) -> None:
    set_intervals(settings, flush_interval=0.2)
    job = Job()
    with redis.Redis.from_url(f"{valkey}/1") as client:
        before, began = script_calls(client), time.monotonic()
        reports = 0
        while time.monotonic() < began + 1:
            job.observer.increment_progress()
            reports += 1
        intervals = (time.monotonic() - began) / 0.2
        assert 1 <= script_calls(client) - before <= intervals + 1 < reports


def test_many_observers_are_written_together(redis_store: Store, settings: Any, valkey: str) -> None:
    """One pipeline reaches the server in one read, or in few: the server counts the reads."""
    set_intervals(settings, flush_interval=0.3)
    jobs = [Job(f"m{number}") for number in range(50)]
    jobs[0].observer.set_progress(1)
    wait_until(lambda: jobs[0].read().current == 1)
    for job in jobs:
        job.observer.set_progress(7)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        before: Any = client.info("stats")
        wait_until(lambda: client.hget(redis_store.key("m49"), "current") == b"7", timeout=5)
        after: Any = client.info("stats")
    for job in jobs:
        assert job.read().current == 7
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    reads = after["total_reads_processed"] - before["total_reads_processed"]
    # Each poll of this test is one command in one read; 50 reports came in far fewer reads than 50.
    assert commands - reads > 40


def test_a_silent_message_stays_running(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=0.5)
    job = Job()
    version = job.read().version
    silent_since = time.monotonic()
    states = {job.read().state}
    while time.monotonic() < silent_since + 1.5:
        states.add(job.read().state)
        time.sleep(0.01)  # leaves the processor to the recorder
    assert states == {State.RUNNING}
    assert job.read().version == version


def test_a_closed_message_is_no_longer_kept_alive(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=0.2)
    job = Job()
    get_recorder().close(job.observer)
    job.observer.set_progress(5)
    wait_until(lambda: job.read().state is State.LOST)
    assert job.read().current == 0


def test_stopping_writes_what_is_left(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=20)
    job = Job()
    job.observer.set_progress(1)
    wait_until(lambda: job.read().current == 1, timeout=10)
    job.observer.set_progress(2)
    get_recorder().stop()
    assert job.read().current == 2


def test_after_a_stop_it_starts_again(store: Store) -> None:
    Job()
    get_recorder().stop()
    job = Job("m2")
    job.observer.set_progress(4)
    wait_until(lambda: job.read().current == 4)


def test_a_message_that_another_delivery_took_over_is_left_alone(store: Store) -> None:
    old, new = Job(), Job()
    new.observer.set_progress(1)
    wait_until(lambda: new.read().current == 1)
    old.observer.set_progress(99)
    wait_until(lambda: old.observer.open_attempt is None)
    old.observer.set_progress(100)
    assert (new.read().current, new.read().attempt) == (1, 2)


def test_metadata_is_written_once_and_kept_by_the_next_attempt(store: Store) -> None:
    job = Job()
    job.observer.set_metadata(file="a.csv")
    wait_until(lambda: job.read().metadata == {"file": "a.csv"})
    again = Job()
    again.observer.set_metadata(size=3)
    wait_until(lambda: again.read().metadata == {"file": "a.csv", "size": 3})


def test_a_thread_that_cannot_start_harms_nobody(memory_store: Store, monkeypatch: Any, caplog: Any) -> None:
    """A container may have a limit of threads; once there is room again, the reports are written."""

    def no_room(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_room)
        job = Job()
        job.observer.set_progress(1)
    assert "its thread cannot be started" in caplog.text
    Job("m2").observer.set_progress(2)
    wait_until(lambda: job.read().current == 1)


def test_a_mistake_in_the_settings_does_not_end_the_thread(memory_store: Store, settings: Any, caplog: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=5)
    job = Job()
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = {"COLOUR": "red"}
    job.observer.set_progress(1)
    wait_until(lambda: "COLOUR" in caplog.text)
    settings.DRAMATIQ_PROGRESS = good
    job.observer.set_progress(2)
    wait_until(lambda: job.read().current == 2)


def test_a_second_worker_of_the_process_is_kept_alive_when_the_first_stops(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=0.5)
    job = Job()
    get_recorder().stop()
    silent_since = time.monotonic()
    while time.monotonic() < silent_since + 1:
        assert job.read().state is State.RUNNING
        time.sleep(0.01)


def test_a_forked_child_reports_by_itself_and_keeps_nothing_alive(redis_store: Store, settings: Any) -> None:
    """An actor may fork (multiprocessing does): the child's reports count, and its life is not the message's."""
    set_intervals(settings, heartbeat_interval=0.02, lost_after=0.5)
    job = Job()
    job.observer.set_progress(1, 10)
    wait_until(lambda: job.read().current == 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        job.observer.set_progress(5)
        os.read(reading, 1)  # lives on until the parent says so
        os._exit(0)
    try:
        wait_until(lambda: job.read().current == 5)
        assert job.read().state is State.RUNNING
        get_recorder().close(job.observer)  # as if the parent had died: the child does not make it look alive
        wait_until(lambda: job.read().state is State.LOST)
    finally:
        os.close(writing)
        os.close(reading)
        assert os.waitpid(child, 0)[1] == 0

"""The recorder: one thread per process writes reports and heartbeats in batches, soon, and despite errors."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
from dramatiq.middleware import TimeLimitExceeded

from dramatiq_progress import Progress, ProgressObserver, State, threads
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.worker.observing import binding, observer, values
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.recording import recorder, running
from dramatiq_progress.worker.recording.recorder import Recorder, get_recorder
from tests.steps import record_of, states_during
from tests.waiting import wait_until


class Job:
    """A running message of this process, opened as the middleware does it."""

    def __init__(self, message_id: str = "m1") -> None:
        self.id = message_id
        attempt = Attempt(message_id, "work", "default", 0)
        self.observer = ProgressObserver(Binding(attempt=attempt))
        self.observer._binding.apply_start(get_store().start(attempt))
        get_recorder().open(self.observer._binding)

    def fail(self) -> None:
        """Record a failure that will be retried, unknown to the observer."""
        attempt = self.observer._binding.bound_attempt
        assert attempt is not None
        get_store().finish(attempt, state=State.RETRYING, retry_in=1.0)

    def read(self) -> Progress:
        progress = get_store().read([self.id])[0]
        assert progress is not None
        return progress


def set_intervals(settings: Any, **intervals: float) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {name.upper(): value for name, value in intervals.items()}


def script_calls(client: redis.Redis) -> int:
    calls: Any = client.info("commandstats")
    return int(calls.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_single_report_is_written_immediately(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=20)
    job = Job()
    job.observer.set_progress(3, 9, "Reading")
    wait_until(lambda: job.read().current == 3)
    assert (job.read().total, job.read().description) == (9, "Reading")


def test_a_report_does_not_wait_because_of_a_heartbeat(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=60, heartbeat_interval=0.05)
    job = Job()
    heartbeat = lambda: record_of(job.id)["heartbeat"]  # noqa: E731
    began = heartbeat()
    wait_until(lambda: heartbeat() != began)
    job.observer.set_progress(3)
    wait_until(lambda: job.read().current == 3)


def test_the_last_report_is_written(store: Store) -> None:
    job = Job()
    for number in range(50_000):
        job.observer.set_progress(number)
    wait_until(lambda: job.read().current == 49_999)


def test_there_is_one_write_per_interval_for_any_number_of_reports(
    redis_store: Store, settings: Any, valkey: str
) -> None:
    set_intervals(settings, flush_interval=0.2)
    job = Job()
    with redis.Redis.from_url(f"{valkey}/1") as client:
        before, began = script_calls(client), time.monotonic()
        reports = 0
        while time.monotonic() < began + 1:
            job.observer.increment_progress()
            reports += 1
        intervals = (time.monotonic() - began) / 0.2
        # One more if heartbeats were due.
        assert 1 <= script_calls(client) - before <= intervals + 2 < reports


def test_many_observers_are_written_together(redis_store: Store, settings: Any, valkey: str) -> None:
    """A batch reaches the server in one read, or in few: the server counts the reads."""
    set_intervals(settings, flush_interval=0.3)
    jobs = [Job(f"m{number}") for number in range(50)]
    jobs[0].observer.set_progress(1)
    wait_until(lambda: jobs[0].read().current == 1)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        before: Any = client.info("stats")
        for job in jobs:
            job.observer.set_progress(7)
        wait_until(lambda: client.hget(redis_store.key("m49"), "current") == b"7")
        after: Any = client.info("stats")
    for job in jobs:
        assert job.read().current == 7
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    reads = after["total_reads_processed"] - before["total_reads_processed"]
    # Each poll of this test is one command in one read. The 50 reports took far fewer reads than 50.
    assert commands - reads > 40


def test_a_silent_message_stays_running(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=1.5)
    job = Job()
    version = job.read().version
    assert states_during(2.5, job.id) == {State.RUNNING}
    assert job.read().version == version


def test_a_message_stays_running_with_a_long_pause_between_reports(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=60, heartbeat_interval=0.02, lost_after=1.5)
    job, silent = Job("m1"), Job("m2")
    for number in range(1, 5):
        # At the first one, heartbeats may be due anyway.
        job.observer.set_progress(number)
        wait_until(lambda: job.read().current == number)  # noqa: B023
    assert states_during(2.5, silent.id) == {State.RUNNING}


def test_a_closed_message_has_no_heartbeats(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=0.2)
    job = Job()
    get_recorder().close(job.observer._binding)
    job.observer.set_progress(5)
    wait_until(lambda: job.read().state is State.LOST)
    assert job.read().current == 0


def test_stopping_writes_the_last_reports(store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=20)
    job = Job()
    job.observer.set_progress(1)
    wait_until(lambda: job.read().current == 1)
    job.observer.set_progress(2)
    get_recorder().stop()
    assert job.read().current == 2


def test_the_recorder_starts_again_after_a_stop(store: Store) -> None:
    Job()
    get_recorder().stop()
    job = Job("m2")
    job.observer.set_progress(4)
    wait_until(lambda: job.read().current == 4)


def test_an_observer_of_a_superseded_delivery_writes_nothing(store: Store) -> None:
    old = Job()
    old.fail()
    new = Job()
    new.observer.set_progress(1)
    wait_until(lambda: new.read().current == 1)
    old.observer.set_progress(99)
    wait_until(lambda: old.observer._binding.bound_attempt is None)
    old.observer.set_progress(100)
    assert (new.read().current, new.read().attempt) == (1, 2)


def test_an_observer_that_waits_reports_everything_when_the_attempt_that_is_shown_ends(
    store: Store, settings: Any
) -> None:
    set_intervals(settings, heartbeat_interval=0.02)
    first, second = Job(), Job()
    second.observer.set_progress(2, 8, "Second")
    first.observer.set_progress(5, 8, "First")
    wait_until(lambda: first.read().current == 5)
    heartbeat = lambda: record_of("m1")["later"].split()[3]  # noqa: E731
    began = heartbeat()
    wait_until(lambda: heartbeat() != began)
    assert (first.read().description, first.read().attempt) == ("First", 1)
    first.fail()
    wait_until(lambda: second.read().attempt == 2)
    seen = second.read()
    assert (seen.state, seen.current, seen.total, seen.description) == (State.RUNNING, 2, 8, "Second")
    wait_until(lambda: first.observer._binding.bound_attempt is None)


def test_metadata_is_written_once_and_kept_by_the_next_attempt(store: Store) -> None:
    job = Job()
    job.observer.set_metadata(file="a.csv")
    wait_until(lambda: job.read().metadata == {"file": "a.csv"})
    job.fail()
    again = Job()
    again.observer.set_metadata(size=3)
    wait_until(lambda: again.read().metadata == {"file": "a.csv", "size": 3})


def test_a_thread_that_cannot_start_fails_no_job(memory_store: Store, monkeypatch: Any, caplog: Any) -> None:
    """A container may limit threads. When one can be started again, the reports are written."""

    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", refuse)
        job = Job()
        job.observer.set_progress(1)
    assert "Can't start the thread dramatiq-progress-recorder" in caplog.text

    def is_written() -> bool:
        job.observer.increment_progress()
        return bool(job.read().current)

    wait_until(is_written)


def test_an_error_in_the_settings_does_not_end_the_thread(memory_store: Store, settings: Any, caplog: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=5)
    job = Job()
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = {"COLOUR": "red"}
    job.observer.set_progress(1)
    wait_until(lambda: "COLOUR" in caplog.text)
    settings.DRAMATIQ_PROGRESS = good
    job.observer.set_progress(2)
    wait_until(lambda: job.read().current == 2)


def test_a_thread_that_ends_while_it_is_stopped_is_not_started_again(memory_store: Store, monkeypatch: Any) -> None:
    """The request to stop was its own; the next thread would run until the process ends."""
    used = get_recorder()
    used.start()
    wait_until(lambda: used._thread.is_running)
    started: list[int] = []

    def start_late() -> None:
        wait_until(lambda: not used._thread.is_running)
        started.append(1)

    monkeypatch.setattr(used._thread, "start", start_late)
    used.stop()
    assert not started


def test_heartbeats_continue_when_another_worker_of_the_process_stops(store: Store, settings: Any) -> None:
    set_intervals(settings, heartbeat_interval=0.02, lost_after=1.5)
    job = Job()
    get_recorder().stop()
    assert states_during(2.5, job.id) == {State.RUNNING}


def test_an_interrupt_anywhere_in_a_report_loses_no_later_report(memory_store: Store, settings: Any) -> None:
    """The exception is raised before each bytecode of a report in turn, like that of a time limit."""
    set_intervals(settings, flush_interval=0.001, heartbeat_interval=600, lost_after=1_000)
    job = Job()
    job.observer.set_progress(1)
    points = 0
    for number in range(2, 10_000):
        wait_until(lambda number=number: job.read().current == number - 1 and job.observer._binding.must_notify)
        interrupted = interrupt_at(points, lambda number=number: job.observer.set_progress(number - 1 + 0.5))
        # The actor cleans up and continues.
        job.observer.set_progress(number)
        if not interrupted:
            break
        points += 1
    wait_until(lambda: job.read().current == number)
    assert points > 10


def interrupt_at(point: int, act: Callable[[], None]) -> bool:
    """Raise `TimeLimitExceeded` before this bytecode of a report; return False if there are fewer."""
    left = point

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        ours = observer, values, binding, recorder, running, threads
        if frame.f_code.co_filename not in [each.__file__ for each in ours]:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise TimeLimitExceeded
        return trace

    before = sys.gettrace()
    # Python 3.12 traces opcodes only if a frame wants them when the tracing starts.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        act()
    except TimeLimitExceeded:
        return True
    finally:
        sys.settrace(before)
    return False


def is_flushing(frame: FrameType | None) -> bool:
    """Whether this thread is the one of a recorder."""
    while frame is not None and frame.f_code is not Recorder._flush_until_stopped.__code__:
        frame = frame.f_back
    return frame is not None


def test_stopping_while_actors_report_starts_no_second_thread(memory_store: Store, settings: Any) -> None:
    set_intervals(settings, flush_interval=0.001)
    jobs = [Job(f"m{number}") for number in range(10)]
    ended = threading.Event()
    most = 0

    def report() -> None:
        while not ended.is_set():
            for job in jobs:
                job.observer.increment_progress()

    def count() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, sum(map(is_flushing, sys._current_frames().values())))

    others = [threading.Thread(target=each) for each in (report, report, count)]
    for each in others:
        each.start()
    for _ in range(30):
        get_recorder().stop()
    ended.set()
    for each in others:
        each.join()
    assert most == 1
    for job in jobs:
        wait_until(lambda job=job: job.read().current == job.observer.current)


def test_a_forked_child_can_use_a_memory_store_whose_lock_was_held(memory_store: Store) -> None:
    assert isinstance(memory_store, MemoryStore)
    Job()
    with memory_store._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if memory_store.read(["m1"])[0] is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_value_that_is_slow_to_encode_holds_up_no_report(store: Store) -> None:
    """Encoding runs code of the project's; the recorder must not wait for it."""
    encoding, go_on = threading.Event(), threading.Event()

    class Slow(dict[str, int]):
        def items(self) -> Any:
            encoding.set()
            assert go_on.wait(60)
            return super().items()

    job, other = Job(), Job("m2")
    thread = threading.Thread(target=lambda: job.observer.set_metadata(slow=Slow(a=1)))
    thread.start()
    assert encoding.wait(60)
    job.observer.set_progress(3)
    other.observer.set_progress(4)
    wait_until(lambda: (job.read().current, other.read().current) == (3, 4))
    go_on.set()
    thread.join()
    wait_until(lambda: job.read().metadata == {"slow": {"a": 1}})

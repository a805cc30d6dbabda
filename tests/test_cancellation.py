"""What becomes of a job that somebody cancels: in this process, and in workers of their own on each broker."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from django.core.exceptions import ImproperlyConfigured
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks, Interrupt, Pipelines, Retries
from dramatiq.rate_limits.backends import StubBackend

from dramatiq_progress import (
    Cancellation,
    Cancelled,
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    StoreUnavailable,
    acancel,
    cancel,
    get_progress,
    progress_actor,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.base import Attempt
from dramatiq_progress.stores.redis import RedisStore
from tests.faults import tasks
from tests.faults.scene import Scene
from tests.steps import when
from tests.waiting import wait_until

REQUESTED = Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
#: A step of an actor that waits for a cancel.
STEP_SECONDS = 0.005
#: No retry comes by itself before the test has ended.
LATE_RETRY = {"min_backoff": 600_000, "max_backoff": 600_000}

Work = Callable[[ProgressObserver], Any]


@pytest.fixture(autouse=True)
def here(request: pytest.FixtureRequest, settings: Any) -> None:
    """Progress lives in memory unless the test says where, and signs of life are frequent."""
    if "scene" not in request.fixturenames:
        if "redis_store" not in request.fixturenames:
            request.getfixturevalue("memory_store")
        settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2, "FLUSH_INTERVAL": 0.02}


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """A broker without a worker."""
    retries = Retries(max_retries=3, min_backoff=10, max_backoff=10)
    group_callbacks = GroupCallbacks(StubBackend())
    made = StubBroker(middleware=[Pipelines(), group_callbacks, retries, AsyncIO(), ProgressMiddleware()])
    made.emit_after("process_boot")
    yield made
    made.close()


@contextmanager
def working(broker: StubBroker) -> Iterator[None]:
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    yield
    worker.stop()


def work_off(broker: StubBroker) -> None:
    with working(broker):
        broker.join("default", fail_fast=False)


class Job:
    """A job that is to be cancelled when it runs, and what its actor has done."""

    def __init__(self, broker: StubBroker, work: Work, **options: Any) -> None:
        self.broker, self.work = broker, work
        self.began = threading.Event()
        self.starts = 0
        self.done: list[str] = []
        self.actor = progress_actor(broker=broker, actor_name="work", **options)(self.run)

    def run(self, progress_observer: ProgressObserver) -> None:
        self.starts += 1
        progress_observer.set_progress(1, 9)
        self.began.set()
        self.work(progress_observer)
        self.done.append("returned")

    def cancelled(self) -> Progress:
        """The progress at the end of a message that is cancelled as soon as it runs."""
        message = self.actor.send()
        with working(self.broker):
            assert self.began.wait(30)
            assert cancel(message.message_id) == REQUESTED
            wait_until(lambda: read(message).complete)
            self.broker.join("default", fail_fast=False)
        return read(message)


def read(message: dramatiq.Message[Any]) -> Progress:
    progress = get_progress(message.message_id)
    assert progress is not None
    return progress


def report_on(observer: ProgressObserver) -> None:
    """Report until something is raised."""
    for _ in observer.track(range(10_000)):
        threading.Event().wait(STEP_SECONDS)
    raise AssertionError("nobody cancelled this")


# What waits


@pytest.mark.parametrize("delay", [None, 300])
def test_one_that_waits_is_cancelled_at_once_and_never_runs(broker: StubBroker, delay: int | None) -> None:
    job = Job(broker, lambda _: None)
    message = job.actor.send_with_options(delay=delay)
    state = State.ENQUEUED if delay is None else State.DELAYED
    assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, state)
    assert read(message).state is State.CANCELLED
    work_off(broker)
    assert (job.starts, read(message).state) == (0, State.CANCELLED)


def test_one_that_is_to_be_retried_is_not(broker: StubBroker) -> None:
    def fail(_: ProgressObserver) -> None:
        raise RuntimeError("broken")

    job = Job(broker, fail, **LATE_RETRY)
    message = job.actor.send()
    with working(broker):
        when(message, State.RETRYING)
        assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, State.RETRYING)
        # The retry comes.
        broker.queues["default"].put(message.encode())
        wait_until(lambda: not broker.queues["default"].unfinished_tasks)
    cancelled = read(message)
    assert (cancelled.state, cancelled.current, job.starts) == (State.CANCELLED, 1, 1)


# What runs


def test_the_next_report_of_one_that_runs_raises(broker: StubBroker) -> None:
    job = Job(broker, report_on)
    cancelled = job.cancelled()
    assert (cancelled.state, cancelled.attempt, cancelled.cancel_requested) == (State.CANCELLED, 1, True)
    assert cancelled.result == "The task was cancelled."
    assert (job.starts, job.done) == (1, [])


def report_metadata(observer: ProgressObserver) -> None:
    while True:
        observer.set_metadata(kind="rows")
        threading.Event().wait(STEP_SECONDS)


def increment(observer: ProgressObserver) -> None:
    while True:
        observer.increment_progress()
        threading.Event().wait(STEP_SECONDS)


@pytest.mark.parametrize("work", [report_metadata, increment])
def test_every_kind_of_report_raises(broker: StubBroker, work: Work) -> None:
    assert Job(broker, work).cancelled().state is State.CANCELLED


def test_an_actor_that_catches_every_exception_is_cancelled_all_the_same(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        while True:
            with suppress(Exception):
                report_on(observer)

    assert Job(broker, work).cancelled().state is State.CANCELLED
    assert issubclass(Cancelled, Interrupt) and not issubclass(Cancelled, Exception)


def test_what_cleans_up_may_report(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        try:
            report_on(observer)
        finally:
            for _ in observer.track(range(3), description="Cleaning up"):
                with suppress(KeyError):
                    raise KeyError
            job.done.append("cleaned up")

    job = Job(broker, work)
    cancelled = job.cancelled()
    assert (cancelled.state, cancelled.current, cancelled.description) == (State.CANCELLED, 3, "Cleaning up")
    assert job.done == ["cleaned up"]


def test_an_actor_may_ask_and_end_well(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        assert not observer.cancel_requested
        wait_until(lambda: observer.cancel_requested)
        observer.set_result("as far as it came")

    done = Job(broker, work).cancelled()
    assert (done.state, done.success, done.cancel_requested) == (State.DONE, True, True)
    assert done.result == "as far as it came"


def test_an_actor_may_catch_it_go_on_and_end_well(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        with suppress(Cancelled):
            report_on(observer)
        for _ in observer.track(range(5), description="Closing"):
            threading.Event().wait(STEP_SECONDS)

    done = Job(broker, work).cancelled()
    assert (done.state, done.current, done.description) == (State.DONE, 5, "Closing")


def test_an_actor_may_raise_it_itself(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        raise Cancelled("the file is gone")

    job = Job(broker, work)
    message = job.actor.send()
    work_off(broker)
    assert (read(message).state, job.starts) == (State.CANCELLED, 1)


def test_one_that_fails_while_it_is_to_be_cancelled_is_cancelled_and_not_retried(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        wait_until(lambda: observer.cancel_requested)
        raise RuntimeError("broken")

    job = Job(broker, work)
    assert job.cancelled().state is State.CANCELLED
    assert job.starts == 1


def test_one_that_never_reports_ends_as_it_would_have(broker: StubBroker) -> None:
    go_on = threading.Event()

    def work(_: ProgressObserver) -> None:
        go_on.wait(30)

    job = Job(broker, work)
    message = job.actor.send()
    with working(broker):
        assert job.began.wait(30)
        cancel(message.message_id)
        waiting = read(message)
        assert (waiting.state, waiting.cancel_requested, waiting.can_cancel) == (State.RUNNING, True, False)
        go_on.set()
        assert when(message, State.DONE).cancel_requested


def test_an_actor_that_is_declared_so_is_not_cancelled(broker: StubBroker) -> None:
    go_on = threading.Event()
    job = Job(broker, lambda _: go_on.wait(30), cancellable=False)
    message = job.actor.send()
    assert cancel(message.message_id) == Cancellation(CancelOutcome.NOT_CANCELLABLE, State.ENQUEUED)
    with working(broker):
        assert job.began.wait(30)
        assert cancel(message.message_id) == Cancellation(CancelOutcome.NOT_CANCELLABLE, State.RUNNING)
        assert not read(message).cancel_requested
        go_on.set()
        when(message, State.DONE)


# In other threads and in coroutines


def test_what_threads_of_an_actor_raise_comes_out_of_their_futures(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        def count() -> None:
            wait_until(lambda: observer.cancel_requested)
            observer.increment_progress()

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(count) for _ in range(4)]:
                future.result()

    assert Job(broker, work).cancelled().state is State.CANCELLED


def test_a_thread_is_told_at_each_report_and_the_actor_still_at_its_own(broker: StubBroker) -> None:
    told: list[str] = []

    def work(observer: ProgressObserver) -> None:
        def count() -> None:
            wait_until(lambda: observer.cancel_requested)
            for _ in range(3):
                try:
                    observer.increment_progress()
                except Cancelled:
                    observer.set_progress(5)
                    told.append("told")

        thread = threading.Thread(target=count)
        thread.start()
        thread.join()
        report_on(observer)

    assert Job(broker, work).cancelled().state is State.CANCELLED
    assert told == ["told"] * 3


async def report_in_coroutine(progress_observer: ProgressObserver) -> None:
    progress_observer.set_progress(1, 9)
    while True:
        progress_observer.increment_progress()
        await asyncio.sleep(STEP_SECONDS)


async def report_in_tasks(progress_observer: ProgressObserver) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(report_in_coroutine(progress_observer))


@pytest.mark.parametrize("work", [report_in_coroutine, report_in_tasks])
def test_an_async_actor_is_cancelled_at_its_reports(broker: StubBroker, work: Callable[..., Any]) -> None:
    message = progress_actor(broker=broker)(work).send()
    with working(broker):
        wait_until(lambda: read(message).current > 0)
        cancel(message.message_id)
        when(message, State.CANCELLED)
        broker.join("default", fail_fast=False)
    assert read(message).attempt == 1


# Among other messages


def test_the_rest_of_a_pipeline_does_not_run(broker: StubBroker) -> None:
    ran: list[object] = []
    last = progress_actor(broker=broker, actor_name="last")(lambda *arguments: ran.append(arguments))
    job = Job(broker, report_on)
    first, second = (job.actor.message() | last.message()).messages  # type: ignore[no-untyped-call]
    dramatiq.pipeline([first, second], broker=broker).run()  # type: ignore[no-untyped-call]
    with working(broker):
        assert job.began.wait(30)
        cancel(first.message_id)
        when(first, State.CANCELLED)
        broker.join("default", fail_fast=False)
    assert ran == [] and get_progress(second.message_id) is None


def test_the_others_of_a_group_run_and_its_callbacks_do_not(broker: StubBroker) -> None:
    ran: list[str] = []
    callback = dramatiq.actor(broker=broker, actor_name="callback")(lambda: ran.append("callback"))
    other = progress_actor(broker=broker, actor_name="other")(lambda: ran.append("other"))
    messages = [other.message(), other.message()]
    group = dramatiq.group(messages, broker=broker)  # type: ignore[no-untyped-call]
    group.add_completion_callback(callback.message())
    group.run()
    cancel(messages[0].message_id)
    work_off(broker)
    assert ran == ["other"]
    assert [read(each).state for each in messages] == [State.CANCELLED, State.DONE]


def test_an_actor_that_calls_another_is_cancelled_as_a_whole(broker: StubBroker) -> None:
    """The inner one has a detached observer, which raises nothing, and lets pass what the outer one's raises."""

    def inner(progress_observer: ProgressObserver, outer: Any) -> None:
        assert progress_observer.message_id is None
        while True:
            progress_observer.increment_progress()
            outer.increment_progress()
            threading.Event().wait(STEP_SECONDS)

    called = progress_actor(broker=broker, actor_name="inner")(inner)
    assert Job(broker, lambda observer: called(outer=observer)).cancelled().state is State.CANCELLED


# Who is told


@pytest.mark.parametrize("state", [State.ENQUEUED, State.RUNNING])
def test_a_change_of_state_is_announced_once(broker: StubBroker, state: State) -> None:
    """By whoever cancels what waits; by the worker that skips what another had begun before it died."""
    heard: list[tuple[State | None, State]] = []

    def hear(progress: Progress, previous: State | None, **_: Any) -> None:
        heard.append((previous, progress.state))

    message = Job(broker, lambda _: None).actor.send()
    if state is State.RUNNING:
        get_store().start(Attempt(message.message_id, "work", "default"))
    state_changed.connect(hear)
    try:
        cancel(message.message_id)
        cancel(message.message_id)
        work_off(broker)
    finally:
        state_changed.disconnect(hear)
    assert heard == [(state, State.CANCELLED)]


def test_an_answer_is_true_when_the_job_is_not_to_go_on(broker: StubBroker) -> None:
    job = Job(broker, lambda _: None)
    message = job.actor.send()
    assert not cancel("never-sent")
    assert asyncio.run(acancel(message.message_id))
    assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, State.CANCELLED)
    finished = job.actor.send()
    with working(broker):
        when(finished, State.DONE)
    assert not cancel(finished.message_id)


def test_a_store_that_is_down_says_so_and_keeps_nothing_for_later(broker: StubBroker, settings: Any) -> None:
    good = settings.DRAMATIQ_PROGRESS
    message = Job(broker, lambda _: None).actor.send()
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    with pytest.raises(StoreUnavailable):
        cancel(message.message_id)
    with pytest.raises(StoreUnavailable):
        asyncio.run(acancel(message.message_id))
    settings.DRAMATIQ_PROGRESS = {"STORE": "dramatiq_progress.Nothing"}
    with pytest.raises(ImproperlyConfigured):
        cancel(message.message_id)
    settings.DRAMATIQ_PROGRESS = good


def test_one_that_was_cancelled_before_its_start_could_be_written_stops(
    redis_store: Store, broker: StubBroker, settings: Any
) -> None:
    """The worker had lost the store, and whoever cancelled had not."""
    good = settings.DRAMATIQ_PROGRESS
    job = Job(broker, report_on)
    message = job.actor.send()
    settings.DRAMATIQ_PROGRESS = good | {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    with working(broker):
        assert job.began.wait(30)
        elsewhere = RedisStore(prefix=good["PREFIX"], **good["OPTIONS"])
        assert elsewhere.cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, State.ENQUEUED)
        elsewhere.close()
        settings.DRAMATIQ_PROGRESS = good
        broker.join("default")
    assert (read(message).state, job.starts, job.done) == (State.CANCELLED, 1, [])


def test_a_detached_observer_is_never_cancelled() -> None:
    observer = ProgressObserver()
    observer.set_progress(1, 2)
    assert not observer.cancel_requested


# Workers of their own

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


@BOTH_BROKERS
def test_every_broker_stops_what_runs_and_skips_what_waits(scene: Scene, tmp_path: Path) -> None:
    waiting = scene.send(tasks.report_for, 60.0)
    scene.cancel(waiting)
    with scene.worker("-p", "1", "-t", "3"):
        retried = tasks.fail_first.message_with_options(args=(str(tmp_path / "failed"),), **LATE_RETRY)
        scene.enqueue(retried)
        running, asynchronous = scene.send(tasks.report_for, 60.0), scene.send(tasks.report_for_ever)
        for message in (running, asynchronous):
            wait_until(lambda message=message: scene.deeds(message, "began"))
            scene.cancel(message)
            scene.when(message, State.CANCELLED, attempt=1)
        scene.when(retried, State.RETRYING)
        scene.cancel(retried)
        scene.when(retried, State.CANCELLED)
        # The retry comes.
        scene.deliver_again(retried)
        # What comes is skipped, and the worker is free for others.
        for message in [scene.send(tasks.report_for, 0.01) for _ in range(6)]:
            scene.when(message, State.DONE)
        scene.heal()
    assert not scene.deeds(waiting)
    assert [deed.why for deed in scene.deeds(running, "failed")] == ["Cancelled"]
    assert [deed.why for deed in scene.deeds(asynchronous, "failed")] == ["Cancelled"]
    assert len(scene.deeds(retried, "began")) == 1


@BOTH_BROKERS
def test_one_whose_worker_dies_before_it_has_stopped_is_not_begun_again(scene: Scene, tmp_path: Path) -> None:
    with scene.worker("-p", "1", "-t", "2") as worker:
        message = scene.send(tasks.wait_for, str(tmp_path / "never"))
        scene.when(message, State.RUNNING, current=1)
        scene.cancel(message)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(30)
    lost = scene.when(message, State.LOST)
    assert (lost.cancel_requested, lost.can_cancel) == (True, False)
    with scene.worker("-p", "1", "-t", "2"):
        scene.when(message, State.CANCELLED, attempt=1, current=1)
        scene.heal()
    assert len(scene.deeds(message, "began")) == 1


def test_a_worker_that_was_frozen_stops_when_it_wakes_up(scene: Scene) -> None:
    """Its message was cancelled when it came to another one."""
    with scene.worker("-p", "1", "-t", "2") as frozen:
        message = scene.send(tasks.report_for, 60.0)
        scene.when(message, State.RUNNING, attempt=1)
        wait_until(lambda: scene.deeds(message, "began"))
        os.killpg(frozen.pid, signal.SIGSTOP)
        try:
            scene.cancel(message)
            scene.when(message, State.LOST, cancel_requested=True)
            scene.deliver_again(message)
            with scene.worker("-p", "1", "-t", "2"):
                scene.when(message, State.CANCELLED, attempt=1)
        finally:
            os.killpg(frozen.pid, signal.SIGCONT)
        [failed] = wait_until(lambda: scene.deeds(message, "failed"))
        assert failed.why == "Cancelled"
        scene.heal()

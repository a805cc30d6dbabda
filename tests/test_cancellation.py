"""Cancelled jobs: in this process, and in worker processes with each broker."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from tests.brokers import working
from tests.faults import tasks
from tests.faults.scene import Scene
from tests.reading import read, when
from tests.waiting import wait_until

REQUESTED = Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
#: Duration of a step of an actor that waits for a cancel.
STEP_SECONDS = 0.005
#: No retry is due before the end of the test.
LATE_RETRY = {"min_backoff": 600_000, "max_backoff": 600_000}

Work = Callable[[ProgressObserver], Any]


@pytest.fixture(autouse=True)
def here(request: pytest.FixtureRequest, settings: Any) -> None:
    """Store progress in memory unless the test names a store, with frequent heartbeats."""
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


def work_off(broker: StubBroker) -> None:
    with working(broker):
        broker.join("default", fail_fast=False)


class Job:
    """A job that is cancelled while it runs, and the steps of its actor."""

    def __init__(self, broker: StubBroker, work: Work, **options: Any) -> None:
        self.broker, self.work = broker, work
        self.began = threading.Event()
        self.starts = 0
        self.done: list[str] = []
        self.actor = progress_actor(broker=broker, actor_name="work", **{"cancellable": True, **options})(self.run)

    def run(self, progress_observer: ProgressObserver) -> None:
        self.starts += 1
        progress_observer.set_progress(1, 9)
        # After this, the test may cancel it at once.
        assert not progress_observer.cancel_requested
        self.began.set()
        self.work(progress_observer)
        self.done.append("returned")

    def cancelled(self) -> Progress:
        """Send a message, cancel it as soon as it runs, and return its final progress."""
        message = self.actor.send()
        with working(self.broker):
            assert self.began.wait(30)
            assert cancel(message.message_id) == REQUESTED
            wait_until(lambda: read(message).complete)
            self.broker.join("default", fail_fast=False)
        return read(message)


def report_on(observer: ProgressObserver) -> None:
    """Report until a report raises."""
    for _ in observer.track(range(10_000)):
        threading.Event().wait(STEP_SECONDS)
    raise AssertionError("this was not cancelled")


# Messages that wait


@pytest.mark.parametrize("delay", [None, 300])
def test_a_waiting_message_is_cancelled_immediately_and_never_runs(broker: StubBroker, delay: int | None) -> None:
    job = Job(broker, lambda _: None)
    message = job.actor.send_with_options(delay=delay)
    state = State.ENQUEUED if delay is None else State.DELAYED
    assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, state)
    assert read(message).state is State.CANCELLED
    work_off(broker)
    assert (job.starts, read(message).state) == (0, State.CANCELLED)


def test_a_retrying_message_is_not_retried_after_a_cancel(broker: StubBroker) -> None:
    def fail(_: ProgressObserver) -> None:
        raise RuntimeError("broken")

    job = Job(broker, fail, **LATE_RETRY)
    message = job.actor.send()
    with working(broker):
        when(message, State.RETRYING)
        assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, State.RETRYING)
        # The retry is delivered.
        broker.queues["default"].put(message.encode())
        wait_until(lambda: not broker.queues["default"].unfinished_tasks)
    cancelled = read(message)
    assert (cancelled.state, cancelled.current, job.starts) == (State.CANCELLED, 1, 1)


# Messages that run


def test_the_next_report_of_a_running_actor_raises(broker: StubBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dramatiq_progress")
    job = Job(broker, report_on)
    cancelled = job.cancelled()
    assert (cancelled.state, cancelled.attempt, cancelled.cancel_requested) == (State.CANCELLED, 1, True)
    assert cancelled.result == "The task was cancelled."
    assert (job.starts, job.done) == (1, [])
    expected = f"Message {cancelled.id} ({cancelled.actor}) was interrupted and is cancelled."
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.INFO] == [expected]


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


def test_an_actor_that_catches_every_exception_is_still_cancelled(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        while True:
            with suppress(Exception):
                report_on(observer)

    assert Job(broker, work).cancelled().state is State.CANCELLED
    assert issubclass(Cancelled, Interrupt) and not issubclass(Cancelled, Exception)


def test_reports_while_cleaning_up_do_not_raise(broker: StubBroker) -> None:
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


def test_an_actor_that_checks_the_request_may_return(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        wait_until(lambda: observer.cancel_requested)
        observer.set_result("partial")

    done = Job(broker, work).cancelled()
    assert (done.state, done.success, done.cancel_requested) == (State.DONE, True, True)
    assert done.result == "partial"


def test_an_actor_that_catches_the_exception_may_continue_and_return(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        with suppress(Cancelled):
            report_on(observer)
        for _ in observer.track(range(5), description="Closing"):
            threading.Event().wait(STEP_SECONDS)

    done = Job(broker, work).cancelled()
    assert (done.state, done.current, done.description) == (State.DONE, 5, "Closing")


def test_an_actor_may_raise_cancelled_itself(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        raise Cancelled("the file is gone")

    job = Job(broker, work)
    message = job.actor.send()
    work_off(broker)
    assert (read(message).state, job.starts) == (State.CANCELLED, 1)


def test_an_actor_that_fails_after_a_cancel_request_is_cancelled_and_not_retried(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        wait_until(lambda: observer.cancel_requested)
        raise RuntimeError("broken")

    job = Job(broker, work)
    assert job.cancelled().state is State.CANCELLED
    assert job.starts == 1


def test_an_actor_that_never_reports_is_not_interrupted(broker: StubBroker) -> None:
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


@pytest.mark.parametrize(("declared", "setting"), [(None, None), (None, False), (False, None), (False, True)])
def test_an_actor_that_is_not_declared_cancellable_is_not_cancelled(
    broker: StubBroker, settings: Any, declared: bool | None, setting: bool | None
) -> None:
    """Its code wasn't written for it. The declaration of an actor precedes the setting of the project."""
    if setting is not None:
        settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"CANCELLABLE": setting}
    go_on = threading.Event()
    job = Job(broker, lambda _: go_on.wait(30), cancellable=declared)
    message = job.actor.send()
    assert cancel(message.message_id) == Cancellation(CancelOutcome.NOT_CANCELLABLE, State.ENQUEUED)
    with working(broker):
        assert job.began.wait(30)
        assert cancel(message.message_id) == Cancellation(CancelOutcome.NOT_CANCELLABLE, State.RUNNING)
        assert not read(message).cancel_requested
        go_on.set()
        when(message, State.DONE)


def test_a_setting_makes_the_actors_of_a_project_cancellable(broker: StubBroker, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"CANCELLABLE": True}
    assert Job(broker, report_on, cancellable=None).cancelled().state is State.CANCELLED


def test_a_message_says_so_before_its_actor(broker: StubBroker) -> None:
    job = Job(broker, report_on, cancellable=False)
    message = job.actor.send_with_options(cancellable=True)
    with working(broker):
        assert job.began.wait(30)
        assert cancel(message.message_id) == REQUESTED
        when(message, State.CANCELLED)


@pytest.mark.parametrize("state", [State.ENQUEUED, State.RUNNING])
def test_code_can_cancel_what_is_not_cancellable_by_force(broker: StubBroker, state: State) -> None:
    job = Job(broker, report_on, cancellable=False)
    message = job.actor.send()
    if state is State.ENQUEUED:
        assert cancel(message.message_id, force=True) == Cancellation(CancelOutcome.CANCELLED, state)
    with working(broker):
        if state is State.RUNNING:
            assert job.began.wait(30)
            assert asyncio.run(acancel(message.message_id, force=True)) == REQUESTED
        broker.join("default", fail_fast=False)
        when(message, State.CANCELLED)
    assert job.done == [] and job.starts == (state is State.RUNNING)


def test_with_an_invalid_setting_a_message_is_sent_and_runs_without_a_crash_of_a_hook(
    broker: StubBroker, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Dramatiq would log each as "Unexpected failure", and skip the rest of the hook."""
    settings.DRAMATIQ_PROGRESS = {"CANCELLABLE": "yes"}
    job = Job(broker, lambda _: None, cancellable=None)
    job.actor.send()
    work_off(broker)
    assert job.done == ["returned"]
    assert "DRAMATIQ_PROGRESS[\"CANCELLABLE\"] is 'yes'" in caplog.text
    assert not [each for each in caplog.records if each.levelname == "CRITICAL"]


# Threads and coroutines


def test_an_exception_in_a_thread_pool_is_raised_by_its_future(broker: StubBroker) -> None:
    def work(observer: ProgressObserver) -> None:
        def count() -> None:
            wait_until(lambda: observer.cancel_requested)
            observer.increment_progress()

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(count) for _ in range(4)]:
                future.result()

    assert Job(broker, work).cancelled().state is State.CANCELLED


def test_each_report_of_another_thread_raises_and_then_the_actors_own(broker: StubBroker) -> None:
    interrupted: list[str] = []

    def work(observer: ProgressObserver) -> None:
        def count() -> None:
            wait_until(lambda: observer.cancel_requested)
            for _ in range(3):
                try:
                    observer.increment_progress()
                except Cancelled:
                    observer.set_progress(5)
                    interrupted.append("thread")

        thread = threading.Thread(target=count)
        thread.start()
        thread.join()
        report_on(observer)

    assert Job(broker, work).cancelled().state is State.CANCELLED
    assert interrupted == ["thread"] * 3


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_part_that_is_async_leaves_the_cancel_to_its_caller(broker: StubBroker, in_thread: bool) -> None:
    """The caller is interrupted once, and can clean up."""

    @progress_actor(broker=broker)
    async def part(progress_observer: ProgressObserver) -> None:
        # Without a report: the message is cancelled after its first one.
        await asyncio.sleep(0)

    def work(observer: ProgressObserver) -> None:
        called: Any = part
        if in_thread:
            with ThreadPoolExecutor() as pool:
                pool.submit(called, observer).result()
        else:
            called(observer)
        with pytest.raises(Cancelled):
            report_on(observer)
        observer.set_progress(7, 9)

    done = Job(broker, work).cancelled()
    assert (done.state, done.current) == (State.DONE, 7)


def test_a_cancel_that_interrupts_an_async_part_has_interrupted_its_caller(broker: StubBroker) -> None:
    @progress_actor(broker=broker)
    async def part(progress_observer: ProgressObserver) -> None:
        await report_in_coroutine(progress_observer)

    def work(observer: ProgressObserver) -> None:
        called: Any = part
        with pytest.raises(Cancelled):
            called(observer)
        observer.set_progress(7, 9)

    done = Job(broker, work).cancelled()
    assert (done.state, done.current) == (State.DONE, 7)


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
    message = progress_actor(broker=broker, cancellable=True)(work).send()
    with working(broker):
        wait_until(lambda: read(message).current > 0)
        cancel(message.message_id)
        when(message, State.CANCELLED)
        broker.join("default", fail_fast=False)
    assert read(message).attempt == 1


def test_an_async_actor_is_cancelled_although_a_background_task_reports_first(broker: StubBroker) -> None:
    """The actor is its task: other tasks are interrupted at each report, and don't use up the actor's interruption."""
    interrupted: list[str] = []

    async def work(progress_observer: ProgressObserver) -> None:
        async def tick() -> None:
            while True:
                try:
                    progress_observer.set_metadata(ticks=len(interrupted))
                except Cancelled:
                    interrupted.append("background")
                await asyncio.sleep(STEP_SECONDS)

        ticking = asyncio.create_task(tick())
        try:
            while True:
                if not progress_observer.cancel_requested or len(interrupted) >= 3:
                    progress_observer.increment_progress()
                await asyncio.sleep(STEP_SECONDS)
        finally:
            ticking.cancel()

    message = progress_actor(broker=broker, cancellable=True)(work).send()
    with working(broker):
        wait_until(lambda: read(message).current > 0)
        cancel(message.message_id)
        when(message, State.CANCELLED)
        broker.join("default", fail_fast=False)
    assert len(interrupted) >= 3


# Among other messages


def test_later_messages_of_a_pipeline_do_not_run(broker: StubBroker) -> None:
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


def test_other_messages_of_a_group_run_and_its_callbacks_do_not(broker: StubBroker) -> None:
    ran: list[str] = []
    callback = dramatiq.actor(broker=broker, actor_name="callback")(lambda: ran.append("callback"))
    other = progress_actor(broker=broker, actor_name="other", cancellable=True)(lambda: ran.append("other"))
    messages = [other.message(), other.message()]
    group = dramatiq.group(messages, broker=broker)  # type: ignore[no-untyped-call]
    group.add_completion_callback(callback.message())
    group.run()
    cancel(messages[0].message_id)
    work_off(broker)
    assert ran == ["other"]
    assert [read(each).state for each in messages] == [State.CANCELLED, State.DONE]


def test_an_actor_that_calls_another_is_cancelled_as_a_whole(broker: StubBroker) -> None:
    """The inner call has a detached observer, which never raises; the outer observer's exception passes through it."""

    def inner(progress_observer: ProgressObserver, outer: Any) -> None:
        assert progress_observer.message_id is None
        while True:
            progress_observer.increment_progress()
            outer.increment_progress()
            threading.Event().wait(STEP_SECONDS)

    called = progress_actor(broker=broker, actor_name="inner")(inner)
    assert Job(broker, lambda observer: called(outer=observer)).cancelled().state is State.CANCELLED


# Signals and outcomes


@pytest.mark.parametrize("state", [State.ENQUEUED, State.RUNNING])
def test_a_cancel_sends_one_signal(broker: StubBroker, state: State) -> None:
    """From the canceller of a waiting message; from the worker that skips a message whose first worker died."""
    received: list[tuple[State | None, State]] = []

    def receive(progress: Progress, previous: State | None, **_: Any) -> None:
        received.append((previous, progress.state))

    message = Job(broker, lambda _: None).actor.send()
    if state is State.RUNNING:
        get_store().start(Attempt(message.message_id, "work", "default", cancellable=True))
    state_changed.connect(receive)
    try:
        cancel(message.message_id)
        cancel(message.message_id)
        work_off(broker)
    finally:
        state_changed.disconnect(receive)
    assert received == [(state, State.CANCELLED)]


def test_the_outcome_of_a_cancel_is_true_if_it_has_an_effect(broker: StubBroker) -> None:
    job = Job(broker, lambda _: None)
    message = job.actor.send()
    assert not cancel("never-sent")
    assert asyncio.run(acancel(message.message_id))
    assert cancel(message.message_id) == Cancellation(CancelOutcome.CANCELLED, State.CANCELLED)
    finished = job.actor.send()
    with working(broker):
        when(finished, State.DONE)
    assert not cancel(finished.message_id)


def test_a_cancel_without_a_store_raises_and_is_not_deferred(broker: StubBroker, settings: Any) -> None:
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


def test_an_actor_stops_if_its_message_was_cancelled_before_its_start_was_written(
    redis_store: Store, broker: StubBroker, settings: Any
) -> None:
    """The worker had no connection to the store, and the canceller had one."""
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


# Worker processes

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


@BOTH_BROKERS
def test_running_messages_stop_and_waiting_ones_are_skipped(scene: Scene, tmp_path: Path) -> None:
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
        # The retry is delivered.
        scene.deliver_again(retried)
        # It is skipped, and the worker is free for other messages.
        for message in [scene.send(tasks.report_for, 0.01) for _ in range(6)]:
            scene.when(message, State.DONE)
        scene.heal()
    assert not scene.deeds(waiting)
    assert [deed.why for deed in scene.deeds(running, "failed")] == ["Cancelled"]
    assert [deed.why for deed in scene.deeds(asynchronous, "failed")] == ["Cancelled"]
    assert len(scene.deeds(retried, "began")) == 1


@BOTH_BROKERS
def test_a_message_whose_worker_dies_after_a_cancel_is_not_started_again(scene: Scene, tmp_path: Path) -> None:
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


def test_a_frozen_worker_stops_when_it_wakes_up(scene: Scene) -> None:
    """Its message was cancelled when another worker received it."""
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

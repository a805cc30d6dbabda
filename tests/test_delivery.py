"""Deliveries: their outcome whichever hooks a broker emits, further rounds of a message, and what they keep alive."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Retries, SkipMessage

from dramatiq_progress import ProgressObserver, State, cancel, current_observer, get_progress, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.current import this_thread
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.brokers import working
from tests.reading import read, when
from tests.servers import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[AsyncIO(), Retries(max_retries=0), ProgressMiddleware()])
    with working(made, threads=1):
        yield made
    made.close()


# ---- Further rounds of the same message ----


@pytest.mark.parametrize("delay", [None, 60_000])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_actor_that_enqueues_its_own_message_again_runs_until_its_round_ends(
    broker: StubBroker, delay: int | None, is_async: bool
) -> None:
    requeued, go_on = threading.Event(), threading.Event()
    sent: list[Message[Any]] = []
    rounds: list[int] = []

    def requeue() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            broker.enqueue(sent[0].copy(), delay=delay)
        requeued.set()

    def work(progress_observer: ProgressObserver) -> None:
        requeue()
        progress_observer.set_progress(3, 5)
        assert go_on.wait(60)

    async def work_async(progress_observer: ProgressObserver) -> None:
        requeue()
        progress_observer.set_progress(3, 5)
        await asyncio.to_thread(go_on.wait, 60)

    actor = progress_actor(broker=broker, actor_name="work")(work_async if is_async else work)
    message = actor.message()
    sent.append(message)
    broker.enqueue(message)
    assert requeued.wait(60)
    wait_until(lambda: read(message).current == 3)
    assert read(message).state is State.RUNNING
    go_on.set()
    if delay is None:
        wait_until(lambda: len(rounds) == 2)
        assert when(message, State.DONE).attempt == 2
    else:
        assert when(message, State.DELAYED).attempt == 1


def test_a_cancel_reaches_a_round_that_enqueued_the_next_one(broker: StubBroker) -> None:
    running = threading.Event()
    sent: list[Message[Any]] = []

    def work(progress_observer: ProgressObserver) -> None:
        broker.enqueue(sent[0].copy(), delay=60_000)
        running.set()
        while True:
            progress_observer.increment_progress()
            threading.Event().wait(0.01)

    message = progress_actor(broker=broker, cancellable=True)(work).message()
    sent.append(message)
    broker.enqueue(message)
    assert running.wait(60)
    cancel(message.message_id)
    when(message, State.CANCELLED)


# ---- Brokers with other hooks ----


class EagerBroker(StubBroker):
    """Processes a message inside ``enqueue``, and emits only some of the hooks, as other people's brokers do."""

    def __init__(self, *hooks: str) -> None:
        super().__init__(middleware=[ProgressMiddleware()])
        self.hooks = hooks

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        self.emit_before("enqueue", message, delay)
        self.emit_after("enqueue", message, delay)
        proxy = MessageProxy(message)
        self.emit_before("process_message", proxy)
        failure: BaseException | None = None
        try:
            self.get_actor(message.actor_name)(*message.args, **message.kwargs)
        except SkipMessage:
            self.emit_after("skip_message", proxy)
        except Exception as error:
            failure = error
        self.emit_after("process_message", proxy, result=None, exception=failure)
        for hook in self.hooks:
            when, _, name = hook.partition("_")
            (self.emit_before if when == "before" else self.emit_after)(name, proxy)
        return message


@pytest.mark.parametrize("hooks", [["before_ack", "after_ack"], ["before_ack"], ["after_ack"], []], ids=str)
def test_an_outcome_is_recorded_whichever_hooks_a_broker_emits(hooks: list[str]) -> None:
    broker = EagerBroker(*hooks)
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    messages = [actor.send() for _ in range(20)]
    assert {read(each).state for each in messages[:-1]} == {State.DONE}
    # Without any hook the last one ends when the next one starts.
    assert read(messages[-1]).state is (State.DONE if hooks else State.RUNNING)
    chained, delivery = 0, this_thread.delivery
    while delivery is not None:
        chained, delivery = chained + 1, delivery.outer
    assert chained <= 1
    this_thread.delivery = None


def test_a_message_that_is_processed_inside_another_has_its_own_outcome() -> None:
    broker = EagerBroker("after_ack")
    inner = progress_actor(broker=broker, actor_name="inner")(lambda: None)
    sent: list[Message[Any]] = []

    def work(progress_observer: ProgressObserver) -> None:
        sent.append(inner.send())
        progress_observer.set_progress(2)

    message = progress_actor(broker=broker, actor_name="outer")(work).send()
    assert (read(message).state, read(message).current) == (State.DONE, 2)
    assert read(sent[0]).state is State.DONE


# ---- Memory ----


class Big:
    """An argument that must not outlive its message."""


def count_kept(broker: StubBroker, caplog: Any, outcome: str, *, is_tracked: bool) -> int:
    """Return how many of the objects that a message's attempts held are alive when it has ended."""
    alive: list[weakref.ref[Any]] = []
    attempts: list[int] = []

    def work(big: Any = None) -> None:
        big = Big()
        alive.append(weakref.ref(big))
        if observer := current_observer():
            alive.append(weakref.ref(observer))
            observer.set_progress(1, 2)
        attempts.append(1)
        if outcome == "failure" or (outcome == "retry" and len(attempts) == 1):
            raise RuntimeError("failed")
        if outcome == "skip":
            raise SkipMessage("skipped")
        while outcome == "cancel" and observer:
            observer.increment_progress()
            threading.Event().wait(0.01)

    name = f"work-{is_tracked}"
    options: dict[str, Any] = {"max_retries": 1, "min_backoff": 1, "max_backoff": 1} if outcome == "retry" else {}
    if is_tracked:
        options["cancellable"] = True
    declare = progress_actor if is_tracked else dramatiq.actor
    actor = declare(broker=broker, actor_name=name, **options)(work)
    quiet = progress_actor(broker=broker, actor_name=f"quiet-{is_tracked}")(lambda: None)
    message = actor.send()
    if outcome == "cancel":
        wait_until(lambda: alive)
        cancel(message.message_id)
    broker.join("default", fail_fast=False)
    # The worker's thread keeps its last message until it gets another.
    when(quiet.send(), State.DONE)
    broker.join("default", fail_fast=False)
    get_recorder().stop()
    # pytest keeps the exceptions that Dramatiq has logged, and a StubBroker its dead letters.
    caplog.clear()
    broker.dead_letters_by_queue.clear()
    assert len(attempts) == (2 if outcome == "retry" else 1)
    return sum(each() is not None for each in alive)


@pytest.mark.parametrize("outcome", ["success", "failure", "retry", "skip", "cancel"])
def test_what_a_message_held_is_released_when_its_delivery_ends(broker: StubBroker, outcome: str, caplog: Any) -> None:
    """Without the garbage collector: a cycle of ours would keep arguments, exception and frames until it runs."""
    gc.collect()
    gc.disable()
    try:
        # A failure makes a cycle in Dramatiq 2.2 itself: message, exception, frame.
        plain = 0 if outcome == "cancel" else count_kept(broker, caplog, outcome, is_tracked=False)
        tracked = count_kept(broker, caplog, outcome, is_tracked=True)
    finally:
        gc.enable()
    assert tracked <= plain * 2
    assert plain == 0 or outcome in ("failure", "retry")


# ---- Child processes ----


def test_a_forked_child_is_refused_with_a_warning_that_shows_the_way(store: Store) -> None:
    """Each process has its own copy of the values, and the bar would jump between them."""
    attempt = Attempt("m1", "work", "default")
    observer = ProgressObserver(Binding(attempt=attempt))
    observer._binding.apply_start(store.start(attempt))
    get_recorder().open(observer._binding)
    observer.set_progress(1, 10)
    wait_until(lambda: get_progress("m1").current == 1)  # type: ignore[union-attr]
    child = os.fork()
    if child == 0:
        records: list[str] = []
        import logging

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record.getMessage())

        logging.getLogger("dramatiq_progress").addHandler(Keep())
        for number in range(5, 9):
            observer.set_progress(number)
        os._exit(0 if len(records) == 1 and "imap_unordered" in records[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    observer.set_progress(2)
    wait_until(lambda: get_progress("m1").current == 2)  # type: ignore[union-attr]
    get_recorder().close(observer._binding)


#: In a process of its own: what multiprocessing starts for its pools outlives a test.
POOL = """
import os, sys
from multiprocessing import get_context

from dramatiq_progress import ProgressObserver
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.stores.attempt import Attempt


def report(observer):
    observer.increment_progress()
    return os.getpid()


if __name__ == "__main__":
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default")))
    with get_context(sys.argv[1]).Pool(1) as pool:
        assert pool.apply(report, [observer]) != os.getpid()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_observer_that_is_sent_to_another_process_fails_no_job(tmp_path: Path, method: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, str(script), method], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, "imap_unordered" in done.stderr) == (0, True), done.stderr


def test_a_pickled_observer_keeps_values_and_ignores_reports(caplog: Any) -> None:
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default")))
    copy = pickle.loads(pickle.dumps(observer))  # noqa: S301 - its own
    copy.set_progress(3, 5)
    copy.set_progress(4)
    assert (copy.current, copy.total, copy.message_id) == (4, 5, "m1")
    assert caplog.text.count("imap_unordered") == 1
    detached = pickle.loads(pickle.dumps(ProgressObserver()))  # noqa: S301 - its own
    detached.set_progress(1)
    assert detached.current == 1
    observer._binding.release()

"""A thread may be interrupted anywhere: time limits and shutdowns of Dramatiq raise an exception in it.

CPython raises such an exception where it checks for one: at a function's entry, after a call, and where a loop jumps
back. Each test runs an operation once for each such point, interrupts it there, and looks at what is left behind.
"""

from __future__ import annotations

import dis
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from types import CodeType, FrameType
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries, TimeLimitExceeded

import dramatiq_progress
from dramatiq_progress import ProgressObserver, State, progress_actor, threads
from dramatiq_progress.errors import StoreUnreachable
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store, get_store, health
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.health import Health
from dramatiq_progress.stores.redis import RedisStore, batching
from dramatiq_progress.worker.delivery import Delivery
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.brokers import working
from tests.reading import when
from tests.waiting import wait_until

#: This package, and redis-py.
TRACED = (os.path.dirname(dramatiq_progress.__file__), os.path.dirname(redis.__file__))

#: How many of the points `make test` tries; `make soak` tries all (SWEEP_STEP=1).
STEP = int(os.environ.get("SWEEP_STEP", "7"))


class Interrupter:
    """Interrupts this thread at one point in the traced code.

    Parameters:
      point: The number of the point, from 0.
      modules: Names of the files whose code is traced.
    """

    def __init__(self, point: int, modules: tuple[str, ...] = ()) -> None:
        self._left = point
        self._modules = modules
        self._last: dict[FrameType, str] = {}
        self.has_interrupted = False

    def run(self, act: Callable[[], object]) -> None:
        """Call a function; returns also if it was interrupted."""
        before = sys.gettrace()
        # An exception in a finalizer that the garbage collector calls is ignored, and interrupts nothing.
        gc.disable()
        # Python 3.12 traces opcodes only if a frame wants them when the tracing starts.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        try:
            act()
        except TimeLimitExceeded:
            pass
        finally:
            sys.settrace(before)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(TRACED) or (self._modules and not path.endswith(self._modules)):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self._is_check(self._last.get(frame)):
                self._left -= 1
                if self._left < 0:
                    self.has_interrupted = True
                    sys.settrace(None)
                    raise TimeLimitExceeded
            self._last[frame] = name_of(frame.f_code, frame.f_lasti)
        elif event == "return":
            self._last.pop(frame, None)
        return self._trace

    @staticmethod
    def _is_check(name: str | None) -> bool:
        return name is not None and (name.startswith(("CALL", "RESUME")) or "JUMP_BACKWARD" in name)


_names: dict[CodeType, dict[int, str]] = {}


def name_of(code: CodeType, offset: int) -> str:
    if code not in _names:
        _names[code] = {each.offset: each.opname for each in dis.get_instructions(code)}
    return _names[code][offset]


def points_of(act: Callable[[], object]) -> int:
    """Return the number of points in an operation."""
    interrupter = Interrupter(sys.maxsize)
    interrupter.run(act)
    points = sys.maxsize - interrupter._left
    assert points > 50
    return points


@pytest.fixture
def redis_store(redis_store: Store) -> RedisStore:
    assert isinstance(redis_store, RedisStore)
    return redis_store


@pytest.fixture(autouse=True)
def long_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next thread wait, if a turn is lost, until the test fails."""
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 600.0)


def check_store_is_usable(store: RedisStore) -> None:
    """Assert that no lock is held, no turn is lost and no answer is left to read: another thread gets its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(store.read(["other"])), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the turn to send was lost"
    assert found == [[None]]


def test_an_interrupted_request_keeps_no_other_thread_waiting(redis_store: RedisStore) -> None:
    def act() -> None:
        redis_store.read(["m1", "m2"])

    act()
    for point in range(0, points_of(act), STEP):
        Interrupter(point).run(act)
        check_store_is_usable(redis_store)


def test_an_interrupted_batch_loses_no_request_of_another_thread(redis_store: RedisStore) -> None:
    """While this thread is interrupted, three others wait for it to send their requests too."""
    for message_id in ("m0", "m1", "m2"):
        redis_store.start(Attempt(message_id, "work", "default"))
    transport: Any = redis_store._servers._transport  # type: ignore[attr-defined]
    exchange = transport._exchange
    batcher = transport._batcher
    for point in range(0, 400, STEP):
        gate = threading.Event()

        def gated(requests: Any, gate: threading.Event = gate) -> Any:
            if threading.current_thread().name == "first":
                gate.wait(30)
            return exchange(requests)

        batcher._exchange = gated
        answers: dict[str, Any] = {}
        first = threading.Thread(target=lambda: redis_store.read(["m0"]), name="first", daemon=True)
        first.start()
        wait_until(lambda: not batcher._is_free)

        def read(message_id: str, answers: dict[str, Any] = answers) -> None:
            answers[message_id] = redis_store.read([message_id])[0]

        interrupter = Interrupter(point, ("batching.py",))
        sender = threading.Thread(target=lambda i=interrupter: i.run(lambda: redis_store.read(["m0"])), daemon=True)
        sender.start()
        wait_until(lambda sender=sender: batcher._waiting or not sender.is_alive())
        others = [threading.Thread(target=read, args=[each], daemon=True) for each in ("m1", "m2")]
        for each in others:
            each.start()
        gate.set()
        for each in (first, sender, *others):
            each.join(30)
            assert not each.is_alive(), f"point {point}: the turn to send was lost"
        assert {message_id: answers[message_id].id for message_id in answers} == {"m1": "m1", "m2": "m2"}
        batcher._exchange = exchange
        if not interrupter.has_interrupted:
            break
    assert point > 10
    check_store_is_usable(redis_store)


def delivery_of(message_id: str) -> Delivery:
    options: dict[str, Any] = {"queue_name": "default", "actor_name": "work", "args": (), "kwargs": {}}
    return Delivery(dramatiq.Message(**options, options={}, message_id=message_id), retries_left=0)


def test_an_interrupted_delivery_has_its_outcome_and_leaves_nothing_behind(redis_store: RedisStore) -> None:
    """Interrupted anywhere between the start of its attempt and the binding of its observer."""

    def deliver(message_id: str) -> Delivery:
        redis_store.enqueue(message_id, actor="work", queue="default", retries_left=0)
        return delivery_of(message_id)

    warm = deliver("warm")
    warm.open()
    warm.finish(State.DONE)
    points = points_of(deliver("count").open)
    for point in range(0, points, STEP):
        delivery = deliver(f"m{point}")
        Interrupter(point).run(delivery.open)
        delivery.finish(State.FAILED)
        progress = redis_store.read([f"m{point}"])[0]
        assert progress is not None and progress.state is State.FAILED, f"point {point}"
        assert not [each for each in get_recorder().bindings() if each.message_id == f"m{point}"]
    # Of threads that were started twice, one runs; the others end at once, which takes longer on a busy machine.
    wait_until(lambda: [each.name for each in threading.enumerate()].count("dramatiq-progress-recorder") <= 1)
    check_store_is_usable(redis_store)


def test_a_message_is_retried_wherever_its_time_limit_interrupts_the_call_of_its_actor(memory_store: Store) -> None:
    """Before and after the actor's own work too: its retry is no further round that the actor has sent."""
    broker = StubBroker(middleware=[Retries(max_retries=1, min_backoff=600_000), ProgressMiddleware()])
    calls: list[Interrupter] = []

    @progress_actor(broker=broker)
    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1)

    called = work.fn

    def interrupted() -> None:
        calls[-1].run(called)
        if calls[-1].has_interrupted:
            raise TimeLimitExceeded

    work.fn = interrupted
    with working(broker):
        for point in count():
            calls.append(Interrupter(point, ("actors.py", "current.py", "delivery.py")))
            message = work.send()
            progress = when(message, State.RETRYING, State.DONE, State.FAILED)
            wanted = State.RETRYING if calls[-1].has_interrupted else State.DONE
            assert progress.state is wanted, f"point {point}"
            if progress.state is State.DONE:
                break
    broker.close()
    assert point > 15


def test_an_attempt_whose_start_is_interrupted_has_its_outcome(redis_store: RedisStore) -> None:
    """The start may have been written, and its answer not read: the token decides, not what the worker knows."""

    def start(message_id: str) -> Attempt:
        redis_store.enqueue(message_id, actor="work", queue="default", retries_left=0)
        return Attempt(message_id, "work", "default", 0)

    redis_store.start(start("warm"))
    attempt = start("count")
    points = points_of(lambda: redis_store.start(attempt))
    for point in range(0, points, STEP):
        attempt = start(f"m{point}")
        Interrupter(point).run(lambda attempt=attempt: redis_store.start(attempt))
        # As the middleware does: no observer was bound, so that the attempt is not known to have started.
        redis_store.finish(attempt, state=State.FAILED, started=False)
        progress = redis_store.read([attempt.message_id])[0]
        assert progress is not None and progress.state is State.FAILED, f"point {point}"
        # A later delivery isn't counted together with it.
        again = redis_store.start(Attempt(attempt.message_id, "work", "default", 0))
        assert again.deliveries == 1
    check_store_is_usable(redis_store)


def start_outages(of: Health, *modules: str, until: Callable[[], object]) -> None:
    """Start an outage for each point at which its start can be interrupted, and wait each time for a condition."""
    for point in count():
        interrupter = Interrupter(point, modules)
        interrupter.run(lambda: of.mark_unreachable(StoreUnreachable("timeout"), sent_at=time.monotonic()))
        wait_until(until)
        if not interrupter.has_interrupted:
            break
    assert point > 8


def test_callers_end_an_outage_whose_start_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "INLINE_PROBE_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(threads, "START_PATIENCE_SECONDS", 0.05)
    made = Health(lambda: None)
    start_outages(made, "health.py", "threads.py", until=lambda: made.allows() and made.is_available)


def test_the_recorder_ends_an_outage_whose_start_was_interrupted(redis_store: RedisStore, settings: Any) -> None:
    """A process with one long job makes no other calls."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2, "LOST_AFTER": 30.0}
    delivery = delivery_of("m1")
    delivery.open()
    used = get_store().health
    start_outages(used, "health.py", until=lambda: used.is_available)
    delivery.finish(State.DONE)

"""Loops that go on where an earlier attempt got to: no item is left out, and only the one that failed is done again."""

from __future__ import annotations

import asyncio
import enum
import functools
import io
import itertools
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import dramatiq
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import TextChoices
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, AsyncIO, CurrentMessage, Middleware, Pipelines, Retries
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

from dramatiq_progress import (
    CancelOutcome,
    Interrupted,
    InvalidReport,
    Progress,
    ProgressObserver,
    State,
    get_progress,
    progress_actor,
    progress_group,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.current import this_thread
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.observing.steps import Step
from dramatiq_progress.worker.resuming.cursor import CURSOR_OPTION, MAX_CURSOR_BYTES
from tests.reading import when
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until


class Broken(Exception):
    """Raised by the jobs of these tests."""


class Site:
    """A broker with a worker; a retry comes at once."""

    def __init__(self, middleware: list[Middleware], threads: int = 1) -> None:
        self.broker = StubBroker(middleware=middleware)
        self.worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=threads)
        self._has_started = False

    def run(self, fn: Callable[..., Any], state: State = State.DONE, **options: Any) -> tuple[Message[Any], Progress]:
        """Send a message of an actor with this function, and wait for a state."""
        actor = progress_actor(broker=self.broker, actor_name=f"job-{uuid.uuid4().hex[:6]}", **options)(fn)
        if not self._has_started:
            # Twice would leave the thread of an event loop behind, which the process waits for at its end.
            self._has_started = True
            self.worker.start()
        message = actor.send()
        return message, when(message, state)


@pytest.fixture
def site(store: Store) -> Iterator[Site]:
    made = Site([AsyncIO(), Retries(max_retries=100, min_backoff=1, max_backoff=1), ProgressMiddleware()])
    yield made
    made.worker.stop()
    made.broker.close()


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    BLUE = 3


class Status(TextChoices):
    OPEN = "open"
    PAID = "paid"
    SENT = "sent"


class Table:
    """Rows, and what to call for one of them."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    async def __call__(self, number: int) -> AsyncIterator[int]:
        yield number


class LaterTable:
    """Rows for an ``async for``, and what to call for one of them."""

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    def __call__(self, number: int) -> int:
        return number


class Pages:
    """Pairs that begin after a cursor."""

    def __init__(self, cursor: int | None) -> None:
        self._first = cursor or 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((number, number + 1) for number in range(self._first, 3))


class LaterPages:
    """Pairs for an ``async for``."""

    def __init__(self, cursor: int | None) -> None:
        self._first = cursor or 0

    async def __aiter__(self) -> AsyncIterator[tuple[int, int]]:
        for number in range(self._first, 3):
            yield number, number + 1


class Ledger:
    """A list of what jobs have done, and an exception at chosen moments."""

    def __init__(self, failures: int = 10, seed: int = 1) -> None:
        self.done: list[Any] = []
        self._random = random.Random(seed)
        self._failures = failures

    def handle(self, item: Any) -> None:
        if self._failures and self._random.random() < 0.1:
            self._failures -= 1
            raise Broken
        self.done.append(item)


# ---- Loops ----


SOURCES: dict[str, Callable[[], Any]] = {
    "a list": lambda: list(range(100)),
    "a range": lambda: range(100),
    "an iterator": lambda: map(int, io.StringIO("\n".join(map(str, range(100))))),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_a_loop_goes_on_after_the_last_item_that_was_done(site: Site, make: Callable[[], Any]) -> None:
    ledger = Ledger()

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(make(), total=100, resume=True):
            ledger.handle(item)

    _, done = site.run(work)
    assert ledger.done == list(range(100))
    assert (done.attempt, done.current, done.total) == (11, 100, 100)


def test_each_of_several_loops_and_calls_is_done_once(site: Site) -> None:
    ledger = Ledger(20)

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.once("clean", lambda: ledger.handle("clean"))
        for item in progress_observer.track(range(30), resume="a"):
            ledger.handle(f"a{item}")
        for item in progress_observer.track(range(30), resume="b"):
            if item == 20:
                break
            ledger.handle(f"b{item}")
        for item in progress_observer.track(range(30), resume="c"):
            ledger.handle(f"c{item}")

    site.run(work)
    expected = ["clean", *(f"a{i}" for i in range(30)), *(f"b{i}" for i in range(20)), *(f"c{i}" for i in range(30))]
    assert ledger.done == expected


def test_an_item_is_done_when_the_loop_asks_for_the_next_one(site: Site) -> None:
    seen: list[Any] = []

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(6), resume=True):
            seen.append(item)
            if item % 2:
                continue
            if item == 4 and seen.count(4) < 3:
                raise Broken

    site.run(work)
    assert seen == [0, 1, 2, 3, 4, 4, 4, 5]


def test_batches_are_done_as_a_whole_and_counted_by_item(site: Site) -> None:
    ledger = Ledger(5, seed=3)
    currents: list[Any] = []

    def work(progress_observer: ProgressObserver) -> None:
        for batch in progress_observer.track(iter(range(95)), total=95, resume=True, batch=10):
            currents.append(progress_observer.current)
            ledger.handle(batch)

    _, done = site.run(work)
    assert ledger.done == [list(range(i, min(i + 10, 95))) for i in range(0, 95, 10)]
    assert done.attempt > 1 and done.current == 95
    assert currents == sorted(currents)


def test_batches_need_no_resume() -> None:
    observer = ProgressObserver()
    assert list(observer.track(range(5), batch=2)) == [[0, 1], [2, 3], [4]]
    assert (observer.current, observer.total) == (5, 5)


#: Iterables that are callable too.
CALLABLE_ITERABLES: dict[str, Any] = {"an enum": Colour, "choices": Status, "an object": Table()}


@pytest.mark.parametrize("batch", [{}, {"batch": 2}], ids=["items", "batches"])
@pytest.mark.parametrize("resume", [{}, {"resume": True}], ids=["plain", "resume"])
@pytest.mark.parametrize("source", CALLABLE_ITERABLES.values(), ids=CALLABLE_ITERABLES)
def test_an_iterable_that_is_callable_gives_its_items(source: Any, resume: Any, batch: Any) -> None:
    observer, items = ProgressObserver(), list(source)
    expected = [items[:2], items[2:]] if batch else items
    assert list(observer.track(source, **resume, **batch)) == expected
    assert (observer.current, observer.total) == (3, 3)


@pytest.mark.parametrize("source", CALLABLE_ITERABLES.values(), ids=CALLABLE_ITERABLES)
def test_an_iterable_that_is_callable_goes_on_after_its_last_item(site: Site, source: Any) -> None:
    done: list[Any] = []
    failures = [Broken()]

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(source, resume=True):
            if len(done) == 1 and failures:
                raise failures.pop()
            done.append(item)

    _, ended = site.run(work)
    assert done == list(source)
    assert (ended.attempt, ended.current, ended.total) == (2, 3, 3)


def test_an_asynchronous_iterable_needs_no_resume() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    observer = ProgressObserver()

    async def collect() -> list[tuple[int, object]]:
        return [(item, observer.current) async for item in observer.track(numbers(), 3, "Reading")]

    assert asyncio.run(collect()) == [(0, 0), (1, 1), (2, 2)]
    assert (observer.current, observer.total, observer.description) == (3, 3, "Reading")


def test_an_object_with_indexes_alone_is_iterated() -> None:
    class Indexed:
        def __getitem__(self, index: int) -> int:
            return range(3)[index]

    observer = ProgressObserver()
    assert list(observer.track(Indexed())) == [0, 1, 2]
    assert (observer.current, observer.total) == (3, None)


@pytest.mark.parametrize("options", [{}, {"batch": 1}, {"resume": True}], ids=["plain", "batches", "resume"])
def test_an_asynchronous_iterable_that_is_callable_gives_its_items(options: Any) -> None:
    async def collect() -> list[Any]:
        return [item async for item in ProgressObserver().track(LaterTable(), **options)]

    assert asyncio.run(collect()) == ([[0], [1], [2]] if "batch" in options else [0, 1, 2])


def test_a_class_of_iterables_is_a_function_of_a_cursor() -> None:
    def going_on() -> ProgressObserver:
        observer = ProgressObserver()
        observer._binding._go_on({"cursor": '[1,[],"",1,1]'})
        return observer

    async def collect() -> list[Any]:
        return [item async for item in going_on().track(LaterPages, resume=True)]

    assert list(going_on().track(Pages, resume=True)) == asyncio.run(collect()) == [1, 2]


def test_a_function_of_a_cursor_goes_on_after_its_cursor(site: Site) -> None:
    """A page without a cursor is the last: there is no place after it, so it is the place."""
    seen: list[Any] = []

    def pages(cursor: int | None) -> Iterator[tuple[str, int | None]]:
        number = cursor or 0
        while True:
            yield f"page {number}", (number + 1 if number < 4 else None)
            number += 1
            if number > 4:
                return

    def work(progress_observer: ProgressObserver) -> None:
        for page in progress_observer.track(pages, resume=True):
            seen.append(page)
            if page in ("page 2", "page 4") and seen.count(page) == 1:
                raise Broken

    site.run(work)
    assert seen == ["page 0", "page 1", "page 2", "page 2", "page 3", "page 4", "page 4"]


#: A cursor that contains a state, and the number in it.
CHANGING_CURSORS: dict[str, tuple[Callable[[dict[str, int]], Any], Callable[[Any], int]]] = {
    "a dict": (lambda state: state, lambda cursor: cursor["next"]),
    "a list": (lambda state: [state], lambda cursor: cursor[0]["next"]),
    "a tuple": (lambda state: ("page", state), lambda cursor: cursor[1]["next"]),
}


@pytest.mark.parametrize("batch", [{}, {"batch": 2}], ids=["items", "batches"])
@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", CHANGING_CURSORS)
def test_a_function_may_change_the_cursor_that_it_yielded(
    site: Site, kind: str, is_asynchronous: bool, batch: Any
) -> None:
    make, find = CHANGING_CURSORS[kind]
    done: list[int] = []
    failures = [Broken()]

    def pairs(cursor: Any) -> Iterator[tuple[int, Any]]:
        state = {"next": find(cursor) if cursor else 0}
        cursor = make(state)
        while (number := state["next"]) < 5:
            state["next"] += 1
            yield number, cursor

    async def pairs_later(cursor: Any) -> AsyncIterator[tuple[int, Any]]:
        for pair in pairs(cursor):
            yield pair

    def handle(given: Any) -> None:
        items = given if batch else [given]
        if 2 in items and failures:
            raise failures.pop()
        done.extend(items)

    def work(progress_observer: ProgressObserver) -> None:
        for given in progress_observer.track(pairs, resume=True, **batch):
            handle(given)

    async def work_later(progress_observer: ProgressObserver) -> None:
        async for given in progress_observer.track(pairs_later, resume=True, **batch):
            handle(given)

    _, ended = site.run(work_later if is_asynchronous else work)
    assert (done, ended.attempt) == ([0, 1, 2, 3, 4], 2)


def test_the_bar_goes_on_and_does_not_begin_at_zero(site: Site) -> None:
    begun: list[tuple[Any, ...]] = []

    def work(progress_observer: ProgressObserver) -> None:
        begun.append((progress_observer.current, progress_observer.total, progress_observer.description))
        assert progress_observer.resumed is (len(begun) > 1)
        for item in progress_observer.track(range(10), description="Reading", resume=True):
            if item == 7 and len(begun) == 1:
                raise Broken

    site.run(work)
    assert begun == [(0, None, ""), (7, 10, "Reading")]


def test_inner_loops_that_are_tracked_do_not_move_the_place(site: Site) -> None:
    ledger = Ledger(10)

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(20), resume=True):
            for inner in progress_observer.track(range(50)):
                if inner == 25:
                    ledger.handle(item)

    _, done = site.run(work)
    assert ledger.done == list(range(20))
    assert done.percent == 100.0


def test_steps_that_are_done_can_be_left_out_and_the_percentage_never_falls(site: Site) -> None:
    entered: list[str] = []
    percents: list[float] = []

    def work(progress_observer: ProgressObserver) -> None:
        percents.append(progress_observer.percent or 0.0)
        read, notify = progress_observer.steps("read", "notify", weights=(1, 3))
        if not read.done:
            with read:
                entered.append("read")
                for item in progress_observer.track(range(10), resume="read"):
                    percents.append(progress_observer.percent or 0.0)
                    if item == 5 and entered == ["read"]:
                        raise Broken
        with notify:
            entered.append("notify")
            for item in progress_observer.track(range(10), resume="notify"):
                percents.append(progress_observer.percent or 0.0)
                assert progress_observer.step is not None and progress_observer.step.percent == item * 10
                if item == 5 and entered.count("notify") == 1:
                    raise Broken

    _, done = site.run(work)
    assert entered == ["read", "read", "notify", "notify"]
    assert percents == sorted(percents) and done.percent == 100.0


@pytest.mark.parametrize("kind", ["a partial", "a partial of an object", "an object"])
def test_an_asynchronous_function_of_a_cursor_may_be_of_any_kind(kind: str) -> None:
    class Client:
        async def __call__(self, cursor: int | None, step: int = 1) -> AsyncIterator[tuple[int, int]]:
            for number in range(cursor or 0, 3, step):
                yield number, number + 1

    async def pages(step: int, cursor: int | None) -> AsyncIterator[tuple[int, int]]:
        async for pair in Client()(cursor, step):
            yield pair

    sources: dict[str, Any] = {
        "a partial": functools.partial(pages, 1),
        "a partial of an object": functools.partial(Client(), step=1),
        "an object": Client(),
    }

    async def collect() -> list[Any]:
        return [item async for item in ProgressObserver().track(sources[kind], resume=True)]

    assert asyncio.run(collect()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["iterator", "function", "queryset"])
@pytest.mark.django_db(transaction=True)
def test_asynchronous_loops_go_on_too(site: Site, kind: str) -> None:
    ledger = Ledger(6)
    if kind == "queryset":
        Group.objects.bulk_create(Group(name=f"{i:02}") for i in range(40))

    async def numbers(cursor: int | None) -> AsyncIterator[tuple[int, int]]:
        for number in range(cursor or 0, 40):
            yield number, number + 1

    async def plain() -> AsyncIterator[int]:
        for number in range(40):
            yield number

    async def work(progress_observer: ProgressObserver) -> None:
        await progress_observer.once("begin", begin)
        source: Any = {"iterator": plain(), "function": numbers, "queryset": Group.objects.order_by("name")}[kind]
        async for item in progress_observer.track(source, resume="read"):
            ledger.handle(int(item.name) if kind == "queryset" else item)
        async for item in progress_observer.track(numbers, resume="again"):
            if item == 3:
                break
        async for item in progress_observer.track(numbers, resume="last", batch=20):
            ledger.handle(tuple(item))

    async def begin() -> None:
        ledger.done.append("begin")

    site.run(work)
    assert ledger.done == ["begin", *range(40), tuple(range(20)), tuple(range(20, 40))]


# ---- What an attempt finds ----


def test_a_place_comes_from_the_message_if_the_store_was_emptied(site: Site, redis_store: Store) -> None:
    seen: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(10), resume=True):
            seen.append(item)
            if item == 6 and len(seen) < 8:
                empty()
                raise Broken

    site.run(work)
    assert seen == [*range(7), *range(6, 10)]


def empty() -> None:
    """Remove every record."""
    store: Any = get_store()
    keys = store._servers.send([("KEYS", f"{store.prefix}*")])[0]
    store._servers.send([("DEL", *keys)])


def test_loops_that_a_deploy_puts_in_takes_out_or_renames_lose_no_item(site: Site) -> None:
    attempts = itertools.count(1)
    seen: Counter[str] = Counter()

    def work(progress_observer: ProgressObserver) -> None:
        attempt = next(attempts)
        names, bad = {1: ("abc", "b"), 2: ("axbc", "c"), 3: ("axcd", "")}[attempt]
        for name in names:
            for item in progress_observer.track(range(4), resume=name):
                if name == bad and item == 2:
                    raise Broken
                seen[f"{name}{item}"] += 1

    site.run(work)
    assert {each[0] for each in seen} == set("axbcd")
    assert all(seen[f"{name}{item}"] >= 1 for name in "axcd" for item in range(4))
    # `a` was over before the code changed, and `b` went on after the loop that was put in before it.
    assert [seen[f"{name}{item}"] for name in "abc" for item in range(4)] == [1] * 12


def test_failures_at_different_items_are_no_reason_to_give_up_but_one_bad_item_is(site: Site) -> None:
    failing = iter(range(10))
    bad: list[int] = []

    def gets_on(progress_observer: ProgressObserver) -> None:
        wanted = next(failing, None)
        for item in progress_observer.track(range(10), resume=True):
            if item == wanted:
                raise Broken

    def is_stuck(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(10), resume=True):
            if item == 5:
                bad.append(item)
                raise Broken

    _, done = site.run(gets_on, max_retries=2)
    assert done.attempt == 11
    _, failed = site.run(is_stuck, State.FAILED, max_retries=2)
    # The first attempt got somewhere, and two more did not.
    assert len(bad) == 3 and failed.current == 5


def test_a_finished_message_that_comes_again_is_skipped_and_keeps_its_result(site: Site) -> None:
    backend = StubBackend()
    site.broker.add_middleware(Results(backend=backend))
    runs: list[int] = []

    def work(progress_observer: ProgressObserver) -> int:
        runs.append(1)
        return sum(progress_observer.track(range(5), resume=True))

    message, _ = site.run(work, store_results=True)
    # As a broker does that missed the acknowledgement.
    site.broker.queues["default"].put(message.encode())
    site.broker.join("default")
    site.worker.join()
    assert runs == [1]
    assert message.get_result(backend=backend) == 10


def test_a_further_round_begins_at_the_start(site: Site) -> None:
    seen: list[int] = []
    sent: list[Message[Any]] = []

    def work(progress_observer: ProgressObserver) -> None:
        if not seen:
            site.broker.enqueue(sent[0].copy())
        for item in progress_observer.track(range(3), resume=True):
            seen.append(item)

    actor = progress_actor(broker=site.broker, actor_name="rounds")(work)
    sent.append(actor.message())
    site.broker.enqueue(sent[0])
    site.worker.start()
    wait_until(lambda: len(seen) == 6)
    assert seen == [0, 1, 2, 0, 1, 2]
    when(sent[0], State.DONE)


@pytest.mark.parametrize("position", [0, 2])
def test_the_middleware_may_be_first_or_last(store: Store, position: int) -> None:
    middleware: list[Middleware] = [AsyncIO(), Retries(max_retries=9, min_backoff=1, max_backoff=1)]
    middleware.insert(position, ProgressMiddleware())
    site = Site(middleware)
    ledger = Ledger(4)

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(50), resume=True):
            ledger.handle(item)

    try:
        site.run(work)
    finally:
        site.worker.stop()
        site.broker.close()
    assert ledger.done == list(range(50))


def test_a_store_that_is_away_at_the_start_is_waited_for_once(server: Server, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}, "RESUME_WAIT": 0.5}
    server.stop()
    observer = ProgressObserver(
        Binding(
            attempt=Attempt("m1", "work", "default", brought={"cursor": '[1,["a"],"b",3,null]', "current": "3"}),
            strict=False,
        )
    )
    began = time.monotonic()
    assert observer.resumed and observer.current == 3
    assert time.monotonic() - began >= 0.5
    # A second wait would be longer than any delay of a busy machine.
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"RESUME_WAIT": 60}
    began = time.monotonic()
    assert list(observer.track(range(5), resume="a")) == []
    assert list(observer.track(range(5), resume="b")) == [3, 4]
    assert time.monotonic() - began < 60


def test_only_loops_that_resume_wait_for_a_store_that_is_away(server: Server, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}, "RESUME_WAIT": 20}
    server.stop()
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default"), strict=False))
    began = time.monotonic()
    assert list(observer.track(range(3), batch=2)) == [[0, 1], [2]]
    assert list(observer.track(lambda after: [("a", 1), ("b", 2)])) == ["a", "b"]

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def collect() -> list[Any]:
        return [each async for each in observer.track(numbers(), batch=2)]

    assert asyncio.run(collect()) == [[1, 2]]
    assert time.monotonic() - began < 20


def test_an_error_in_the_settings_fails_no_asynchronous_loop(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"COLOUR": "red"}
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default"), strict=False))

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def collect() -> list[int]:
        return [each async for each in observer.track(numbers(), resume=True)]

    assert asyncio.run(collect()) == [1]


# ---- Making room ----


def test_a_job_makes_room_after_its_seconds_and_goes_on_when_its_turn_comes(site: Site, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2}
    order: list[Any] = []

    def long(progress_observer: ProgressObserver) -> str:
        for item in progress_observer.track(range(6), resume=True):
            order.append(item)
            if item == 2:
                # Until the recorder has seen that its time is over.
                wait_until(lambda: progress_observer._binding.interruption.yields)
        return "all of it"

    def short() -> None:
        order.append("short")

    first = progress_actor(broker=site.broker, actor_name="long", yield_after=0.2, publish_result=True)(long).send()
    second = progress_actor(broker=site.broker, actor_name="short")(short).send()
    site.worker.start()
    done = when(first, State.DONE)
    when(second, State.DONE)
    # On a busy machine its seconds may be over before that item, and once more after it.
    assert order.index("short") <= 3
    assert [each for each in order if each != "short"] == [0, 1, 2, 3, 4, 5]
    assert done.attempt >= 2
    assert (done.current, done.result) == (6, "all of it")


def test_an_actor_that_swallows_the_interruption_goes_on_later_all_the_same(site: Site) -> None:
    seen: list[Any] = []

    def work(progress_observer: ProgressObserver) -> None:
        try:
            for item in progress_observer.track(range(4), resume="a"):
                seen.append(item)
                if len(seen) == 2:
                    progress_observer._binding.request_yield()
            seen.append("a is over")
        except Interrupted:
            seen.append("swallowed")
        for item in progress_observer.track(range(2), resume="b"):
            seen.append(f"b{item}")

    _, done = site.run(work)
    assert seen == [0, 1, "swallowed", 2, 3, "a is over", "b0", "b1"]
    assert done.attempt == 2


def test_loops_that_cannot_be_gone_on_from_are_not_interrupted(site: Site) -> None:
    seen: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer._binding.request_yield()
        seen.extend(progress_observer.track(range(4)))

    _, done = site.run(work)
    assert (seen, done.attempt) == ([0, 1, 2, 3], 1)


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("options", "attempts"), [({}, 4), ({"batch": 2}, 2), ({"batch": 3}, 2)])
def test_a_loop_does_not_make_room_after_an_item_without_a_cursor(
    site: Site, options: Any, attempts: int, is_asynchronous: bool
) -> None:
    """That item would be done again, in each attempt."""
    done: list[int] = []

    def pages(cursor: int | None) -> Iterator[tuple[int, int | None]]:
        for number in range(cursor or 0, 5):
            # The second page and the last one have no cursor.
            yield number, None if number in (1, 4) else number + 1

    async def pages_later(cursor: int | None) -> AsyncIterator[tuple[int, int | None]]:
        for pair in pages(cursor):
            yield pair

    def note(observer: ProgressObserver, given: Any) -> None:
        if observer.attempt < 10:
            observer._binding.request_yield()
        done.extend(given if options else [given])

    def work(progress_observer: ProgressObserver) -> None:
        for given in progress_observer.track(pages, resume=True, **options):
            note(progress_observer, given)

    async def work_later(progress_observer: ProgressObserver) -> None:
        async for given in progress_observer.track(pages_later, resume=True, **options):
            note(progress_observer, given)

    _, ended = site.run(work_later if is_asynchronous else work)
    assert (done, ended.attempt) == ([0, 1, 2, 3, 4], attempts)


#: Work whose place can't be stored: it yields its items, each of which calls the job's name for one.
UNSTORABLE: dict[str, Callable[[ProgressObserver], Iterator[int]]] = {
    "a cursor that is no JSON": lambda observer: observer.track(
        lambda cursor: ((number, uuid.UUID(int=number)) for number in range(cursor or 0, 300)), resume=True
    ),
    "a cursor that is too long": lambda observer: observer.track(
        lambda _: ((number, f"{number:05000}") for number in range(300)), resume=True
    ),
    "a loop for each of many names": lambda observer: (
        number for number in range(300) for _ in observer.track(range(1), resume=f"import-{number:020}")
    ),
}


@pytest.mark.parametrize("kind", UNSTORABLE)
def test_a_loop_does_not_make_room_where_its_place_cannot_be_stored(site: Site, kind: str) -> None:
    """The next attempt would do the same again, and make room at the same item."""
    done: Counter[int] = Counter()

    def work(progress_observer: ProgressObserver) -> None:
        for number in UNSTORABLE[kind](progress_observer):
            done[number] += 1
            if len(done) > 200 and progress_observer.attempt < 10:
                progress_observer._binding.request_yield()

    _, ended = site.run(work)
    assert (len(done), set(done.values()), ended.attempt) == (300, {1}, 1)


def test_a_loop_whose_place_cannot_be_stored_ends_if_another_attempt_does_the_work(memory_store: Store) -> None:
    observer = lenient()
    with pytest.raises(Interrupted):
        for _ in UNSTORABLE["a cursor that is no JSON"](observer):
            # As the recorder does it.
            observer._binding.request_yield()
            observer._binding.release()


@pytest.mark.parametrize("kind", ["batch", "function", "asynchronous"])
def test_loops_without_resume_keep_no_place(memory_store: Store, kind: str) -> None:
    """So a pause is refused, and the loop isn't interrupted."""
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1), strict=False))

    def interrupt(item: Any) -> Any:
        observer._binding.take_changes()
        observer._binding.request_yield()
        return item

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def collect() -> list[Any]:
        return [interrupt(each) async for each in observer.track(numbers(), batch=2)]

    if kind == "asynchronous":
        assert asyncio.run(collect()) == [[0, 1], [2]]
    elif kind == "batch":
        assert [interrupt(each) for each in observer.track(range(3), batch=2)] == [[0, 1], [2]]
    else:
        assert [interrupt(each) for each in observer.track(lambda _: [(1, 2), (3, 4)])] == [1, 3]
    assert observer._binding.bound_attempt is not None and not observer._binding.bound_attempt.resumable
    assert "cursor" not in observer._binding.final_fields(with_result=True)


def test_an_asynchronous_job_makes_room_too(site: Site) -> None:
    seen: list[int] = []

    async def numbers(cursor: int | None) -> AsyncIterator[tuple[int, int]]:
        for number in range(cursor or 0, 5):
            yield number, number + 1

    async def work(progress_observer: ProgressObserver) -> None:
        async for item in progress_observer.track(numbers, resume=True):
            seen.append(item)
            if len(seen) == 2:
                progress_observer._binding.request_yield()

    _, done = site.run(work)
    assert (seen, done.attempt) == ([0, 1, 2, 3, 4], 2)


def test_making_room_counts_neither_as_retry_nor_as_death_nor_as_age(store: Store) -> None:
    seen: list[int] = []
    stamps: list[int] = []
    retries = Retries(max_retries=1, min_backoff=1, max_backoff=1)
    site = Site([AgeLimit(max_age=60_000), retries, ProgressMiddleware()])

    def work(progress_observer: ProgressObserver) -> None:
        stamps.append(this_thread.delivery.message.message_timestamp)  # type: ignore[union-attr]
        for item in progress_observer.track(range(12), resume=True):
            seen.append(item)
            progress_observer._binding.request_yield()

    try:
        _, done = site.run(work)
    finally:
        site.worker.stop()
        site.broker.close()
    assert (seen, done.attempt) == (list(range(12)), 13)
    assert stamps == sorted(stamps) and stamps[-1] > stamps[0]


def test_results_pipelines_and_groups_come_once_at_the_end(store: Store) -> None:
    backend = StubBackend()
    site = Site([Results(backend=backend), Pipelines(), ProgressMiddleware()])
    got: list[Any] = []

    def work(progress_observer: ProgressObserver) -> str:
        for _ in progress_observer.track(range(3), resume=True):
            progress_observer._binding.request_yield()
        return "end"

    first = progress_actor(broker=site.broker, actor_name="first", store_results=True)(work)
    then = progress_actor(broker=site.broker, actor_name="then")(lambda value: got.append(value))
    try:
        site.worker.start()
        pipe = dramatiq.pipeline([first.message(), then.message()], broker=site.broker).run()
        assert pipe.messages[0].get_result(backend=backend, block=True, timeout=60_000) == "end"
        wait_until(lambda: got)
        when(pipe.messages[1], State.DONE)
    finally:
        site.worker.stop()
        site.broker.close()
    assert got == ["end"]


def test_a_member_of_a_group_that_makes_room_waits_and_is_counted_once(site: Site) -> None:
    waiting: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(range(4), resume=True):
            if item == 1:
                progress_observer._binding.request_yield()

    def look() -> None:
        # Only this member runs.
        wait_until(lambda: get_progress(job).parts.running == 1)  # type: ignore[union-attr]
        waiting.append(get_progress(job).parts.waiting)  # type: ignore[union-attr]

    actor = progress_actor(broker=site.broker, actor_name="member")(work)
    other = progress_actor(broker=site.broker, actor_name="look")(look)
    job = progress_group([actor.message(), other.message(), actor.message()], broker=site.broker).run()
    site.worker.start()
    done = when(job, State.DONE)
    assert done.parts is not None and (done.parts.total, done.parts.done) == (3, 3)
    # The first member, which had made room, and the third.
    assert waiting == [2]


def test_a_cancel_that_comes_as_a_job_makes_room_ends_it(store: Store) -> None:
    attempt = Attempt("m1", "work", "default")
    store.start(attempt)
    assert store.cancel("m1", force=True).outcome is CancelOutcome.REQUESTED
    change = store.finish(attempt, state=State.ENQUEUED, yields=True, fields={"cursor": '[1,[],"",1,null]'})
    assert (change.written, change.state) == (True, State.CANCELLED)


def test_an_attempt_that_another_one_has_replaced_sends_nothing(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    old, new = (Attempt("m1", "work", "default") for _ in range(2))
    store.start(old)
    wait_until(lambda: store.read(["m1"])[0].state is State.LOST)  # type: ignore[union-attr]  # it exists
    store.start(new)
    assert not store.finish(old, state=State.ENQUEUED, yields=True)


def test_a_job_whose_message_the_broker_does_not_take_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.01)
    refused: list[int] = []
    enqueue = site.broker.enqueue

    def work(progress_observer: ProgressObserver) -> None:
        for _ in progress_observer.track(range(3), resume=True):
            progress_observer._binding.request_yield()

    def refuse(message: Message[Any], **options: Any) -> Message[Any]:
        if this_thread.is_worker and len(refused) < 3:
            refused.append(1)
            raise OSError("no connection")
        return enqueue(message, **options)

    monkeypatch.setattr(site.broker, "enqueue", refuse)
    _, done = site.run(work)
    assert len(refused) == 3
    assert (done.attempt, done.current) == (4, 3)


def test_a_worker_that_shuts_down_ends_loops_and_the_next_one_goes_on(site: Site) -> None:
    seen: list[int] = []
    plain: list[int] = []
    begun, end = threading.Event(), threading.Event()

    def work(progress_observer: ProgressObserver) -> None:
        for item in progress_observer.track(itertools.count(), resume=True):
            seen.append(item)
            begun.set()
            if end.is_set():
                return
            threading.Event().wait(0.005)

    def other(progress_observer: ProgressObserver) -> None:
        plain.extend(progress_observer.track(range(3)))

    first = progress_actor(broker=site.broker, actor_name="endless")(work).send()
    site.worker.start()
    assert begun.wait(60)
    site.worker.stop()
    assert when(first, State.ENQUEUED).attempt == 1
    done = len(seen)
    # Its consumer may have fetched it again, and this broker has no way to give it back.
    site.broker.queues["default"].put(first.encode())
    site.worker = dramatiq.Worker(site.broker, worker_timeout=10, worker_threads=1)
    site.worker.start()
    wait_until(lambda: len(seen) > done + 20)
    end.set()
    assert when(first, State.DONE).attempt == 2
    assert seen == list(range(len(seen)))
    assert when(progress_actor(broker=site.broker, actor_name="plain")(other).send(), State.DONE) and plain == [0, 1, 2]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), "5", True])
def test_seconds_that_are_none_are_an_error(site: Site, seconds: Any) -> None:
    with pytest.raises(ValueError, match="yield_after"):
        progress_actor(broker=site.broker, actor_name="never", yield_after=seconds)(print)


@pytest.mark.parametrize("after", [0.0, 0.02])
def test_each_round_of_a_job_that_sends_itself_again_does_all_items(store: Store, settings: Any, after: float) -> None:
    """Also if another thread begins the next one before this one has ended."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2, "FLUSH_INTERVAL": 0.02}
    site = Site([CurrentMessage(), Retries(), ProgressMiddleware()], threads=2)
    rounds: list[list[int]] = []

    def poll(progress_observer: ProgressObserver) -> None:
        rounds.append(done := [])
        for item in progress_observer.track(range(5), resume=True):
            done.append(item)
            time.sleep(0.01)
        if len(rounds) < 10:
            site.broker.enqueue(CurrentMessage.get_current_message().copy())  # type: ignore[union-attr]
            time.sleep(after)

    site.run(poll, max_retries=0)
    wait_until(lambda: len(rounds) == 10 and len(rounds[-1]) == 5)
    site.worker.stop()
    site.broker.close()
    assert rounds == [list(range(5))] * 10


# ---- What can't be resumed ----


def test_a_name_that_is_used_twice_is_an_error_and_the_loop_runs_all_the_same(memory_store: Store) -> None:
    strict = ProgressObserver()
    lenient = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default"), strict=False))
    lenient._binding.bound_attempt.number = 1  # type: ignore[union-attr]
    for observer in (strict, lenient):
        list(observer.track(range(2), resume="a"))
    with pytest.raises(InvalidReport, match="has that name"):
        list(strict.track(range(2), resume="a"))
    assert list(lenient.track(range(2), resume="a")) == [0, 1]


def test_a_loop_inside_another_one_that_can_be_gone_on_from_is_an_error() -> None:
    observer = ProgressObserver()
    with pytest.raises(InvalidReport, match='inside the loop with resume="outer", and only one'):
        for _ in observer.track(range(2), resume="outer"):
            list(observer.track(range(2), resume="inner"))


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["sync", "async"])
def test_a_loop_in_a_variable_that_was_left_is_over_after_its_close(is_asynchronous: bool) -> None:
    observer = ProgressObserver()

    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            yield number

    async def leave(items: Any) -> None:
        if is_asynchronous:
            async for _ in items:
                break
        else:
            for _ in items:
                break

    async def work() -> None:
        first = observer.track(numbers() if is_asynchronous else range(2), resume="first")
        await leave(first)
        with pytest.raises(InvalidReport, match=r"isn't over after break: .* or call close\(\)"):
            list(observer.track(range(2), resume="second"))
        first.close()
        list(observer.track(range(2), resume="second"))

    asyncio.run(work())


def lenient(carried: dict[str, str] | None = None, number: int = 1) -> ProgressObserver:
    """Return the observer of an attempt in production, which only warns."""
    return ProgressObserver(
        Binding(attempt=Attempt("m1", "work", "default", number=number, brought=carried or {}), strict=False)
    )


@pytest.mark.django_db(transaction=True)
def test_a_loop_in_a_transaction_is_an_error() -> None:
    observer = ProgressObserver()
    with transaction.atomic(), pytest.raises(InvalidReport, match="transaction is open around it"):
        list(observer.track(range(2), resume=True))
    for _ in observer.track(range(2), resume="each"):
        with transaction.atomic():
            pass


@pytest.mark.django_db(transaction=True)
def test_a_call_in_a_transaction_that_is_rolled_back_is_made_again(memory_store: Store) -> None:
    """As in production, where it is no error."""
    calls: list[int] = []
    carried: dict[str, str] = {}
    for number in (1, 2):
        observer = lenient(carried, number)
        with suppress(Broken), transaction.atomic():
            observer.once("lock", lambda: calls.append(1))
            raise Broken
        carried = observer._binding.carried()
    assert (carried, calls) == ({}, [1, 1])


@pytest.mark.django_db(transaction=True)
def test_a_step_in_a_transaction_that_is_rolled_back_is_done_again(memory_store: Store) -> None:
    done: list[bool] = []
    carried: dict[str, str] = {}
    for number in (1, 2):
        observer = lenient(carried, number)
        read, render = observer.steps("Reading", "Rendering")
        done.append(read.done)
        with read:
            pass
        with suppress(Broken), transaction.atomic():
            done.append(render.done)
            with render:
                pass
            raise Broken
        carried = observer._binding.carried()
    assert done == [False, False, True, False]


def test_a_step_in_the_body_of_a_loop_is_never_done(memory_store: Store, caplog: Any) -> None:
    """Each item has steps of the same names."""
    done: list[str] = []

    def work(observer: ProgressObserver) -> None:
        for file in observer.track(["a", "b"]):
            render, upload = observer.steps("Rendering", "Uploading")
            if not render.done:
                with render:
                    done.append(f"render {file}")
            with upload:
                done.append(f"upload {file}")

    for number in (1, 2):
        work(lenient(number=number))
        assert done == ["render a", "upload a", "render b", "upload b"] * number
    assert "done='Rendering' (it is in the body of a loop" in caplog.text
    with pytest.raises(InvalidReport, match="body of a loop"):
        work(ProgressObserver())


def test_a_step_that_was_made_before_a_loop_is_never_done_in_its_body(memory_store: Store) -> None:
    observer = lenient()
    [read] = observer.steps("Reading")
    seen = []
    for _ in observer.track(range(2)):
        seen.append(read.done)
        with read:
            pass
    assert seen == [False, False]


def test_steps_of_one_name_in_two_steps_are_two(memory_store: Store) -> None:
    done: list[str] = []

    def work(observer: ProgressObserver, *, fails: bool) -> None:
        for outer in observer.steps("Import", "Export"):
            if outer.done:
                continue
            with outer:
                read, write = observer.steps("Reading", "Writing")
                if not read.done:
                    with read:
                        done.append(f"read in {outer.name}")
                if fails and outer.name == "Export":
                    raise Broken
                with write:
                    done.append(f"write in {outer.name}")

    first = lenient()
    with pytest.raises(Broken):
        work(first, fails=True)
    work(lenient(first._binding.carried(), 2), fails=False)
    assert done == ["read in Import", "write in Import", "read in Export", "write in Export"]


def test_an_attempt_after_one_that_has_completed_all_steps_can_begin_them() -> None:
    """As with DEBUG, where steps that find nothing left to divide are an error."""
    done: list[str] = []

    def work(observer: ProgressObserver) -> None:
        render, upload = observer.steps("Rendering", "Uploading")
        if not render.done:
            with render:
                done.append("render")
        with upload:
            for page in observer.track(range(2), resume="upload"):
                done.append(f"page {page}")

    first, second = ProgressObserver(), ProgressObserver()
    work(first)
    second._binding._go_on(first._binding.carried())
    work(second)
    assert (done, second.percent) == (["render", "page 0", "page 1"], 100.0)
    with pytest.raises(InvalidReport, match="name all steps in one call"):
        second.steps("Mail")


def test_of_two_steps_of_one_name_the_second_is_never_done(memory_store: Store, caplog: Any) -> None:
    done: list[bool] = []

    def work(observer: ProgressObserver) -> None:
        for read in observer.steps("Reading", "Reading"):
            done.append(read.done)
            with read:
                pass

    first = lenient()
    work(first)
    work(lenient(first._binding.carried(), 2))
    assert done == [False, False, True, False]
    assert "another step of this attempt has that name" in caplog.text
    with pytest.raises(InvalidReport, match="another step of this attempt has that name"):
        work(ProgressObserver())


@pytest.mark.django_db(transaction=True)
def test_a_loop_in_a_transaction_without_atomic_begins_at_its_start(memory_store: Store) -> None:
    """As in production, where it is no error."""
    seen: list[int] = []

    def work(observer: ProgressObserver) -> None:
        transaction.set_autocommit(False)
        try:
            for number in observer.track(range(4), resume=True):
                Group.objects.create(name=str(number))
                seen.append(number)
                if len(seen) == 3:
                    raise Broken
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)

    first = lenient()
    with pytest.raises(Broken):
        work(first)
    work(lenient(first._binding.carried(), 2))
    assert seen == [0, 1, 2, 0, 1, 2, 3] and Group.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_a_call_that_leaves_a_transaction_open_is_made_again_and_reported(memory_store: Store, caplog: Any) -> None:
    """As with ``AUTOCOMMIT: False``, where the first query begins one."""
    calls: list[int] = []

    def call() -> None:
        transaction.set_autocommit(False)
        calls.append(Group.objects.count())

    carried: dict[str, str] = {}
    for number in (1, 2):
        observer = lenient(carried, number)
        try:
            observer.once("lock", call)
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        carried = observer._binding.carried()
    assert calls == [0, 0]
    assert "once='lock' (a database transaction is open after it" in caplog.text


@pytest.mark.django_db
def test_the_transaction_of_a_test_case_is_none() -> None:
    assert list(ProgressObserver().track(range(2), resume=True)) == [0, 1]


@pytest.mark.parametrize("resume", ["", "x" * 101, 7])
def test_a_name_that_is_none_is_an_error(resume: Any) -> None:
    with pytest.raises(InvalidReport, match="1 to 100 characters"):
        list(ProgressObserver().track(range(2), resume=resume))


@pytest.mark.parametrize("batch", [0, -1, 2.5, "2", True])
def test_a_batch_that_is_no_number_of_items_is_an_error(batch: Any) -> None:
    with pytest.raises(InvalidReport, match="at least 1"):
        list(ProgressObserver().track(range(2), batch=batch))


@pytest.mark.parametrize("cursor", [{1}, float("nan"), object(), [threading.Lock()], {"page": iter("ab")}])
def test_a_cursor_that_is_no_json_is_an_error_and_the_last_one_stays(memory_store: Store, cursor: Any) -> None:
    def pages(_: Any) -> Iterator[tuple[int, Any]]:
        yield 1, "first"
        yield 2, cursor

    with pytest.raises(InvalidReport):
        list(ProgressObserver().track(pages, resume=True))
    lenient = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1), strict=False))
    for item in lenient.track(pages, resume=True):
        if item == 2:
            place = lenient._binding.resumption().text(1)
    assert json.loads(place) == [1, [], "", 1, "first"]


def test_a_cursor_that_is_too_long_leaves_the_last_one(memory_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def pages(_: Any) -> Iterator[tuple[int, str]]:
        yield 1, "first"
        yield 2, "x" * MAX_CURSOR_BYTES
        yield 3, "y" * MAX_CURSOR_BYTES

    lenient = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1), strict=False))
    with pytest.raises(InvalidReport, match="4,098 bytes as JSON, and the limit is 4,096; give a short one"):
        list(ProgressObserver().track(pages, resume=True))
    texts = [lenient._binding.resumption().text(1) for _ in lenient.track(pages, resume=True)]
    assert [json.loads(text or "null") for text in texts] == [None, [1, [], "", 1, "first"], [1, [], "", 1, "first"]]
    assert len([each for each in caplog.records if "limit is 4,096" in each.message]) == 1


NAMED: dict[str, Callable[[ProgressObserver, str], object]] = {
    "loops": lambda observer, name: list(observer.track(range(1), resume=name)),
    "calls": lambda observer, name: observer.once(name, int),
    "steps": lambda observer, name: do(observer.steps(name)[0]),
}


def do(step: Step) -> None:
    if not step.done:
        with step:
            pass


@pytest.mark.parametrize("kind", NAMED)
def test_too_many_names_are_an_error(memory_store: Store, kind: str) -> None:
    strict, production = ProgressObserver(), lenient()
    with pytest.raises(InvalidReport, match="too many names: use `resume` of one loop"), strict.steps("all")[0]:
        for number in range(200):
            NAMED[kind](strict, f"import-{number:020}.csv")
    assert 50 < number < 150
    with production.steps("all")[0]:
        for number in range(200):
            NAMED[kind](production, f"import-{number:020}.csv")
    assert len(production._binding.resumption().text(1)) < MAX_CURSOR_BYTES


@pytest.mark.parametrize("given", [7, (1, 2, 3), "ab", None])
def test_a_function_that_yields_no_pairs_is_told_so(given: Any) -> None:
    def pages(_: Any) -> Iterator[Any]:
        yield given

    with pytest.raises(TypeError, match=r"track\(pages\): the function must yield pairs, \(item, cursor\), and has "):
        list(ProgressObserver().track(pages, resume=True))

    async def pages_later(_: Any) -> AsyncIterator[Any]:
        yield given

    async def read() -> None:
        async for _ in ProgressObserver().track(pages_later, resume=True):
            pass

    with pytest.raises(TypeError, match="the function must yield pairs"):
        asyncio.run(read())


def test_the_result_of_a_function_is_nothing_to_call_once() -> None:
    with pytest.raises(TypeError, match=r"once\('lock', …\) takes a function, and calls it: pass f, not f\(\)"):
        ProgressObserver().once("lock", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "resume"), [("", True), ("rows", "rows")])
def test_a_call_without_a_name_of_its_own_leaves_out_no_item(
    memory_store: Store, name: str, resume: bool | str
) -> None:
    """As in production, where it is no error."""
    observer, seen = lenient(), []
    for item in observer.track(range(4), resume=resume):
        seen.append(item)
        if item == 2:
            observer.once(name, lambda: None)
            break
    going_on = lenient(observer._binding.carried(), 2)
    seen += going_on.track(range(4), resume=resume)
    assert seen == [0, 1, 2, 2, 3]


class Locker:
    """An object that is an asynchronous function when it is called."""

    def __init__(self) -> None:
        self.years: list[int] = []

    async def __call__(self, year: int = 2026) -> None:
        self.years.append(year)


#: Asynchronous functions that `once` awaits.
ASYNCHRONOUS: dict[str, Callable[[Locker], Any]] = {
    "a method": lambda locker: locker.__call__,
    "an object": lambda locker: locker,
    "a partial of a method": lambda locker: functools.partial(locker.__call__, 2026),
    "a partial of an object": lambda locker: functools.partial(locker, year=2026),
    "a function in a thread": lambda locker: sync_to_async(lambda: locker.years.append(2026)),
}


@pytest.mark.parametrize("kind", ASYNCHRONOUS)
def test_an_asynchronous_function_of_any_kind_is_awaited_once(kind: str) -> None:
    locker, observer = Locker(), ProgressObserver()

    async def lock() -> None:
        await observer.once("lock", ASYNCHRONOUS[kind](locker))

    asyncio.run(lock())
    assert (locker.years, observer._binding.resumption().text(1)) == ([2026], '[1, ["lock"], null, 0, null]')


def test_a_call_whose_coroutine_nothing_awaits_is_an_error_and_is_not_done() -> None:
    locker, observer = Locker(), ProgressObserver()
    with pytest.raises(TypeError, match=r"pass the asynchronous function itself, or functools.partial\(function, …\)"):
        observer.once("lock", lambda: locker(2026))
    assert (locker.years, observer._binding.resumption().text(1)) == ([], "")


def test_a_call_that_returns_a_future_is_an_error_too() -> None:
    observer = ProgressObserver()

    async def call() -> None:
        observer.once("lock", asyncio.get_running_loop().create_future)

    with pytest.raises(TypeError, match="returns an awaitable"):
        asyncio.run(call())
    assert observer._binding.resumption().text(1) == ""


@pytest.mark.parametrize("option", [None, 7, {}, {"cursor": "?"}, {"cursor": 5}, {"cursor": "[1]"}, ["cursor"]])
def test_an_option_that_is_no_cursor_is_left_alone(site: Site, option: Any) -> None:
    seen: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        seen.extend(progress_observer.track(range(3), resume=True))

    actor = progress_actor(broker=site.broker, actor_name="odd")(work)
    site.worker.start()
    message = actor.send_with_options(**{CURSOR_OPTION: option})
    when(message, State.DONE)
    assert seen == [0, 1, 2]

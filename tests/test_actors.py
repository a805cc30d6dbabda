"""`progress_actor`: it declares normal Dramatiq actors, and passes an observer to each call."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from django.core.exceptions import ImproperlyConfigured
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Pipelines, Retries

from dramatiq_progress import (
    InvalidReport,
    ProgressObserver,
    State,
    UserFacingError,
    current_observer,
    get_progress,
    progress_actor,
)
from dramatiq_progress import ProgressObserver as Renamed
from dramatiq_progress.actors import is_asynchronous
from dramatiq_progress.middleware import ProgressMiddleware
from tests.brokers import as_global_broker, working

if TYPE_CHECKING:
    from nowhere import OnlyForTypeCheckers  # type: ignore[import-not-found]

pytestmark = pytest.mark.usefixtures("memory_store")


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """A broker with a worker of two threads."""
    made = StubBroker(middleware=[Pipelines(), Retries(max_retries=0), AsyncIO(), ProgressMiddleware()])
    with working(made):
        yield made
    made.close()


def run(broker: StubBroker, actor: dramatiq.Actor[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send a message, wait until it is done, and return its progress."""
    message = actor.send(*args, **kwargs)
    broker.join(actor.queue_name)
    progress = get_progress(message.message_id)
    assert progress is not None and progress.state is State.DONE, progress
    return progress


# The parameter of the observer


def first(progress_observer: ProgressObserver, a: int, b: int = 2) -> list[int]:
    progress_observer.set_progress(a)
    return [a, b]


def last(a: int, b: int, progress_observer: ProgressObserver) -> list[int]:
    progress_observer.set_progress(a)
    return [a, b]


def middle(a: int, observed: Renamed, b: int = 2) -> list[int]:
    observed.set_progress(a)
    return [a, b]


def by_keyword(a: int, b: int = 2, *, watcher: ProgressObserver) -> list[int]:
    watcher.set_progress(a)
    return [a, b]


def by_name_only(progress_observer, a, b=2):  # type: ignore[no-untyped-def]
    progress_observer.set_progress(a)
    return [a, b]


def optional(a: int, b: int = 2, watcher: ProgressObserver | None = None) -> list[int]:
    assert watcher is not None
    watcher.set_progress(a)
    return [a, b]


def unresolvable(a: OnlyForTypeCheckers, watcher: ProgressObserver, b: int = 2) -> list[int]:
    watcher.set_progress(a)
    return [a, b]


def positional(a: int, watcher: ProgressObserver, /, b: int = 2) -> list[int]:
    watcher.set_progress(a)
    return [a, b]


def with_rest(a: int, watcher: ProgressObserver, *rest: int) -> list[int]:
    watcher.set_progress(a)
    return [a, *rest]


SIGNATURES = [first, last, middle, by_keyword, by_name_only, optional, unresolvable, positional, with_rest]


@pytest.mark.parametrize("fn", SIGNATURES)
def test_the_observer_is_passed_to_its_parameter_at_any_position(broker: StubBroker, fn: Any) -> None:
    actor = progress_actor(broker=broker, publish_result=True)(fn)
    progress = run(broker, actor, 1, 3)
    assert (progress.current, progress.result) == (1, [1, 3])


@pytest.mark.parametrize("fn", [each for each in SIGNATURES if each not in (positional, with_rest)])
def test_the_other_arguments_may_be_passed_by_name(broker: StubBroker, fn: Any) -> None:
    actor = progress_actor(broker=broker, publish_result=True)(fn)
    assert run(broker, actor, b=3, a=1).result == [1, 3]


def test_the_annotation_takes_precedence_over_the_name(broker: StubBroker) -> None:
    def work(progress_observer: str, watcher: ProgressObserver) -> str:
        watcher.set_progress(1)
        return progress_observer

    progress = run(broker, progress_actor(broker=broker, publish_result=True)(work), "plain")
    assert (progress.current, progress.result) == (1, "plain")


def test_a_function_without_an_observer_is_tracked_too(broker: StubBroker) -> None:
    assert run(broker, progress_actor(broker=broker)(lambda a: None), 1).attempt == 1


def test_two_observer_parameters_are_an_error(broker: StubBroker) -> None:
    def work(a: ProgressObserver, b: ProgressObserver) -> None: ...

    with pytest.raises(TypeError, match=r"work has 2 parameters annotated ProgressObserver \(a, b\)"):
        progress_actor(broker=broker)(work)


def test_the_observer_is_never_an_argument_of_the_message(broker: StubBroker) -> None:
    message = progress_actor(broker=broker)(first).message(1, b=2)
    assert (message.args, message.kwargs) == ((1,), {"b": 2})
    assert b"bserver" not in message.encode()


# A normal Dramatiq actor


def test_it_accepts_every_option_of_dramatiq_and_none(broker: StubBroker) -> None:
    class Special(dramatiq.Actor[..., Any]):
        pass

    actor = progress_actor(
        broker=broker, actor_name="other", queue_name="slow", priority=5, max_retries=7, actor_class=Special
    )(first)
    assert isinstance(actor, Special)
    assert (actor.actor_name, actor.queue_name, actor.priority) == ("other", "slow", 5)
    assert actor.options["max_retries"] == 7

    with as_global_broker(broker):
        assert isinstance(progress_actor(last), dramatiq.Actor)


def test_an_unknown_option_is_refused_as_dramatiq_does(broker: StubBroker) -> None:
    with pytest.raises(ValueError, match="colour"):
        progress_actor(broker=broker, colour="red")(first)


def test_one_decorator_serves_many_functions(broker: StubBroker) -> None:
    decorate = progress_actor(broker=broker)
    assert [decorate(first).actor_name, decorate(last).actor_name] == ["first", "last"]


def test_the_actor_has_the_name_of_the_function_and_the_signature_for_senders(broker: StubBroker) -> None:
    actor = progress_actor(broker=broker)(middle)
    assert (actor.fn.__name__, actor.fn.__module__) == ("middle", __name__)
    assert list(inspect.signature(actor.fn).parameters) == ["a", "b"]


def test_groups_of_tracked_messages_run(broker: StubBroker) -> None:
    actor = progress_actor(broker=broker)(first)
    group = dramatiq.group([actor.message(n) for n in (1, 2)], broker=broker).run()
    broker.join("default")
    found = [get_progress(each.message_id) for each in group.children]
    assert [each and each.current for each in found] == [1, 2]


def test_the_error_without_the_middleware_has_the_line_to_add() -> None:
    with pytest.raises(ImproperlyConfigured, match=r'"dramatiq_progress\.middleware\.ProgressMiddleware"'):
        progress_actor(broker=StubBroker(middleware=[]))(first)


def test_a_callable_without_a_name_needs_an_actor_name(broker: StubBroker) -> None:
    with pytest.raises(TypeError, match="actor_name="):
        progress_actor(broker=broker)(functools.partial(first, b=5))
    actor = progress_actor(broker=broker, actor_name="five", publish_result=True)(functools.partial(first, b=5))
    assert run(broker, actor, 1).result == [1, 5]


# Called as a function


def test_a_direct_call_has_a_detached_observer(broker: StubBroker) -> None:
    def work(progress_observer: ProgressObserver, rows: int) -> tuple[Any, ...]:
        assert list(progress_observer.track(range(rows))) == list(range(rows))
        return progress_observer.message_id, progress_observer.attempt, progress_observer.current

    assert progress_actor(broker=broker)(work)(3) == (None, 1, 3)


def test_a_test_can_pass_its_own_observer(broker: StubBroker) -> None:
    actor: Any = progress_actor(broker=broker)(first)
    observer = ProgressObserver()
    assert actor(observer, 4) == [4, 2]
    assert observer.current == 4
    assert actor(a=5, progress_observer=observer) == [5, 2]
    assert observer.current == 5


def test_an_actor_called_inside_another_does_not_move_its_bar(broker: StubBroker) -> None:
    inner = progress_actor(broker=broker)(first)

    def outer(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(50, 100)
        inner(99)
        assert current_observer() is progress_observer

    assert run(broker, progress_actor(broker=broker)(outer)).current == 50


def test_an_actor_that_calls_itself_does_not_move_its_bar(broker: StubBroker) -> None:
    def work(progress_observer: ProgressObserver, depth: int) -> None:
        progress_observer.set_progress(depth)
        if depth:
            actor(depth - 1)

    actor = progress_actor(broker=broker)(work)
    assert run(broker, actor, 3).current == 3


def test_an_invalid_report_of_an_inner_call_does_not_fail_the_job(broker: StubBroker) -> None:
    def inner(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(-1)

    called = progress_actor(broker=broker)(inner)

    def outer() -> None:
        called()

    run(broker, progress_actor(broker=broker)(outer))
    with pytest.raises(InvalidReport):
        called()


# The current observer


def test_deeper_code_finds_the_observer(broker: StubBroker) -> None:
    def deeper() -> None:
        observer = current_observer()
        assert observer is not None
        observer.set_progress(8)

    def work() -> None:
        deeper()

    assert current_observer() is None
    assert run(broker, progress_actor(broker=broker)(work)).current == 8
    assert current_observer() is None


def test_another_thread_has_no_current_observer_but_can_use_one(broker: StubBroker) -> None:
    def work(progress_observer: ProgressObserver) -> None:
        found: list[Any] = []

        def part() -> None:
            found.append(current_observer())
            progress_observer.increment_progress()

        threads = [threading.Thread(target=part) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert found == [None] * 4

    assert run(broker, progress_actor(broker=broker)(work)).current == 4


# Async actors


def test_async_actors_report_too(broker: StubBroker) -> None:
    async def work(progress_observer: ProgressObserver, rows: int) -> str:
        for _ in progress_observer.track(range(rows), description="Working"):
            await asyncio.sleep(0)
        assert current_observer() is progress_observer
        return "ok"

    progress = run(broker, progress_actor(broker=broker, publish_result=True)(work), 3)
    assert (progress.current, progress.total, progress.result) == (3, 3, "ok")


def test_concurrent_async_actors_have_their_own_observers(broker: StubBroker) -> None:
    both_run = threading.Barrier(2)

    async def work(number: int) -> None:
        await asyncio.to_thread(both_run.wait, 20)
        observer = current_observer()
        assert observer is not None
        observer.set_progress(number)

    actor = progress_actor(broker=broker)(work)
    messages = [actor.send(number) for number in (1, 2)]
    broker.join("default")
    found = [get_progress(each.message_id) for each in messages]
    assert [each and each.current for each in found] == [1, 2]


def test_an_async_actor_may_be_called_outside_a_worker() -> None:
    async def work(progress_observer: ProgressObserver) -> Any:
        progress_observer.set_progress(3)
        return progress_observer.current

    idle = StubBroker(middleware=[ProgressMiddleware()])
    assert progress_actor(broker=idle)(work)() == 3


IN_EVENT_LOOP = "inner is an async actor, and can't be called as a function in an event loop. Put its work into an"


@pytest.mark.parametrize("is_part", [False, True])
def test_an_async_actor_refuses_to_be_called_inside_another_one(broker: StubBroker, is_part: bool) -> None:
    """It would wait for ever for the event loop that it blocks."""

    @progress_actor(broker=broker)
    async def inner(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1)

    @progress_actor(broker=broker)
    async def outer(progress_observer: ProgressObserver) -> None:
        called: Any = inner
        with pytest.raises(RuntimeError, match=IN_EVENT_LOOP):
            called(*[progress_observer] * is_part)

    run(broker, outer)


@pytest.mark.parametrize("has_worker", [False, True])
def test_an_async_actor_refuses_to_be_called_in_an_async_test(request: Any, has_worker: bool) -> None:
    used = request.getfixturevalue("broker") if has_worker else StubBroker(middleware=[ProgressMiddleware()])

    @progress_actor(broker=used)
    async def inner(progress_observer: ProgressObserver) -> None: ...

    async def check() -> None:
        with pytest.raises(RuntimeError, match=IN_EVENT_LOOP):
            inner()

    asyncio.run(check())


def test_a_class_based_actor_that_is_called_as_a_function_gets_its_observer_from_the_caller(broker: StubBroker) -> None:
    class Import(dramatiq.GenericActor):
        class Meta:
            actor = functools.partial(progress_actor, broker=broker)

        def perform(self, observer: ProgressObserver, path: str) -> str:
            observer.set_progress(1)
            return path

    called: Any = Import
    observer = ProgressObserver()
    assert (called(observer, "people.csv"), observer.current) == ("people.csv", 1)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        called("people.csv")


def test_an_async_actor_without_asyncio_middleware_fails_with_the_error_of_dramatiq() -> None:
    async def work() -> None: ...

    lacking = StubBroker(middleware=[Retries(max_retries=0), ProgressMiddleware()])
    message = progress_actor(broker=lacking)(work).send()
    with working(lacking), pytest.raises(RuntimeError, match="AsyncIO middleware"):
        lacking.join("default")
    progress = get_progress(message.message_id)
    assert progress is not None and progress.state is State.FAILED


# Results and invalid reports


@pytest.mark.parametrize("publish", [True, False])
def test_a_return_value_is_public_only_if_the_actor_publishes_it(broker: StubBroker, publish: bool) -> None:
    actor = progress_actor(broker=broker, publish_result=publish)(first)
    assert run(broker, actor, 1).result == ([1, 2] if publish else None)


@pytest.mark.parametrize("publish", ["no", 1, None])
def test_whether_a_return_value_is_public_is_true_or_false(broker: StubBroker, publish: Any) -> None:
    with pytest.raises(TypeError, match=rf"publish_result={publish!r} isn't True or False\."):
        progress_actor(broker=broker, publish_result=publish)(first)


def test_a_return_value_that_cannot_be_encoded_is_ignored(broker: StubBroker, caplog: Any) -> None:
    actor = progress_actor(broker=broker, publish_result=True, actor_name="work")(lambda: object())
    assert run(broker, actor).result is None
    assert "Ignoring the result of work" in caplog.text


def test_an_invalid_report_fails_a_job_only_with_debug(broker: StubBroker, settings: Any, caplog: Any) -> None:
    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(5, 10)
        progress_observer.set_progress(float("nan"), -3)
        progress_observer.set_metadata(handle=object())

    settings.DEBUG = False
    actor = progress_actor(broker=broker)(work)
    progress = run(broker, actor)
    assert (progress.current, progress.total, progress.metadata) == (5, 10, {})
    warnings = [each.getMessage() for each in caplog.records if "invalid report" in each.getMessage()]
    assert len(warnings) == 1 and ": current=nan" in warnings[0]

    settings.DEBUG = True
    message = actor.send()
    with pytest.raises(InvalidReport, match="current=nan"):
        broker.join("default")
    failed = get_progress(message.message_id)
    assert failed is not None and failed.state is State.FAILED


# Class-based actors, and a parameter that gets no observer


@pytest.mark.parametrize("is_async", [False, True])
def test_a_class_based_actor_gets_its_observer(broker: StubBroker, is_async: bool) -> None:
    declare = functools.partial(progress_actor, broker=broker)

    class Sync(dramatiq.GenericActor):
        class Meta:
            actor = declare

        def perform(self, rows: int, observer: ProgressObserver) -> None:
            observer.set_progress(rows, 9, type(self).__name__)

    class Async(dramatiq.GenericActor):
        class Meta:
            actor = declare

        async def perform(self, rows: int, observer: ProgressObserver) -> None:
            observer.set_progress(rows, 9, type(self).__name__)

    actor: Any = Async if is_async else Sync
    assert is_asynchronous(broker.actors[actor.actor_name]) == is_async
    progress = run(broker, actor, 4)
    assert (progress.current, progress.total, progress.description) == (4, 9, actor.actor_name)


def test_a_parameter_that_probably_should_be_the_observer_is_a_warning_at_the_declaration(broker: StubBroker) -> None:
    def bare(observer, n):  # type: ignore[no-untyped-def]
        """Its observer would be missing in the worker only."""

    def annotated(observer: str, n: int) -> None:
        """It has another kind of observer."""

    with pytest.warns(UserWarning, match="bare gets no observer: .* Declare it as observer: ") as found:
        progress_actor(broker=broker)(bare)
    assert found[0].filename == __file__
    progress_actor(broker=broker)(annotated)


# Calls inside another actor, and functions of other kinds


def test_a_call_with_the_observer_of_another_actor_is_a_part_of_that_one(broker: StubBroker) -> None:
    @progress_actor(broker=broker, publish_result=True)
    def check(progress_observer: ProgressObserver) -> str:
        progress_observer.set_progress(1, 2, "Checking")
        return "secret"

    seen: list[Any] = []

    @progress_actor(broker=broker)
    def nightly(progress_observer: ProgressObserver) -> None:
        seen.append((check(progress_observer), progress_observer.description))
        delivery = progress_observer._binding.delivery
        assert delivery is not None
        seen.append(delivery().is_running)  # type: ignore[union-attr]

    done = run(broker, nightly)
    assert (seen, done.current, done.result) == ([("secret", "Checking"), True], 1, None)


def test_a_cancel_in_such_a_call_is_no_exception_that_the_outer_actor_catches(broker: StubBroker) -> None:
    @progress_actor(broker=broker)
    def inner(progress_observer: ProgressObserver) -> None:
        progress_observer._binding.note_cancel_request()
        progress_observer.set_progress(1)

    caught: list[Exception] = []

    @progress_actor(broker=broker, cancellable=True)
    def outer(progress_observer: ProgressObserver) -> None:
        try:
            inner(progress_observer)
        except Exception as error:
            caught.append(error)

    message = outer.send()
    broker.join("default")
    progress = get_progress(message)
    assert caught == [] and progress is not None and progress.state is State.CANCELLED


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_message_for_the_user_in_an_exception_group_is_final(broker: StubBroker, is_nested: bool) -> None:
    @progress_actor(broker=broker, max_retries=2, min_backoff=1, max_backoff=1)
    async def work(progress_observer: ProgressObserver) -> None:
        async def fail() -> None:
            if is_nested:
                raise ExceptionGroup("lines", [UserFacingError("Line 7 has no code.")])
            raise UserFacingError("Line 7 has no code.")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    message = work.send()
    broker.join("default", fail_fast=False)
    progress = get_progress(message)
    assert progress is not None
    assert (progress.state, progress.attempt, progress.result) == (State.FAILED, 1, "Line 7 has no code.")


def test_a_group_of_other_errors_is_retried(broker: StubBroker) -> None:
    @progress_actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def work() -> None:
        raise ExceptionGroup("lines", [UserFacingError("Line 7 has no code."), ValueError("7")])

    message = work.send()
    broker.join("default", fail_fast=False)
    progress = get_progress(message)
    assert progress is not None
    assert (progress.state, progress.attempt, progress.result) == (State.FAILED, 2, "The task failed.")


def generate() -> Iterator[int]:
    yield 1


async def generate_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generate, generate_later])
def test_a_generator_function_is_no_actor(broker: StubBroker, function: Any) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__} is a generator function.*take `yield` out of it"):
        progress_actor(broker=broker)(function)


def test_an_object_with_an_asynchronous_call_is_an_actor(broker: StubBroker) -> None:
    class Work:
        async def __call__(self, progress_observer: ProgressObserver) -> None:
            await asyncio.sleep(0)
            progress_observer.set_result("ran")

    work = progress_actor(broker=broker, actor_name="work")(Work())
    assert is_asynchronous(work)
    assert run(broker, work).result == "ran"

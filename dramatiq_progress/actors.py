"""`progress_actor`: `dramatiq.actor` for functions that report progress to a `ProgressObserver`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import dramatiq
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import Promise
from dramatiq import Actor, Broker
from dramatiq.asyncio import async_to_sync as run_on_event_loop_thread
from dramatiq.asyncio import get_event_loop_thread

from .error_texts import show
from .errors import UserFacingError
from .event_loop import in_event_loop
from .middleware import ProgressMiddleware
from .titles import declare_title
from .worker.current import (
    current_observer,
    delivery_to,
    end_cancelled,
    end_yielded,
    note_exception,
    observing,
    open_observer,
    this_thread,
)
from .worker.observing.functions import is_coroutine_function
from .worker.observing.injection import ObserverParameter, called_function
from .worker.observing.interruption import Interruption, is_cancel, is_yield, user_facing
from .worker.observing.observer import ProgressObserver
from .worker.sending.options import ESTIMATE_KEY_OPTION, check_options, checked_cancellable, checked_estimate_key
from .worker.tracking import CANCELLABLE_OPTION, TRACKED_OPTION, YIELD_OPTION

P = ParamSpec("P")
R = TypeVar("R")


class ProgressActorDecorator(Protocol):
    """The decorator that `progress_actor` with options returns."""

    @overload
    def __call__(self, fn: Callable[Concatenate[ProgressObserver, P], Awaitable[R]]) -> Actor[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[ProgressObserver, P], R]) -> Actor[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]]) -> Actor[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Actor[P, R]: ...


@overload
def progress_actor(fn: Callable[Concatenate[ProgressObserver, P], Awaitable[R]]) -> Actor[P, R]: ...
@overload
def progress_actor(fn: Callable[Concatenate[ProgressObserver, P], R]) -> Actor[P, R]: ...
@overload
def progress_actor(fn: Callable[P, Awaitable[R]]) -> Actor[P, R]: ...
@overload
def progress_actor(fn: Callable[P, R]) -> Actor[P, R]: ...
@overload
def progress_actor(
    *,
    title: str | Promise | None = None,
    publish_result: bool = False,
    cancellable: bool | None = None,
    estimate_key: str | None = None,
    yield_after: float | None = None,
    actor_class: Callable[..., Actor[Any, Any]] = Actor,
    actor_name: str | None = None,
    queue_name: str = "default",
    priority: int = 0,
    broker: Broker | None = None,
    **options: Any,
) -> ProgressActorDecorator: ...
def progress_actor(
    fn: Callable[..., Any] | None = None,
    *,
    title: str | Promise | None = None,
    publish_result: bool = False,
    cancellable: bool | None = None,
    estimate_key: str | None = None,
    yield_after: float | None = None,
    actor_name: str | None = None,
    broker: Broker | None = None,
    **options: Any,
) -> Any:
    """Declare an actor whose progress is tracked.

    The observer is passed to the parameter that is annotated `ProgressObserver`, or otherwise to the one named
    ``progress_observer``. A function with neither is tracked too. The observer is never an argument of the message.
    Called as a function, outside a worker or inside another actor, the actor gets a detached observer; tests may pass
    one, by position or by name. Called with the observer of another actor, it is a part of that actor's work, and its
    return value isn't published. An async actor can't be called as a function in an event loop: `RuntimeError`.

    Parameters:
      fn: The function; may be ``async def``, with Dramatiq's AsyncIO middleware.
      title: The name of its messages for users, cut at 200 characters. A lazy translation is shown in the language of
        each page. Defaults to the actor's name in words. A message may have its own, and metadata for the page:
        ``actor.send_with_options(args=(path,), title="people.csv", metadata={"file": "people.csv"})``.
      cancellable: Whether its messages can be cancelled, while they wait and while they run: see docs/cancel.md.
        Defaults to ``DRAMATIQ_PROGRESS["CANCELLABLE"]``, which is False by default.
      estimate_key: The kind of run, if the durations of its past runs aren't to be compared with: for instance a new
        version that is faster. A message may have its own, ``actor.send_with_options(estimate_key="large")``, if its
        input tells how long it will take. An actor has at most 20 of them.
      yield_after: Seconds after which a loop of ``track(resume=…)`` makes room for other messages: between two items
        the job ends, its message is sent again, and it goes on when its turn has come. No job then meets a time limit.
        None: it runs to its end, or until the worker shuts down.
      publish_result: Whether the function's return value becomes the public result, as by
        `ProgressObserver.set_result`.
      actor_name: The actor's name. Defaults to the function's.
      broker: The broker. Defaults to the global one.
      **options: Every other option that `dramatiq.actor` accepts. `UserFacingError` is added to ``throws``.

    Returns:
      A normal Dramatiq actor.

    Raises:
      ImproperlyConfigured: The broker has no `ProgressMiddleware`.
      TypeError: More than one parameter is annotated `ProgressObserver`, the title or the estimate key isn't a text,
        ``cancellable`` or ``publish_result`` isn't a bool, or the function is a generator.
      ValueError: The estimate key is empty or too long, or `yield_after` isn't a number above 0.
    """

    def decorate(fn: Callable[..., Any]) -> Actor[..., Any]:
        chosen = broker or dramatiq.get_broker()
        _require_middleware(chosen)
        name = actor_name or getattr(fn, "__name__", None)
        if name is None:
            raise TypeError(f'{fn!r} has no name; give the actor one: actor_name="…".')
        called = called_function(fn)
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            raise TypeError(f"{name} is a generator function, whose body a call doesn't run: take `yield` out of it.")
        settled: dict[str, Any] = {**options, "actor_name": name, "broker": chosen}
        settled |= {TRACKED_OPTION: True}
        settled[CANCELLABLE_OPTION] = None if cancellable is None else checked_cancellable(cancellable)
        if yield_after is not None:
            settled[YIELD_OPTION] = _checked_yield(yield_after)
        if not isinstance(publish_result, bool):
            # "no" would be true, and show users what isn't for them.
            raise TypeError(f"publish_result={show(publish_result)} isn't True or False.")
        settled[ESTIMATE_KEY_OPTION] = None if estimate_key is None else checked_estimate_key(estimate_key)
        # Known to Dramatiq only with its `Retries`. Without that, every exception is final.
        if "throws" in chosen.actor_options:
            settled["throws"] = _thrown(options.get("throws"))
        observed = _observed(fn, publish_result)
        declared: Actor[..., Any] = dramatiq.actor(**settled)(observed)
        # Not the name above: an actor_class may have chosen another.
        observed.actor_name = declared.actor_name  # type: ignore[attr-defined]
        declare_title(declared.actor_name, title)
        check_options(declared)
        return declared

    return decorate if fn is None else decorate(fn)


def is_asynchronous(actor: Actor[..., Any]) -> bool:
    """Return whether an actor was declared from an ``async def`` function."""
    return is_coroutine_function(called_function(inspect.unwrap(actor.fn)))


def _require_middleware(broker: Broker) -> None:
    if not any(isinstance(each, ProgressMiddleware) for each in broker.middleware):
        raise ImproperlyConfigured(
            "The broker lacks ProgressMiddleware. Add this line to the MIDDLEWARE of DRAMATIQ_BROKER in the "
            'settings: "dramatiq_progress.middleware.ProgressMiddleware". (If the line is there: it is '
            '"django_dramatiq" in INSTALLED_APPS, and django.setup(), that make the broker.)'
        )


def _checked_yield(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"yield_after is {show(seconds)}; it must be a number of seconds above 0, such as 300.")
    return seconds


def _thrown(declared: Any) -> tuple[Any, ...]:
    """Return the exceptions after which an actor isn't retried: those that it declares, and `UserFacingError`."""
    if declared is None:
        return (UserFacingError,)
    return (*(declared if isinstance(declared, tuple | list) else [declared]), UserFacingError)


def _observed(fn: Callable[..., Any], publish_result: bool) -> Callable[..., Any]:
    """Wrap a function so that each call has an observer."""
    parameter = ObserverParameter.of(fn)
    is_async = is_coroutine_function(called_function(fn))
    call = synchronous(fn) if is_async else fn

    @functools.wraps(fn)
    def observed(*args: Any, **kwargs: Any) -> Any:
        if is_async and in_event_loop() and this_thread.delivery is None:
            # The loop would wait for work that it is to run itself: in a worker for ever, with all other async actors.
            # (With a delivery it is the call of a broker that processes messages inside `enqueue`.)
            raise RuntimeError(
                f"{observed.actor_name} is an async actor, and can't be called as a function "  # type: ignore[attr-defined]
                "in an event loop. Put its work into an `async def` function, and await that."
            )
        observer = parameter.given(args, kwargs) if parameter else None
        if observer is not None and observer.message_id is not None:
            # A part of the actor that the observer was made for: it doesn't end that one's attempt.
            with observing(observer):
                return call(*args, **kwargs)
        if observer is None:
            observer = open_observer(observed.actor_name)  # type: ignore[attr-defined]
            if parameter is not None:
                args, kwargs = parameter.put(observer, args, kwargs)
        delivery = delivery_to(observer)
        try:
            if delivery is not None:
                delivery.is_running = True
            with observing(observer):
                result = call(*args, **kwargs)
        except BaseException as error:
            if is_cancel(error):
                end_cancelled(observer)
            note_exception(observer)
            if is_yield(error):
                end_yielded(observer)
            if isinstance(error, BaseExceptionGroup) and (for_user := user_facing(error)) is not None:
                # As `asyncio.TaskGroup` raises it. Dramatiq's `Retries` looks for the error itself.
                raise for_user from error
            raise
        finally:
            # Without a call, in which a time limit could raise: its retry would count as a further round.
            if delivery is not None:
                delivery.is_running = False
                # The exception keeps this frame alive, and the delivery keeps the exception.
                delivery = None
        if observer._binding.interruption.has_yielded:
            # The actor has swallowed the exception, and its work isn't done all the same.
            note_exception(observer)
            end_yielded(observer)
        if publish_result:
            observer.set_result(result)
        return result

    if parameter is not None:
        observed.__signature__ = parameter.signature_without()  # type: ignore[attr-defined]
    return observed


def synchronous(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    """Return a function that runs a coroutine function on the worker's event loop, and waits for it."""

    # Dramatiq would wrap a coroutine function on its own, and our wrapper inside its wrapper would run on the event
    # loop's thread, which doesn't have the worker's delivery. (It has the context of the worker's thread:
    # run_coroutine_threadsafe copies it, so current_observer() works.)
    @functools.wraps(fn)
    async def as_task(interruption: Interruption | None, /, *args: Any, **kwargs: Any) -> R:
        if interruption is not None:
            interruption.set_own_task()
        return await fn(*args, **kwargs)

    on_worker = run_on_event_loop_thread(as_task)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> R:
        observer = current_observer()
        if observer is None or delivery_to(observer) is None:
            # Outside a worker, or in a thread that an actor has started: that isn't the actor.
            is_detached = observer is None or observer.message_id is None
            run = async_to_sync(as_task) if is_detached and get_event_loop_thread() is None else on_worker
            return run(None, *args, **kwargs)
        # The task is the actor while this thread waits for it, also in a part of an actor that isn't async.
        interruption = observer._binding.interruption
        with interruption.lent_to_task():
            return on_worker(interruption, *args, **kwargs)

    return call

"""`progress_actor`: `dramatiq.actor` for functions that report progress to a `ProgressObserver`."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import dramatiq
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from dramatiq import Actor, Broker
from dramatiq.asyncio import async_to_sync as run_on_event_loop_thread
from dramatiq.asyncio import get_event_loop_thread

from .middleware import CANCELLABLE_OPTION, TRACKED_OPTION, ProgressMiddleware, end_cancelled, open_observer
from .observer import ProgressObserver, current_observer, is_cancel, observing

#: The parameter that gets the observer when none is annotated with `ProgressObserver`.
OBSERVER_PARAMETER = "progress_observer"

P = ParamSpec("P")
R = TypeVar("R")


class ProgressActorDecorator(Protocol):
    """What `progress_actor` with options returns."""

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
    publish_result: bool = False,
    cancellable: bool = True,
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
    publish_result: bool = False,
    cancellable: bool = True,
    actor_name: str | None = None,
    broker: Broker | None = None,
    **options: Any,
) -> Any:
    """Declare an actor whose progress is tracked.

    The observer goes to the parameter that is annotated `ProgressObserver`, else to the one that is named
    ``progress_observer``; a function with neither is tracked all the same. It is never an argument of the message.
    Called as a function, outside a worker or inside another actor, the actor gets a detached observer; a test may
    hand it one of its own, by position or by name.

    Parameters:
      fn: The function, ``async def`` too (with Dramatiq's AsyncIO middleware).
      cancellable: Whether its messages can be cancelled, by `cancel`.
      publish_result: Show what the function returns to the page, as `ProgressObserver.set_result` does.
      actor_name: The actor's name; the function's by default.
      broker: The broker; the global one by default.
      **options: Every other option that `dramatiq.actor` takes.

    Returns:
      A normal Dramatiq actor.

    Raises:
      ImproperlyConfigured: The broker has no `ProgressMiddleware`.
      TypeError: More than one parameter is annotated `ProgressObserver`.
    """

    def decorate(fn: Callable[..., Any]) -> Actor[..., Any]:
        chosen = broker or dramatiq.get_broker()
        _require_middleware(chosen)
        name = actor_name or getattr(fn, "__name__", None)
        if name is None:
            raise TypeError(f'{fn!r} has no name; give the actor one: actor_name="…".')
        settled: dict[str, Any] = {**options, "actor_name": name, "broker": chosen}
        settled |= {TRACKED_OPTION: True, CANCELLABLE_OPTION: cancellable}
        observed = _observed(fn, publish_result)
        declared: Actor[..., Any] = dramatiq.actor(**settled)(observed)
        # Not the name above: an actor_class may have chosen another.
        observed.actor_name = declared.actor_name  # type: ignore[attr-defined]
        return declared

    return decorate if fn is None else decorate(fn)


def is_asynchronous(actor: Actor[..., Any]) -> bool:
    """Whether an actor was declared from an ``async def`` function."""
    return inspect.iscoroutinefunction(inspect.unwrap(actor.fn))


def _require_middleware(broker: Broker) -> None:
    if not any(isinstance(each, ProgressMiddleware) for each in broker.middleware):
        raise ImproperlyConfigured(
            "The broker lacks ProgressMiddleware. Add this line to the MIDDLEWARE of DRAMATIQ_BROKER in the "
            'settings: "dramatiq_progress.middleware.ProgressMiddleware". (If the line is there: it is '
            '"django_dramatiq" in INSTALLED_APPS, and django.setup(), that make the broker.)'
        )


def _observed(fn: Callable[..., Any], publish_result: bool) -> Callable[..., Any]:
    """Wrap a function so that each call has its observer."""
    parameter = _ObserverParameter.of(fn)
    call = _synchronous(fn) if inspect.iscoroutinefunction(fn) else fn

    @functools.wraps(fn)
    def observed(*args: Any, **kwargs: Any) -> Any:
        observer = parameter.given(args, kwargs) if parameter else None
        if observer is None:
            observer = open_observer(observed.actor_name)  # type: ignore[attr-defined]
            if parameter is not None:
                args, kwargs = parameter.put(observer, args, kwargs)
        try:
            with observing(observer):
                result = call(*args, **kwargs)
        except BaseException as error:
            if is_cancel(error):
                end_cancelled(observer)
            raise
        if publish_result:
            observer.set_result(result)
        return result

    if parameter is not None:
        observed.__signature__ = parameter.signature_without()  # type: ignore[attr-defined]
    return observed


def _synchronous(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    # Dramatiq would wrap a coroutine function itself, and a wrapper of ours inside its wrapper would run on the event
    # loop's thread, where the worker's delivery is not to be seen. (The context of the worker's thread is:
    # run_coroutine_threadsafe copies it, so current_observer() works.)
    on_worker = run_on_event_loop_thread(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> R:
        if get_event_loop_thread() is None and _is_detached():
            return async_to_sync(fn)(*args, **kwargs)
        return on_worker(*args, **kwargs)

    return call


def _is_detached() -> bool:
    observer = current_observer()
    return observer is None or observer.message_id is None


class _ObserverParameter:
    """The parameter of a function that takes the observer."""

    def __init__(self, signature: inspect.Signature, name: str) -> None:
        self.name = name
        self._signature = signature
        self._by_keyword_only = signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        self._position = list(signature.parameters).index(name)

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> _ObserverParameter | None:
        """Find it; None when the function does not ask for an observer."""
        signature = _signature(fn)
        annotations = _annotations(fn, signature)
        named = [each for each in signature.parameters if _is_observer(annotations.get(each))]
        if len(named) > 1:
            raise TypeError(
                f"{fn.__qualname__} has {len(named)} parameters annotated ProgressObserver ({', '.join(named)}); "
                "an actor gets one observer."
            )
        if not named and OBSERVER_PARAMETER in signature.parameters:
            named = [OBSERVER_PARAMETER]
        return cls(signature, named[0]) if named else None

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ProgressObserver | None:
        """The observer that the caller handed over."""
        by_position = not self._by_keyword_only and self._position < len(args)
        value = args[self._position] if by_position else kwargs.get(self.name)
        return value if isinstance(value, ProgressObserver) else None

    def put(
        self, observer: ProgressObserver, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the observer in its place among them."""
        kwargs = {name: value for name, value in kwargs.items() if name != self.name or value is not None}
        if self._by_keyword_only or len(args) < self._position:
            return args, {**kwargs, self.name: observer}
        return (*args[: self._position], observer, *args[self._position :]), kwargs

    def signature_without(self) -> inspect.Signature:
        """The signature that senders of messages see."""
        parameters = [each for each in self._signature.parameters.values() if each.name != self.name]
        return self._signature.replace(parameters=parameters)


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        # Names that are imported only for type checkers would else raise NameError here.
        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _annotations(fn: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn)
    except Exception:  # one name that cannot be resolved hides all: they are then compared as text
        return {name: each.annotation for name, each in signature.parameters.items()}


def _is_observer(annotation: Any) -> bool:
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return re.search(r"\bProgressObserver\b", annotation) is not None
    return annotation is ProgressObserver or ProgressObserver in typing.get_args(annotation)

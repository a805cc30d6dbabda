"""The parameter of an actor's function that receives the observer."""

from __future__ import annotations

import inspect
import re
import sys
import typing
import warnings
from collections.abc import Callable
from typing import Any

from dramatiq import GenericActor

from .observer import ProgressObserver

#: The name of the parameter that receives the observer when none is annotated with `ProgressObserver`.
OBSERVER_PARAMETER = "progress_observer"

#: The name that needs the annotation. Without one, such a parameter is probably a mistake.
SHORT_NAME = "observer"


class ObserverParameter:
    """The parameter of a function that receives the observer.

    Parameters:
      signature: The function's signature.
      name: The parameter's name.
    """

    def __init__(self, signature: inspect.Signature, name: str) -> None:
        self.name = name
        self._signature = signature
        self._by_keyword_only = signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        self._position = list(signature.parameters).index(name)

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> ObserverParameter | None:
        """Return the parameter of a function; None if it has none.

        Raises:
          TypeError: More than one parameter is annotated `ProgressObserver`.
        """
        fn = called_function(fn)
        signature = _signature(fn)
        annotations = _annotations(fn, signature)
        named = [each for each in signature.parameters if _is_observer(annotations.get(each))]
        if len(named) > 1:
            raise TypeError(
                f"{_named(fn)} has {len(named)} parameters annotated ProgressObserver ({', '.join(named)}); "
                "an actor gets one observer."
            )
        if not named and OBSERVER_PARAMETER in signature.parameters:
            named = [OBSERVER_PARAMETER]
        if not named and _is_bare(signature.parameters.get(SHORT_NAME)):
            warnings.warn(
                f'{_named(fn)} gets no observer: its parameter "{SHORT_NAME}" is an argument of the message, since '
                f"it has no annotation. Declare it as {SHORT_NAME}: ProgressObserver, or name it "
                f"{OBSERVER_PARAMETER}.",
                stacklevel=4,
            )
        return cls(signature, named[0]) if named else None

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ProgressObserver | None:
        """Return the observer that the caller passed."""
        by_position = not self._by_keyword_only and self._position < len(args)
        value = args[self._position] if by_position else kwargs.get(self.name)
        return value if isinstance(value, ProgressObserver) else None

    def put(
        self, observer: ProgressObserver, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the observer among them."""
        kwargs = {name: value for name, value in kwargs.items() if name != self.name or value is not None}
        if self._by_keyword_only or len(args) < self._position:
            return args, {**kwargs, self.name: observer}
        return (*args[: self._position], observer, *args[self._position :]), kwargs

    def signature_without(self) -> inspect.Signature:
        """Return the signature without the parameter, as senders of messages see it."""
        parameters = [each for each in self._signature.parameters.values() if each.name != self.name]
        return self._signature.replace(parameters=parameters)


def called_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that has the actor's parameters: for a class-based actor its method ``perform``."""
    return fn.perform if isinstance(fn, GenericActor) else fn


def _named(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)


def _is_bare(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.annotation is inspect.Parameter.empty


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        # Otherwise names that are imported for type checkers only raise NameError here.
        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _annotations(fn: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn)
    except Exception:  # one name that can't be resolved fails all: compare them as text instead
        return {name: each.annotation for name, each in signature.parameters.items()}


def _is_observer(annotation: Any) -> bool:
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return re.search(r"\bProgressObserver\b", annotation) is not None
    return annotation is ProgressObserver or ProgressObserver in typing.get_args(annotation)

"""The kinds of functions that a project gives: whether calling one gives a coroutine or an asynchronous generator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def is_coroutine_function(fn: Callable[..., Any]) -> bool:
    """Return whether a function, or what an object does when it is called, is an ``async def``."""
    return _is(inspect.iscoroutinefunction, fn)


def is_async_generator_function(fn: Callable[..., Any]) -> bool:
    """Return whether a function, or what an object does when it is called, is an ``async def`` that yields."""
    return _is(inspect.isasyncgenfunction, fn)


def _is(test: Callable[[Any], bool], fn: Callable[..., Any]) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return test(fn) or test(type(fn).__call__)

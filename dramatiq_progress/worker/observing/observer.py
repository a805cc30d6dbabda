"""The observer: the object that an actor reports to. Its values are in its `Binding`, which the methods in `values` set
and return; this adds loops and steps.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from decimal import Decimal
from typing import Any, Protocol, TypeVar, overload

from dramatiq_progress.error_texts import show
from dramatiq_progress.progress_values import Number
from dramatiq_progress.worker.resuming.loops import Request, begin
from dramatiq_progress.worker.starting import wait_for_start, wait_for_start_in_loop
from dramatiq_progress.worker.validation import length_of

from .functions import is_coroutine_function
from .reports import KEEP, Keep
from .spans import Loop
from .steps import Step, make_plan
from .values import ReportedValues

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """The iterator that `track` returns. For an asynchronous iterable, and in an event loop for a queryset, one for
    ``async for``.
    """

    def __iter__(self) -> Iterator[T_co]: ...
    def __next__(self) -> T_co: ...
    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def close(self) -> None: ...


class ProgressObserver(ReportedValues):
    """The object that an actor reports its progress to.

    Reporting is cheap: it sets attributes and does no I/O. All methods are thread-safe.

    In a worker, the observer is bound to the message being processed. Outside a worker, and when created with
    ``ProgressObserver()``, it is *detached*: it keeps the values and writes them nowhere. Use that in tests.

    Invalid values never fail a job. They are ignored, and the first one per message is logged. If ``settings.DEBUG`` is
    true or the observer is detached, they raise `InvalidReport`.

    After a cancel was requested, reports raise `Cancelled`: once in the actor itself (its thread, or for async actors
    its task), so that it can clean up or continue, and on every report in other threads and tasks, where the exception
    may be swallowed. Inside an ``except`` or ``finally`` block that handles `Cancelled`, reports don't raise.
    """

    __slots__ = ()

    def __reduce__(self) -> Any:
        # For child processes. A subclass may have attributes that can't be pickled.
        return ProgressObserver, (self._binding,)

    @property
    def resumed(self) -> bool:
        """Whether an earlier attempt has done a part of what can be resumed."""
        wait_for_start(self._binding)
        return self._binding.resumption().is_resumed

    @overload
    def track(
        self,
        iterable: Callable[[Any], Iterable[tuple[T, Any]] | AsyncIterable[tuple[T, Any]]],
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
        *,
        resume: bool | str,
    ) -> Items[T]: ...
    @overload
    def track(
        self,
        iterable: Callable[[Any], Iterable[tuple[T, Any]] | AsyncIterable[tuple[T, Any]]],
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
        *,
        resume: bool | str,
        batch: int,
    ) -> Items[list[T]]: ...
    @overload
    def track(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
        *,
        resume: bool | str = False,
    ) -> Items[T]: ...
    @overload
    def track(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
        *,
        resume: bool | str = False,
        batch: int,
    ) -> Items[list[T]]: ...
    def track(
        self,
        iterable: Any,
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
        *,
        resume: bool | str = False,
        batch: int | None = None,
    ) -> Any:
        """Yield the items of an iterable, and report each one after the loop body has finished with it.

        Counting starts at 0. A loop in the body of another one, by the same thread or task, is a part of the item: its
        values replace the outer loop's until it ends, and the percentage is that of the outer loop. Otherwise use one
        loop at a time; in several threads, call `increment_progress` instead.

        With `resume`, an attempt that follows goes on after the last item that was done: after an exception, a deploy
        or the death of the worker. An item is done when the loop asks for the next one, so collect items by `batch` and
        not on your own. After a crash, what was done since the last write (``FLUSH_INTERVAL``) is done again.

        Parameters:
          iterable: Any iterable. ``len()`` of a queryset loads all its rows; for many rows, pass
            ``queryset.iterator()`` and ``queryset.count()`` as the total, or use `resume`. An asynchronous iterable is
            for ``async for``, and so is a queryset in an event loop, where its total is unknown unless given. With
            `resume`, querysets are read in pieces, by their primary key or the one unique field in ``order_by``; or
            a function of a cursor (None at the start) that yields ``(item, cursor)``, where the cursor is JSON that
            finds what follows the item.
          total: The number of items. Defaults to ``len(iterable)``, or to unknown if it has no length.
          description: The current activity. Defaults to the last one.
          resume: True in an actor with one such loop; otherwise a name of at most 100 characters for each. A loop
            with a new name begins at the start. Files and iterators must give the same items in each attempt.
          batch: Give lists of this many items. The bar counts items.

        Raises:
          InvalidReport: As for `set_progress`; also for a loop that can't be resumed: its name was used before in
            this attempt, it is in the body of another such loop or in a transaction, or no row of its queryset can be
            found by the order. Otherwise such a loop begins at the start in each attempt.
        """
        kind = type(iterable)
        # A function of a cursor and an asynchronous iterable have no `__iter__`. A queryset has both methods.
        # Not get_running_loop(): without a loop it raises, which takes a sixth of the time of an empty loop.
        is_asynchronous = not hasattr(kind, "__iter__") or (
            asyncio._get_running_loop() is not None and hasattr(kind, "__aiter__")
        )
        if resume is not False or batch is not None or is_asynchronous:
            loop = self._new_loop()
            return begin(self, Request.of(self._binding.checks, iterable, total, description, resume, batch), loop)
        if total is KEEP:
            total = length_of(iterable)
        loop = self._new_loop()
        if not loop.is_nested:
            self.set_progress(0, total, description)
        items = self._count(iterable, loop, total, description)
        loop.generator = weakref.ref(items)
        return items

    def _new_loop(self) -> Loop:
        loop = Loop()
        if self._binding.levels.top.loop is not None:
            loop.is_nested = self._binding.levels.is_in_body()
        return loop

    @overload
    def once(  # type: ignore[overload-overlap]  # a coroutine function is also a function
        self, name: str, fn: Callable[[], Coroutine[Any, Any, object]]
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def once(self, name: str, fn: Callable[[], object]) -> None: ...
    def once(self, name: str, fn: Callable[[], object]) -> Coroutine[Any, Any, None] | None:
        """Call a function, unless an earlier attempt has.

        Parameters:
          name: A name of its own, as for the loops of `track`.
          fn: The function; await this method if it is asynchronous. It must be the ``async def`` itself, or a
            ``functools.partial`` of it: a lambda around it isn't asynchronous.

        Raises:
          InvalidReport: As for `track` with `resume`. Otherwise the function is called, in a transaction in each
            attempt.
          TypeError: The second argument isn't callable, or has returned an awaitable and isn't asynchronous itself.
        """
        if not callable(fn):
            raise TypeError(f"once({name!r}, …) takes a function, and calls it: pass f, not f(). Got {show(fn)}.")
        if is_coroutine_function(fn):
            return self._await_once(name, fn)
        wait_for_start(self._binding)
        if self._binding.resumption().begin_call(name):
            result = fn()
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                # Nothing awaits it, so the work isn't done.
                raise TypeError(
                    f"once({name!r}, …) got a function that isn't asynchronous and returns an awaitable: pass the "
                    f"asynchronous function itself, or functools.partial(function, …), and await once(). "
                    f"Got {show(fn)}."
                )
            self._binding.resumption().end_call(name)
            self._binding.note_change()
        return None

    async def _await_once(self, name: str, fn: Callable[[], Any]) -> None:
        await wait_for_start_in_loop(self._binding)
        if self._binding.resumption().begin_call(name):
            await fn()
            self._binding.resumption().end_call(name)
            self._binding.note_change()

    def _count(
        self, iterable: Iterable[T], loop: Loop, total: Number | Decimal | None, description: str | Keep
    ) -> Generator[T]:
        binding = self._binding
        level = binding.levels.begin_loop(loop)
        try:
            if loop.is_nested:
                self.set_progress(0, total, description)
            # The hot loop of this package: no lock (setting an attribute is atomic) and no call without a reason.
            for count, item in enumerate(iterable, 1):
                yield item
                level.current = count
                if binding.must_notify:
                    binding.notify()
        finally:
            if binding.levels.is_used:
                binding.levels.end_loop(loop, level)
                binding.note_change(may_cancel=False)
            elif level.loop is loop:
                level.loop = None

    def steps(self, *names: str, weights: Iterable[Number | Decimal] | None = None) -> tuple[Step, ...]:
        """Divide the work into steps, each of which is a context manager; see `Step`.

        The percentage becomes that of the whole: each step has a part of it by its weight. All other calls count in
        the current step. Called inside a step, or in the body of a loop of `track`, it divides that. Steps follow each
        other; use one thread or task at a time to begin and end them. From the first call on, the percentage never
        falls in this attempt.

        Parameters:
          names: The name of each step, as plain text, cut at 100 characters; a list as ``*names``.
          weights: Numbers that are proportional to the time that each step takes. Default to 1.

        Raises:
          InvalidReport: Weights that are negative, not finite, all 0, or not one for each step; a list instead of
            names; or all of the work is done already. See the class for when; otherwise all steps get the same weight,
            the list's items are the names, or the percentage stays.
        """
        plan = make_plan(names, weights, self._binding.checks)
        if self._binding.levels.is_over:
            reason = "all of the work is done already; name all steps in one call, or call steps() inside a step"
            self._binding.checks.ignore("steps", names, reason)
        self._binding.levels.split()
        self._binding.note_change()
        return tuple(Step(self._binding, plan, index) for index in range(len(plan.names)))

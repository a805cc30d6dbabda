"""The observer: the object that an actor reports to. It holds the latest values; the recorder writes them."""

from __future__ import annotations

import inspect
import json
import logging
import math
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from decimal import Decimal
from typing import Any, Protocol, TypeVar, overload

from dramatiq_progress.error_texts import reason_of, show
from dramatiq_progress.progress import Number, StepProgress, percent_of, percent_of_whole
from dramatiq_progress.titles import shown_title

from .binding import Binding, merged
from .loops import Request, begin
from .options import shown_title_text
from .reports import KEEP, Keep
from .spans import Loop
from .starting import wait_for_start, wait_for_start_in_loop
from .steps import Step, make_plan
from .validation import EXACT_WHOLE_NUMBERS, MAX_METADATA_BYTES, encode, is_finite, length_of

MAX_RESULT_BYTES = 64 * 1024

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
logger = logging.getLogger(__name__)


class Items(Protocol[T_co]):
    """The iterator that `track` returns. For an asynchronous iterable, and in an event loop for a queryset, one for
    ``async for``.
    """

    def __iter__(self) -> Iterator[T_co]: ...
    def __next__(self) -> T_co: ...
    def __aiter__(self) -> AsyncIterator[T_co]: ...


class ProgressObserver(Binding):
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

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._attempt_number

    @property
    def current(self) -> Number:
        """The amount that is done, as last reported; inside a step or an inner loop, of that."""
        return self.levels.top.current

    @property
    def total(self) -> Number | None:
        """The amount that there is to do, as last reported; None while unknown."""
        return self.levels.top.total

    @property
    def description(self) -> str:
        """The current activity, as last reported."""
        return self.levels.top.description

    @property
    def percent(self) -> float | None:
        """The percentage of the whole that is done, as the page receives it; None while unknown."""
        levels = self.levels
        return percent_of_whole(levels.fraction) if levels.is_used else percent_of(self.current, self.total)

    @property
    def step(self) -> StepProgress | None:
        """The step that is in progress, or was last, as the page receives it; None before the first."""
        return self.levels.step

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancel was requested, as far as this process knows; always False when detached."""
        return self._interruption.requested

    @property
    def title(self) -> str:
        """The name of the job for users, in the active language."""
        return shown_title(self.checks.actor_name, self._title)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, as the page receives it."""
        return dict(json.loads(self._metadata))

    @property
    def result(self) -> Any:
        """The public result, as the page receives it; None before `set_result`."""
        return None if self._result is None else json.loads(self._result)

    def set_progress(
        self,
        current: Number | Decimal | Keep = KEEP,
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
    ) -> None:
        """Report how much is done, or only what is being done. Omitted values stay as they are.

        Parameters:
          current: The amount that is done, 0 or more.
          total: The amount that there is to do; None means unknown. `current` may exceed it.
          description: The current activity, as plain text, cut at 1,000 characters.

        Raises:
          InvalidReport: A value that isn't a number, is negative or isn't finite; a description that is a list or a
            dict. See the class for when.
        """
        level = self.levels.top
        # Nearly every report has plain whole numbers, and the same total and description as before: no call for those.
        if type(current) is not int or not 0 <= current <= EXACT_WHOLE_NUMBERS:
            current = KEEP if current is KEEP else self.checks.number("current", current, KEEP)
        # No lock: it would take two thirds of the time. Each attribute is written independently, and a report that
        # interleaves marks the observer dirty, so the next flush writes consistent values.
        if (total is not level.total and total is not KEEP) or (
            description is not level.description and description is not KEEP
        ):
            if total is not level.total and total is not KEEP and total is not None:
                total = self.checks.number("total", total, KEEP)
            if description is not level.description and description is not KEEP:
                description = self.checks.text(description)
            if total is not KEEP:
                level.total = total  # type: ignore[assignment]  # a Decimal has become an int or float above
            if description is not KEEP:
                level.description = description
        # Not written again if it is kept: another thread may have incremented it.
        if current is not KEEP:
            level.current = current  # type: ignore[assignment]  # as above
        if self.must_notify:
            self._notify()

    def increment_progress(self, by: Number | Decimal = 1, description: str | Keep = KEEP) -> None:
        """Report that more is done.

        Parameters:
          by: The additional amount, 0 or more.
          description: The current activity. Defaults to the last one.

        Raises:
          InvalidReport: As for `set_progress`.
        """
        if type(by) is not int or not 0 <= by <= EXACT_WHOLE_NUMBERS:
            by = self.checks.number("by", by, 0)
            if not is_finite(self.current, by):
                by = self.checks.number("by", math.inf, 0)
        if description is not KEEP:
            description = self.checks.text(description)
        with self.levels.lock:
            level = self.levels.top
            level.current += by
            if description is not KEEP:
                level.description = description
        if self.must_notify:
            self._notify()

    @property
    def resumed(self) -> bool:
        """Whether an earlier attempt has done a part of what can be gone on from."""
        wait_for_start(self)
        return self.resumption().is_resumed

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
            ``queryset.iterator()`` and ``queryset.count()`` as the total, or use `resume`. With `resume`, querysets are
            read in pieces, by their primary key or the one unique field in ``order_by``, and may be used by
            ``async for``, as may asynchronous iterables; or a function of a cursor (None at the start) that yields
            ``(item, cursor)``, where the cursor is JSON that finds what follows the item.
          total: The number of items. Defaults to ``len(iterable)``, or to unknown if it has no length.
          description: The current activity. Defaults to the last one.
          resume: True in an actor with one such loop; otherwise a name for each. A loop with a new name begins at the
            start. Files and iterators must give the same items in each attempt.
          batch: Give lists of this many items. The bar counts items.

        Raises:
          InvalidReport: As for `set_progress`; also for a loop that can't be gone on from: its name was used before in
            this attempt, it is in the body of another such loop or in a transaction, or no row of its queryset can be
            found by the order. Otherwise such a loop begins at the start in each attempt.
        """
        if resume is not False or batch is not None or callable(iterable):
            loop = self._new_loop()
            return begin(self, Request.of(self, iterable, total, description, resume, batch), loop)
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
        if self.levels.top.loop is not None:
            loop.is_nested = self.levels.is_in_body()
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
          fn: The function; await this method if it is asynchronous.

        Raises:
          InvalidReport: As for `track` with `resume`. Otherwise the function is called.
          TypeError: The second argument isn't callable.
        """
        if not callable(fn):
            raise TypeError(f"once({name!r}, …) takes a function, and calls it: pass f, not f(). Got {show(fn)}.")
        if inspect.iscoroutinefunction(fn):
            return self._await_once(name, fn)
        wait_for_start(self)
        if self.resumption().begin_call(name):
            fn()
            self.resumption().note_over(name)
            self.note_change()
        return None

    async def _await_once(self, name: str, fn: Callable[[], Coroutine[Any, Any, object]]) -> None:
        await wait_for_start_in_loop(self)
        if self.resumption().begin_call(name):
            await fn()
            self.resumption().note_over(name)
            self.note_change()

    def _count(
        self, iterable: Iterable[T], loop: Loop, total: Number | Decimal | None, description: str | Keep
    ) -> Generator[T]:
        level = self.levels.begin_loop(loop)
        try:
            if loop.is_nested:
                self.set_progress(0, total, description)
            # The hot loop of this package: no lock (setting an attribute is atomic) and no call without a reason.
            for count, item in enumerate(iterable, 1):
                yield item
                level.current = count
                if self.must_notify:
                    self._notify()
        finally:
            if self.levels.is_used:
                self.levels.end_loop(loop, level)
                self.note_change(may_cancel=False)
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
        plan = make_plan(names, weights, self.checks)
        if self.levels.is_over:
            reason = "all of the work is done already; name all steps in one call, or call steps() inside a step"
            self.checks.ignore("steps", names, reason)
        self.levels.split()
        self.note_change()
        return tuple(Step(self, plan, index) for index in range(len(plan.names)))

    def set_title(self, title: str) -> None:
        """Name the job for users, from now on and in later attempts.

        Parameters:
          title: Plain text, cut at 200 characters. Empty: the actor's title, or its name in words.

        Raises:
          InvalidReport: A list or a dict, or what can't be converted to text. See the class for when.
        """
        text = self.checks.text(title, "title")
        if text is not KEEP:
            self._title = shown_title_text(text)
            if self.must_notify:
                self._notify()

    def set_metadata(self, **values: Any) -> None:
        """Merge values into the message's metadata, which the page may show.

        Metadata survives retries. The limit is 16 KiB of JSON in total.

        Raises:
          InvalidReport: Values that DjangoJSONEncoder can't serialise, or over the limit. See the class for when.
        """
        try:
            # Outside the lock, which the recorder takes too: encoding runs code of the project's.
            encoded = json.loads(encode(values, MAX_METADATA_BYTES))
            with self._lock:
                self._metadata = merged(json.loads(self._metadata), encoded)
        except Exception as error:  # any error of a value while it is encoded
            self.checks.ignore("metadata", values, reason_of(error))
            return
        if self.must_notify:
            self._notify()

    def set_result(self, value: Any) -> None:
        """Set the public result, which the page receives when the actor succeeds.

        The value must be serialisable by DjangoJSONEncoder and at most 64 KiB. Otherwise it is ignored and a warning is
        logged; the job isn't affected.
        """
        try:
            self._result = encode(value, MAX_RESULT_BYTES)
        except Exception as error:  # any error of a value while it is encoded
            logger.warning(
                "Ignoring the result of %s; the page will show none. Pass a smaller or JSON-serialisable value to "
                "set_result(): %s",
                self.checks.source,
                error,
            )

    def __reduce__(self) -> Any:
        return _unpickled, (self.checks.actor_name, self.message_id)


def _unpickled(actor_name: str, message_id: str | None) -> ProgressObserver:
    """Return the observer that a process receives from another: it keeps values, and ignores reports with a warning."""
    observer = ProgressObserver(actor_name=actor_name, strict=message_id is None)
    if message_id is not None:
        observer.checks.message_id, observer._process = message_id, 0
        observer.must_notify = True
    return observer

"""Loops of `ProgressObserver.track` that can be resumed, or give their items in batches."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models.manager import BaseManager

from dramatiq_progress.error_texts import show
from dramatiq_progress.event_loop import in_event_loop
from dramatiq_progress.progress_values import Number
from dramatiq_progress.worker.observing.reports import KEEP, Checks, Keep
from dramatiq_progress.worker.observing.spans import Level, Loop
from dramatiq_progress.worker.starting import wait_for_start, wait_for_start_in_loop
from dramatiq_progress.worker.validation import MAX_NAME_CHARACTERS, is_name, length_of

from .querysets import Order, is_queryset
from .resumption import Place
from .sources import Entry, async_batches, async_entries, batches, entries, is_asynchronous, is_function, items_from

if TYPE_CHECKING:
    from dramatiq_progress.worker.observing.binding import Binding
    from dramatiq_progress.worker.observing.observer import ProgressObserver


class Request(NamedTuple):
    """One call of `track`.

    Attributes:
      source: An iterable, a queryset, or a function of a cursor.
      total: The number of items; None if it is unknown.
      description: The current activity.
      name: The loop's name; None if it can't be resumed.
      batch: The number of items that the body gets at once; None: one, and not as a list.
      order: The order of a queryset that can be resumed.
    """

    source: Any
    total: Number | Decimal | Keep | None
    description: str | Keep
    name: str | None
    batch: int | None
    order: Order | None

    @classmethod
    def of(
        cls,
        checks: Checks,
        source: Any,
        total: Number | Decimal | Keep | None,
        description: str | Keep,
        resume: object,
        batch: object,
    ) -> Request:
        """Return the request of these arguments of `track`; what is invalid among them is reported.

        Raises:
          InvalidReport: See `ProgressObserver` for when. Otherwise the loop can't be resumed, or has batches of 1.
          TypeError: The source is a manager.
        """
        if isinstance(source, BaseManager):
            raise TypeError(f"track({show(source)}) got a manager, which has no rows of its own: use .all().")
        name, order = name_of(resume, checks), None
        if name is not None and is_queryset(source):
            try:
                order = Order.of(source)
            except ValueError as error:
                checks.ignore("resume", resume, f"this queryset can't be resumed, since {error}")
                name = None
        if batch is not None and (type(batch) is not int or batch < 1):
            checks.ignore("batch", batch, "it must be a whole number of at least 1")
            batch = 1
        if total is KEEP and order is None:
            total = length_of(source)
        return cls(source, total, description, name, batch, order)

    @property
    def is_keyed(self) -> bool:
        """Whether a value finds the next item, and not its count."""
        return self.order is not None or is_function(self.source)

    def rest(self, value: Any) -> Any:
        """Return the rows of a queryset after a key, which are to be counted; None if the total needs no query.

        Those before it may have left the queryset since they were done: deleted, or changed by the body.
        """
        return self.order.after(self.source, value) if self.total is KEEP and self.order is not None else None


def begin(observer: ProgressObserver, request: Request, loop: Loop) -> Any:
    """Return the items: an iterator, or an asynchronous one if the source is, or both it and its caller can be."""
    items: Any
    if is_asynchronous(request.source) or (hasattr(type(request.source), "__aiter__") and in_event_loop()):
        items = AsyncItems(observer, request, loop)
    else:
        items = _items(observer, request, loop)
    loop.generator = weakref.ref(items)
    return items


def _items(observer: ProgressObserver, request: Request, loop: Loop) -> Generator[Any]:
    binding = observer._binding
    if request.name is not None:
        # Before a late start is recorded, which would drop a pause otherwise.
        binding.note_resumable()
        wait_for_start(binding)
    place = _place(binding, request)
    if place is None:
        return
    level = binding.levels.begin_loop(loop)
    try:
        count, value = _position(request, place)
        rest = request.rest(value)
        total = request.total if rest is None else count + rest.count()
        observer.set_progress(count, total, request.description)
        if request.batch is None and not request.is_keyed:
            # The hot loop: as that of `track`, with the place in one attribute.
            for done, item in enumerate(items_from(request.source, count), count + 1):
                yield item
                place.reached = level.current = done
                if binding.must_notify:
                    _note_item(binding, place, done)
        else:
            found = entries(request.source, request.order, count, value, _keep_of(binding, request))
            is_batched = request.batch is not None
            for item, count, reached in found if request.batch is None else batches(found, request.batch):
                if is_batched:
                    loop.item_size = len(item)
                yield item
                # As `_pass` does, without a call for each item.
                level.current = count
                if reached is not None:
                    place.reached = reached
                if binding.must_notify:
                    _note_item(binding, place, count)
        _end(binding, request, place)
    finally:
        _close(binding, loop, level, place)


class AsyncItems(AsyncIterator[Any]):
    """The items for an ``async for``.

    A class: an asynchronous generator that is left by ``break`` is closed too late, by the event loop.
    """

    def __init__(self, observer: ProgressObserver, request: Request, loop: Loop) -> None:
        self._observer = observer
        self._request = request
        self._loop = loop
        self._level: Level | None = None
        self._place: Place | None = None
        self._found: AsyncIterator[Entry] | None = None
        self._last: tuple[int, Any] | None = None
        self.is_in_body = False

    def __iter__(self) -> Iterator[Any]:
        """Return the items for a ``for``, which can read a queryset whose rows are loaded too.

        Raises:
          TypeError: Only ``async for`` can read them.
        """
        request = self._request
        if request.order is not None or is_asynchronous(request.source):
            kind = type(request.source).__name__
            raise TypeError(f"track() of a {kind} is read by `async for` here, and not by `for`.")
        items = _items(self._observer, request, self._loop)
        self._loop.generator = weakref.ref(items)
        return items

    async def __anext__(self) -> Any:
        observer, request = self._observer, self._request
        binding = observer._binding
        self.is_in_body = False
        try:
            if self._found is None:
                if request.name is not None:
                    binding.note_resumable()
                    await wait_for_start_in_loop(binding)
                self._place = _place(binding, request)
                if self._place is None:
                    raise StopAsyncIteration
                self._level = binding.levels.begin_loop(self._loop)
                count, value = _position(request, self._place)
                rest = request.rest(value)
                total = request.total if rest is None else count + await rest.acount()
                observer.set_progress(count, total, request.description)
                found = async_entries(request.source, request.order, count, value, _keep_of(binding, request))
                self._found = found if request.batch is None else async_batches(found, request.batch)
            elif self._last is not None and self._level is not None and self._place is not None:
                last, self._last = self._last, None
                _pass(binding, self._level, self._place, *last)
            try:
                item, count, reached = await anext(self._found)
                self._last = count, reached
                if request.batch is not None:
                    self._loop.item_size = len(item)
            except StopAsyncIteration:
                if self._place is not None:
                    _end(binding, request, self._place)
                raise
            self.is_in_body = True
            return item
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        # Left by `break`, `return` or an exception.
        self.close()

    def close(self) -> None:
        """End the loop at the item that it is at."""
        if self._level is not None and self._place is not None:
            level, self._level = self._level, None
            _close(self._observer._binding, self._loop, level, self._place)


def _place(binding: Binding, request: Request) -> Place | None:
    """Return the place that a loop begins at; None if an earlier attempt has done all of it."""
    if request.name is None:
        return Place("", 0)
    if binding.interruption.has_yielded:
        # The actor has swallowed the exception, and begins its next loop.
        binding.interruption.check_yield(binding.message_id)
    return binding.resumption().begin_loop(request.name)


def _keep_of(binding: Binding, request: Request) -> Callable[[Any], Any]:
    """Return what keeps the values that find the next item. Only those of a loop with a name are ever stored."""
    return (lambda value: value) if request.name is None else binding.resumption().keep_value


def _position(request: Request, place: Place) -> tuple[int, Any]:
    """Return the number of items that are done, and what finds the next one."""
    if request.is_keyed != isinstance(place.reached, tuple):
        # The actor has another kind of source than in the attempt before.
        place.reached = 0
    return place.count_and_value


def _pass(binding: Binding, level: Level, place: Place, count: int, reached: Any) -> None:
    """Note that an item, or a batch, is done."""
    level.current = count
    if reached is not None:
        place.reached = reached
    if binding.must_notify:
        _note_item(binding, place, count)


def _note_item(binding: Binding, place: Place, count: int) -> None:
    """Note that an item is done, the last of this many, and end the loop here if it is to yield and can be resumed."""
    binding.note_change()
    if binding.interruption.yields and binding.can_end(place, count):
        binding.interruption.check_yield(binding.message_id)


def _end(binding: Binding, request: Request, place: Place) -> None:
    """Note that all items are done."""
    if request.name is not None:
        binding.resumption().end_loop(place)


def _close(binding: Binding, loop: Loop, level: Level, place: Place) -> None:
    place.is_running = False
    if binding.levels.is_used:
        binding.levels.end_loop(loop, level)
    elif level.loop is loop:
        level.loop = None
    binding.note_change(may_cancel=False)


def name_of(resume: object, checks: Checks) -> str | None:
    """Return the name of a loop: that of ``resume=True`` is empty. None if it can't be resumed."""
    if resume is False or resume is None:
        return None
    if resume is True:
        return ""
    if is_name(resume):
        return resume
    checks.ignore("resume", resume, f"it must be True, or a name of 1 to {MAX_NAME_CHARACTERS} characters")
    return None

"""The sources of a loop that can be resumed: each item with the place after it.

An entry is ``(item, count, reached)``: the number of items up to this one, and what `resumption.Place.reached` is once
it is done; None if there is no place to go on from after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from dramatiq_progress.error_texts import show
from dramatiq_progress.worker.observing.functions import is_async_generator_function

from .querysets import Order, async_rows, rows

Entry = tuple[Any, int, Any]


def is_function(source: object) -> bool:
    """Return whether a source is a function of a cursor: callable, and no iterable as an enumeration is.

    A class that makes iterables is such a function, so the methods of its own type count.
    """
    return callable(source) and not hasattr(type(source), "__iter__") and not hasattr(type(source), "__aiter__")


def is_asynchronous(source: Any) -> bool:
    """Return whether a source can only be read by ``async for``."""
    if is_function(source) and is_async_generator_function(source):
        return True
    return hasattr(source, "__aiter__") and not hasattr(source, "__iter__")


def items_from(source: Iterable[Any], count: int) -> Iterator[Any]:
    """Return the items of an iterable after the first `count`: by index where it has one, otherwise by skipping."""
    if not count:
        return iter(source)
    if isinstance(source, Sequence):
        return map(source.__getitem__, range(count, len(source)))
    return islice(source, count, None)


def entries(source: Any, order: Order | None, count: int, value: Any, keep: Callable[[Any], Any]) -> Iterator[Entry]:
    """Return the entries of a source after the place that an earlier attempt has reached.

    Parameters:
      source: An iterable, a queryset, or a function of a cursor that yields ``(item, cursor)``.
      order: The order of a queryset that can be resumed.
      count: The number of items that are done.
      value: What finds the next one.
      keep: Returns each cursor of a function as it is kept, until it is stored.
    """
    if order is not None:
        return rows(order, source, count, value)
    if is_function(source):
        return _pairs(source, count, value, keep)
    return ((item, done, done) for done, item in enumerate(items_from(source, count), count + 1))


def async_entries(
    source: Any, order: Order | None, count: int, value: Any, keep: Callable[[Any], Any]
) -> AsyncIterator[Entry]:
    """Return the entries of a source, as `entries` does, in a running event loop."""
    if order is not None:
        return async_rows(order, source, count, value)
    if is_function(source):
        return _async_pairs(source, count, value, keep)
    return _async_items(source, count)


class Batch:
    """A list of items that is being filled, with the place after the last one that has any.

    Parameters:
      size: How many items fill it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: list[Any] = []
        self._count = 0
        self._reached: Any = None

    def add(self, entry: Entry) -> bool:
        """Add the item of an entry, and return whether the batch is full."""
        item, self._count, reached = entry
        self._items.append(item)
        self._reached = self._reached if reached is None else reached
        return len(self._items) == self._size

    def take(self) -> Iterator[Entry]:
        """Yield the batch as one entry, unless it is empty, and begin the next one."""
        if self._items:
            taken, self._items = self._items, []
            reached, self._reached = self._reached, None
            yield taken, self._count, reached


def batches(found: Iterator[Entry], size: int) -> Iterator[Entry]:
    """Yield lists of items, each with the place after the last one."""
    batch = Batch(size)
    for entry in found:
        if batch.add(entry):
            yield from batch.take()
    yield from batch.take()


async def async_batches(found: AsyncIterator[Entry], size: int) -> AsyncIterator[Entry]:
    """Yield lists of items, as `batches` does."""
    batch = Batch(size)
    async for entry in found:
        if batch.add(entry):
            for full in batch.take():
                yield full
    for rest in batch.take():
        yield rest


def _pairs(source: Any, count: int, value: Any, keep: Callable[[Any], Any]) -> Iterator[Entry]:
    for pair in source(value):
        item, cursor = _pair(source, pair)
        count += 1
        yield item, count, None if cursor is None else (count, keep(cursor))


async def _async_pairs(source: Any, count: int, value: Any, keep: Callable[[Any], Any]) -> AsyncIterator[Entry]:
    async for pair in source(value):
        item, cursor = _pair(source, pair)
        count += 1
        yield item, count, None if cursor is None else (count, keep(cursor))


async def _async_items(source: Any, count: int) -> AsyncIterator[Entry]:
    passed = 0
    async for item in source:
        passed += 1
        if passed > count:
            yield item, passed, passed


def _pair(source: Any, pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        name = getattr(source, "__name__", source)
        raise TypeError(f"track({name}): the function must yield pairs, (item, cursor), and has yielded {show(pair)}.")
    item, cursor = pair
    return item, cursor

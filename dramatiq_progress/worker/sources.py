"""The sources of a loop that can be gone on from: each item with the place after it.

An entry is ``(item, count, reached)``: the number of items up to this one, and what `resuming.Place.reached` is once it
is done; None if there is no place to go on from after it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist
from django.db.models import BinaryField, CompositePrimaryKey, Field, JSONField, QuerySet
from django.db.models.query import (
    FlatValuesListIterable,
    ModelIterable,
    NamedValuesListIterable,
    ValuesIterable,
    ValuesListIterable,
)

from dramatiq_progress.error_texts import show

#: A queryset is read in pieces of this many rows, so that no query stays open during the work.
PIECE_ROWS = 2_000

#: Keys that are JSON. A constant, since ``int | str | float`` would be made for each row.
PLAIN = (int, str, float)

Entry = tuple[Any, int, Any]


def is_asynchronous(source: object) -> bool:
    """Return whether a source can only be read by ``async for``."""
    called = source.__call__ if callable(source) and not inspect.isroutine(source) else source
    if inspect.isasyncgenfunction(called):
        return True
    return hasattr(source, "__aiter__") and not hasattr(source, "__iter__")


def items_from(source: Iterable[Any], count: int) -> Iterator[Any]:
    """Return the items of an iterable after the first `count`: by index where it has one, otherwise by skipping."""
    if not count:
        return iter(source)
    if isinstance(source, Sequence):
        return map(source.__getitem__, range(count, len(source)))
    return islice(source, count, None)


def is_queryset(source: object) -> bool:
    """Return whether a source is a queryset."""
    return isinstance(source, QuerySet)


def entries(source: Any, order: Order | None, count: int, value: Any, check: Callable[[Any], None]) -> Iterator[Entry]:
    """Return the entries of a source after the place that an earlier attempt has reached.

    Parameters:
      source: An iterable, a queryset, or a function of a cursor that yields ``(item, cursor)``.
      order: The order of a queryset that can be gone on from.
      count: The number of items that are done.
      value: What finds the next one.
      check: Receives each cursor of a function.
    """
    if order is not None:
        return _rows(order, source, count, value)
    if callable(source):
        return _pairs(source, count, value, check)
    return ((item, done, done) for done, item in enumerate(items_from(source, count), count + 1))


async def async_entries(
    source: Any, order: Order | None, count: int, value: Any, check: Callable[[Any], None]
) -> AsyncIterator[Entry]:
    """Yield the entries of a source, as `entries` does, in a running event loop."""
    if order is not None:
        while True:
            piece = [row async for row in order.piece(source, value)]
            for row in piece:
                count, value = count + 1, order.key(row)
                yield row, count, (count, value)
            if len(piece) < PIECE_ROWS:
                return
    elif callable(source):
        async for pair in source(value):
            item, cursor = _pair(source, pair)
            count += 1
            check(cursor)
            yield item, count, None if cursor is None else (count, cursor)
    else:
        passed = 0
        async for item in source:
            passed += 1
            if passed > count:
                yield item, passed, passed


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


def _pairs(source: Any, count: int, value: Any, check: Callable[[Any], None]) -> Iterator[Entry]:
    for pair in source(value):
        item, cursor = _pair(source, pair)
        count += 1
        check(cursor)
        yield item, count, None if cursor is None else (count, cursor)


def _pair(source: Any, pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        name = getattr(source, "__name__", source)
        raise TypeError(f"track({name}): the function must yield pairs, (item, cursor), and has yielded {show(pair)}.")
    item, cursor = pair
    return item, cursor


def _rows(order: Order, queryset: QuerySet[Any], count: int, value: Any) -> Iterator[Entry]:
    key = order.key
    while True:
        piece = list(order.piece(queryset, value))
        for row in piece:
            # Before the body: `row.delete()` sets the key to None.
            count, value = count + 1, key(row)
            yield row, count, (count, value)
        if len(piece) < PIECE_ROWS:
            return


class Order(NamedTuple):
    """The order that finds the row after another one: by one unique field.

    Attributes:
      name: The field, as filters have it.
      fields: The columns of the key: one, except of a composite primary key.
      is_descending: Whether the largest comes first.
      key: Returns the key of a row, as JSON has it.
    """

    name: str
    fields: tuple[Field[Any, Any], ...]
    is_descending: bool
    key: Callable[[Any], Any]

    @classmethod
    def of(cls, queryset: QuerySet[Any]) -> Order:
        """Return the order of a queryset: its ``order_by``, otherwise the primary key (``Meta.ordering`` isn't used).

        Raises:
          ValueError: No row after another one can be found by it, with the reason and the repair.
        """
        query = queryset.query
        if query.is_sliced:
            raise ValueError("it is sliced; filter it instead")
        if query.combinator:
            raise ValueError(f"it is a {query.combinator} of several; go through one after another")
        if query.distinct_fields:
            raise ValueError("it is distinct on some fields; use distinct() without any")
        if query.group_by is not None:
            raise ValueError("it groups rows (an annotation that aggregates); annotate in the loop, or by a subquery")
        if len(query.order_by) > 1 or query.extra_order_by:
            raise ValueError('it is ordered by several fields; use one that is unique, such as order_by("pk")')
        given = query.order_by[0] if query.order_by else "pk"
        if not isinstance(given, str) or given == "?":
            raise ValueError('it is ordered by an expression; use a field that is unique, such as order_by("pk")')
        name = given.lstrip("+-")
        field = _field(queryset, name)
        fields: tuple[Any, ...] = tuple(field.fields) if isinstance(field, CompositePrimaryKey) else (field,)
        if unreadable := next((each for each in fields if _is_unreadable(each)), None):
            kind = type(unreadable).__name__
            raise ValueError(f"it is ordered by a {kind}, whose values no text keeps; use another unique field")
        return cls(name, fields, given.startswith("-"), _key(queryset, name, field, fields))

    def piece(self, queryset: QuerySet[Any], value: Any) -> QuerySet[Any]:
        """Return the next rows after a key, or the first ones."""
        ordered = queryset.order_by(f"-{self.name}" if self.is_descending else self.name)
        if value is not None:
            found = tuple(field.to_python(each) for field, each in zip(self.fields, self._columns(value), strict=True))
            operator = "lt" if self.is_descending else "gt"
            ordered = ordered.filter(**{f"{self.name}__{operator}": found if len(found) > 1 else found[0]})
        return ordered[:PIECE_ROWS]

    def _columns(self, value: Any) -> list[Any]:
        return value if len(self.fields) > 1 else [value]


def _field(queryset: QuerySet[Any], name: str) -> Field[Any, Any]:
    meta = queryset.model._meta
    try:
        field = meta.pk if name == "pk" else meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    if not isinstance(field, Field) or not field.unique or field.null:
        raise ValueError(
            f'it is ordered by "{name}", which is no unique field of its own without NULL; use order_by("pk")'
        )
    if field.is_relation and name not in ("pk", field.attname):
        # Django orders by the other model's `Meta.ordering`.
        raise ValueError(f'it is ordered by "{name}", which is another model; use order_by("{field.attname}")')
    return field


def _is_unreadable(field: Field[Any, Any]) -> bool:
    # Those with a base field are PostgreSQL's arrays and ranges.
    return isinstance(field, BinaryField | JSONField) or hasattr(field, "base_field")


def _key(
    queryset: QuerySet[Any], name: str, field: Field[Any, Any], fields: tuple[Field[Any, Any], ...]
) -> Callable[[Any], Any]:
    """Return a function that returns the key of a row of a queryset."""
    kind = queryset._iterable_class
    names = {name, field.name, field.attname} | ({"pk"} if field.primary_key else set())
    if issubclass(kind, ModelIterable):
        if len(fields) > 1:
            attributes = [each.attname for each in fields]
            return lambda row: [_as_json(getattr(row, each)) for each in attributes]
        attribute = field.attname

        # As `_as_json` does, without a call for each row.
        def attribute_as_json(row: Any) -> Any:
            value = getattr(row, attribute)
            return value if isinstance(value, PLAIN) else str(value)

        return attribute_as_json
    columns = list(
        queryset._fields  # type: ignore[attr-defined]  # not in its stubs
        or [each.attname for each in queryset.model._meta.concrete_fields]
    )
    found = next((each for each in columns if each in names), None)
    if found is None or len(fields) > 1:
        raise ValueError(f'its values don\'t have the field that it is ordered by; add "{name}" to them')
    if issubclass(kind, ValuesIterable):
        return lambda row: _as_json(row[found])
    if issubclass(kind, FlatValuesListIterable):
        return _as_json
    if issubclass(kind, ValuesListIterable | NamedValuesListIterable):
        position = columns.index(found)
        return lambda row: _as_json(row[position])
    raise ValueError("its rows are of an unknown kind; use a queryset of models, values() or values_list()")


def _as_json(value: Any) -> Any:
    # Each field reads the text of its own values.
    return value if isinstance(value, PLAIN) else str(value)

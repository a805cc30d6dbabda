"""The rows of a queryset that a loop can go on from: in pieces, by an order that finds the row after another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist
from django.db.models import (
    BinaryField,
    CompositePrimaryKey,
    Field,
    ForeignObjectRel,
    IntegerField,
    JSONField,
    QuerySet,
)
from django.db.models.expressions import Col
from django.db.models.query import (
    FlatValuesListIterable,
    ModelIterable,
    NamedValuesListIterable,
    ValuesIterable,
    ValuesListIterable,
)

#: A queryset is read in pieces of this many rows, so that no query stays open during the work.
PIECE_ROWS = 2_000

#: Keys that are JSON. A constant, since ``int | str | float`` would be made for each row.
PLAIN = (int, str, float)

#: A row, the number of rows up to it, and the place after it: that number and its key.
Row = tuple[Any, int, tuple[int, Any]]


def is_queryset(source: object) -> bool:
    """Return whether a source is a queryset."""
    return isinstance(source, QuerySet)


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
        if query.where.contains_over_clause or any(
            each.contains_over_clause for each in query.annotation_select.values()
        ):
            # The key is compared in WHERE, before the window is computed.
            raise ValueError(
                "it has a window function, which would begin again with each piece and each attempt; "
                "use a subquery that aggregates, or a filter by pk__in"
            )
        if (found := _selected_of_many(query)) is not None:
            raise ValueError(
                f"it selects {found} over a relation to many, so several rows have the same key; "
                "use prefetch_related() or a subquery"
            )
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
            raise ValueError(f"it is ordered by a {kind}, which can't be stored as text; use another unique field")
        # `reverse()` leaves the names as they are.
        is_descending = given.startswith("-") == query.standard_ordering
        return cls(name, fields, is_descending, _key(queryset, name, field, fields))

    def piece(self, queryset: QuerySet[Any], value: Any) -> QuerySet[Any]:
        """Return the next rows after a key, or the first ones."""
        ordered = queryset.order_by(f"-{self.name}" if self.is_descending else self.name)
        if not ordered.query.standard_ordering:
            # `order_by` doesn't undo it.
            ordered = ordered.reverse()
        return self.after(ordered, value)[:PIECE_ROWS]

    def after(self, queryset: QuerySet[Any], value: Any) -> QuerySet[Any]:
        """Return the rows after a key, or all of them."""
        if value is None:
            return queryset
        found = tuple(field.to_python(each) for field, each in zip(self.fields, self._columns(value), strict=True))
        operator = "lt" if self.is_descending else "gt"
        return queryset.filter(**{f"{self.name}__{operator}": found if len(found) > 1 else found[0]})

    def _columns(self, value: Any) -> list[Any]:
        return value if len(self.fields) > 1 else [value]


def rows(order: Order, queryset: QuerySet[Any], count: int, value: Any) -> Iterator[Row]:
    """Yield the rows after a key, or all of them.

    Parameters:
      count: The number of rows before.
      value: The key; None at the start.
    """
    while True:
        piece = list(order.piece(queryset, value))
        # Each key is read before the body: `row.delete()` sets it to None.
        for row, value in zip(piece, map(order.key, piece), strict=True):
            count += 1
            yield row, count, (count, value)
        if len(piece) < PIECE_ROWS:
            return


async def async_rows(order: Order, queryset: QuerySet[Any], count: int, value: Any) -> AsyncIterator[Row]:
    """Yield the rows, as `rows` does, in a running event loop."""
    while True:
        piece = [row async for row in order.piece(queryset, value)]
        for row in piece:
            count, value = count + 1, order.key(row)
            yield row, count, (count, value)
        if len(piece) < PIECE_ROWS:
            return


def _selected_of_many(query: Any) -> str | None:
    """Return what a query selects over a relation to many; None if each of its rows has a key of its own.

    A filter over such a relation repeats rows too, but the repeated ones are equal.
    """
    for column in _columns([*query.select, *query.annotation_select.values()]):
        alias = column.alias
        while alias in query.alias_map:
            join = query.alias_map[alias]
            # The table of the model itself has no `join_field`.
            if _is_to_many(getattr(join, "join_field", None)):
                return str(column.target)
            alias = join.parent_alias
    # `select_related` joins them when the query is compiled. Other relations to many can't be given to it.
    for name in query.select_related if isinstance(query.select_related, dict) else ():
        if name in query._filtered_relations:
            path = query._filtered_relations[name].relation_name.split("__")
            if any(_is_to_many(step.join_field) for step in query.names_to_path(path, query.get_meta())[0]):
                return f'"{name}"'
    return None


def _columns(expressions: Iterable[Any]) -> Iterator[Any]:
    """Yield the columns of a query that its expressions contain, also those that a subquery refers to."""
    for expression in expressions:
        if isinstance(expression, Col):
            yield expression
        elif hasattr(expression, "get_external_cols"):
            yield from expression.get_external_cols()
        elif hasattr(expression, "get_source_expressions"):
            yield from _columns(expression.get_source_expressions())


def _is_to_many(join_field: Any) -> bool:
    # A many-to-many relation is joined by two of these: backwards to the rows between, and forwards from them.
    return isinstance(join_field, ForeignObjectRel) and not join_field.field.unique


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
        loaded: Any = queryset.query.get_select_mask()  # empty: all fields
        if loaded and (missing := next((each for each in fields if each not in loaded), None)):
            # Each row would cost a query.
            raise ValueError(
                f'its rows are without the field that it is ordered by; add "{missing.attname}" to only(), or take it '
                "out of defer()"
            )
        if len(fields) > 1:
            attributes = [each.attname for each in fields]
            return lambda row: [_as_json(getattr(row, each)) for each in attributes]
        attribute = field.attname
        if isinstance(field, IntegerField) and not hasattr(field, "from_db_value"):
            return attrgetter(attribute)

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
    if found is None and issubclass(kind, FlatValuesListIterable):
        raise ValueError(
            f"its values don't have the field that it is ordered by; leave out `flat`, and add it: "
            f'values_list("{name}", "{columns[0]}")'
        )
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

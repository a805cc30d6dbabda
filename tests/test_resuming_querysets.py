"""Loops over querysets that go on where an earlier attempt got to, by each kind of key and on each kind of database."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.db.models import Case, Count, Exists, F, FilteredRelation, OuterRef, Q, Subquery, Sum, Value, When, Window
from django.db.models.functions import RowNumber

from dramatiq_progress import InvalidReport, ProgressObserver
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.resuming.querysets import Order
from tests import databases

ROWS, PIECE_ROWS = 100, 20

#: A collation for which the two cases of a letter are equal, by the vendor of the database.
CASELESS = {"sqlite": "NOCASE", "postgresql": "caseless", "mysql": "utf8mb4_unicode_520_ci"}
#: Letters whose order isn't that of their code points.
INITIALS = ("t", "T", "e", "É", "-a", "ß", "z z")


class Thing(models.Model):  # noqa: DJ008
    """One unique field of each kind."""

    uuid = models.UUIDField(unique=True, default=uuid.uuid4)
    text = models.CharField(max_length=20, unique=True)
    caseless = models.CharField(max_length=20, unique=True, db_collation=CASELESS["sqlite"])
    day = models.DateField(unique=True)
    moment = models.DateTimeField(unique=True)
    hour = models.TimeField(unique=True)
    span = models.DurationField(unique=True)
    amount = models.DecimalField(unique=True, max_digits=12, decimal_places=4)
    number = models.FloatField(unique=True)
    address = models.GenericIPAddressField(unique=True)
    other = models.IntegerField(default=0)
    maybe = models.IntegerField(unique=True, null=True)

    class Meta:
        app_label = "tests"
        ordering = ("other",)


class Cell(models.Model):  # noqa: DJ008
    """A composite key."""

    pk = models.CompositePrimaryKey("day", "column")
    day = models.DateField()
    column = models.CharField(max_length=5)

    class Meta:
        app_label = "tests"


class Part(models.Model):  # noqa: DJ008
    """A key that is another model's, which has an order of its own."""

    thing = models.OneToOneField(Thing, models.CASCADE, primary_key=True)

    class Meta:
        app_label = "tests"


class Blob(models.Model):  # noqa: DJ008
    """Keys that no text keeps. Without a table: MariaDB has no unique fields of these kinds."""

    data = models.BinaryField(unique=True)
    document = models.JSONField(unique=True)
    notes = GenericRelation("tests.Note", related_query_name="blob")

    class Meta:
        app_label = "tests"
        managed = False


class Note(models.Model):  # noqa: DJ008
    """Any number for each row of any model. Without a table too."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.IntegerField()
    of = GenericForeignKey()
    text = models.TextField()

    class Meta:
        app_label = "tests"
        managed = False


TABLES = (Thing, Cell, Part)


@contextmanager
def things(alias: str) -> Iterator[None]:
    """Make rows of each model in a database, whose order by one field is not that by another."""
    connection = connections[alias]
    caseless: Any = Thing._meta.get_field("caseless")
    caseless.db_collation = CASELESS[connection.vendor]
    with connection.schema_editor() as editor:
        for model in TABLES:
            editor.create_model(model)
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    Thing.objects.using(alias).bulk_create(
        Thing(
            text=f"{INITIALS[i % len(INITIALS)]}{i * 7919 % 100_003:06}",
            caseless=f"{'aA'[i % 2]}{i * 6007 % 100_003:06}",
            day=start.date() + datetime.timedelta(days=i * 37 % ROWS),
            moment=start + datetime.timedelta(microseconds=i),
            hour=datetime.time(microsecond=i * 41 % ROWS),
            span=datetime.timedelta(days=i * 43 % ROWS - ROWS // 2, microseconds=i),
            amount=Decimal(i * 47 % ROWS - ROWS // 2) / 1000,
            number=(i - ROWS / 2) / 3 * 10.0 ** (i % 40 - 20),
            address=f"10.0.0.{i * 53 % ROWS}" if i % 2 else f"2001:db8::{i:x}",
        )
        for i in range(ROWS)
    )
    Cell.objects.using(alias).bulk_create(
        Cell(day=start.date() + datetime.timedelta(days=i // 10), column=f"{'cC'[i % 2]}{i % 10}") for i in range(ROWS)
    )
    Part.objects.using(alias).bulk_create(Part(thing=thing) for thing in Thing.objects.using(alias))
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            for model in reversed(TABLES):
                editor.delete_model(model)
        caseless.db_collation = CASELESS["sqlite"]


FIELDS = ("uuid", "text", "caseless", "day", "moment", "hour", "span", "amount", "number", "address")

QUERYSETS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "pk": (lambda: Thing.objects.all(), lambda row: row.pk),
    "-pk": (lambda: Thing.objects.order_by("-pk"), lambda row: row.pk),
    **{
        name: (lambda name=name: Thing.objects.order_by(name), lambda row: row.pk)
        for field in FIELDS
        for name in (field, f"-{field}")
    },
    # `Thing` has an order of its own, which isn't used.
    "reversed": (lambda: Thing.objects.all().reverse(), lambda row: row.pk),
    "pk reversed": (lambda: Thing.objects.order_by("pk").reverse(), lambda row: row.pk),
    "-text reversed": (lambda: Thing.objects.order_by("-text").reverse(), lambda row: row.pk),
    "reversed twice": (lambda: Thing.objects.order_by("text").reverse().reverse(), lambda row: row.pk),
    "reversed before it is ordered": (lambda: Thing.objects.reverse().order_by("-moment"), lambda row: row.pk),
    "reversed values": (lambda: Thing.objects.order_by("text").reverse().values("text"), lambda row: row["text"]),
    "one to one reversed": (lambda: Part.objects.all().reverse(), lambda row: row.pk),
    "composite reversed": (lambda: Cell.objects.all().reverse(), lambda row: row.pk),
    "values": (lambda: Thing.objects.values("id", "text"), lambda row: row["id"]),
    "values_list": (lambda: Thing.objects.order_by("text").values_list("id", "text"), lambda row: row[0]),
    "flat": (lambda: Thing.objects.values_list("pk", flat=True), lambda row: row),
    "named": (lambda: Thing.objects.values_list("pk", "text", named=True), lambda row: row.pk),
    "only": (lambda: Thing.objects.only("other", "text").order_by("text"), lambda row: row.pk),
    "prefetch": (lambda: Thing.objects.prefetch_related("part").order_by("-moment"), lambda row: row.pk),
    "one to one": (lambda: Part.objects.select_related("thing"), lambda row: row.pk),
    "-one to one": (lambda: Part.objects.order_by("-thing_id"), lambda row: row.pk),
    "composite": (lambda: Cell.objects.all(), lambda row: row.pk),
    "-composite": (lambda: Cell.objects.order_by("-pk"), lambda row: row.pk),
    "values of another model": (lambda: Part.objects.values("pk", "thing__text"), lambda row: row["pk"]),
    "values of another model backwards": (lambda: Thing.objects.values("pk", "part__pk"), lambda row: row["pk"]),
    "subquery": (
        lambda: Thing.objects.annotate(of=Subquery(Part.objects.filter(thing=OuterRef("pk")).values("pk"))),
        lambda row: row.of,
    ),
    # The repairs of a window.
    "running number": (
        lambda: Thing.objects.annotate(
            place=Subquery(
                Thing.objects.filter(pk__lte=OuterRef("pk"))
                .order_by()
                .annotate(all=Value(1))
                .values("all")
                .annotate(n=Count("pk"))
                .values("n")
            )
        ),
        lambda row: (row.pk, row.place),
    ),
    "filter by a window": (
        lambda: Thing.objects.filter(
            pk__in=Thing.objects.annotate(place=Window(RowNumber(), order_by="pk")).filter(place__gt=0).values("pk")
        ),
        lambda row: row.pk,
    ),
}


#: The numbers of rows after which an attempt ends: around every boundary of a piece.
STOPS = (*(n for around in range(0, ROWS, PIECE_ROWS) for n in (around - 1, around, around + 1)), 10**6)


def interrupted(name: str, alias: str) -> tuple[list[Any], list[Any]]:
    """Go through a queryset by attempts that end around every boundary; return the rows they saw, and all in order."""
    make, key = QUERYSETS[name]
    queryset = make().using(alias)
    text, seen = "", []
    for stop in STOPS:
        observer = going_on(text)
        for row in observer.track(queryset, resume=True):
            if len(seen) >= stop:
                break
            seen.append(key(row))
        text = observer._binding.resumption().text(1)
        assert (observer.total, observer.current) == (ROWS, len(seen))
    return seen, in_order(name, queryset)


async def interrupted_in_a_loop(name: str) -> list[Any]:
    """Go through a queryset by asynchronous attempts, as `interrupted` does, and return the rows they saw."""
    make, key = QUERYSETS[name]
    text, seen = "", []
    for stop in STOPS:
        observer = going_on(text)
        async for row in observer.track(make(), resume=True):
            if len(seen) >= stop:
                break
            seen.append(key(row))
        text = observer._binding.resumption().text(1)
    return seen


def going_on(text: str) -> ProgressObserver:
    """Return the observer of the attempt after the one that has stored this cursor."""
    observer = ProgressObserver()
    observer._binding._go_on({"cursor": text} if text else {})
    return observer


def in_order(name: str, queryset: Any) -> list[Any]:
    """Return all rows of a queryset, by the order that a loop has."""
    return [QUERYSETS[name][1](row) for row in (queryset if queryset.query.order_by else queryset.order_by("pk"))]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_progress.worker.resuming.querysets.PIECE_ROWS", PIECE_ROWS)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", QUERYSETS)
def test_a_queryset_goes_on_by_its_own_order(memory_store: Store, small_pieces: None, name: str) -> None:
    with things("default"):
        seen, expected = interrupted(name, "default")
    assert seen == expected and len(seen) == ROWS


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [name for name in QUERYSETS if "reversed" in name or name.endswith("pk")])
def test_a_queryset_goes_on_by_its_own_order_in_an_event_loop(
    memory_store: Store, small_pieces: None, name: str
) -> None:
    with things("default"):
        seen, expected = async_to_sync(interrupted_in_a_loop)(name), in_order(name, QUERYSETS[name][0]())
    assert seen == expected and len(seen) == ROWS


# One test for each, so that a server is started once in a run.
@pytest.mark.slow(6)
@pytest.mark.parametrize("server", [databases.postgresql, databases.mariadb], ids=lambda server: server.__name__)
def test_a_queryset_of_a_database_server_goes_on_by_its_own_order(
    memory_store: Store,
    small_pieces: None,
    django_db_blocker: Any,
    server: Callable[[], AbstractContextManager[dict[str, Any]]],
) -> None:
    with server() as settings, django_db_blocker.unblock(), database(settings) as alias, things(alias):
        for name in QUERYSETS:
            seen, expected = interrupted(name, alias)
            assert (name, seen) == (name, expected)
            assert len(seen) == ROWS


@contextmanager
def database(settings: dict[str, Any]) -> Iterator[str]:
    """Let Django know a database, and yield its alias."""
    alias = "server"
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: settings})[alias]
    connection = connections[alias]
    try:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                options = "provider = icu, locale = 'und-u-ks-level2', deterministic = false"
                cursor.execute(f"CREATE COLLATION {CASELESS['postgresql']} ({options})")
        yield alias
    finally:
        connection.close()
        del connections[alias], connections.settings[alias]


@pytest.mark.django_db(transaction=True)
def test_rows_may_be_deleted_in_the_loop() -> None:
    with things("default"):
        for row in ProgressObserver().track(Thing.objects.all(), resume=True):
            row.delete()
        assert not Thing.objects.exists()


LEAVING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "changed": (
        lambda: Thing.objects.filter(other=0),
        lambda row: Thing.objects.filter(pk=row.pk).update(other=1),
    ),
    "changed, descending": (
        lambda: Thing.objects.filter(other=0).order_by("-text").values("text"),
        lambda row: Thing.objects.filter(text=row["text"]).update(other=1),
    ),
    "deleted": (lambda: Thing.objects.all(), lambda row: row.delete()),
    "deleted, composite": (lambda: Cell.objects.all(), lambda row: row.delete()),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_total_has_the_rows_that_were_done_and_have_left(
    memory_store: Store, small_pieces: None, name: str, is_async: bool
) -> None:
    make, leave = LEAVING[name]
    shown: list[tuple[Any, Any, Any]] = []

    def handle(observer: ProgressObserver, row: Any) -> None:
        shown.append((observer.current, observer.total, observer.percent))
        if len(shown) == 61:
            raise ZeroDivisionError
        leave(row)

    def attempt(observer: ProgressObserver) -> None:
        for row in observer.track(make(), resume=True):
            handle(observer, row)

    async def attempt_in_a_loop(observer: ProgressObserver) -> None:
        async for row in observer.track(make(), resume=True):
            await sync_to_async(handle)(observer, row)

    run = async_to_sync(attempt_in_a_loop) if is_async else attempt
    with things("default"):
        first = going_on("")
        with pytest.raises(ZeroDivisionError):
            run(first)
        second = going_on(first._binding.resumption().text(1))
        run(second)
        assert not make().exists()
    assert shown == [*((done, 100, float(done)) for done in range(61)), *((n, 100, float(n)) for n in range(60, 100))]
    assert (second.current, second.total, second.percent) == (100, 100, 100.0)


@pytest.mark.django_db(transaction=True)
def test_a_total_that_was_given_stays_in_each_attempt(memory_store: Store) -> None:
    with things("default"):
        first = going_on("")
        for row in first.track(Thing.objects.all(), 400, resume=True):
            if first.current == 60:
                break
            row.delete()
        second = going_on(first._binding.resumption().text(1))
        for _ in second.track(Thing.objects.all(), 400, resume=True):
            assert second.total == 400
    assert (second.current, second.percent) == (100, 25.0)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sliced": (lambda: User.objects.all()[:5], "sliced"),
    "grouped": (lambda: User.objects.annotate(n=Count("groups")), "groups rows"),
    "combined": (lambda: User.objects.all().union(User.objects.all()), "union"),
    "distinct fields": (lambda: User.objects.order_by("username").distinct("username"), "distinct on some fields"),
    "several fields": (lambda: User.objects.order_by("username", "pk"), "several fields"),
    "not unique": (lambda: User.objects.order_by("email"), "no unique field"),
    "null": (lambda: Thing.objects.order_by("maybe"), "without NULL"),
    "ordered as another model": (lambda: Part.objects.order_by("thing"), 'use order_by\\("thing_id"'),
    "binary": (lambda: Blob.objects.order_by("data"), "a BinaryField"),
    "document": (lambda: Blob.objects.order_by("document"), "a JSONField"),
    "of another model": (lambda: User.objects.order_by("groups__name"), "no unique field of its own"),
    "at random": (lambda: User.objects.order_by("?"), "an expression"),
    "expression": (lambda: User.objects.order_by(models.F("username").asc()), "an expression"),
    "not among the values": (lambda: User.objects.values("email"), 'add "pk"'),
    "not the only value": (
        lambda: User.objects.values_list("username", flat=True),
        'leave out `flat`, and add it: values_list\\("pk", "username"\\)',
    ),
    "many to many": (lambda: User.objects.values_list("pk", "groups__name").distinct(), "auth.Group.name .*same key"),
    "many to many backwards": (lambda: Group.objects.values("pk", "user__email"), "auth.User.email .*same key"),
    "keys of many": (lambda: User.objects.values_list("pk", "groups"), "auth.User_groups.group .*same key"),
    "one to many": (lambda: ContentType.objects.values("pk", "permission__name"), "auth.Permission.name .*same key"),
    "many of another": (lambda: Permission.objects.values("pk", "content_type__permission"), "same key"),
    "generic": (lambda: Blob.objects.values("pk", "notes__text"), "tests.Note.text .*same key"),
    "annotated by many": (
        lambda: User.objects.annotate(team=F("groups__name")),
        "prefetch_related\\(\\) or a subquery",
    ),
    "a condition on many": (
        lambda: User.objects.annotate(is_editor=Case(When(groups__name="editors", then=True), default=False)),
        "auth.Group.name .*same key",
    ),
    "a subquery for each of many": (
        lambda: User.objects.annotate(team=Subquery(Group.objects.filter(pk=OuterRef("groups")).values("name"))),
        "auth.User_groups.group .*same key",
    ),
    "a filtered relation": (
        lambda: User.objects.annotate(team=FilteredRelation("groups")).values("pk", "team__name"),
        "auth.Group.name .*same key",
    ),
    "a filtered relation with its rows": (
        lambda: User.objects.annotate(team=FilteredRelation("groups")).select_related("team"),
        '"team" .*same key',
    ),
    "numbered by a window": (
        lambda: User.objects.annotate(place=Window(RowNumber(), order_by="pk")),
        "window function.*use a subquery that aggregates",
    ),
    "summed by a window": (
        lambda: Thing.objects.annotate(sum=F("other") + Window(Sum("amount"), order_by="pk")).values("pk", "sum"),
        "window function",
    ),
    "filtered by a window": (
        lambda: User.objects.alias(place=Window(RowNumber(), order_by="pk")).filter(place__lte=10),
        "window function.*or a filter by pk__in",
    ),
}

#: Querysets over relations that have one row for each key, or equal ones.
OVER_RELATIONS: dict[str, Callable[[], Any]] = {
    "filter": lambda: User.objects.filter(groups__name="editors"),
    "distinct filter": lambda: User.objects.filter(groups__name="editors").distinct(),
    "filter by an alias": lambda: User.objects.alias(team=F("groups__name")).filter(team="editors"),
    "forward": lambda: Permission.objects.values("pk", "content_type__model"),
    "related": lambda: Permission.objects.select_related("content_type"),
    "all related": lambda: Permission.objects.select_related(),
    "related by a filtered relation": lambda: Permission.objects.annotate(
        of=FilteredRelation("content_type", condition=Q(content_type__app_label="auth"))
    ).select_related("of"),
    "generic backwards": lambda: Note.objects.values("pk", "blob__document"),
    "exists": lambda: User.objects.annotate(is_in=Exists(Group.objects.filter(user=OuterRef("pk")))),
    "subquery": lambda: User.objects.annotate(
        team=Subquery(Group.objects.filter(user=OuterRef("pk")).values("name")[:1])
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_queryset_that_has_no_such_order_is_an_error(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(InvalidReport, match=reason):
        ProgressObserver().track(make(), resume=True)


# Deprecated without arguments since Django 6.1, and still possible.
@pytest.mark.filterwarnings("ignore:Calling select_related")
@pytest.mark.parametrize("name", OVER_RELATIONS)
def test_a_queryset_over_relations_has_an_order_if_no_rows_with_the_same_key_differ(name: str) -> None:
    assert Order.of(OVER_RELATIONS[name]()).name == "pk"


#: What is read in an event loop without `resume`, or where it can't be resumed.
PLAIN: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (lambda: User.objects.order_by("username"), {}),
    "batches": (lambda: User.objects.order_by("username"), {"batch": 2}),
    "not resumable": (lambda: User.objects.order_by("email"), {"resume": True}),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", PLAIN)
def test_a_queryset_in_an_event_loop_needs_no_resume(memory_store: Store, kind: str) -> None:
    make, options = PLAIN[kind]
    User.objects.bulk_create(User(username=f"u{i}", email=f"e{i}") for i in range(3))
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1), strict=False))

    async def names() -> list[Any]:
        found: list[Any] = []
        async for given in observer.track(make(), 3, **options):
            found += given if "batch" in options else [given]
        return [user.username for user in found]

    assert async_to_sync(names)() == ["u0", "u1", "u2"]
    assert (observer.current, observer.total) == (3, 3)


@pytest.mark.django_db(transaction=True)
def test_a_queryset_whose_rows_are_loaded_can_be_read_by_for_in_an_event_loop() -> None:
    User.objects.bulk_create(User(username=f"u{i}") for i in range(3))
    observer = ProgressObserver()

    async def collect(users: Any) -> list[float | None]:
        percents = []
        for _ in observer.track(users):
            for _ in observer.track(range(2)):
                percents.append(observer.percent)
        return [*percents, observer.total]

    users = User.objects.all()
    assert len(users) == 3
    assert async_to_sync(collect)(users) == [0.0, 16.6, 33.3, 50.0, 66.6, 83.3, 3]


@pytest.mark.parametrize("options", [{"resume": True}, {"resume": "users", "batch": 2}])
def test_a_queryset_that_is_resumed_in_an_event_loop_is_read_by_async_for(options: Any) -> None:
    async def read() -> None:
        for _ in ProgressObserver().track(User.objects.all(), **options):
            pass

    with pytest.raises(TypeError, match=r"track\(\) of a QuerySet is read by `async for` here, and not by `for`"):
        async_to_sync(read)()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"batch": 2}])
@pytest.mark.parametrize("make", [lambda: User.objects, lambda: Group(pk=1).user_set], ids=["own", "related"])
def test_a_manager_is_no_queryset(make: Callable[[], Any], options: Any) -> None:
    with pytest.raises(TypeError, match=r"a manager, which has no rows of its own: use .all\(\)"):
        ProgressObserver().track(make(), **options)


UNLOADED: dict[str, Callable[[], Any]] = {
    "only": lambda: User.objects.order_by("username").only("email"),
    "defer": lambda: User.objects.order_by("-username").defer("username"),
    "a composite key": lambda: Cell.objects.only("day"),
}


@pytest.mark.parametrize("kind", UNLOADED)
def test_rows_without_the_field_of_their_order_are_an_error(kind: str) -> None:
    """Each row would cost a query, which an event loop doesn't allow."""
    with pytest.raises(
        InvalidReport, match=r'without the field that it is ordered by; add "(username|column)" to only\(\)'
    ):
        ProgressObserver().track(UNLOADED[kind](), resume=True)


def test_rows_without_other_fields_have_an_order() -> None:
    for queryset in (
        User.objects.only("email"),
        User.objects.defer("email"),
        User.objects.order_by("username").only("username"),
        User.objects.order_by("username").defer("email"),
        Part.objects.order_by("thing_id").only("thing_id"),
        Cell.objects.only("day", "column"),
    ):
        Order.of(queryset)


@pytest.mark.django_db
def test_of_rows_that_a_filter_repeats_one_is_done_after_a_failure_at_any_of_them(
    memory_store: Store, small_pieces: None
) -> None:
    groups = [Group.objects.create(name=name) for name in ("editors", "authors", "readers")]
    for i in range(PIECE_ROWS):
        User.objects.create_user(f"u{i}").groups.set(groups)
    users = User.objects.filter(groups__in=groups)
    assert users.count() == 3 * PIECE_ROWS
    for stop in range(3 * PIECE_ROWS):
        done = []
        observer = going_on("")
        for count, user in enumerate(observer.track(users, resume=True)):
            if count == stop:
                break
            done.append(user.pk)
        done += [user.pk for user in going_on(observer._binding.resumption().text(1)).track(users, resume=True)]
        assert sorted({*done}) == sorted(User.objects.values_list("pk", flat=True))


@pytest.mark.django_db
def test_without_debug_such_a_queryset_runs_as_a_plain_loop(memory_store: Store) -> None:
    User.objects.create_user("ada")
    lenient = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1), strict=False))
    assert len(list(lenient.track(User.objects.order_by("email"), resume=True))) == 1
    assert lenient._binding.resumption().text(1) == ""

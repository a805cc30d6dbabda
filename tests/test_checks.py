"""The system checks of broker, settings, URLs and store."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import dramatiq
import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from django_dramatiq.utils import load_middleware
from dramatiq import broker as dramatiq_broker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, Pipelines, Retries

# Imported early, for the broker in the settings: its actors can't be declared with the tests' brokers.
import tests.urls  # noqa: F401
from dramatiq_progress import progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.requests import OwnerMiddleware
from tests.checking import run_checks


def run_with(settings: Any, **changes: Any) -> dict[str, str]:
    """Run our checks after a change of our settings."""
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, **changes}
    return run_checks()


@pytest.fixture
def broker() -> Iterator[Callable[..., None]]:
    """Set a broker with these middleware."""
    before = dramatiq.get_broker()
    yield lambda *middleware: dramatiq.set_broker(StubBroker(middleware=list(middleware)))
    dramatiq.set_broker(before)


@pytest.fixture(autouse=True)
def owners(settings: Any) -> None:
    settings.MIDDLEWARE = ["dramatiq_progress.requests.OwnerMiddleware"]


def test_a_valid_project_has_no_messages(redis_store: Any) -> None:
    assert run_checks(deploy=True) == {}


def test_messages_without_an_owner_are_a_deployment_hint(redis_store: Any, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "nowhere.Middleware"]
    assert run_checks() == {}
    [found] = checks.run_checks(tags=["dramatiq_progress"], include_deployment_checks=True)
    assert (found.id, found.level) == ("dramatiq_progress.I001", checks.INFO)
    assert '"dramatiq_progress.requests.OwnerMiddleware"' in str(found.hint)
    settings.MIDDLEWARE = [f"{__name__}.OwnMiddleware"]
    assert run_checks(deploy=True) == {}


def test_dramatiq_middleware_among_those_of_django_is_an_error(settings: Any) -> None:
    """Also where the check isn't run: the first request says where the line belongs."""
    path = "dramatiq_progress.middleware.ProgressMiddleware"
    settings.MIDDLEWARE = [path, "dramatiq.middleware.AgeLimit", "dramatiq_progress.requests.OwnerMiddleware"]
    messages = checks.run_checks(tags=["dramatiq_progress"])
    assert [each.id for each in messages] == ["dramatiq_progress.E006"] * 2
    assert path in str(messages[0].msg) and "MIDDLEWARE of DRAMATIQ_BROKER" in str(messages[0].hint)
    settings.MIDDLEWARE = [path]
    with pytest.raises(ImproperlyConfigured, match="from Django's MIDDLEWARE to the MIDDLEWARE of DRAMATIQ_BROKER"):
        Client().get("/")


def test_django_middleware_among_those_of_the_broker_is_an_error_that_says_where_it_belongs() -> None:
    with pytest.raises(ImproperlyConfigured, match="from the MIDDLEWARE of DRAMATIQ_BROKER to Django's own MIDDLEWARE"):
        load_middleware("dramatiq_progress.requests.OwnerMiddleware")


class OwnMiddleware(OwnerMiddleware):
    """A subclass in a project."""


@pytest.mark.parametrize(
    ("middleware", "found", "line"),
    [
        ([Pipelines(), Retries()], "E002", '"dramatiq_progress.middleware.ProgressMiddleware"'),
        ([Pipelines(), ProgressMiddleware()], "W001", '"dramatiq.middleware.Retries"'),
        ([Retries(), ProgressMiddleware()], "W002", '"dramatiq.middleware.Pipelines"'),
    ],
)
def test_a_missing_middleware_is_reported_with_the_line_to_add(
    memory_store: Any, broker: Callable[..., None], middleware: list[Middleware], found: str, line: str
) -> None:
    broker(*middleware)
    messages = run_checks()
    assert list(messages) == [found]
    assert line in messages[found]


def test_async_actors_without_their_middleware_are_reported(memory_store: Any, broker: Callable[..., None]) -> None:
    broker(Pipelines(), Retries(), ProgressMiddleware())

    async def fetch() -> None: ...

    progress_actor(fetch)
    messages = run_checks()
    assert list(messages) == ["E005"]
    assert "fetch" in messages["E005"] and '"dramatiq.middleware.AsyncIO"' in messages["E005"]


def test_missing_urls_are_reported(memory_store: Any, settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.no_urls"
    messages = run_checks()
    assert list(messages) == ["W003"]
    assert 'include("dramatiq_progress.urls")' in messages["W003"]


def test_a_missing_broker_is_reported(memory_store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    assert "django_dramatiq" in run_checks()["E001"]
    assert dramatiq_broker.global_broker is None, "no check makes Dramatiq's default broker"


def test_a_missing_middleware_is_reported_even_if_it_prevents_the_import_of_urls(
    memory_store: Any, settings: Any, broker: Callable[..., None]
) -> None:
    """A module with actors raises then, whichever modules were imported before."""
    broker(Pipelines(), Retries())
    settings.ROOT_URLCONF = "tests.broken_urls"
    for _ in range(2):
        assert list(run_checks()) == ["E002"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STORE": "nowhere.Store"}, "'nowhere.Store', which can't be imported"),
        ({"FLUSH_INTERVAL": -1}, '["FLUSH_INTERVAL"] is -1'),
        ({"COLOUR": "red"}, "has no key 'COLOUR'"),
    ],
)
def test_an_invalid_setting_is_reported_once(settings: Any, given: dict[str, Any], message: str) -> None:
    settings.DRAMATIQ_PROGRESS = given
    messages = run_checks(deploy=True)
    assert list(messages) == ["E003"]
    assert message in messages["E003"]


def test_an_unavailable_store_is_reported_at_deployment(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://:hunter2@127.0.0.1:1/0"}}
    assert run_checks() == {}
    messages = run_checks(deploy=True)
    assert "127.0.0.1:1" in messages["E004"] and "hunter2" not in messages["E004"]


# ---- Permissions ----


def of_one(request: Any) -> bool:
    return True


def of_two(request: Any, progress: Any) -> bool:
    return True


def of_three(request: Any, progress: Any, argument: Any) -> bool:
    return True


def of_a_keyword(request: Any, progress: Any, *, argument: Any) -> bool:
    return True


async def of_one_async(request: Any) -> bool:
    return True


async def of_two_async(request: Any, progress: Any) -> bool:
    return True


class OfTwo:
    """A permission whose argument is an attribute; as a class, it is one by mistake."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __call__(self, request: Any, progress: Any) -> bool:
        return True

    def of_one(self, request: Any) -> bool:
        return True

    async def of_two(self, request: Any, progress: Any) -> bool:
        return True

    @staticmethod
    def static(request: Any, progress: Any) -> bool:
        return True


class OfOne(OfTwo):
    async def __call__(self, request: Any) -> bool:  # type: ignore[override]
        return True


@wraps(of_one)
def decorated(*arguments: Any) -> bool:
    return of_one(arguments[0])


CALLABLE: dict[str, Any] = {
    "function": of_two,
    "path": f"{__name__}.of_two",
    "async function": of_two_async,
    "partial": partial(of_three, argument=1),
    "partial of an async function": partial(of_two_async),
    "object": OfTwo(),
    "method": OfTwo().of_two,
    "static method": OfTwo.static,
    "decorated function": decorated,
    "function in C": operator.is_,
    "function without a signature": max,
    "tuple": (of_three, 1),
    "tuple with a path": (f"{__name__}.of_three", 1),
    "tuple with a partial": (partial(of_three), 1),
}

UNCALLABLE: dict[str, Any] = {
    "function": of_one,
    "path": f"{__name__}.of_one",
    "function with a keyword": of_a_keyword,
    "async function": of_one_async,
    "partial": partial(of_two, None),
    "partial of an async function": partial(of_one_async),
    "object": OfOne(),
    "method": OfTwo().of_one,
    "unbound method": OfTwo.of_two,
    "function of three": of_three,
    "tuple": (of_two, 1),
    "tuple with a path": (f"{__name__}.of_two", 1),
    "tuple with an object": (OfTwo(), 1),
}


@pytest.mark.parametrize("key", ["PERMISSION", "CANCEL_PERMISSION"])
@pytest.mark.parametrize("kind", UNCALLABLE)
def test_a_permission_that_takes_other_arguments_is_reported(
    memory_store: Any, settings: Any, key: str, kind: str
) -> None:
    messages = run_with(settings, **{key: UNCALLABLE[kind]})
    assert list(messages) == ["E003"]
    assert f'["{key}"] can\'t be called' in messages["E003"] and "def permission(" in messages["E003"]


@pytest.mark.parametrize("key", ["PERMISSION", "CANCEL_PERMISSION"])
@pytest.mark.parametrize("kind", CALLABLE)
def test_a_permission_of_any_kind_that_takes_its_arguments_is_valid(
    memory_store: Any, settings: Any, key: str, kind: str
) -> None:
    assert run_with(settings, **{key: CALLABLE[kind]}) == {}


@pytest.mark.parametrize("given", [OfTwo, f"{__name__}.OfTwo", (OfTwo, 1)], ids=["class", "path", "tuple"])
def test_a_class_is_no_permission_since_each_of_its_instances_would_allow_everything(
    memory_store: Any, settings: Any, client: Client, given: Any
) -> None:
    messages = run_with(settings, PERMISSION=given)
    assert list(messages) == ["E003"] and "which isn't a function" in messages["E003"]
    memory_store.enqueue("m1", actor="work", queue="default", retries_left=0)
    with pytest.raises(ImproperlyConfigured, match="which isn't a function"):
        client.get("/progress/m1/")

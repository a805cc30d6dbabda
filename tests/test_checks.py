"""``manage.py check`` says what is wrong with broker, settings and store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from django.core import checks
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, Pipelines, Retries

# Now, for the broker of the settings: the tests' own brokers lack what its actors ask for.
import tests.urls  # noqa: F401
from dramatiq_progress import progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.requests import OwnerMiddleware


def run(*, deploy: bool = False) -> dict[str, str]:
    """The messages of our checks by their id, with what to do."""
    found = checks.run_checks(tags=["dramatiq_progress"], include_deployment_checks=deploy)
    return {str(each.id).removeprefix("dramatiq_progress."): f"{each.msg} {each.hint}" for each in found}


@pytest.fixture
def broker() -> Iterator[Callable[..., None]]:
    """Sets a broker with these middleware."""
    before = dramatiq.get_broker()
    yield lambda *middleware: dramatiq.set_broker(StubBroker(middleware=list(middleware)))
    dramatiq.set_broker(before)


@pytest.fixture(autouse=True)
def owners(settings: Any) -> None:
    settings.MIDDLEWARE = ["dramatiq_progress.requests.OwnerMiddleware"]


def test_a_good_project_has_nothing_to_say(redis_store: Any) -> None:
    assert run(deploy=True) == {}


def test_messages_without_an_owner_are_a_hint_at_deployment(redis_store: Any, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "nowhere.Middleware"]
    assert run() == {}
    [found] = checks.run_checks(tags=["dramatiq_progress"], include_deployment_checks=True)
    assert (found.id, found.level) == ("dramatiq_progress.I001", checks.INFO)
    assert '"dramatiq_progress.requests.OwnerMiddleware"' in str(found.hint)
    settings.MIDDLEWARE = [f"{__name__}.OwnMiddleware"]
    assert run(deploy=True) == {}


class OwnMiddleware(OwnerMiddleware):
    """One of a project's own."""


@pytest.mark.parametrize(
    ("middleware", "found", "line"),
    [
        ([Pipelines(), Retries()], "E002", '"dramatiq_progress.middleware.ProgressMiddleware"'),
        ([Pipelines(), ProgressMiddleware()], "W001", '"dramatiq.middleware.Retries"'),
        ([Retries(), ProgressMiddleware()], "W002", '"dramatiq.middleware.Pipelines"'),
    ],
)
def test_a_missing_middleware_is_named_with_the_line_to_add(
    memory_store: Any, broker: Callable[..., None], middleware: list[Middleware], found: str, line: str
) -> None:
    broker(*middleware)
    messages = run()
    assert list(messages) == [found]
    assert line in messages[found]


def test_async_actors_without_their_middleware_are_named(memory_store: Any, broker: Callable[..., None]) -> None:
    broker(Pipelines(), Retries(), ProgressMiddleware())

    async def fetch() -> None: ...

    progress_actor(fetch)
    messages = run()
    assert list(messages) == ["E005"]
    assert "fetch" in messages["E005"] and '"dramatiq.middleware.AsyncIO"' in messages["E005"]


def test_urls_that_are_not_included_are_said(memory_store: Any, settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.no_urls"
    messages = run()
    assert list(messages) == ["W003"]
    assert 'include("dramatiq_progress.urls")' in messages["W003"]


def test_a_missing_broker_is_said(memory_store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    assert "django_dramatiq" in run()["E001"]


def test_a_missing_middleware_is_said_where_it_keeps_the_urls_from_being_imported(
    memory_store: Any, settings: Any, broker: Callable[..., None]
) -> None:
    """An actor's module raises then; which modules were imported before makes no difference."""
    broker(Pipelines(), Retries())
    settings.ROOT_URLCONF = "tests.broken_urls"
    for _ in range(2):
        assert list(run()) == ["E002"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STORE": "nowhere.Store"}, "'nowhere.Store', which cannot be imported"),
        ({"FLUSH_INTERVAL": -1}, '["FLUSH_INTERVAL"] is -1'),
        ({"COLOUR": "red"}, "has no key 'COLOUR'"),
    ],
)
def test_a_mistake_in_the_settings_is_named_once(settings: Any, given: dict[str, Any], message: str) -> None:
    settings.DRAMATIQ_PROGRESS = given
    messages = run(deploy=True)
    assert list(messages) == ["E003"]
    assert message in messages["E003"]


def test_a_store_that_does_not_answer_is_said_at_deployment(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://:hunter2@127.0.0.1:1/0"}}
    assert run() == {}
    messages = run(deploy=True)
    assert "127.0.0.1:1" in messages["E004"] and "hunter2" not in messages["E004"]

"""Titles and metadata that are given with a message, or by its actor: on every way to a page, in its language."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from django.http import HttpResponse
from django.template import engines
from django.test import AsyncClient, Client
from django.utils import translation
from django.utils.functional import lazystr
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Pipelines, Retries

from dramatiq_progress import InvalidReport, Progress, ProgressObserver, State, get_progress, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.worker.observing.binding import Binding
from tests.brokers import working
from tests.people import People
from tests.reading import read, when
from tests.servers import ROOT
from tests.waiting import wait_until

#: A text that Django itself translates, into "Januar" in German.
JANUARY = gettext_lazy("January")

PYTHON, TEMPLATE = (re.compile(rf"```{re.escape(kind)}\n(.*?)```", re.DOTALL) for kind in ("python", "html+django"))
FILE = {"title": "people.csv", "metadata": {"file": "people.csv"}}


@pytest.fixture(autouse=True)
def own_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test inherits the titles of another's actors."""
    monkeypatch.setattr("dramatiq_progress.titles._declared", {})


@pytest.fixture
def broker(store: Store) -> Iterator[StubBroker]:
    """A broker without a worker."""
    made = StubBroker(middleware=[Pipelines(), Retries(max_retries=1, min_backoff=1, max_backoff=1)])
    made.add_middleware(ProgressMiddleware())
    yield made
    made.close()


@pytest.fixture
def work(broker: StubBroker) -> Iterator[Callable[[], None]]:
    """A function that starts a worker."""
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    yield worker.start
    worker.stop()


def forget_everything(store: Store, message_id: str) -> None:
    """Remove a record, as a store does that comes back empty."""
    if isinstance(store, MemoryStore):
        store._records.pop(store.key(message_id))
    else:
        store._servers.send([("EVAL", "return redis.call('DEL', KEYS[1])", 1, store.key(message_id))])  # type: ignore[attr-defined]
    assert get_progress(message_id) is None


# ---- Whose title ----


def test_a_message_is_named_by_itself_or_its_actor_or_the_actor_s_name(broker: StubBroker) -> None:
    plain = progress_actor(broker=broker, actor_name="import_rows")(lambda *_: None)
    titled = progress_actor(broker=broker, actor_name="import_people", title="Import people")(lambda *_: None)
    assert read(plain.send()).title == "Import rows"
    assert read(titled.send()).title == "Import people"
    for actor in (plain, titled):
        for title in ("people.csv", lazystr("people.csv"), "  people.csv\n"):
            progress = read(actor.send_with_options(title=title))
            assert progress.title == progress.as_dict()["title"] == "people.csv"
        assert read(actor.send_with_options(title=None, metadata=None)).title == read(actor.send()).title
        assert read(actor.send_with_options(title=" ")).title == read(actor.send()).title


def test_a_long_title_is_cut(broker: StubBroker) -> None:
    actor = progress_actor(broker=broker, actor_name="work", title="a" * 201)(lambda: None)
    assert read(actor.send()).title == "a" * 200
    assert read(actor.send_with_options(title="b" * 201)).title == "b" * 200
    observer = ProgressObserver(Binding(actor_name="work"))
    observer.set_title("c" * 201)
    assert observer.title == "c" * 200


def test_any_text_is_a_title(broker: StubBroker, client: Client) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    message = actor.send_with_options(title="<b>\ud800 {title} 人")
    assert client.get(f"/progress/{message.message_id}/").json()["title"] == "<b>\ufffd {title} 人"


def test_an_actor_keeps_its_own_title_when_another_is_declared_under_its_name() -> None:
    for title in ("Import people", None):
        broker = StubBroker(middleware=[ProgressMiddleware()])
        actor = progress_actor(broker=broker, actor_name="import_rows", title=title)(lambda: None)
        assert read(actor.send()).title == (title or "Import rows")


# ---- While it waits, runs, is retried, and is lost ----


def test_metadata_is_there_while_the_message_waits(broker: StubBroker, people: People) -> None:
    actor = progress_actor(broker=people.broker, actor_name="import_rows")(lambda: None)
    message = actor.send_with_options(**FILE)
    delayed = actor.send_with_options(**FILE, delay=60_000)
    for each in (message, delayed):
        assert read(each).state.is_pending
        assert (read(each).title, read(each).metadata) == ("people.csv", {"file": "people.csv"})


def test_an_actor_sees_and_changes_what_was_given(broker: StubBroker, work: Any) -> None:
    seen: list[Any] = []

    def run(observer: ProgressObserver) -> None:
        seen.append((observer.title, observer.metadata))
        if observer.attempt == 1:
            observer.set_title("people (1).csv")
            observer.set_metadata(rows=2, file="people (1).csv")
            raise ConnectionError("try again")

    message = progress_actor(broker=broker, actor_name="import_rows")(run).send_with_options(**FILE)
    work()
    progress = when(message, State.DONE)
    changed = ("people (1).csv", {"file": "people (1).csv", "rows": 2})
    assert seen == [("people.csv", {"file": "people.csv"}), changed]
    assert (progress.title, progress.metadata) == changed


def test_a_store_that_comes_back_empty_gets_the_title_again(broker: StubBroker, store: Store, settings: Any) -> None:
    """At a heartbeat, with the outcome, and at the start of a message that has waited."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.05}
    actor: dramatiq.Actor[..., Any]

    def run(observer: ProgressObserver, ends: bool) -> None:
        assert observer.message_id is not None
        wait_until(lambda: read(observer.message_id or "").title == "people.csv")
        forget_everything(store, observer.message_id)
        if not ends:
            wait_until(lambda: (seen := get_progress(observer.message_id or "")) and seen.metadata)

    actor = progress_actor(broker=broker, actor_name="import_rows")(run)
    messages = [actor.send_with_options(args=(ends,), **FILE) for ends in (True, False)]
    forget_everything(store, messages[0].message_id)
    with working(broker):
        for message in messages:
            progress = when(message, State.DONE)
            assert (progress.title, progress.metadata) == ("people.csv", {"file": "people.csv"})


def test_what_an_actor_has_set_while_the_store_was_away_is_added_to_what_was_given(store: Store) -> None:
    given = Attempt("m1", "work", "default", title="people.csv", metadata='{"file": "people.csv", "size": 4}')
    store.start(given)
    store.report([(given, {"title": "rows.csv", "metadata": '{"file": "rows.csv", "size": 4}'})])
    store.finish(given, state=State.RETRYING, retry_in=0.0)

    later = Attempt("m1", "work", "default", title=given.title, metadata=given.metadata)
    observer = ProgressObserver(Binding(attempt=later, start=lambda store, age: store.start(later, age=age)))
    observer.set_metadata(size=5)
    observer._binding.start_late(store)
    assert (observer.title, observer.metadata) == ("rows.csv", {"file": "rows.csv", "size": 5})
    assert observer._binding.take_changes() == {"metadata": '{"file": "rows.csv", "size": 5}'}


def test_a_message_that_is_sent_again_has_its_title_again(store: Store) -> None:
    first, second = ({"title": title, "metadata": f'{{"file": "{title}"}}'} for title in ("a.csv", "b.csv"))
    store.enqueue("m1", actor="work", queue="default", retries_left=0, **first)
    attempt = Attempt("m1", "work", "default", **first)
    store.start(attempt)
    store.finish(attempt, state=State.DONE, fields={"title": "All of a.csv"})
    store.enqueue("m1", actor="work", queue="default", retries_left=0, **second)
    assert (read("m1").title, read("m1").metadata) == ("b.csv", {"file": "b.csv"})
    store.enqueue("m2", actor="work", queue="default", retries_left=0)
    assert (read("m2").title, read("m2").metadata) == ("Work", {})


def test_the_next_message_of_a_pipeline_has_its_own(broker: StubBroker, work: Any) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda *_: None)
    day = datetime.date(2026, 1, 2)
    messages = [actor.message_with_options(title=title, metadata={"day": day}) for title in ("First", JANUARY)]
    pipe = dramatiq.pipeline(messages, broker=broker).run()  # type: ignore[no-untyped-call]
    work()
    for message, title in zip(pipe.messages, ("First", "January"), strict=True):
        progress = when(message, State.DONE)
        assert (progress.title, progress.metadata) == (title, {"day": "2026-01-02"})


def test_signals_have_the_title(broker: StubBroker) -> None:
    heard: list[str] = []

    def receive(progress: Progress, **_: Any) -> None:
        heard.append(progress.title)

    state_changed.connect(receive)
    progress_actor(broker=broker, actor_name="work")(lambda: None).send_with_options(**FILE)
    state_changed.disconnect(receive)
    assert heard == ["people.csv"]


def test_an_actor_s_observer_in_a_test_has_a_title() -> None:
    observer = ProgressObserver(Binding(actor_name="import_rows"))
    assert observer.title == "Import rows"
    observer.set_title("people.csv")
    assert observer.title == "people.csv"
    observer.set_title("")
    assert observer.title == "Import rows"
    with pytest.raises(InvalidReport, match="title"):
        observer.set_title(format_lazy("{missing}"))


def test_the_code_of_the_page_works(broker: StubBroker, work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    declare, send, while_it_runs, estimate = PYTHON.findall((ROOT / "docs" / "titles.md").read_text(encoding="utf-8"))
    [template] = TEMPLATE.findall((ROOT / "docs" / "titles.md").read_text(encoding="utf-8"))
    file = SimpleNamespace(name="rows.csv", size=4)
    names: dict[str, Any] = {"load": lambda path: [path], "save": print, "path": "p", "download": lambda url: file}
    with monkeypatch.context() as patched:
        patched.setattr("dramatiq.broker.global_broker", broker)
        exec("from __future__ import annotations\n" + declare + while_it_runs + send, names)  # noqa: S102 - our own
    exec(estimate, sized := names | {"file": file})  # noqa: S102 - our own
    assert sized["message"].options["estimate_key"] == "small"
    jobs = [read(each) for each in (names["message"], names["import_rows"].send("p"))]
    html = engines["django"].from_string("{% load dramatiq_progress %}" + template).render({"jobs": jobs})
    assert "<h2>people.csv (people.csv)</h2>" in html and "<h2>Import people ()</h2>" in html
    work()
    progress = when(names["fetch"].send("https://example.org/rows.csv"), State.DONE)
    assert (progress.title, progress.metadata) == ("rows.csv", {"size": 4})


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"title": Path("people.csv")}, TypeError, r"title=.*Path\('people.csv'\) isn't a text.*str"),
        ({"title": 5}, TypeError, "title=5 isn't a text"),
        ({"cancellable": "no"}, TypeError, "cancellable='no' isn't True or False"),
        ({"metadata": "people.csv"}, TypeError, r"metadata='people.csv' isn't a dict.*metadata=\{"),
        ({"metadata": {"price": {1}}}, ValueError, r"metadata=.*\{1\}.*not JSON serializable.*DjangoJSONEncoder"),
        ({"metadata": {"n": float("nan")}}, ValueError, "metadata=.*nan"),
        ({"metadata": {"text": "a" * 17_000}}, ValueError, "metadata=.*16,384"),
        ({"metadata": {"deep": json.loads("[" * 300 + "]" * 300)}}, ValueError, "metadata=.*levels"),
    ],
)
def test_a_value_that_no_page_can_show_is_an_error_where_the_message_is_made(
    broker: StubBroker, store: Store, options: Any, error: type[Exception], text: str
) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    for make in (actor.message_with_options, actor.send_with_options):
        with pytest.raises(error, match=text):
            make(**options)
    assert broker.queues["default"].empty()


@pytest.mark.parametrize("title", [5, ["a"], b"a"])
def test_a_title_of_an_actor_that_is_no_text_is_an_error_where_it_is_declared(broker: StubBroker, title: Any) -> None:
    with pytest.raises(TypeError, match=r"title of work .* lazy translation"):
        progress_actor(broker=broker, actor_name="work", title=title)(lambda: None)


def test_whether_messages_of_an_actor_can_be_cancelled_is_a_bool(broker: StubBroker) -> None:
    with pytest.raises(TypeError, match="cancellable='no' isn't True or False"):
        progress_actor(broker=broker, actor_name="work", cancellable="no")(lambda: None)  # type: ignore[call-overload]


@pytest.mark.parametrize("options", [{"title": 5}, {"metadata": ["a"]}, {"metadata": {"text": "a" * 17_000}}])
def test_a_message_that_was_not_made_by_its_actor_is_sent_and_runs(
    broker: StubBroker, work: Any, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program or another version may have sent it."""
    message = progress_actor(broker=broker, actor_name="work")(lambda: None).message().copy(options=options)
    broker.enqueue(message)
    assert f"Ignoring an option of message {message.message_id} (work): {next(iter(options))}=" in caplog.text
    work()
    progress = when(message, State.DONE)
    assert (progress.title, progress.metadata) == ("Work", {})


def test_a_translation_that_fails_costs_the_title_only(broker: StubBroker, caplog: pytest.LogCaptureFixture) -> None:
    actor = progress_actor(broker=broker, actor_name="work", title=format_lazy("{missing}"))(lambda: None)
    with caplog.at_level(logging.ERROR):
        assert read(actor.send()).title == "Work"
    assert "Check the translation" in caplog.text


# ---- In the language of the page ----


@pytest.fixture
def january(broker: StubBroker, settings: Any) -> Callable[..., str]:
    """A function that sends a message of an actor with a lazy title, on a site with German visitors."""
    settings.MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware"]
    settings.LANGUAGE_CODE = "en"
    actor = progress_actor(broker=broker, actor_name="work", title=JANUARY)(lambda: None)
    return lambda **options: actor.send_with_options(**options).message_id


def german(client: Client, path: str) -> HttpResponse:
    return client.get(path, headers={"Accept-Language": "de"})


def test_a_lazy_title_is_in_the_language_of_each_page(january: Callable[..., str], client: Client) -> None:
    with translation.override("es"):
        first, second = january(), january(title=JANUARY)
    assert german(client, f"/progress/{first}/").json()["title"] == "Januar"
    assert client.get(f"/progress/{first}/").json()["title"] == "January"
    titles = [each["title"] for each in german(client, f"/progress/?id={first}&id={second}").json()["messages"]]
    # That of a message is in the language of its sender.
    assert titles == ["Januar", "enero"]


def test_a_lazy_title_of_an_actor_that_this_process_has_not_imported_is_in_the_site_s_language(
    january: Callable[..., str], client: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.LANGUAGE_CODE = "es"
    with translation.override("de"):
        message_id = january()
    monkeypatch.setattr("dramatiq_progress.titles._declared", {})
    assert german(client, f"/progress/{message_id}/").json()["title"] == "enero"


def test_another_language_is_another_answer(january: Callable[..., str], client: Client) -> None:
    path = f"/progress/{january()}/"
    etag = client.get(path)["ETag"]
    headers = {"If-None-Match": etag}
    assert client.get(path, headers=headers).status_code == 304
    assert client.get(path, headers=headers | {"Accept-Language": "de"}).json()["title"] == "Januar"


def test_streams_of_several_languages_have_a_title_each(january: Callable[..., str]) -> None:
    message_id, own = january(), january(title="people.csv")

    async def titles(language: str) -> dict[str, str]:
        headers = {"Accept-Language": language}
        response = await AsyncClient().get("/progress/stream/", {"id": [message_id, own]}, headers=headers)
        chunks: AsyncIterator[bytes] = response.streaming_content
        found: dict[str, str] = {}
        while len(found) < 2:
            events = (await anext(chunks)).split(b"\n\n")
            messages = [json.loads(each.removeprefix(b"data: ")) for each in events if each.startswith(b"data: ")]
            found |= {each["id"]: each["title"] for each in messages}
        await asyncio.to_thread(response.close)
        return found

    async def scenario() -> None:
        found = await asyncio.gather(*map(titles, ("de", "en", "es", "de")))
        assert [each[message_id] for each in found] == ["Januar", "January", "enero", "Januar"]
        assert {each[own] for each in found} == {"people.csv"}

    asyncio.run(scenario())


def test_numbers_of_metadata_keep_their_digits(broker: StubBroker) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    message = actor.send_with_options(metadata={"price": Decimal("1.50"), "label": lazystr("€")})
    assert read(message).metadata == {"price": "1.50", "label": "€"}

"""What a page shows where there is no JavaScript: written by the server, and only what the request may know."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.utils import translation

from dramatiq_progress import Progress, State
from dramatiq_progress.fallback import markup
from dramatiq_progress.stores import Store
from dramatiq_progress.texts import RESULTS
from tests.people import People
from tests.servers import free_port

NO_VALUES = (
    '<span>Waiting for information…</span> <a href="">Refresh</a><progress max="100" aria-label="Progress"></progress>'
)


def read(state: State = State.RUNNING, **values: Any) -> Progress:
    """A reading. Where no numbers are given, 1,200 of 5,000 are done."""
    values = {"current": 1200, "total": 5000, "description": "Importing", "attempt": 1} | values
    return Progress(id="m1", actor="import_rows", queue="default", state=state, **values)


def children(html: str) -> str:
    """What is in the one bar of a page."""
    return html.partition("<dramatiq-progress")[2].partition(">")[2].partition("</dramatiq-progress>")[0]


def page_of(message: object, request: HttpRequest | None) -> str:
    context = {"message": message}
    made = Context(context) if request is None else RequestContext(request, context)
    return Template("{% load dramatiq_progress %}{% dramatiq_progress message %}").render(made)


STATES: list[tuple[Progress, str, str | None]] = [
    (read(State.ENQUEUED, total=None, current=0), "Waiting in the queue", "0"),
    (read(State.ENQUEUED, current=0, total=None, queue_position=3, queue_length=1200), "about 3 of 1,200 in line", "0"),
    (read(State.DELAYED, total=None, current=0), "Scheduled", "0"),
    (read(), "1,200 of 5,000. Importing", "24"),
    (read(current=1, total=3, eta=119.3, description=""), "1 of 3 (about 2\N{NO-BREAK SPACE}minutes left)", "33.3"),
    (read(eta=59.0), "1,200 of 5,000. Importing (less than a minute left)", "24"),
    (read(total=None), "1,200 so far. Importing", "none"),
    (read(total=None, current=0, description=""), "Running", "none"),
    (read(State.RETRYING, retry_in=5400, retries_left=3), "in 2\N{NO-BREAK SPACE}hours (attempt 2 of 4)", "24"),
    (read(State.RETRYING, retry_in=4.0, retries_left=3), "trying again within a minute (attempt 2 of 4)", "24"),
    (read(State.RETRYING, retry_in=0, attempt=3, retries_left=0), "trying again now (attempt 4)", "24"),
    (read(State.LOST), "No contact with the worker", "24"),
    (read(State.DONE), "Done", "24"),
    (read(State.DONE, total=None, result="All there"), "Done", None),
    (read(State.FAILED, result="<b>Row 7</b> has no code."), "&lt;b&gt;Row 7&lt;/b&gt; has no code.", "24"),
    (read(State.FAILED, result={"no": "text"}), "The task failed.", "24"),
    (read(State.CANCELLED, result="The task was cancelled."), "The task was cancelled.", "24"),
    (read(State.SKIPPED), "The task was skipped.", "24"),
]


@pytest.mark.parametrize(("progress", "text", "value"), STATES)
def test_each_state_is_told(progress: Progress, text: str, value: str | None) -> None:
    html = markup(progress, label="")
    assert text in html
    assert ("<progress" in html) is (value is not None)
    assert (f' value="{value}"' in html) is (value not in (None, "none"))
    # What has ended is not worth looking at again.
    assert ("Refresh" in html) is not progress.complete


def test_every_state_is_tested_above() -> None:
    assert {progress.state for progress, *_ in STATES} == set(State)


def test_it_speaks_the_language_of_the_page() -> None:
    with translation.override("de"):
        html = markup(read(eta=7200, current=1250.5), label="Einfuhr")
        assert "1.250,5 von 5.000. Importing (noch etwa 2\N{NO-BREAK SPACE}Stunden)" in html
        assert '<a href="">Aktualisieren</a><progress max="100" value="25" aria-label="Einfuhr">' in html
        assert "Mehrmals blieb ihr Worker mittendrin stehen" in markup(read(State.FAILED, result=RESULTS[-1]), label="")


# ---- Only what this request may know ----


@pytest.mark.parametrize("name", ["anonymous", "owner", "another", "staff"])
def test_only_those_who_may_read_a_message_see_its_values(people: People, name: str) -> None:
    message_id = people.send("owner")
    html = people.clients[name].get(f"/import/{message_id}/").content.decode()
    assert ("Waiting in the queue" in children(html)) is (name in ("owner", "staff"))
    assert (children(html) == NO_VALUES) is (name in ("anonymous", "another"))


def test_what_a_view_has_read_is_not_read_again_and_asked_for_permission(
    people: People, memory_store: Store, settings: Any
) -> None:
    [progress] = memory_store.read([people.send("owner")])
    settings.DRAMATIQ_PROGRESS = {"STORE": "no.such.store"}
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    request.session = people.clients["owner"].session
    assert "Waiting in the queue" in page_of(progress, request)
    request.user = people.users["another"]
    request.session = people.clients["another"].session
    assert children(page_of(progress, request)) == NO_VALUES


def test_nobody_is_told_of_a_message_that_is_not_there(memory_store: Store) -> None:
    assert children(page_of("m1", RequestFactory().get("/"))) == NO_VALUES


def test_without_a_request_nobody_can_say_who_may_know(memory_store: Store) -> None:
    assert children(page_of("m1", None)) == NO_VALUES
    assert children(page_of(read(), None)) == NO_VALUES


def test_a_bar_may_do_without() -> None:
    template = Template('{% load dramatiq_progress %}{% dramatiq_progress "m1" fallback=False %}')
    assert children(template.render(Context())) == ""


def test_a_template_in_an_event_loop_waits_for_no_store(settings: Any) -> None:
    """There is none, so that it would be trouble to ask."""
    settings.DRAMATIQ_PROGRESS = {"STORE": "no.such.store"}

    async def view() -> str:
        return page_of("m1", RequestFactory().get("/"))

    assert children(asyncio.run(view())) == NO_VALUES


def test_a_store_that_is_down_costs_a_page_its_values_only(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And the log one line, however many bars and pages there are."""
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"redis://127.0.0.1:{free_port()}/0"}}
    for _ in range(50):
        assert children(page_of("m1", RequestFactory().get("/"))) == NO_VALUES
    assert len([record for record in caplog.records if record.name.startswith("dramatiq_progress")]) == 1

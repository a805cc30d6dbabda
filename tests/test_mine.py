"""My jobs: what a user or a visitor has sent, newest first, wherever they look."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory

from dramatiq_progress import State
from dramatiq_progress.owners import VISITOR_KEY
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.base import MOST_OWNED, Attempt
from tests.people import People
from tests.waiting import wait_until


def ids(client: Any) -> list[str]:
    response = client.get("/progress/mine/")
    assert response.status_code == 200
    answer = response.json()
    assert answer["unknown"] == []
    return [each["id"] for each in answer["messages"]]


def finish(message_id: str, state: State = State.DONE) -> None:
    attempt = Attempt(message_id, "work", "default")
    get_store().start(attempt)
    get_store().finish(attempt, state=state)


def request_of(people: People, name: str) -> HttpRequest:
    request = RequestFactory().get("/")
    request.session = people.clients[name].session
    if name in people.users:
        request.user = people.users[name]
    return request


def test_everybody_sees_their_own_newest_first(people: People) -> None:
    mine = [people.send("owner") for _ in range(3)]
    theirs = people.send("another")
    people.send()
    assert ids(people.clients["owner"]) == mine[::-1]
    assert ids(people.clients["another"]) == [theirs]
    assert ids(people.clients["staff"]) == ids(people.clients["anonymous"]) == []


def test_each_is_told_as_in_the_list(people: People) -> None:
    message_id = people.send("owner")
    finish(message_id)
    listed = people.clients["owner"].get(f"/progress/?id={message_id}")
    mine = people.clients["owner"].get("/progress/mine/")
    assert mine.json() == listed.json()
    assert mine["ETag"] == listed["ETag"]
    assert people.clients["owner"].get("/progress/mine/", headers={"If-None-Match": mine["ETag"]}).status_code == 304


def test_one_that_has_ended_stays_as_long_as_its_record(people: People, settings: Any) -> None:
    first, second = people.send("owner"), people.send("owner")
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "FINISHED_TTL": 0.2}
    finish(first)
    wait_until(lambda: ids(people.clients["owner"]) == [second])


def test_a_visitor_who_logs_in_sees_both(people: People) -> None:
    visitor = people.clients["anonymous"]
    session = visitor.session
    session[VISITOR_KEY] = "token"
    session.save()
    before = people.send(request_of(people, "anonymous"))
    assert ids(visitor) == [before]
    visitor.force_login(people.users["another"])
    session = visitor.session
    assert session[VISITOR_KEY] == "token"
    after = people.send("another")
    assert ids(visitor) == [after, before]
    assert ids(people.clients["another"]) == [after]


def test_looking_makes_no_session(people: People) -> None:
    response = people.clients["anonymous"].get("/progress/mine/")
    assert response.json() == {"messages": [], "unknown": []}
    assert not response.cookies


def test_what_may_not_be_read_is_not_there(people: People, settings: Any) -> None:
    people.send("owner")
    settings.DRAMATIQ_PROGRESS = {
        **settings.DRAMATIQ_PROGRESS,
        "PERMISSION": "dramatiq_progress.permissions.staff",
    }
    assert ids(people.clients["owner"]) == []


def test_the_newest_are_kept(people: People) -> None:
    sent = [people.send("owner") for _ in range(MOST_OWNED + 3)]
    assert ids(people.clients["owner"]) == sent[:2:-1]


def test_a_store_that_is_down_is_said_to_be(people: People, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = people.clients["owner"].get("/progress/mine/")
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    html = render(request_of(people, "owner"), "empty='You have no jobs.'")
    assert html == '<div class="dramatiq-progress-mine"><p>This cannot be shown now. <a href="">Refresh</a></p></div>'


# ---- The template tag ----


def render(request: HttpRequest | None, options: str = "", **context: str) -> str:
    template = Template("{% load dramatiq_progress %}{% dramatiq_progress_mine " + options + " %}")
    return template.render(Context(context) if request is None else RequestContext(request, context))


def test_the_tag_makes_a_bar_of_each(people: People) -> None:
    sent = [people.send("owner") for _ in range(2)]
    people.send("another")
    html = render(request_of(people, "owner"), "show_result=True")
    assert html.startswith('<div class="dramatiq-progress-mine"><div><span>Work</span><dramatiq-progress ')
    assert html.count(' label="Work"') == 2
    assert re.findall(r' src="/progress/([\w-]+)/"', html) == sent[::-1]
    assert html.count(" show-result") == 2
    html = render(request_of(people, "owner"), "label=name", name="<Job>")
    assert html.count("<div><span>&lt;Job&gt;</span><dramatiq-progress ") == 2
    assert "Work" not in html


def test_who_has_sent_nothing_is_told_so(people: People) -> None:
    request = request_of(people, "anonymous")
    assert render(request) == '<div class="dramatiq-progress-mine"></div>'
    html = render(request, "empty=text", text="No <jobs>.")
    assert html == '<div class="dramatiq-progress-mine"><p>No &lt;jobs&gt;.</p></div>'


@pytest.mark.django_db(transaction=True)
def test_the_tag_works_in_an_async_view(people: People) -> None:
    message_id = people.send("owner")

    async def view() -> str:
        return render(request_of_owner)

    request_of_owner = request_of(people, "owner")
    assert message_id in asyncio.run(view())


def test_without_a_request_the_tag_says_what_it_needs(people: People) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs the request"):
        render(None)

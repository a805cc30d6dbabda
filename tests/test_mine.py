"""My jobs: the messages of a user or a visitor, newest first."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory

from dramatiq_progress import State, owned_by, progress_actor, progress_group
from dramatiq_progress.owners import VISITOR_KEY
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.calls import OWNED_LIMIT
from dramatiq_progress.stores.composites import Contribution, Membership, slot
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


def test_each_user_sees_their_own_messages_newest_first(people: People) -> None:
    mine = [people.send("owner") for _ in range(3)]
    theirs = people.send("another")
    people.send()
    assert ids(people.clients["owner"]) == mine[::-1]
    assert ids(people.clients["another"]) == [theirs]
    assert ids(people.clients["staff"]) == ids(people.clients["anonymous"]) == []


def test_only_cancellable_messages_have_a_button(people: People, settings: Any) -> None:
    """A list with messages of both kinds is no mistake, so there is no warning."""
    settings.DEBUG = True
    first = people.send("owner")
    with owned_by(people.users["owner"]):
        second = progress_actor(broker=people.broker, actor_name="charge")(lambda: None).send().message_id
    template = Template("{% load dramatiq_progress %}{% dramatiq_progress_mine cancel=True %}")
    html = template.render(RequestContext(request_of(people, "owner")))
    assert f'src="/progress/{second}/"' in html and "warning" not in html
    assert re.findall(r' cancel="(.*?)"', html) == [f"/progress/{first}/cancel/"]


def test_messages_are_the_same_as_in_the_list(people: People) -> None:
    message_id = people.send("owner")
    finish(message_id)
    listed = people.clients["owner"].get(f"/progress/?id={message_id}")
    mine = people.clients["owner"].get("/progress/mine/")
    assert mine.json() == listed.json()
    assert mine["ETag"] == listed["ETag"]
    assert people.clients["owner"].get("/progress/mine/", headers={"If-None-Match": mine["ETag"]}).status_code == 304


def test_a_finished_message_is_listed_until_its_record_expires(people: People, settings: Any) -> None:
    first, second = people.send("owner"), people.send("owner")
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "FINISHED_TTL": 0.2}
    finish(first)
    wait_until(lambda: ids(people.clients["owner"]) == [second])


def test_a_failed_group_is_listed_no_longer_than_other_jobs(people: People, settings: Any) -> None:
    """Its record is kept until its failed members can't be sent again."""
    actor = progress_actor(broker=people.broker, actor_name="index")(lambda: None)
    with owned_by(people.users["owner"]):
        group = progress_group([actor.message() for _ in range(2)], broker=people.broker).run()
    membership = Membership(group.message_id, 2, "index")
    slots = {each.message_id: slot(State.FAILED, 1, 0, 1) for each in group.children}
    get_store().contribute([Contribution((membership,), "", slots)])
    assert ids(people.clients["owner"]) == [group.message_id]
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "FINISHED_TTL": 0.2}
    wait_until(lambda: not ids(people.clients["owner"]))
    assert people.clients["owner"].get(f"/progress/{group.message_id}/").status_code == 200


def test_a_visitor_who_logs_in_sees_messages_from_before_and_after(people: People) -> None:
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


def test_reading_creates_no_session(people: People) -> None:
    response = people.clients["anonymous"].get("/progress/mine/")
    assert response.json() == {"messages": [], "unknown": []}
    assert not response.cookies


def test_a_message_that_may_not_be_read_is_not_listed(people: People, settings: Any) -> None:
    people.send("owner")
    settings.DRAMATIQ_PROGRESS = {
        **settings.DRAMATIQ_PROGRESS,
        "PERMISSION": "dramatiq_progress.permissions.staff",
    }
    assert ids(people.clients["owner"]) == []


def test_the_latest_messages_are_kept(people: People) -> None:
    sent = [people.send("owner") for _ in range(OWNED_LIMIT + 3)]
    assert ids(people.clients["owner"]) == sent[:2:-1]


def test_an_unavailable_store_is_a_503_and_a_text_in_the_tag(people: People, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = people.clients["owner"].get("/progress/mine/")
    assert (response.status_code, response.json()) == (503, {"error": "store_unavailable"})
    html = render(request_of(people, "owner"), "empty='You have no jobs.'")
    text = "Progress can&#x27;t be shown right now."
    assert html == f'<div class="dramatiq-progress-mine"><p>{text} <a href="">Refresh</a></p></div>'


# ---- The template tag ----


def render(request: HttpRequest | None, options: str = "", **context: str) -> str:
    template = Template("{% load dramatiq_progress %}{% dramatiq_progress_mine " + options + " %}")
    return template.render(Context(context) if request is None else RequestContext(request, context))


def test_the_tag_renders_a_bar_per_message(people: People) -> None:
    sent = [people.send("owner") for _ in range(2)]
    people.send("another")
    html = render(request_of(people, "owner"), "show_result=True")
    assert html.startswith('<div class="dramatiq-progress-mine"><dramatiq-progress ')
    assert html.count("<b>Work</b>") == 2
    assert re.findall(r' src="/progress/([\w-]+)/"', html) == sent[::-1]
    assert html.count(" show-result") == 2
    html = render(request_of(people, "owner"), "label=name", name="<Job>")
    assert html.count(' label="&lt;Job&gt;"') == html.count("<b>&lt;Job&gt;</b>") == 2
    assert "Work" not in html


def test_the_tag_renders_a_text_without_messages(people: People) -> None:
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


def test_the_request_may_be_a_variable_of_the_context(people: People) -> None:
    """As in `render_to_string("mail.html", {"request": request})`."""
    message_id = people.send("owner")
    template = Template("{% load dramatiq_progress %}{% dramatiq_progress_mine cancel=True %}")
    html = template.render(Context({"request": request_of(people, "owner")}))
    assert f' cancel="/progress/{message_id}/cancel/"' in html and "<b>Work</b>" in html


def test_without_a_request_the_tag_raises(people: People) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs the request"):
        render(None)

"""Owners: stored when a message is sent, inherited by the messages that follow it, and never revealed."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from django.contrib.auth import login, logout
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import include, path
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks, Pipelines, Retries, SkipMessage
from dramatiq.rate_limits.backends import StubBackend

from dramatiq_progress import Progress, State, get_progress, owned_by, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import OWNER_OPTION, VISITOR_KEY, owners_of
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store
from tests.brokers import working
from tests.people import People
from tests.reading import found
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until

# ---- A site ----


class Actors:
    """The actors whose messages the views of this module send."""

    tracked: dramatiq.Actor[..., Any]
    untracked: dramatiq.Actor[..., Any]


def response_with_id(message: dramatiq.Message[Any]) -> HttpResponse:
    return HttpResponse(message.message_id)


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("")


async def nothing_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("")


def send(request: HttpRequest) -> HttpResponse:
    return response_with_id(Actors.tracked.send())


async def send_async(request: HttpRequest) -> HttpResponse:
    return response_with_id(Actors.tracked.send())


async def send_for_user_async(request: HttpRequest) -> HttpResponse:
    with owned_by(request.user):
        return response_with_id(Actors.tracked.send())


def send_untracked(request: HttpRequest) -> HttpResponse:
    return response_with_id(Actors.untracked.send())


def send_pipeline(request: HttpRequest) -> HttpResponse:
    following = Actors.tracked.message()
    dramatiq.pipeline([Actors.untracked.message(), following], broker=Actors.tracked.broker).run()
    return response_with_id(following)


def enter(request: HttpRequest) -> HttpResponse:
    login(request, User.objects.get(username=request.GET["as"]), backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse("")


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("")


urlpatterns = [
    path("progress/", include("dramatiq_progress.urls")),
    path("nothing/", nothing),
    path("nothing-async/", nothing_async),
    path("send/", send),
    path("send-async/", send_async),
    path("send-for-user-async/", send_for_user_async),
    path("send-untracked/", send_untracked),
    path("send-pipeline/", send_pipeline),
    path("login/", enter),
    path("logout/", leave),
]

pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def broker(memory_store: Store) -> Iterator[StubBroker]:
    """A broker with all middleware that sends messages, and the actors of the views."""
    made = StubBroker(
        middleware=[
            AsyncIO(),
            Pipelines(),
            GroupCallbacks(StubBackend()),
            Retries(max_retries=1, min_backoff=1, max_backoff=1),
            ProgressMiddleware(),
        ]
    )
    Actors.tracked = progress_actor(broker=made, actor_name="tracked")(lambda *args: None)
    Actors.untracked = dramatiq.actor(broker=made, actor_name="untracked")(lambda *args: None)
    made.emit_after("process_boot")
    yield made
    made.close()


@pytest.fixture
def worker(broker: StubBroker) -> Iterator[dramatiq.Worker]:
    made = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def mine(people: People, broker: StubBroker) -> str:
    """The hash of the user `owner`."""
    return owner_of(people.send("owner"))


def owner_of(message: str | dramatiq.Message[Any] | HttpResponse) -> str:
    if isinstance(message, HttpResponse):
        message = message.content.decode()
    progress = get_progress(message if isinstance(message, str) else message.message_id)
    assert progress is not None
    return progress.owner


def can_read(client: Client, sent: HttpResponse) -> bool:
    return client.get(f"/progress/{sent.content.decode()}/").status_code == 200


# ---- A whole site: OwnerMiddleware ----


@pytest.mark.parametrize("path", ["/nothing/", "/nothing-async/", "/send-untracked/"])
def test_a_request_that_sends_nothing_tracked_reads_neither_session_nor_user(
    people: People, broker: StubBroker, django_assert_num_queries: Any, path: str
) -> None:
    for client in people.clients.values():
        with django_assert_num_queries(0):
            response = client.get(path)
        assert response.status_code == 200
        assert "Vary" not in response and not response.cookies


def test_a_user_owns_the_messages_they_send(people: People, broker: StubBroker, mine: str) -> None:
    sent = people.clients["owner"].get("/send/")
    assert owner_of(sent) == mine
    assert people.who_gets(f"/progress/{sent.content.decode()}/") == {"owner", "staff"}


def test_a_visitor_owns_their_messages_before_and_after_they_log_in(people: People, broker: StubBroker) -> None:
    visitor = people.clients["anonymous"]
    sent = visitor.get("/send/")
    assert visitor.session[VISITOR_KEY]
    key = visitor.session.session_key
    assert people.who_gets(f"/progress/{sent.content.decode()}/") == {"anonymous", "staff"}

    visitor.get("/login/?as=another")
    assert visitor.session.session_key != key
    later = visitor.get("/send/")
    assert owner_of(later) != owner_of(sent)
    assert can_read(visitor, sent) and can_read(visitor, later)
    assert can_read(people.clients["another"], later) and not can_read(people.clients["another"], sent)

    visitor.get("/logout/")
    assert not can_read(visitor, sent) and not can_read(visitor, later)


def test_a_visitor_keeps_the_same_token(people: People, broker: StubBroker) -> None:
    visitor = people.clients["anonymous"]
    first, second = visitor.get("/send/"), visitor.get("/send/")
    assert owner_of(first) == owner_of(second)
    assert not second.cookies


@pytest.mark.parametrize(
    ("name", "path"), [("anonymous", "/send-async/"), ("owner", "/send-async/"), ("owner", "/send-for-user-async/")]
)
@pytest.mark.django_db(transaction=True)
def test_an_async_view_can_send_on_the_event_loop(people: People, broker: StubBroker, name: str, path: str) -> None:
    client = AsyncClient()
    if name in people.users:
        client.force_login(people.users[name])

    async def scenario() -> tuple[HttpResponse, HttpResponse]:
        return await client.get(path), await client.get("/send/")

    sent, sent_by_sync_view = asyncio.run(scenario())
    assert owner_of(sent) == owner_of(sent_by_sync_view) != ""
    if name in people.users:
        assert can_read(people.clients[name], sent)


def test_a_site_without_sessions_sends_messages_without_an_owner(
    people: People, broker: StubBroker, settings: Any
) -> None:
    settings.MIDDLEWARE = ["dramatiq_progress.requests.OwnerMiddleware"]
    assert owner_of(Client().get("/send/")) == ""


def test_only_staff_may_read_a_message_whose_owner_is_unknown(
    people: People, broker: StubBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(SessionBase, "get", lambda *args: 1 / 0)
        sent = people.clients["anonymous"].get("/send/")
    assert sent.status_code == 200 and "Could not determine the owner" in caplog.text
    assert people.who_gets(f"/progress/{sent.content.decode()}/") == {"staff"}


# ---- owned_by ----


def test_a_block_sets_the_owner_of_its_messages(people: People, broker: StubBroker, mine: str) -> None:
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    for whom in (people.users["owner"], request):
        with owned_by(whom):
            assert owner_of(Actors.tracked.send()) == mine
            assert Actors.untracked.send().options[OWNER_OPTION] == mine
            with owned_by(None):
                assert owner_of(Actors.tracked.send()) == ""
    assert owner_of(Actors.tracked.send()) == ""


def test_a_wrapped_request_is_a_request(people: People, broker: StubBroker, mine: str) -> None:
    class Wrapped:
        """A wrapper like that of Django REST framework."""

        def __init__(self, request: HttpRequest) -> None:
            self._request = request

        def __getattr__(self, name: str) -> Any:
            return getattr(self._request, name)

    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    with owned_by(Wrapped(request)):
        assert owner_of(Actors.tracked.send()) == mine


@pytest.mark.parametrize(
    ("whom", "error"), [("owner", TypeError), (7, TypeError), (AnonymousUser(), ValueError), (User(), ValueError)]
)
def test_an_invalid_owner_raises(whom: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="request"), owned_by(whom):
        pass


def test_a_new_thread_has_no_owner_and_a_copied_context_has_it(people: People, broker: StubBroker, mine: str) -> None:
    sent: list[str] = []

    def act() -> None:
        sent.append(owner_of(Actors.tracked.send()))

    with owned_by(people.users["owner"]):
        contexts = [contextvars.Context(), contextvars.copy_context()]
        threads = [threading.Thread(target=context.run, args=(act,)) for context in contexts]
        for each in threads:
            each.start()
            each.join()
        asyncio.run(asyncio.to_thread(act))
    assert sent == ["", mine, mine]


def test_users_of_two_models_with_the_same_primary_key_are_two_owners(people: People) -> None:
    class Customer:
        is_authenticated = True

        def __init__(self, pk: int) -> None:
            self.pk = pk

    user = people.users["owner"]
    owners = [owner_of(people.send(each)) for each in (user, Customer(user.pk), Customer(user.pk + 1))]
    assert len({*owners}) == 3


def test_an_owner_is_recognised_by_a_fallback_key(people: People, settings: Any) -> None:
    message_id = people.send("owner")
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    before = settings.SECRET_KEY
    settings.SECRET_KEY = "another"
    assert owner_of(message_id) not in owners_of(request)
    settings.SECRET_KEY_FALLBACKS = [before]
    assert owner_of(message_id) in owners_of(request)


# ---- Inheritance ----


def is_finished(message: dramatiq.Message[Any]) -> bool:
    progress = get_progress(message.message_id)
    return progress is not None and progress.complete


def test_retries_and_delays_keep_the_owner(
    people: People, broker: StubBroker, worker: dramatiq.Worker, mine: str
) -> None:
    runs: list[int] = []

    @progress_actor(broker=broker)
    def fails_once() -> None:
        runs.append(1)
        assert len(runs) > 1

    with owned_by(people.users["owner"]):
        message = fails_once.send_with_options(delay=10)
    wait_until(lambda: is_finished(message))
    assert (len(runs), owner_of(message)) == (2, mine)


def test_pipelines_and_groups_keep_the_owner(
    people: People, broker: StubBroker, worker: dramatiq.Worker, mine: str
) -> None:
    """Also if the first message, or one in between, isn't tracked."""
    actor, untracked = Actors.tracked, Actors.untracked
    last, after_all, member = actor.message(), actor.message(), actor.message()
    piped = dramatiq.pipeline([actor.message(), untracked.message(), actor.message()], broker=broker)
    group = dramatiq.group([piped, member], broker=broker)
    group.add_completion_callback(after_all)
    with owned_by(people.users["owner"]):
        dramatiq.pipeline([untracked.message(), actor.message(), untracked.message(), last], broker=broker).run()
        group.run()
    sent_by_middleware = people.clients["owner"].get("/send-pipeline/")
    wait_until(lambda: is_finished(last) and is_finished(after_all) and is_finished(member))
    assert {owner_of(each) for each in (last, after_all, member)} == {mine}
    wait_until(lambda: get_progress(sent_by_middleware.content.decode()))
    assert owner_of(sent_by_middleware) == mine


def test_a_message_sent_by_a_job_inherits_the_owner(
    people: People, broker: StubBroker, worker: dramatiq.Worker, mine: str
) -> None:
    children: dict[str, dramatiq.Message[Any]] = {}

    def send_children(kind: str) -> None:
        children[kind] = Actors.tracked.send()
        with owned_by(None):
            children[f"{kind}, given away"] = Actors.tracked.send()

    @progress_actor(broker=broker)
    def sync_parent() -> None:
        send_children("sync")

    @progress_actor(broker=broker)
    async def async_parent() -> None:
        send_children("async")

    @dramatiq.actor(broker=broker)
    def untracked_parent() -> None:
        send_children("untracked")

    for parent in (sync_parent, async_parent, untracked_parent):
        with owned_by(people.users["owner"]):
            parent.send()
    wait_until(lambda: len(children) == 6)
    assert {kind: owner_of(child) == mine for kind, child in children.items()} == {
        kind: "given away" not in kind for kind in children
    }


def test_a_worker_does_not_keep_the_owner_of_the_previous_message(
    people: People, broker: StubBroker, mine: str
) -> None:
    children: list[str] = []

    @progress_actor(broker=broker)
    def parent() -> None:
        children.append(owner_of(Actors.tracked.send()))

    with owned_by(people.users["owner"]):
        parent.send()
    parent.send()
    with working(broker, threads=1):
        wait_until(lambda: len(children) == 2)
    assert sorted(children) == sorted([mine, ""])


def test_a_message_sent_by_a_receiver_in_a_worker_belongs_to_the_owner_of_the_job(
    people: People, broker: StubBroker, mine: str
) -> None:
    """In each state, also of a message that the worker rejects, since it has no such actor."""
    owners: list[tuple[str, State, str]] = []

    def receive(progress: Progress, **_: Any) -> None:
        if progress.actor != "tracked":
            owners.append((progress.actor, progress.state, owner_of(Actors.tracked.send())))

    def fail() -> None:
        raise ValueError("no")

    def skip() -> None:
        raise SkipMessage("nothing to do")

    jobs = {"works": lambda: None, "fails": fail, "is_skipped": skip, "is_gone": lambda: None}
    actors = [progress_actor(broker=broker, actor_name=name)(job) for name, job in jobs.items()]
    state_changed.connect(receive)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    try:
        with owned_by(people.users["owner"]):
            messages = [each.send() for each in actors]
        # The thread that has worked for an owner then works for none.
        public = actors[0].send()
        del broker.actors["is_gone"]
        worker.start()
        wait_until(lambda: all(is_finished(each) for each in (*messages, public)))
        wait_until(lambda: len(owners) == 17)
    finally:
        state_changed.disconnect(receive)
        worker.stop()
    enqueued, running, retrying = State.ENQUEUED, State.RUNNING, State.RETRYING
    states = {
        "works": [enqueued, running, State.DONE],
        "fails": [enqueued, running, retrying, enqueued, running, State.FAILED],
        "is_skipped": [enqueued, running, State.SKIPPED],
        "is_gone": [enqueued, State.FAILED],
    }
    assert Counter(owners) == Counter(
        [(name, state, mine) for name in states for state in states[name]]
        + [("works", state, "") for state in states["works"]]
    )


def test_a_message_sent_while_the_store_was_down_keeps_its_owner(
    people: People, broker: StubBroker, mine: str, server: Server, settings: Any
) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}}
    server.kill()
    with owned_by(people.users["owner"]):
        message = Actors.tracked.send()
    server.start()
    wait_until(lambda: found(message))
    assert owner_of(message) == mine


# ---- Secrecy ----


def test_no_response_signal_or_log_contains_an_owner(
    people: People, broker: StubBroker, worker: dramatiq.Worker, mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []

    def receive(progress: Any, **kwargs: Any) -> None:
        received.append(progress)

    @progress_actor(broker=broker, max_retries=0)
    def fails() -> None:
        raise ValueError("no")

    state_changed.connect(receive)
    try:
        with caplog.at_level(logging.DEBUG), owned_by(people.users["owner"]):
            message = fails.send()
            # The signal is sent after the record is written.
            wait_until(lambda: received and received[-1].state is State.FAILED)
    finally:
        state_changed.disconnect(receive)
    progress = get_progress(message.message_id)
    assert progress is not None and (progress.owner, progress.state) == (mine, State.FAILED)
    assert not any(each.owner for each in received)
    answer = people.clients["owner"].get(f"/progress/{message.message_id}/")
    texts = [json.dumps(progress.as_dict()), repr(progress), answer.content.decode(), str(answer.headers), caplog.text]
    assert answer.status_code == 200
    assert not any(mine in each or "owner" in each for each in texts[:-1]) and mine not in texts[-1]


def test_the_hash_reveals_nothing_about_the_user(people: People, mine: str) -> None:
    assert len(mine) == 22
    assert str(people.users["owner"].pk) != mine and "owner" not in mine

"""A record is for a message that was sent: where the send fails, it is taken back."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Pipelines, Retries

from dramatiq_progress import State, cancel, get_progress, owned_by, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import note_owner
from dramatiq_progress.stores import Store, get_store
from tests.brokers import working
from tests.reading import when
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("store")


class BrokenBroker(StubBroker):
    """A broker that is down, on demand: its ``enqueue`` raises after the hooks were called, as in others."""

    is_down = False

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        if self.is_down:
            self.emit_before("enqueue", message, delay)
            raise ConnectionError("the broker is down")
        return super().enqueue(message, delay=delay)


@pytest.fixture
def broker() -> BrokenBroker:
    return BrokenBroker(middleware=[Pipelines(), Retries(max_retries=0), ProgressMiddleware()])


def send_failing(broker: BrokenBroker, send: Callable[[], object]) -> str:
    """Send a message while the broker is down, and return its id."""
    ids: list[str] = []
    before = broker.emit_before

    def record(signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "enqueue":
            ids.append(args[0].message_id)
        before(signal, *args, **kwargs)  # type: ignore[no-untyped-call]

    broker.emit_before = record  # type: ignore[method-assign]
    broker.is_down = True
    try:
        with pytest.raises(ConnectionError):
            send()
    finally:
        broker.emit_before = before  # type: ignore[method-assign]
        broker.is_down = False
    return ids[0]


def positions(store: Store) -> int:
    """Return the length of the queue, as a message that is sent now sees it."""
    return get_progress(store_message(store)).queue_length or 0  # type: ignore[union-attr]


def store_message(store: Store) -> str:
    store.enqueue("last", actor="work", queue="default", retries_left=0)
    return "last"


def test_a_send_to_a_broker_that_is_down_leaves_no_record(broker: BrokenBroker, store: Store) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    message_id = send_failing(broker, actor.send)
    assert get_progress(message_id) is None
    assert positions(store) == 1


def test_a_delayed_send_to_a_broker_that_is_down_leaves_no_record(broker: BrokenBroker) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    message_id = send_failing(broker, lambda: actor.send_with_options(delay=10_000))
    assert get_progress(message_id) is None


def test_an_argument_that_is_not_json_leaves_no_record(broker: BrokenBroker, store: Store) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda day: None)
    message = actor.message(datetime.date(2026, 1, 1))
    with pytest.raises(Exception, match="JSON"):
        broker.enqueue(message)
    assert get_progress(message.message_id) is None
    assert positions(store) == 1


def test_a_failed_send_is_in_nobodys_messages(broker: BrokenBroker, store: Store, admin_user: Any) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    with owned_by(admin_user):
        message_id = send_failing(broker, actor.send)
        owner = note_owner(actor.message(), is_tracked=True)
    assert message_id not in store.owned([owner])


def test_a_send_that_fails_while_the_store_is_down_leaves_no_record(
    broker: BrokenBroker, settings: Any, store: Store
) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    failed = send_failing(broker, actor.send)
    sent = actor.send().message_id
    settings.DRAMATIQ_PROGRESS = good
    wait_until(lambda: get_progress(sent))
    assert get_progress(failed) is None


def test_a_message_that_a_worker_has_started_is_not_taken_back(broker: BrokenBroker, store: Store) -> None:
    """The broker raised, and had accepted the message."""
    change = store.enqueue("m1", actor="work", queue="default", retries_left=0)
    from dramatiq_progress.stores.attempt import Attempt

    store.start(Attempt("m1", "work", "default"))
    store.withdraw("m1", change, queue="default")
    progress = get_progress("m1")
    assert progress is not None and progress.state is State.RUNNING


def test_the_next_message_of_a_pipeline_that_cannot_be_sent_leaves_no_record(broker: BrokenBroker) -> None:
    def first() -> None:
        broker.is_down = True

    start = progress_actor(broker=broker, actor_name="first")(first)
    end = progress_actor(broker=broker, actor_name="last")(lambda *_: None)
    messages = [start.message(), end.message()]
    pipe = dramatiq.pipeline(messages, broker=broker)  # type: ignore[no-untyped-call]
    pipe.run()
    with working(broker, threads=1):
        when(pipe.messages[0], State.DONE)
    assert get_progress(pipe.messages[1].message_id) is None


@pytest.mark.parametrize("message_id", ["a:b", "a/b", "a b", "x" * 65, "", "ä", "\ud800"])
def test_an_id_that_no_url_can_carry_is_reported_at_the_send(
    broker: BrokenBroker, message_id: str, caplog: Any
) -> None:
    ran: list[int] = []
    actor = progress_actor(broker=broker, actor_name="work")(lambda: ran.append(1))
    message = actor.message().copy(message_id=message_id)
    broker.enqueue(message)
    assert "without progress" in caplog.text and "A-Z" in caplog.text
    with working(broker, threads=1):
        broker.join("default")
    assert ran == [1]
    for read in (get_progress, cancel):
        with pytest.raises(ValueError, match="A-Z"):
            read(message_id)


def test_the_store_keeps_no_deferred_change_of_an_untracked_message(broker: BrokenBroker) -> None:
    from dramatiq_progress.worker.recording.recorder import get_recorder

    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    broker.enqueue(actor.message().copy(message_id="\ud800"))
    assert not get_recorder()._deferred
    assert get_store().health.is_available

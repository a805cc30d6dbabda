"""Targets of schedules: progress actors, plain actors, and tasks of Django 6 with any backend."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, owned_by, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import carried_by
from dramatiq_progress.scheduler.targets import has_finished, is_tracked, send, was_delivered
from dramatiq_progress.schedules.declaring import is_target, name_of
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    made = StubBroker(middleware=[ProgressMiddleware()])
    made.emit_after("process_boot")
    yield made
    made.close()


def nothing(*args: Any, **kwargs: Any) -> None: ...


def sent_by(broker: StubBroker) -> dramatiq.Message[Any]:
    return dramatiq.Message.decode(broker.queues["default"].get_nowait())


def test_an_actor_is_sent_with_the_claimed_id_and_without_an_owner(broker: StubBroker, memory_store: Store) -> None:
    tracked = progress_actor(broker=broker, actor_name="tracked")(nothing)
    plain = dramatiq.actor(broker=broker, actor_name="plain")(nothing)
    owner = SimpleNamespace(is_authenticated=True, pk=1)
    for actor in (tracked, plain):
        message_id = str(uuid4())
        with owned_by(owner):
            assert send(actor, (1,), {"a": 2}, message_id) == message_id
        message = sent_by(broker)
        assert (message.message_id, message.actor_name, message.args, message.kwargs) == (
            message_id,
            actor.actor_name,
            (1,),
            {"a": 2},
        )
        assert carried_by(message) == ""
        assert is_target(actor) and is_tracked(actor) == (actor is tracked)


def test_a_message_was_certainly_sent_once_a_worker_has_started_it(broker: StubBroker, memory_store: Store) -> None:
    actor = progress_actor(broker=broker, actor_name="tracked")(nothing)
    assert not was_delivered(actor, "m1", memory_store) and has_finished(actor, "m1", memory_store)
    send(actor, (), {}, "m1")
    assert not was_delivered(actor, "m1", memory_store) and not has_finished(actor, "m1", memory_store)
    memory_store.pause("m1")
    assert not was_delivered(actor, "m1", memory_store) and not has_finished(actor, "m1", memory_store)
    memory_store.pause("m1", wanted=False)
    attempt = Attempt("m1", "tracked", "default")
    memory_store.start(attempt)
    assert was_delivered(actor, "m1", memory_store) and not has_finished(actor, "m1", memory_store)
    memory_store.finish(attempt, state=State.DONE)
    assert was_delivered(actor, "m1", memory_store) and has_finished(actor, "m1", memory_store)


class NamingBackend:
    """The part of a backend that takes the claimed id."""

    supports_get_result = True

    def __init__(self) -> None:
        self.enqueued: list[tuple[Any, ...]] = []

    def enqueue_as(self, task: Any, args: Any, kwargs: Any, id: str) -> Any:
        self.enqueued.append((args, kwargs, id))
        return SimpleNamespace(id=id)


def test_a_backend_that_takes_ids_gets_the_claimed_one() -> None:
    backend = NamingBackend()
    task = SimpleNamespace(module_path="shop.tasks.refresh", get_backend=lambda: backend)
    assert is_target(task) and is_tracked(task) and name_of(task) == "shop.tasks.refresh"
    assert send(task, (1,), {"a": 2}, "m1") == "m1"
    assert backend.enqueued == [((1,), {"a": 2}, "m1")]

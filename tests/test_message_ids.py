"""Names of a message: the message itself, its id, its progress, and each object that has its id."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from django.template import Context, Template, TemplateSyntaxError
from django.utils.safestring import SafeString
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import (
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    acancel,
    aget_progress,
    cancel,
    get_progress,
    progress_actor,
    progress_url,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.web.elements import bar
from dramatiq_progress.worker.observing.binding import Binding

Sent = dramatiq.Message[Any]


@dataclass
class Job:
    """A row of a project's model."""

    message_id: UUID


NAMES: dict[str, Callable[[Sent], Any]] = {
    "message": lambda sent: sent,
    "delivered message": lambda sent: dramatiq.MessageProxy(sent),
    "id": lambda sent: sent.message_id,
    "safe id": lambda sent: SafeString(sent.message_id),
    "UUID": lambda sent: UUID(sent.message_id),
    "progress": lambda sent: get_progress(sent.message_id),
    "row with a UUID": lambda sent: Job(UUID(sent.message_id)),
    "observer": lambda sent: ProgressObserver(Binding(attempt=Attempt(sent.message_id, "work", "default"))),
}


def rendered(message: Any) -> str:
    return Template("{% load dramatiq_progress %}{% dramatiq_progress message %}").render(Context({"message": message}))


#: Everything that takes a message, and what it returns for the one with this id.
CALLS: dict[str, tuple[Callable[[Any], Any], Callable[[str], Any]]] = {
    "get_progress": (get_progress, lambda found: get_progress(found)),
    "aget_progress": (lambda message: asyncio.run(aget_progress(message)), lambda found: get_progress(found)),
    "cancel": (lambda message: cancel(message).outcome, lambda _: CancelOutcome.CANCELLED),
    "acancel": (lambda message: asyncio.run(acancel(message)).outcome, lambda _: CancelOutcome.CANCELLED),
    "progress_url": (progress_url, lambda found: f"/progress/{found}/"),
    "signed progress_url": (
        lambda message: progress_url(message, signed_for=60).partition("?")[0],
        lambda found: f"/progress/{found}/",
    ),
    "bar": (bar, lambda found: bar(found)),
    "tag": (rendered, lambda found: rendered(found)),
}


@pytest.fixture
def sent(memory_store: Store) -> Iterator[Sent]:
    broker = StubBroker(middleware=[ProgressMiddleware()])
    yield progress_actor(broker=broker, cancellable=True, actor_name="work")(lambda: None).send()
    broker.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", NAMES)
def test_everything_that_has_the_id_of_a_message_names_it(sent: Sent, name: str, call: str) -> None:
    run, expected = CALLS[call]
    answer = run(NAMES[name](sent))
    assert answer == expected(sent.message_id)
    if isinstance(answer, Progress):
        assert (answer.id, answer.state) == (sent.message_id, State.ENQUEUED)


WRONG: list[tuple[Any, str]] = [
    (None, "None is not a message: pass the one that an actor's send() returned, its id, or its Progress."),
    (7, "7 is not a message: pass the one"),
    (b"m1", "b'm1' is not a message: pass the one"),
    (["m1"], "['m1'] is not a message: pass the one"),
    (dramatiq.group([]), "is not a message: pass the one"),  # type: ignore[no-untyped-call]
    (ProgressObserver(), "is not a message: pass the one"),
    ("", "'' is not a message id: those have 1 to 64 of A-Z, a-z, 0-9, _ and -."),
    ("a b", "'a b' is not a message id: those have"),
    ("m1\n", r"'m1\n' is not a message id: those have"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("wrong", "text"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_anything_else_raises_an_error_that_names_the_value_and_the_repair(
    memory_store: Store, settings: Any, call: str, wrong: Any, text: str
) -> None:
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError if call in ("bar", "tag") else ValueError, match=re.escape(text)):
        CALLS[call][0](wrong)

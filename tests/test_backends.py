"""Django's tasks on Dramatiq: real brokers and workers, in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.template import RequestContext, Template
from django.test import AsyncClient, Client, RequestFactory
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Middleware, Pipelines, Retries, TimeLimit, TimeLimitExceeded
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

from dramatiq_progress import (
    CancelOutcome,
    PauseOutcome,
    Progress,
    State,
    StoreUnavailable,
    cancel,
    get_progress,
    owned_by,
    pause,
    progress_group,
    progress_pipeline,
    resume,
)
from dramatiq_progress.backends import DramatiqBackend
from dramatiq_progress.errors import Cancelled
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import owners_of
from dramatiq_progress.requests import OwnerMiddleware
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store, get_store
from tests import django_tasks as tasks
from tests.people import MIDDLEWARE
from tests.steps import until_asked
from tests.store_server import Server
from tests.waiting import PATIENT, TIMEOUT_SECONDS, wait_until

READY, RUNNING, FAILED, SUCCESSFUL = (TaskResultStatus[each] for each in ("READY", "RUNNING", "FAILED", "SUCCESSFUL"))
BACKEND = "dramatiq_progress.backends.DramatiqBackend"
RETRIES = {"min_backoff": 1, "max_backoff": 1}

PAGE = Template(
    "{% load dramatiq_progress %}{% for id in ids %}{% dramatiq_progress id show_result=True %}{% endfor %}"
    "{% dramatiq_progress_mine %}"
)

pytestmark = pytest.mark.usefixtures("store")

in_any_order = pytest.mark.parametrize("site", ["first", "last"], indirect=True)


class Site:
    """The broker that tasks are sent to, and its worker."""

    def __init__(self, *middleware: Middleware) -> None:
        self.broker = StubBroker(middleware=list(middleware))
        self._worker: dramatiq.Worker | None = None

    def work(self, **options: Any) -> dramatiq.Worker:
        self.broker.emit_after("process_boot")
        self._worker = dramatiq.Worker(self.broker, worker_timeout=10, **{"worker_threads": 2, **options})
        self._worker.start()
        return self._worker

    def stop(self) -> None:
        tasks.go_on.set()
        if self._worker is not None:
            self._worker.stop()
        self.broker.close()


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site with our middleware after all others, or before them."""
    others: list[Middleware] = [TimeLimit(interval=20), Retries(**RETRIES), AsyncIO(), Pipelines()]
    is_first = getattr(request, "param", "last") == "first"
    here = Site(*([ProgressMiddleware(), *others] if is_first else [*others, ProgressMiddleware()]))
    before = dramatiq.get_broker()
    dramatiq.set_broker(here.broker)
    tasks.noted.clear()
    tasks.go_on.clear()
    yield here
    here.stop()
    dramatiq.set_broker(before)


@pytest.fixture
def signals() -> Iterator[list[tuple[str, str, str, type]]]:
    """The signals of tasks: name, id and status of the result, sender."""
    sent: list[tuple[str, str, str, type]] = []
    connected: list[tuple[Any, Callable[..., None]]] = []
    for name, signal in (("enqueued", task_enqueued), ("started", task_started), ("finished", task_finished)):

        def receive(sender: type, task_result: Any, name: str = name, **kwargs: Any) -> None:
            sent.append((name, task_result.id, task_result.status.value, sender))

        signal.connect(receive, weak=False)
        connected.append((signal, receive))
    yield sent
    for signal, receive in connected:
        signal.disconnect(receive)


def ended(result: Any) -> Any:
    """Wait until a task has finished, and return its result."""

    def is_finished() -> bool:
        result.refresh()
        return bool(result.is_finished)

    wait_until(is_finished)
    return result


@in_any_order
def test_a_task_runs_and_its_result_can_be_read(site: Site, signals: list[Any]) -> None:
    result = tasks.add.enqueue(1, b=2)
    assert (result.status, result.args, result.kwargs, result.attempts) == (READY, [1], {"b": 2}, 0)
    assert default_task_backend.get_result(result.id) == result
    before = timezone.now()

    site.work()
    ended(result)
    assert (result.status, result.return_value, result.errors, result.attempts) == (SUCCESSFUL, 3, [], 1)
    assert before - timedelta(seconds=1) <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result == tasks.add.get_result(result.id)
    wait_until(lambda: len(signals) == 3)
    assert signals == [
        ("enqueued", result.id, "READY", DramatiqBackend),
        ("started", result.id, "RUNNING", DramatiqBackend),
        ("finished", result.id, "SUCCESSFUL", DramatiqBackend),
    ]


def test_a_task_runs_with_a_cluster(site: Site, cluster_store: Store) -> None:
    result = tasks.fail_first.using(max_retries=1).enqueue(1)
    site.work()
    assert (ended(result).return_value, len(result.errors), result.metadata) == (2, 1, {"attempts": 2})


def test_a_task_has_the_progress_of_a_message(site: Site) -> None:
    result = tasks.import_rows.enqueue(["a", "b"])
    site.work()
    assert ended(result).return_value == {"rows": 2}
    progress = get_progress(result.id)
    assert progress is not None
    assert (progress.actor, progress.queue) == ("tests.django_tasks.import_rows", "default")
    assert (progress.current, progress.total, progress.description) == (2, 2, "Importing")
    assert (progress.metadata, progress.result) == ({"kind": "rows"}, {"imported": 2})


def test_a_paused_task_is_ready_and_goes_on_where_it_was(
    site: Site, signals: list[Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_progress.worker.sending.again.PAUSE_SECONDS", 0.05)
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.05}
    waiting, running = tasks.add.enqueue(1, 2), tasks.go_through.enqueue(3)
    assert pause(waiting.id).outcome is PauseOutcome.PAUSED
    site.work()
    wait_until(lambda: get_progress(running.id).total == 3)  # type: ignore[union-attr]
    assert pause(running.id).outcome is PauseOutcome.REQUESTED
    until_asked(running.id)
    tasks.go_on.set()
    wait_until(lambda: get_progress(running.id).state is State.PAUSED)  # type: ignore[union-attr]
    for result in (waiting, running):
        result.refresh()
        assert (result.status, result.is_finished) == (READY, False)
    assert (tasks.noted, running.attempts) == ([0], 1)
    assert resume(waiting.id) and resume(running.id)
    assert (ended(waiting).return_value, ended(running).return_value) == (3, "all")
    assert (tasks.noted, running.attempts, waiting.attempts) == ([0, 1, 2], 2, 1)
    wait_until(lambda: len(signals) == 7)
    names = [[name for name, each, *_ in signals if each == result.id] for result in (waiting, running)]
    assert names == [["enqueued", "started", "finished"], ["enqueued", "started", "started", "finished"]]


def test_a_task_has_a_title(site: Site) -> None:
    named, unnamed = tasks.import_rows.using(title="Import people.csv").enqueue([]), tasks.import_rows.enqueue([])
    titles = [get_progress(each.id).title for each in (named, unnamed)]  # type: ignore[union-attr]
    assert titles == ["Import people.csv", "Import rows"]
    assert default_task_backend.get_result(named.id).task == named.task


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_commit", [True, False])
def test_a_lazy_title_is_in_the_language_of_the_call(site: Site, settings: Any, on_commit: bool) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": on_commit}}}
    with transaction.atomic(), translation.override("de"):
        result = tasks.add.using(title=gettext_lazy("Yes")).enqueue(1, 2)
    assert get_progress(result.id).title == "Ja"  # type: ignore[union-attr]
    assert default_task_backend.get_result(result.id).task.title == "Ja"
    site.work()
    assert ended(result).return_value == 3
    with translation.override("de"):
        assert tasks.add.using(title=gettext_lazy("Yes")).message(1, 2).options["title"] == "Ja"


@pytest.mark.django_db(transaction=True)
def test_a_task_that_waits_for_the_commit_is_sent_as_it_was_at_the_call(site: Site, settings: Any) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": True}}}
    rows: list[int] = [1]
    metadata: dict[str, Any] = {"trace": "a", "tags": ["b"]}
    with transaction.atomic():
        tasks.give.using(metadata=metadata).enqueue(rows)
        rows.append(2)
        metadata["tags"].append("c")
        metadata["trace"] = "d"
    message = dramatiq.Message.decode(site.broker.queues["default"].get_nowait())
    assert message.args[1] == [[1]]
    assert message.options["progress_task"]["options"]["metadata"] == {"trace": "a", "tags": ["b"]}


def test_a_return_value_is_public_only_where_the_task_says_so(site: Site) -> None:
    private, public = tasks.add.enqueue(1, 2), tasks.add.using(publish_result=True).enqueue(1, 2)
    site.work()
    assert ended(private).return_value == ended(public).return_value == 3
    assert [get_progress(each.id).result for each in (private, public)] == [None, 3]  # type: ignore[union-attr]


@in_any_order
def test_a_task_that_fails_is_not_retried_unless_it_says_so(site: Site, signals: list[Any]) -> None:
    result = tasks.fail.enqueue("no")
    site.work()
    ended(result)
    assert (result.status, result.attempts) == (FAILED, 1)
    [error] = result.errors
    assert error.exception_class is ValueError
    assert error.traceback.endswith("ValueError: no\n")
    wait_until(lambda: signals[-1][0] == "finished")
    assert [name for name, *_ in signals] == ["enqueued", "started", "finished"]


@in_any_order
def test_each_attempt_keeps_its_error(site: Site, signals: list[Any]) -> None:
    result = tasks.fail_first.using(max_retries=2).enqueue(2)
    site.work()
    ended(result)
    assert (result.status, result.return_value, result.attempts, len(result.worker_ids)) == (SUCCESSFUL, 3, 3, 3)
    assert [each.traceback.splitlines()[-1] for each in result.errors] == [
        "ValueError: attempt 1",
        "ValueError: attempt 2",
    ]
    assert result.started_at < result.last_attempted_at < result.finished_at
    assert result.metadata == {"attempts": 3}
    wait_until(lambda: signals[-1][0] == "finished")
    assert [name for name, *_ in signals] == ["enqueued", "started", "started", "started", "finished"]


def test_a_task_is_ready_between_its_attempts(site: Site, settings: Any) -> None:
    site.broker.middleware = [each for each in site.broker.middleware if not isinstance(each, Retries)]
    site.broker.add_middleware(Retries(min_backoff=600_000), before=AsyncIO)
    result = tasks.fail_first.using(max_retries=1).enqueue(1)
    site.work()
    wait_until(lambda: get_progress(result.id).state is State.RETRYING)  # type: ignore[union-attr]
    result.refresh()
    assert (result.status, result.attempts, len(result.errors), result.finished_at) == (READY, 1, 1, None)


def test_an_async_task_runs(site: Site) -> None:
    result = tasks.add_async.enqueue(1, 2)
    site.work()
    assert ended(result).return_value == 3


def test_an_async_task_without_asyncio_runs_too(site: Site) -> None:
    site.broker.middleware = [each for each in site.broker.middleware if not isinstance(each, AsyncIO)]
    result = tasks.add_async.enqueue(1, 2)
    assert [each.id for each in default_task_backend.check()] == ["dramatiq_progress.E007"]
    site.work()
    assert ended(result).return_value == 3


@in_any_order
def test_a_time_limit_interrupts_an_async_task(site: Site) -> None:
    # A short limit may be over before the task begins: Dramatiq counts from before our hook, which asks the store.
    result = tasks.wait_async.using(time_limit=3_600_000).enqueue()
    site.work()
    wait_until(lambda: tasks.noted == ["waiting"])
    limits: Any = next(each for each in site.broker.middleware if isinstance(each, TimeLimit)).manager
    with limits.mu:
        [(thread, deadline)] = [each for each in limits.deadlines.items() if each[1]]
        assert deadline > time.monotonic() + 3000
        limits.deadlines[thread] = time.monotonic()
    assert ended(result).status is FAILED
    assert result.errors[0].exception_class.__name__ == "TimeLimitExceeded"


@in_any_order
@pytest.mark.parametrize("has_run", [False, True])
def test_a_time_limit_that_ends_outside_the_function_of_a_task_is_its_error(
    site: Site, signals: list[Any], has_run: bool
) -> None:
    result = tasks.add.using(max_retries=0).enqueue(1, 2)
    [actor] = [each for each in site.broker.actors.values() if each.priority == 0]
    call = actor.fn

    def interrupted(*args: Any, **kwargs: Any) -> None:
        if has_run:
            call(*args, **kwargs)
        raise TimeLimitExceeded

    actor.fn = interrupted
    site.work()
    assert ended(result).status is FAILED
    [error] = result.errors
    assert error.exception_class is TimeLimitExceeded and "TimeLimitExceeded" in error.traceback
    wait_until(lambda: ("finished", result.id, "FAILED", DramatiqBackend) in signals)


@in_any_order
def test_a_running_task_can_be_cancelled(site: Site, settings: Any, signals: list[Any]) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.1}
    result = tasks.wait.enqueue()
    site.work()
    wait_until(lambda: get_progress(result.id).state is State.RUNNING)  # type: ignore[union-attr]
    assert default_task_backend.cancel(result.id, force=True).outcome is CancelOutcome.REQUESTED
    ended(result)
    assert (result.status, [each.exception_class.__name__ for each in result.errors]) == (FAILED, ["Cancelled"])
    wait_until(lambda: signals[-1][0] == "finished")
    assert [name for name, *_ in signals].count("finished") == 1


def test_a_waiting_task_that_is_cancelled_is_finished_by_its_canceller(site: Site, signals: list[Any]) -> None:
    result = tasks.note.enqueue(1)
    for _ in range(2):
        assert default_task_backend.cancel(result.id, force=True).outcome is CancelOutcome.CANCELLED
    assert [name for name, *_ in signals] == ["enqueued", "finished"]
    assert [each.exception_class.__name__ for each in ended(result).errors] == ["Cancelled"]
    site.work()
    tasks.add.enqueue(1, 2)
    wait_until(lambda: len(signals) == 5)
    assert tasks.noted == []


def test_a_message_to_the_user_fails_the_task(site: Site) -> None:
    result = tasks.fail_for_the_user.using(max_retries=3).enqueue("Line 7 has 3 columns.")
    site.work()
    assert (ended(result).status, result.attempts) == (FAILED, 1)
    assert get_progress(result.id).result == "Line 7 has 3 columns."  # type: ignore[union-attr]


def test_metadata_is_private_and_saved_during_the_task(site: Site) -> None:
    result = tasks.trace_async.using(metadata={"given": 1}).enqueue("t1")
    assert default_task_backend.get_result(result.id).metadata == {"given": 1}
    site.work()
    wait_until(lambda: tasks.noted == ["t1"])
    result.refresh()
    assert (result.status, result.metadata) == (RUNNING, {"given": 1, "token": "t1"})
    assert get_progress(result.id).metadata == {}  # type: ignore[union-attr]
    tasks.go_on.set()


def test_tasks_run_in_the_order_of_their_bands(site: Site) -> None:
    began = threading.Event()

    @dramatiq.actor(broker=site.broker, queue_name="others")
    def occupy() -> None:
        began.set()
        tasks.go_on.wait()

    occupy.send()
    worker = site.work(worker_threads=1)
    assert began.wait(TIMEOUT_SECONDS)
    for priority in (-5, 0, 5, -1, 0, 100):
        tasks.note.using(priority=priority).enqueue(priority)
    # A thread for each band fetches its messages. A worker that is free would take those that are fetched first.
    wait_until(lambda: worker.work_queue.qsize() == 6)
    tasks.go_on.set()
    wait_until(lambda: len(tasks.noted) == 6)
    assert sorted(tasks.noted, key=lambda each: (each > 0) - (each < 0), reverse=True) == tasks.noted


def test_a_worker_for_some_queues_takes_all_their_bands(site: Site, settings: Any) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": ["default", "slow"]}}
    results = [tasks.note.using(priority=each, queue_name="slow").enqueue(each) for each in (-1, 0, 1)]
    other = tasks.note.enqueue("other")
    worker = site.work(queues={"slow"})
    for result in results:
        assert ended(result).status is SUCCESSFUL
    assert worker.consumer_whitelist == {"slow", "slow.high", "slow.low"}
    other.refresh()
    assert other.status is READY


def test_a_task_with_a_time_waits_for_it(site: Site) -> None:
    later = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1, 2)
    assert get_progress(later.id).state is State.DELAYED  # type: ignore[union-attr]
    # On a busy machine this time may be over before the task is sent.
    run_after = timezone.now() + timedelta(seconds=1)
    result = tasks.add.using(run_after=run_after).enqueue(1, 2)
    enqueued_at = result.enqueued_at
    site.work()
    assert ended(result).started_at >= run_after
    assert result == default_task_backend.get_result(result.id)
    assert result.enqueued_at == enqueued_at
    later.refresh()
    assert (later.status, get_progress(later.id).state) == (READY, State.DELAYED)  # type: ignore[union-attr]


def test_a_task_never_starts_before_its_time(site: Site) -> None:
    times = [timezone.now() + timedelta(hours=1, microseconds=137 * number) for number in range(100)]
    for run_after in times:
        tasks.add.using(run_after=run_after).enqueue(1, 2)
    delayed = site.broker.queues[dramatiq.common.dq_name("default")]
    etas = [json.loads(delayed.get_nowait())["options"]["eta"] for _ in times]
    assert all(eta >= run_after.timestamp() * 1000 for eta, run_after in zip(etas, times, strict=True))


def test_a_time_in_the_past_is_now(site: Site) -> None:
    result = tasks.add.using(run_after=timezone.now() - timedelta(days=1)).enqueue(1, 2)
    site.work()
    assert ended(result).return_value == 3


@pytest.mark.django_db(transaction=True)
def test_a_task_can_wait_for_the_commit(site: Site, settings: Any, signals: list[Any]) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": True}}}
    user = User.objects.create(username="ada")
    with pytest.raises(RuntimeError), transaction.atomic():
        lost = tasks.add.enqueue(1, 2)
        raise RuntimeError
    with transaction.atomic():
        with owned_by(user):
            result = tasks.add.enqueue(1, 2)
        assert (result.status, result.enqueued_at, signals) == (READY, None, [])
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(result.id)
    assert result == default_task_backend.get_result(result.id)
    assert [name for name, *_ in signals] == ["enqueued"]
    assert get_progress(result.id).owner != ""  # type: ignore[union-attr]
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(lost.id)


def request_of(user: User) -> Any:
    request = RequestFactory().get("/")
    request.user = user
    return request


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_commit", [True, False])
def test_the_owner_of_a_task_is_the_one_of_the_call(site: Site, settings: Any, on_commit: bool) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": on_commit}}}
    ada, bob = (User.objects.create(username=name) for name in ("ada", "bob"))
    sent: list[Any] = []

    def view(request: Any) -> Any:
        with transaction.atomic():
            sent.append(tasks.add.enqueue(1, 2))
            for whom in (bob, None):
                with owned_by(whom):
                    sent.append(tasks.add.enqueue(1, 2))
            assert (get_progress(sent[-1].id) is None) == on_commit

    OwnerMiddleware(view)(request_of(ada))
    owners = [get_progress(each.id).owner for each in sent]  # type: ignore[union-attr]
    assert owners == [*owners_of(request_of(ada)), *owners_of(request_of(bob)), ""]


def test_a_task_is_sent_under_a_given_id(site: Site) -> None:
    result = default_task_backend.enqueue_as(tasks.add, [1, 2], {}, "nightly-1")
    assert result.id == default_task_backend.get_result("nightly-1").id == "nightly-1"
    with pytest.raises(ValueError, match="'nightly 2' is not a message id"):
        default_task_backend.enqueue_as(tasks.add, [1, 2], {}, "nightly 2")
    assert site.broker.queues["default"].qsize() == 1


def test_arguments_that_are_too_large_are_not_sent(site: Site, store: Store) -> None:
    with pytest.raises(ValueError, match="The JSON of the arguments has 262,154 bytes; the limit is 262,144"):
        default_task_backend.enqueue_as(tasks.give, ["x" * 256 * 1024], {}, "large")
    assert get_progress("large") is None
    assert site.broker.queues["default"].qsize() == 0


def test_metadata_that_are_too_large_are_not_sent(site: Site, store: Store) -> None:
    fits, large = (tasks.give.using(metadata={"a": "x" * count}) for count in (16 * 1024 - 9, 16 * 1024))
    for send in (large.enqueue, large.message):
        with pytest.raises(ValueError, match="The JSON of the metadata has 16,393 bytes; the limit is 16,384"):
            send("a")
    assert "default" not in site.broker.queues or site.broker.queues["default"].qsize() == 0
    assert len(json.dumps(default_task_backend.get_result(fits.enqueue("a").id).metadata)) == 16 * 1024


def test_a_return_value_that_is_too_large_fails_the_task(site: Site) -> None:
    fits, large = tasks.give_bytes.enqueue(256 * 1024 - 2), tasks.give_bytes.enqueue(256 * 1024)
    site.work()
    assert len(ended(fits).return_value) == 256 * 1024 - 2
    assert ended(large).status is FAILED
    assert "The JSON of the return value has 262,146 bytes" in large.errors[0].traceback


def test_the_end_of_a_long_traceback_is_kept(site: Site) -> None:
    result = tasks.fail.enqueue("x" * 20_000 + "the end")
    site.work()
    [error] = ended(result).errors
    assert len(error.traceback) == 16 * 1024
    assert error.traceback.endswith("the end\n")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_retrys": 1}, "has no 'max_retrys'. Its keys are max_retries, time_limit, result_ttl, on_commit"),
        ({"max_retries": -1}, r'\["max_retries"\] is -1; it must be a whole number'),
        ({"time_limit": 0}, r'\["time_limit"\] is 0; it must be milliseconds'),
        ({"result_ttl": "1d"}, r'\["result_ttl"\] is \'1d\'; it must be from 0.001'),
        ({"on_commit": None}, r'\["on_commit"\] is None; it must be True'),
    ],
)
def test_a_mistake_in_the_options_is_named(settings: Any, options: dict[str, Any], text: str) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}
    with pytest.raises(InvalidTaskBackend, match=text):
        task_backends["default"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"time_limit": 0},
        {"cancellable": "no"},
        {"title": 7},
        {"publish_result": "no"},
        {"metadata": ["a"]},
    ],
)
def test_a_mistake_in_a_task_is_named(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(InvalidTask, match=f"^{name}={re.escape(repr(value))}: it must be"):
        tasks.add.using(**options)


@pytest.mark.parametrize("has_broker", [True, False])
def test_a_database_that_the_project_does_not_have_is_reported(
    settings: Any, monkeypatch: pytest.MonkeyPatch, has_broker: bool
) -> None:
    if not has_broker:
        monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    for on_commit, expected in (("nope", ["dramatiq_progress.E012"]), ("default", []), (True, []), (False, [])):
        settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": on_commit}}}
        found = task_backends["default"].check()
        assert [each.id for each in found] == expected
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"on_commit": "nope"}}}
    [error] = task_backends["default"].check()
    assert 'TASKS["default"]["OPTIONS"]["on_commit"] is \'nope\'' in error.msg and "one of default" in str(error.hint)


def test_an_option_that_tasks_do_not_have_is_named() -> None:
    with pytest.raises(TypeError, match=r"no option max_retrys\. The options are backend, cancellable, max_retries, "):
        tasks.add.using(max_retrys=3)


def test_a_task_says_whether_it_can_be_cancelled(site: Site, settings: Any) -> None:
    """Each alone: the setting is for those that don't say so."""
    for setting in (False, True):
        settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"CANCELLABLE": setting}
        allowed, refused, unsaid = (tasks.add.using(cancellable=each).enqueue(1, 2) for each in (True, False, None))
        outcomes = [default_task_backend.cancel(each.id).outcome for each in (allowed, refused, unsaid)]
        no, yes = CancelOutcome.NOT_CANCELLABLE, CancelOutcome.CANCELLED
        assert outcomes == [yes, no, yes if setting else no]


def test_the_options_of_the_backend_are_the_defaults_of_tasks(site: Site, settings: Any, store: Store) -> None:
    options = {"max_retries": 1, "time_limit": 60_000, "result_ttl": 90_000}
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}
    result = tasks.fail_first.enqueue(1)
    site.work()
    assert (ended(result).status, result.attempts) == (SUCCESSFUL, 2)


def test_a_receiver_that_raises_fails_no_task(site: Site) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("receiver")

    for signal in (task_enqueued, task_started, task_finished):
        signal.connect(fail)
    try:
        result = tasks.add.enqueue(1, 2)
        site.work()
        assert ended(result).return_value == 3
    finally:
        for signal in (task_enqueued, task_started, task_finished):
            signal.disconnect(fail)


def test_a_failed_task_is_logged_with_its_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    result = tasks.fail.enqueue("no")
    site.work()
    ended(result)
    [record] = wait_until(
        lambda: [
            each for each in caplog.records if each.levelname == "ERROR" if each.exc_info if each.name == "django.tasks"
        ]
    )
    assert record.exc_info is not None and str(record.exc_info[1]) == "no"


def test_a_task_that_the_project_has_no_more_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch, signals: list[Any]
) -> None:
    result = tasks.add.enqueue(1, 2)
    monkeypatch.delattr(tasks, "add")
    site.work()
    wait_until(lambda: signals[-1][0] == "finished")
    read = default_task_backend.get_result(result.id)
    assert (read.status, read.errors[0].exception_class) == (FAILED, ImportError)
    assert (read.task.module_path, read.task.queue_name) == ("tests.django_tasks.add", "default")


def test_a_task_whose_alias_the_project_has_no_more_fails(site: Site, settings: Any) -> None:
    settings.TASKS = {each: {"BACKEND": BACKEND} for each in ("default", "other")}
    result = tasks.add.using(backend="other").enqueue(1, 2)
    settings.TASKS = {"default": {"BACKEND": BACKEND}}
    with pytest.raises(InvalidTaskBackend):
        result.refresh()
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result.id)
    site.work()
    wait_until(lambda: get_progress(result.id).state is State.FAILED)  # type: ignore[union-attr]
    # The message was rejected: once the alias is back, its sender reads why.
    settings.TASKS = {each: {"BACKEND": BACKEND} for each in ("default", "other")}
    assert [each.exception_class for each in ended(result).errors] == [InvalidTaskBackend]
    # The outcome is stored just before the broker rejects the message.
    wait_until(lambda: len(site.broker.dead_letters) == 1)


def test_a_result_is_gone_after_its_time(site: Site, settings: Any, client: Client) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"result_ttl": 0.2}}}
    result = tasks.add.enqueue(1, 2)
    assert found(result.id) == result
    site.work()
    wait_until(lambda: found(result.id) is None)
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result.id)
    assert client.get(f"/progress/{result.id}/").status_code == 404


def test_a_task_that_is_delivered_again_after_its_end_does_not_run(site: Site, signals: list[Any]) -> None:
    result = tasks.note.enqueue(1)
    copy = site.broker.queues["default"].queue[0]
    site.work()
    ended(result)
    site.broker.queues["default"].put(copy)
    last = tasks.add.enqueue(1, 2)
    ended(last)
    assert tasks.noted == [1]
    assert [name for name, each, *_ in signals if each == result.id] == ["enqueued", "started", "finished"]


@pytest.mark.parametrize("result_id", ["123", "no id", 5, ""])
def test_a_result_that_does_not_exist(result_id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result_id)


def test_a_message_of_an_actor_has_no_task_result(site: Site, store: Store) -> None:
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result("m1")


def test_each_alias_has_its_own_results(site: Site, settings: Any) -> None:
    settings.TASKS = {each: {"BACKEND": BACKEND} for each in ("default", "other")}
    result = tasks.add.using(backend="other").enqueue(1, 2)
    assert task_backends["other"].get_result(result.id).task == tasks.add.using(backend="other")
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(result.id)


def test_results_can_be_read_in_async_code(site: Site) -> None:
    async def run() -> None:
        result = await tasks.add.aenqueue(1, 2)
        await result.arefresh()
        assert result == await default_task_backend.aget_result(result.id)

    asyncio.run(run())


def test_a_group_of_tasks_has_one_bar_and_a_result_for_each(site: Site, signals: list[Any]) -> None:
    messages = [tasks.add.using(priority=each).message(each, b=1) for each in (-1, 0, 1)]
    messages += [tasks.fail_first.using(max_retries=1).message(1)]
    job = progress_group([*messages, progress_group([tasks.fail.message("no")])]).run()
    bar = get_progress(job)
    assert bar is not None and (bar.state, bar.total, bar.actor) == (State.ENQUEUED, 5, "group")
    waiting = default_task_backend.get_result(messages[0].message_id)
    assert (waiting.status, waiting.args, waiting.kwargs, waiting.task.priority) == (READY, [-1], {"b": 1}, -1)
    site.work()
    wait_until(lambda: get_progress(job).complete)  # type: ignore[union-attr]
    results = [ended(default_task_backend.get_result(each.message_id)) for each in messages]
    assert [each.return_value for each in results] == [0, 1, 2, 2]
    assert len(results[-1].errors) == 1
    bar = get_progress(job)
    assert bar is not None and bar.parts is not None and (bar.parts.done, bar.parts.failed) == (4, 1)
    wait_until(lambda: len([each for each in signals if each[0] == "finished"]) == 5)
    found = Counter(name for name, *_ in signals)
    assert found == {"enqueued": 5, "started": 6, "finished": 5}


def test_a_receiver_that_sends_the_same_task_again_has_one_signal_for_each(site: Site, signals: list[Any]) -> None:
    sent: list[str] = []

    def send_again(progress: Progress, **_: Any) -> None:
        if not sent:
            sent.append(progress.id)
            default_task_backend.enqueue_as(tasks.give, (1,), {}, progress.id)  # type: ignore[attr-defined]

    state_changed.connect(send_again)
    try:
        tasks.give.enqueue(1)
    finally:
        state_changed.disconnect(send_again)
    assert [(name, each) for name, each, *_ in signals] == [("enqueued", sent[0])] * 2


def test_a_pipeline_of_tasks_passes_return_values_on(site: Site, signals: list[Any]) -> None:
    first, second = tasks.give.message(1), tasks.add.message(2)
    job = progress_pipeline([first, second, tasks.add.message(3, b=4).copy(options={"pipe_ignore": True})]).run()
    site.work()
    wait_until(lambda: get_progress(job).state is State.DONE)  # type: ignore[union-attr]
    result = ended(tasks.add.get_result(second.message_id))
    assert (result.args, result.return_value) == ([2, 1], 3)
    assert [get_progress(each.message_id).result for each in (first, second)] == [None, None]  # type: ignore[union-attr]
    wait_until(lambda: len(signals) == 9)
    # Another thread of the worker may start it before the one that sent it says so.
    names = [name for name, each, *_ in signals if each == second.message_id]
    assert names.count("enqueued") == 1
    assert [name for name in names if name != "enqueued"] == ["started", "finished"]


def test_a_task_of_a_pipeline_that_is_delivered_again_keeps_its_return_value(site: Site) -> None:
    backend = StubBackend()
    site.broker.add_middleware(Results(backend=backend, store_results=True))
    first, second = tasks.give.message(1), tasks.add.message(2)
    job = progress_pipeline([first, second]).run()
    copy = site.broker.queues["default"].queue[0]
    worker = site.work()
    wait_until(lambda: get_progress(job).state is State.DONE)  # type: ignore[union-attr]
    site.broker.queues["default"].put(copy)
    site.broker.join("default")
    worker.join()
    assert first.get_result(backend=backend) == 1


def test_a_group_of_one_task_is_named_and_cancelled_like_the_task(site: Site, signals: list[Any]) -> None:
    job = progress_group([tasks.note.using(cancellable=True).message(each) for each in range(3)]).run(delay=50)
    bar = get_progress(job)
    assert bar is not None and (bar.actor, bar.title) == ("tests.django_tasks.note", "Note")
    assert cancel(job).outcome is CancelOutcome.CANCELLED
    site.work()
    wait_until(lambda: len([each for each in signals if each[0] == "finished"]) == 3)
    assert tasks.noted == []
    for message in job.children:
        errors = ended(default_task_backend.get_result(message.message_id)).errors
        assert [each.exception_class.__name__ for each in errors] == ["Cancelled"]
    assert Counter(name for name, *_ in signals) == {"enqueued": 3, "finished": 3}


def test_a_task_that_can_be_no_member_says_why(site: Site, settings: Any) -> None:
    with pytest.raises(InvalidTask, match=r"has no run_after: pass a delay to run\(\)"):
        tasks.add.using(run_after=timezone.now()).message(1, 2)
    with pytest.raises(ValueError, match="The JSON of the arguments has"):
        tasks.give.message("x" * 256 * 1024)
    settings.TASKS |= {"other": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    with pytest.raises(InvalidTask, match="Only tasks of DramatiqBackend have messages"):
        tasks.add.using(backend="other").message(1, 2)


def test_a_store_that_is_down_gets_a_group_of_tasks_later(site: Site, settings: Any, server: Server) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}}
    server.kill()
    job = progress_group([tasks.give.message("x" * 100_000), *(tasks.give.message(each) for each in range(300))]).run()
    server.start()
    wait_until(lambda: all(found(each.message_id) for each in job.children))
    assert [found(each.message_id).args for each in job.children[1:]] == [[each] for each in range(300)]
    get_store().close()


def test_a_store_that_is_down_keeps_no_task_from_being_sent(
    site: Site, settings: Any, server: Server, signals: list[Any]
) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}}
    server.kill()
    result = tasks.fail_first.using(max_retries=1).enqueue(1)
    assert (result.status, result.enqueued_at is None) == (READY, False)
    with pytest.raises(StoreUnavailable):
        result.refresh()
    site.work()
    wait_until(lambda: signals[-1][0] == "finished")
    server.start()
    wait_until(lambda: found(result.id) is not None)
    ended(result)
    assert (result.status, result.return_value, result.args) == (SUCCESSFUL, 2, [1])
    assert [name for name, *_ in signals].count("finished") == 1
    get_store().close()


def found(result_id: str) -> Any:
    try:
        return default_task_backend.get_result(result_id)
    except (StoreUnavailable, TaskResultDoesNotExist):
        return None


def test_a_broker_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    with pytest.raises(ImproperlyConfigured, match='add "django_dramatiq" to INSTALLED_APPS'):
        tasks.add.enqueue(1, 2)


def test_a_broker_without_our_middleware_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", StubBroker(middleware=[]))
    with pytest.raises(ImproperlyConfigured, match="lacks ProgressMiddleware"):
        tasks.add.enqueue(1, 2)


def test_the_actors_are_declared_when_django_is_set_up() -> None:
    code = (
        "import django, dramatiq; django.setup(); "
        "print(sorted(each for each in dramatiq.get_broker().actors if each.startswith('django_task')))"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['django_task', 'django_task.high', 'django_task.low']"


@pytest.mark.django_db(transaction=True)
def test_nothing_private_is_ever_public(
    site: Site, settings: Any, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Arguments, return values, metadata and exceptions are in no answer, page or stream, nor in our log."""
    caplog.set_level(logging.INFO, logger="dramatiq_progress")
    settings.MIDDLEWARE = MIDDLEWARE
    user = User.objects.create(username="ada")
    client.force_login(user)
    tokens = [secrets.token_hex(8) for _ in range(4)]
    with owned_by(user):
        results = [
            tasks.trace.using(metadata={"given": tokens[0]}).enqueue(tokens[0]),
            tasks.trace.enqueue(tokens[1], fails=True),
            tasks.trace.using(run_after=timezone.now() + timedelta(days=1)).enqueue(tokens[2]),
        ]
        members = [tasks.trace.using(metadata={"given": tokens[3]}).message(tokens[3]), tasks.give.message()]
        job = progress_pipeline(members).run()
    ids = [*(each.id for each in results), job.message_id]
    answers = everything_of(client, user, ids)
    site.work()
    for each in results[:2]:
        ended(each)
    wait_until(lambda: get_progress(job).state is State.DONE)  # type: ignore[union-attr]
    answers += [client.get(f"/progress/{each.message_id}/").content.decode() for each in members]
    answers += everything_of(client, user, ids)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("dramatiq_progress")]
    for token in tokens:
        assert token not in "\n".join([*answers, *ours])


def everything_of(client: Client, user: User, ids: list[str]) -> list[str]:
    """Return what the owner of some results may read of them: an answer for each, then those for all."""
    query = "&".join(f"id={each}" for each in ids)
    found = [
        client.get(path) for path in (*(f"/progress/{each}/" for each in ids), f"/progress/?{query}", "/progress/mine/")
    ]
    assert {each.status_code for each in found} == {200}
    answers = [each.content.decode() + json.dumps(dict(each.headers)) for each in found]
    request = RequestFactory().get("/")
    request.session, request.user = client.session, user
    page = PAGE.render(RequestContext(request, {"ids": ids}))
    answers += [page, asyncio.run(stream_of(client, query, ids))]
    assert all(each in answer for answer in answers[len(ids) :] for each in ids)
    return answers


async def stream_of(client: Client, query: str, ids: list[str]) -> str:
    """Return a stream's events until there was one of each message."""
    reader = AsyncClient()
    reader.cookies = client.cookies
    response: Any = await reader.get(f"/progress/stream/?{query}")
    text = ""
    while not all(each in text for each in ids):
        text += (await anext(response.streaming_content)).decode()
    return text


def test_tasks_that_threads_send_at_the_same_time_are_kept_apart(site: Site) -> None:
    """Each enqueue has its own data, also while others are sent by other threads."""
    results: list[Any] = []
    threads = [threading.Thread(target=lambda i=i: results.append(tasks.give.enqueue(i))) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    site.work()
    assert sorted(ended(each).return_value for each in results) == list(range(8))


@pytest.mark.django_db(transaction=True)
def test_receivers_can_use_the_database_when_a_task_is_sent_and_cancelled_in_an_event_loop(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """By `enqueue` and in a group. The canceller finishes a waiting task."""
    received: list[tuple[str, str, str, int]] = []

    def receive(task_result: Any, **_: Any) -> None:
        received.append(("sync", task_result.id, task_result.status.value, User.objects.count()))

    async def receive_async(task_result: Any, **_: Any) -> None:
        received.append(("async", task_result.id, task_result.status.value, await User.objects.acount()))

    async def view() -> list[str]:
        result = tasks.give.enqueue(1)
        group = progress_group([tasks.give.message(2), tasks.give.message(3)]).run()
        assert cancel(result.id, force=True)
        return [result.id, *(each.message_id for each in group.children), result.id]

    both = [(signal, each) for signal in (task_enqueued, task_finished) for each in (receive, receive_async)]
    for signal, each in both:
        signal.connect(each)
    try:
        ids = asyncio.run(view())
    finally:
        for signal, each in both:
            signal.disconnect(each)
    expected = zip(ids, ["READY"] * 3 + ["FAILED"], strict=True)
    assert received == [(kind, id, status, 0) for id, status in expected for kind in ("sync", "async")]
    # Django's receiver logs the error.
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Cancelled]


def test_threads_that_send_a_task_under_the_same_id_at_the_same_time_are_kept_apart(
    site: Site, signals: list[Any]
) -> None:
    """Each of them returns, and sends its own signal."""

    class Meeting(Middleware):
        """Lets both threads send before either of them has sent."""

        barrier = threading.Barrier(2, timeout=60)

        def before_enqueue(self, *args: Any) -> None:
            self.barrier.wait()

        def after_enqueue(self, *args: Any) -> None:
            self.barrier.wait()

    site.broker.add_middleware(Meeting())
    results: list[Any] = []

    def send(value: int) -> None:
        try:
            results.append(default_task_backend.enqueue_as(tasks.give, [value], {}, "nightly"))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=send, args=(value,)) for value in (1, 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(str(getattr(each, "args", None)) for each in results) == ["[1]", "[2]"], results
    assert [(name, id) for name, id, *_ in signals] == [("enqueued", "nightly")] * 2

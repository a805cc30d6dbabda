"""Groups and pipelines with one bar: real brokers and workers process their messages."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks, Pipelines, Retries
from dramatiq.rate_limits.backends import StubBackend

from dramatiq_progress import (
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    cancel,
    get_progress,
    owned_by,
    progress_actor,
    progress_group,
    progress_pipeline,
)
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import OWNER_OPTION, current_owner
from dramatiq_progress.signals import send_state_changed, state_changed
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.composites import MAX_LEVELS
from dramatiq_progress.stores.encoding import Call
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.brokers import as_global_broker, working
from tests.reading import read, seconds_left, when
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("store")


class Site:
    """A broker, its worker, and actors that wait until a test lets them go on."""

    def __init__(self) -> None:
        retries = Retries(max_retries=1, min_backoff=1, max_backoff=1)
        callbacks = GroupCallbacks(StubBackend())
        self.broker = StubBroker(middleware=[AsyncIO(), Pipelines(), callbacks, retries, ProgressMiddleware()])
        self.open, self.begun = threading.Event(), threading.Semaphore(0)
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.worker: dramatiq.Worker | None = None
        self.work = self.actor(self._work)
        self.wait = self.actor(self._wait, cancellable=True)
        self.fail = self.actor(self._fail, max_retries=0)
        self.fail_once = self.actor(self._fail_once)

    def actor(self, fn: Callable[..., Any], **options: Any) -> dramatiq.Actor[..., Any]:
        return progress_actor(broker=self.broker, actor_name=fn.__name__.lstrip("_"), **options)(fn)

    def start(self, threads: int = 2) -> None:
        self.broker.emit_after("process_boot")
        self.worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=threads)
        self.worker.start()

    def stop(self) -> None:
        self.open.set()
        if self.worker is not None:
            self.worker.stop()
        self.broker.close()

    def _work(self, *args: Any) -> None:
        with self.lock:
            self.calls.append(f"work {args}")

    def _wait(self, progress_observer: ProgressObserver, *args: Any) -> None:
        progress_observer.set_progress(1, 2)
        self.begun.release()
        while not self.open.wait(0.01):
            progress_observer.set_progress(1)

    def _fail(self, *args: Any) -> None:
        raise ValueError("on purpose")

    def _fail_once(self, progress_observer: ProgressObserver, *args: Any) -> None:
        if progress_observer.attempt == 1:
            raise ValueError("on purpose")


@pytest.fixture
def site(store: Store, settings: Any) -> Iterator[Site]:
    # A cancel reaches a job that reports nothing at its next heartbeat.
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2}
    made = Site()
    # `|` makes a pipeline of the global broker.
    with as_global_broker(made.broker):
        yield made
        made.stop()


def test_a_group_has_one_bar(site: Site) -> None:
    job = progress_group([site.work.message(i) for i in range(5)], description="Working", broker=site.broker).run()
    waiting = read(job)
    assert (waiting.state, waiting.current, waiting.total, waiting.actor) == (State.ENQUEUED, 0, 5, "work")
    assert (waiting.description, waiting.title) == ("Working", "Work")
    assert [read(message).state for message in job.children] == [State.ENQUEUED] * 5
    site.start()
    done = when(job, State.DONE)
    assert (done.current, done.percent, done.result, done.parts and done.parts.done) == (5, 100.0, None, 5)


def test_a_group_whose_members_with_a_weight_are_empty_is_done_at_100_percent(site: Site) -> None:
    empty = dramatiq.group([], broker=site.broker)  # type: ignore[no-untyped-call]
    job = progress_group([empty, site.work.message()], weights=[1, 0], broker=site.broker).run()
    site.start()
    assert when(job, State.DONE).percent == 100.0


def test_running_members_move_the_bar(site: Site) -> None:
    job = progress_group([site.wait.message(i) for i in range(2)], broker=site.broker).run()
    site.start()
    wait_until(lambda: read(job).percent == 50.0)
    assert read(job).parts.running == 2  # type: ignore[union-attr]
    site.open.set()
    when(job, State.DONE)


def test_a_member_without_retries_left_fails_the_group_at_its_end(site: Site) -> None:
    job = progress_group([site.fail.message(), site.work.message(), site.fail_once.message()], broker=site.broker).run()
    site.start()
    failed = when(job, State.FAILED)
    assert (failed.current, failed.result) == (3, "1 of 3 failed.")
    assert failed.parts is not None and (failed.parts.done, failed.parts.failed) == (2, 1)
    assert failed.actor == "group"


def test_the_first_failure_cancels_the_rest_if_asked_for(site: Site) -> None:
    members = [site.wait.message(0), site.fail.message(), *(site.work.message(i) for i in range(3))]
    job = progress_group(members, fail_fast=True, broker=site.broker).run()
    site.start()
    wait_until(lambda: read(job).parts.waiting == 0)  # type: ignore[union-attr]
    failed = when(job, State.FAILED)
    assert failed.parts is not None and failed.parts.failed == 1 and failed.parts.cancelled >= 1
    # The group is over as soon as no member is known to run. This one may have begun just before.
    when(members[0], State.CANCELLED)


def test_a_failed_member_is_sent_again_after_it_cancelled_the_rest(site: Site) -> None:
    @progress_actor(broker=site.broker, max_retries=0)
    def flaky() -> None:
        wait_until(lambda: read(job).parts.done == 2)  # type: ignore[union-attr]
        if not is_repaired:
            raise RuntimeError

    is_repaired = False
    members = [flaky.message(), site.work.message(), site.work.message()]
    job = progress_group(members, fail_fast=True, broker=site.broker).run()
    site.start()
    assert when(job, State.FAILED).cancel_requested is False
    [dead] = wait_until(lambda: site.broker.dead_letters)
    is_repaired = True
    site.broker.enqueue(dead.copy())
    done = when(job, State.DONE)
    assert (done.percent, read(members[0]).state) == (100.0, State.DONE)


def test_a_failed_member_is_sent_again_after_its_record_expired(site: Site, settings: Any) -> None:
    """Real brokers keep a dead letter as it was enqueued, so it has the same number of retries as before."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 0.05}
    is_repaired = False

    @progress_actor(broker=site.broker, max_retries=0)
    def flaky() -> None:
        if not is_repaired:
            raise RuntimeError

    member = flaky.message()
    job = progress_group([site.work.message(), member], broker=site.broker).run()
    [queued] = [each for each in site.broker.queues["default"].queue if flaky.actor_name.encode() in each]
    site.start()
    when(job, State.FAILED)
    wait_until(lambda: get_progress(member) is None)
    is_repaired = True
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 60.0}
    site.broker.enqueue(dramatiq.Message.decode(queued))
    assert when(job, State.DONE).parts.done == 2  # type: ignore[union-attr]


def test_the_first_failure_interrupts_only_actors_that_are_cancellable(site: Site) -> None:
    @progress_actor(broker=site.broker, cancellable=False)
    def stay(progress_observer: ProgressObserver) -> None:
        site.begun.release()
        while not site.open.wait(0.001):
            progress_observer.set_progress((progress_observer.current + 1) % 1000, 1000)

    @progress_actor(broker=site.broker, max_retries=0)
    def fail_later() -> None:
        # Otherwise the group might be over before it is known that the other one runs.
        wait_until(lambda: read(job).parts.running == 2)  # type: ignore[union-attr]
        raise RuntimeError

    members = [stay.message(), fail_later.message()]
    job = progress_group(members, fail_fast=True, broker=site.broker).run()
    site.start()
    assert site.begun.acquire(timeout=60)
    wait_until(lambda: read(job).cancel_requested)
    version = read(members[0]).version
    wait_until(lambda: read(members[0]).version > version + 2 or read(members[0]).complete)
    assert read(job).state is State.RUNNING
    site.open.set()
    failed = when(job, State.FAILED)
    assert failed.parts is not None and (failed.parts.done, failed.parts.failed) == (1, 1)


def test_a_cancel_reaches_running_members_and_those_that_wait(site: Site) -> None:
    job = progress_group([site.wait.message(i) for i in range(6)], broker=site.broker).run()
    site.start()
    assert site.begun.acquire(timeout=60) and site.begun.acquire(timeout=60)
    wait_until(lambda: read(job).parts.running == 2)  # type: ignore[union-attr]
    assert cancel(job).outcome is CancelOutcome.REQUESTED
    when(job, State.CANCELLED)
    wait_until(lambda: read(job).parts.cancelled == 6)  # type: ignore[union-attr]
    assert {read(message).state for message in job.children} == {State.CANCELLED}
    assert not site.begun.acquire(blocking=False)


def test_a_pipeline_has_one_bar(site: Site) -> None:
    stages = [site.work.message(), site.wait.message(), site.work.message()]
    job = progress_pipeline(stages, weights=(2, 6, 2), name="convert", title="trip.mov", broker=site.broker).run()
    assert (read(job).actor, read(job).title, read(job).total) == ("convert", "trip.mov", 3)
    site.start()
    wait_until(lambda: read(job).percent == 50.0)
    assert read(job).current == 1
    site.open.set()
    assert when(job, State.DONE).percent == 100.0


def test_a_pipeline_ends_with_a_stage_that_fails(site: Site) -> None:
    job = progress_pipeline([site.work.message(), site.fail.message(), site.work.message()], broker=site.broker).run()
    site.start()
    failed = when(job, State.FAILED)
    assert (failed.current, failed.result, failed.percent) == (2, "1 of 3 failed.", 66.6)


def test_a_pipeline_is_one_member_of_a_group(site: Site) -> None:
    pipes = [site.work.message(i) | site.wait.message(i) for i in range(3)]
    job = progress_group([*pipes, site.work.message()], broker=site.broker).run()
    assert read(job).total == 4
    site.start(threads=4)
    wait_until(lambda: read(job).percent == 81.2)
    assert read(job).parts.running == 3  # type: ignore[union-attr]
    site.open.set()
    assert when(job, State.DONE).current == 4


def test_a_pipeline_that_fails_is_one_failed_member(site: Site) -> None:
    pipes = [site.work.message(i) | site.fail.message(i) | site.work.message(i) for i in range(2)]
    job = progress_group([*pipes, site.work.message()], broker=site.broker).run()
    site.start()
    assert when(job, State.FAILED).result == "2 of 3 failed."


def test_a_group_is_one_member_of_a_group(site: Site) -> None:
    inner = progress_group([site.work.message(i) for i in range(3)], name="inner", broker=site.broker)
    plain = dramatiq.group([site.work.message(i) for i in range(2)], broker=site.broker)  # type: ignore[no-untyped-call]
    job = progress_group([inner, plain, site.work.message()], broker=site.broker).run()
    assert (read(job).total, read(inner).total, read(inner).actor) == (3, 3, "inner")
    site.start()
    assert when(job, State.DONE).current == 3
    assert read(inner).state is State.DONE


def test_cancelling_a_group_cancels_the_pipelines_and_groups_in_it(site: Site) -> None:
    inner = progress_group([site.wait.message(i) for i in range(3)], broker=site.broker)
    job = progress_group([inner, site.wait.message() | site.wait.message()], broker=site.broker).run()
    site.start()
    wait_until(lambda: read(job).percent != 0)
    assert cancel(job)
    when(job, State.CANCELLED)
    when(inner, State.CANCELLED)
    wait_until(lambda: read(inner).parts.cancelled == 3)  # type: ignore[union-attr]
    wait_until(lambda: read(job).parts.cancelled == 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("tracked", [True, False])
def test_a_completion_callback_is_the_last_member_if_it_is_tracked(site: Site, tracked: bool) -> None:
    ran = threading.Event()
    if tracked:
        after = progress_actor(broker=site.broker, actor_name="after")(lambda: ran.set())
    else:
        after = dramatiq.actor(broker=site.broker, actor_name="after")(lambda: ran.set())
    job = progress_group([site.work.message(), site.work.message() | site.work.message()], broker=site.broker)
    job.add_completion_callback(after.message())
    job.run()
    assert read(job).total == 2 + tracked
    site.start()
    assert when(job, State.DONE).current == 2 + tracked
    assert ran.wait(60)


def test_a_callback_that_never_comes_is_not_awaited(site: Site) -> None:
    job = progress_group([site.work.message(), site.fail.message()], broker=site.broker)
    job.add_completion_callback(site.work.message("after"))
    job.run()
    site.start()
    failed = when(job, State.FAILED)
    assert failed.parts is not None and failed.parts.waiting == 1


def test_async_members_move_the_bar(site: Site) -> None:
    async def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1, 2)

    actor = site.actor(work, queue_name="default") if "work" not in site.broker.actors else None
    actor = actor or progress_actor(broker=site.broker, actor_name="asynchronous")(work)
    job = progress_group([actor.message() for _ in range(3)], broker=site.broker).run()
    site.start()
    assert when(job, State.DONE).current == 3


# What members send


def send_all(site: Site) -> dramatiq.Actor[..., Any]:
    """Return an actor that sends what it is told to."""
    more = progress_actor(broker=site.broker, actor_name="deeper")(lambda: site.work.send("deep"))
    none = progress_actor(broker=site.broker, actor_name="cannot")(lambda *_: None)

    def send(what: str) -> None:
        if what == "messages":
            site.work.send(1)
            more.send()
        elif what == "a pipeline":
            dramatiq.pipeline([site.work.message(1), site.work.message()], broker=site.broker).run()
        elif what == "a group":
            dramatiq.group([site.work.message(1), site.work.message(2)], broker=site.broker).run()  # type: ignore[no-untyped-call]
        elif what == "what can't be sent":
            with pytest.raises(TypeError):
                none.send(object())
        else:
            pipe = progress_pipeline([site.work.message(1), site.work.message()], name="inner", broker=site.broker)
            progress_group([pipe, site.work.message(), more.message()], broker=site.broker).run()

    return progress_actor(broker=site.broker, actor_name="send")(send)


@pytest.mark.parametrize(
    "what, total",
    [("messages", 4), ("a pipeline", 3), ("a group", 3), ("what can't be sent", 1), ("a group with a bar", 3)],
)
def test_what_members_send_is_a_member_at_any_depth(site: Site, what: str, total: int) -> None:
    root = send_all(site).message(what)
    job = progress_group([root], with_children=True, broker=site.broker).run()
    assert (read(job).total, read(job).parts and read(job).parts.total) == (None, 1)  # type: ignore[union-attr]
    site.start()
    done = when(job, State.DONE)
    assert (done.current, done.total, done.percent) == (total, total, 100.0)


def test_what_async_actors_send_is_a_member_too(site: Site) -> None:
    @progress_actor(broker=site.broker)
    async def inner() -> None:
        site.work.send(2)

    @progress_actor(broker=site.broker)
    async def outer() -> None:
        site.work.send(1)
        inner.send()

    job = progress_group([outer.message()], with_children=True, broker=site.broker).run()
    site.start()
    assert when(job, State.DONE).current == 4


def test_a_group_waits_for_what_its_members_have_sent(site: Site) -> None:
    @progress_actor(broker=site.broker)
    def send() -> None:
        site.wait.send()

    inner = progress_group([send.message()], broker=site.broker)
    job = progress_group([inner], with_children=True, broker=site.broker).run()
    site.start()
    when(inner, State.DONE)
    wait_until(lambda: read(job).percent == 75.0)
    assert (read(job).state, read(job).current, read(job).total) == (State.RUNNING, 1, 2)
    site.open.set()
    when(job, State.DONE)


def test_a_child_that_is_not_cancellable_is_not_skipped(site: Site) -> None:
    """A member that is cancelled may send a message that cleans up."""

    @progress_actor(broker=site.broker, cancellable=True)
    def reserve(progress_observer: ProgressObserver) -> None:
        try:
            site._wait(progress_observer)
        finally:
            site.work.send("clean up")

    job = progress_group([reserve.message(), site.wait.message()], with_children=True, broker=site.broker).run()
    assert read(job).can_cancel
    site.start()
    assert site.begun.acquire(timeout=60) and site.begun.acquire(timeout=60)
    assert cancel(job)
    wait_until(lambda: site.calls == ["work ('clean up',)"])
    when(job, State.CANCELLED)
    wait_until(lambda: read(job).parts.done == 1)  # type: ignore[union-attr]
    assert not read(job).cancellable


# Open groups


def test_members_are_added_to_an_open_group_until_it_is_closed(site: Site, admin_user: Any) -> None:
    with owned_by(admin_user):
        job = progress_group([], name="nightly", title="Night", open=True, broker=site.broker).run()
    job.add([site.work.message(1)])
    site.start()
    wait_until(lambda: read(job).current == 1)
    assert (read(job).state, read(job).total, len(job)) == (State.RUNNING, None, 1)
    other = progress_group.of(job.message_id, broker=site.broker).add([site.work.message(2), site.work.message(3)])
    wait_until(lambda: read(job).current == 3)
    job.close()
    job.close()
    done = when(job, State.DONE)
    assert (done.actor, done.title, done.total, done.owner != "") == ("nightly", "Night", 3, True)
    assert (read(other.children[0]).owner, read(other).id) == ("", job.message_id)


def test_an_open_group_that_another_process_closes(site: Site) -> None:
    job = progress_group([site.work.message()], open=True, broker=site.broker).run()
    progress_group.of(read(job), broker=site.broker).close()
    assert read(job).total == 1
    site.start()
    when(job, State.DONE)


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("is_sent_by_run", [True, False])
def test_a_message_that_was_sent_with_an_open_group_is_refused(
    site: Site, is_nested: bool, is_sent_by_run: bool
) -> None:
    first, last = site.work.message(1), site.work.message()
    member = progress_group([first | last], broker=site.broker) if is_nested else first
    job = progress_group([member] if is_sent_by_run else [], open=True, broker=site.broker).run()
    if not is_sent_by_run:
        job.add([member])
    new, again = site.work.message(2), last if is_nested else first
    with pytest.raises(ValueError, match=f"Message {again.message_id} of work was already sent with this group"):
        job.add([new, again])
    assert (get_progress(new), len(job)) == (None, 1)
    other = progress_group.of(job, broker=site.broker).add([new])
    with pytest.raises(ValueError, match="was already sent with this group"):
        other.add([new])
    job.close()
    site.start()
    assert when(job, State.DONE).total == 2


def test_a_group_to_which_another_process_adds_an_actor_that_is_not_cancellable_can_not_be_cancelled(
    site: Site,
) -> None:
    job = progress_group([site.wait.message()], open=True, broker=site.broker).run()
    other = progress_group.of(job, broker=site.broker).add([site.wait.message()])
    assert read(job).cancellable
    other.add([site.work.message()])
    assert not read(job).cancellable


@pytest.mark.parametrize("state", [State.CANCELLED, State.FAILED])
def test_an_open_group_that_is_cancelled_ends_before_it_is_closed_and_skips_what_is_added(
    site: Site, state: State
) -> None:
    first = site.fail.message() if state is State.FAILED else site.wait.message()
    job = progress_group([first], open=True, fail_fast=True, broker=site.broker).run()
    if state is State.CANCELLED:
        assert cancel(job)
    site.start()
    when(job, state)
    added = site.work.message()
    job.add([added])
    when(added, State.CANCELLED)
    wait_until(lambda: read(job).total == 2)
    assert (read(job).state, site.calls) == (state, [])


def test_a_message_may_be_in_each_run_of_an_open_group(site: Site) -> None:
    job = progress_group([site.work.message()], open=True, broker=site.broker).run()
    job.run().close()
    site.start()
    assert when(job, State.DONE).total == 1


def test_a_group_that_another_process_closes_waits_for_the_members_that_this_one_has_added(
    site: Site, store: Any
) -> None:
    """Also if the store lacks them."""
    job = progress_group([], open=True, broker=site.broker).run()
    other = progress_group.of(job, broker=site.broker)
    other.add([site.work.message()]).add([site.work.message(), progress_group([], broker=site.broker)])
    key = store.members_key(job.message_id)
    if isinstance(store, MemoryStore):
        del store._members[key]
    else:
        with store._servers._make_client() as client:
            client.delete(key)
    other.close()
    assert (read(job).state, read(job).total) == (State.ENQUEUED, 2)
    site.start()
    when(job, State.DONE)


@pytest.mark.parametrize("kind", ["a message", "a group", "a pipeline"])
@pytest.mark.parametrize("has_ended", [False, True])
def test_nothing_is_added_to_a_job_that_is_no_open_group(site: Site, kind: str, has_ended: bool) -> None:
    job: Any = site.work.message()
    if kind == "a message":
        site.broker.enqueue(job)
    else:
        job = (progress_group if kind == "a group" else progress_pipeline)([job], broker=site.broker).run()
    if has_ended:
        site.start()
        when(job, State.DONE)
    before, new = read(job), site.work.message()
    other = progress_group.of(job, broker=site.broker)
    for call in (lambda: other.add([new]), other.close):
        with pytest.raises(ValueError, match=f"{before.id} isn't an open group: .* named 'work'. Pass the message_id"):
            call()
    assert (read(job), get_progress(new)) == (before, None)


def test_members_are_added_to_a_group_that_the_store_does_not_know(site: Site) -> None:
    """It may have lost the group."""
    job = progress_group.of("lost", broker=site.broker).add([site.work.message()])
    job.add([site.work.message()]).close()
    site.start()
    done = when(job, State.DONE)
    assert (done.actor, done.total) == ("work", 2)


def test_wrong_uses_of_open_groups_are_refused(site: Site) -> None:
    closed = progress_group([], open=True, broker=site.broker).run()
    closed.close()
    for job, message in (
        (progress_group([], broker=site.broker).run(), "isn't open"),
        (progress_group([], open=True, broker=site.broker), "hasn't been sent"),
        (closed, "is closed"),
    ):
        with pytest.raises(ValueError, match=message):
            job.add([site.work.message()])
    with pytest.raises(ValueError, match="has no weights"):
        progress_group([], open=True, weights=[], broker=site.broker)
    with pytest.raises(ValueError, match="can't be a member"):
        progress_group([progress_group([], open=True, broker=site.broker)], broker=site.broker).run()
    job = progress_group([site.work.message()], open=True, broker=site.broker)
    job.add_completion_callback(site.work.message())
    with pytest.raises(ValueError, match="has no completion callbacks"):
        job.run()


# What is sent


def test_an_actor_without_progress_is_refused(site: Site) -> None:
    plain = dramatiq.actor(broker=site.broker, actor_name="plain")(lambda: None)
    job = progress_group([site.work.message(), plain.message()], broker=site.broker)
    with pytest.raises(ValueError, match="'plain' isn't declared with @progress_actor"):
        job.run()
    assert get_progress(job) is None and get_progress(job.children[0]) is None


def test_an_empty_pipeline_is_refused(site: Site) -> None:
    """It has no message to send, alone or in a group."""
    pipe = progress_pipeline([], broker=site.broker)
    for job in (pipe, progress_group([site.work.message(), pipe], broker=site.broker)):
        with pytest.raises(ValueError, match="A pipeline has no message"):
            job.run()
        assert get_progress(job) is None


def test_deeper_nesting_than_messages_can_carry_is_refused(site: Site) -> None:
    jobs = [progress_group([site.work.message()], broker=site.broker)]
    while len(jobs) <= MAX_LEVELS:
        jobs.append(progress_group([jobs[-1]], broker=site.broker))
    deepest, too_deep = jobs[-2:]
    with pytest.raises(ValueError, match=f"nested more than {MAX_LEVELS} deep"):
        too_deep.run()
    assert get_progress(too_deep) is None
    deepest.run()
    site.start()
    when(deepest, State.DONE)


def test_no_title_is_that_of_the_actor(site: Site) -> None:
    job = progress_group([site.work.message()], title=None, broker=site.broker).run()
    assert read(job).title == "Work"


def test_a_message_that_is_there_twice_is_refused(site: Site) -> None:
    message = site.work.message()
    job = progress_group([message, site.work.message() | message], broker=site.broker)
    with pytest.raises(ValueError, match=f"Message {message.message_id} of work is there twice"):
        job.run()
    assert get_progress(job) is None


@pytest.mark.parametrize("weights", [(1,), (1, -1), (0, 0), (1, float("nan")), ("a", 1), (1, float("inf"))])
def test_odd_weights_are_refused(site: Site, weights: Any) -> None:
    for make in (progress_group, progress_pipeline):
        with pytest.raises(ValueError, match="weights="):
            make([site.work.message(), site.work.message()], weights=weights, broker=site.broker)


def test_weights_that_are_no_list_are_refused(site: Site) -> None:
    for make in (progress_group, progress_pipeline):
        with pytest.raises(
            TypeError, match=re.escape("weights=5 isn't a list. Pass a number for each member, as in [1")
        ):
            make([site.work.message()], weights=5, broker=site.broker)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["fail_fast", "with_children", "open"])
@pytest.mark.parametrize("value", ["no", None, 1])
def test_switches_that_are_no_bools_are_refused(site: Site, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}={value!r} isn't True or False"):
        progress_group([site.work.message()], broker=site.broker, **{option: value})


def test_weights_that_no_longer_fit_are_refused(site: Site) -> None:
    job = progress_group([site.work.message()], weights=[1], broker=site.broker)
    job.children.append(site.work.message())
    with pytest.raises(ValueError, match="There are 1 weights for 2 members"):
        job.run()
    assert get_progress(job) is None


@pytest.mark.parametrize("option", ["name", "title", "description"])
def test_texts_that_are_none_are_refused(site: Site, option: str) -> None:
    for make in (progress_group, progress_pipeline):
        with pytest.raises(TypeError, match=f"{option}=5 isn't a text"):
            make([site.work.message()], broker=site.broker, **{option: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "members", "says"),
    [
        (progress_group, None, "group(None): pass a list of messages"),
        (progress_group, "one message", "pass a list of messages"),
        (progress_group, ["photo"], "'photo' can't be a member of a group. Pass messages of actors or tasks"),
        (progress_pipeline, ["photo"], "'photo' can't be a member of a pipeline."),
        (progress_pipeline, ["a group"], "can't be a member of a pipeline. Pass messages"),
    ],
)
def test_what_cannot_be_a_member_is_named(site: Site, make: Any, members: Any, says: str) -> None:
    message = site.work.message()
    given = {"one message": message, "a group": progress_group([message], broker=site.broker)}
    members = [given.get(each, each) for each in members] if isinstance(members, list) else given.get(members)
    with pytest.raises(TypeError, match=re.escape(says)):
        make(members, broker=site.broker)


def test_an_empty_group_is_done(site: Site) -> None:
    assert read(progress_group([], name="nothing", broker=site.broker).run()).state is State.DONE


def test_a_callback_of_an_empty_group_is_not_awaited(site: Site) -> None:
    """Dramatiq never sends it."""
    job = progress_group([], broker=site.broker)
    job.add_completion_callback(site.work.message("after"))
    assert read(job.run()).state is State.DONE


@pytest.mark.parametrize("kind", [dramatiq.group, progress_group])
def test_an_empty_group_counts_as_no_member_of_a_group(site: Site, kind: Any) -> None:
    empty, nested = (kind(members, broker=site.broker) for members in ([], [kind([], broker=site.broker)]))
    job = progress_group([empty, site.work.message(), nested], weights=(3, 1, 3), broker=site.broker).run()
    assert (read(job).state, read(job).total) == (State.ENQUEUED, 1)
    site.start()
    done = when(job, State.DONE)
    assert (done.current, done.percent) == (1, 100.0)


def test_a_group_of_empty_groups_is_done(site: Site) -> None:
    inner = progress_group([progress_group([], broker=site.broker)], broker=site.broker)
    job = progress_group([inner], broker=site.broker).run()
    assert [read(each).state for each in (job, inner, inner.children[0])] == [State.DONE] * 3


def test_each_run_has_a_bar_of_its_own(site: Site) -> None:
    job = progress_group([site.work.message()], broker=site.broker)
    before = job.message_id
    assert job.run().message_id == before
    assert job.run().message_id != before


@pytest.mark.parametrize("delay", [60_000, timedelta(minutes=1)])
def test_a_delayed_group_is_delayed(site: Site, delay: Any) -> None:
    job = progress_group([site.work.message()], broker=site.broker).run(delay=delay)
    assert (read(job).state, read(job.children[0]).state) == (State.DELAYED, State.DELAYED)


def test_a_group_one_member_of_which_waits_is_not_delayed(site: Site) -> None:
    later = site.work.message().copy(options={"delay": 60_000})
    inner = progress_group([dramatiq.pipeline([later], broker=site.broker)], broker=site.broker)
    job = progress_group([inner, site.work.message()], broker=site.broker).run()
    assert (read(job).state, read(inner).state) == (State.ENQUEUED, State.DELAYED)


def test_a_delayed_group_waits_in_the_queue_once_it_is_due(site: Site) -> None:
    site.wait.send()
    site.start(threads=1)
    assert site.begun.acquire(timeout=60)
    inner = progress_group([site.work.message()], broker=site.broker)
    job = progress_group([inner], broker=site.broker).run(delay=10)
    when(inner, State.ENQUEUED)
    when(job, State.ENQUEUED)


def test_a_group_that_waits_longer_than_records_are_kept_stays_in_my_jobs(
    site: Site, store: Any, admin_user: Any
) -> None:
    days = 24 * 3600.0
    third = site.work.message().copy(options={"delay": int(20 * days * 1000)})
    pipe = dramatiq.pipeline([site.work.message(), third], broker=site.broker)
    with owned_by(admin_user):
        job = progress_group([pipe], broker=site.broker).run(delay=int(10 * days * 1000))
        owner = current_owner("x")
    keys = store.key(job.message_id), store.members_key(job.message_id), store.owner_key(owner)
    assert all(seconds_left(store, key) > 36 * days for key in keys)


def test_a_group_without_an_owner_takes_none_of_its_members(site: Site) -> None:
    mine = site.work.message().copy(options={OWNER_OPTION: "ann"})
    pipe = progress_pipeline([site.work.message().copy(options={OWNER_OPTION: "ann"}), site.work.message()])
    job = progress_group([mine, pipe], broker=site.broker).run()
    site.start()
    when(job, State.DONE)
    assert [read(each).owner for each in (job, pipe, mine, pipe.messages[1])] == ["", "", "ann", "ann"]


def test_a_delay_that_is_no_number_is_refused(site: Site) -> None:
    job = progress_pipeline([site.work.message()], broker=site.broker)
    with pytest.raises(TypeError, match="delay='1h' isn't a number of milliseconds, such as 60_000, nor a timedelta"):
        job.run(delay="1h")  # type: ignore[arg-type]
    assert get_progress(job) is None


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), float("-inf")])
def test_a_delay_that_is_not_finite_is_refused(site: Site, delay: Any) -> None:
    for make in (progress_group, progress_pipeline):
        job = make([site.work.message()], broker=site.broker)
        with pytest.raises(ValueError, match=f"delay={delay} isn't a finite number of milliseconds, such as 60_000"):
            job.run(delay=delay)
        assert get_progress(job) is None
    job = progress_group([], open=True, broker=site.broker).run()
    with pytest.raises(ValueError, match=f"delay={delay} isn't a finite number"):
        job.add([site.work.message()], delay=delay)
    assert not job.children


def test_stages_can_be_added_to_a_pipeline(site: Site) -> None:
    job = progress_pipeline([site.work.message()], weights=[5], name="convert", broker=site.broker)
    longer = job | site.work.message() | (site.work.message() | site.work.message())
    assert (len(longer), longer.composition.weights, longer.composition.name) == (4, [5, 1, 1, 1], "convert")
    job = progress_pipeline([site.work.message(), site.work.message()], weights=iter([0.25, 0.5]), broker=site.broker)
    assert (job | site.work.message()).composition.weights == [250, 500, 1000]


def test_receivers_of_the_signal_get_each_state_of_a_group(site: Site) -> None:
    got: list[tuple[str, State | None, State]] = []

    def receive(progress: Progress, previous: State | None, **_: Any) -> None:
        got.append((progress.id, previous, progress.state))

    state_changed.connect(receive)
    try:
        job = progress_group([site.wait.message()], broker=site.broker).run()
        site.start()
        wait_until(lambda: (job.message_id, State.ENQUEUED, State.RUNNING) in got)
        site.open.set()
        wait_until(lambda: (job.message_id, State.RUNNING, State.DONE) in got)
        # Noticed by another process, for instance, and told late.
        send_state_changed(get_store(), job.message_id, State.ENQUEUED, state=State.RUNNING)
    finally:
        state_changed.disconnect(receive)
    mine = [each[1:] for each in got if each[0] == job.message_id]
    assert mine == [(None, State.ENQUEUED), (State.ENQUEUED, State.RUNNING), (State.RUNNING, State.DONE)]


class FailingBroker(StubBroker):
    """A broker that goes down after some messages."""

    capacity = 0
    #: Whether it takes one more message, and its answer is lost.
    takes_more = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        if not self.capacity:
            self.emit_before("enqueue", message, delay)
            if self.takes_more:
                self.queues[message.queue_name].put(message.encode())
            raise ConnectionError("the broker is down")
        self.capacity -= 1
        return super().enqueue(message, delay=delay)


@pytest.fixture
def failing() -> Iterator[tuple[FailingBroker, dramatiq.Actor[..., Any]]]:
    callbacks = GroupCallbacks(StubBackend())
    broker = FailingBroker(middleware=[Pipelines(), callbacks, Retries(), ProgressMiddleware()])
    yield broker, progress_actor(broker=broker, actor_name="work")(lambda *_: None)
    broker.close()


def test_a_group_none_of_whose_members_can_be_sent_leaves_no_record(failing: Any, store: Store) -> None:
    broker, actor = failing
    job = progress_group([actor.message() for _ in range(3)], broker=broker)
    with pytest.raises(ConnectionError):
        job.run()
    assert [get_progress(each) for each in (job, *job.children)] == [None] * 4


def test_a_group_that_could_not_be_sent_can_be_run_again(failing: Any) -> None:
    broker, actor = failing
    inner = progress_group([actor.message()], broker=broker)
    job = progress_group([inner, actor.message()], broker=broker)
    ids = job.message_id, inner.message_id
    with pytest.raises(ConnectionError):
        job.run()
    job.children.append(job.children[1])
    with pytest.raises(ValueError, match="is there twice"):
        job.run()
    del job.children[2]
    broker.capacity = 2
    job.run()
    assert (job.message_id, inner.message_id) == ids
    assert (read(job).state, read(job).total) == (State.ENQUEUED, 2)


def test_an_open_group_forgets_what_could_not_be_sent(failing: Any) -> None:
    broker, actor = failing
    job = progress_group([], open=True, broker=broker).run()
    inner = progress_group([actor.message()], broker=broker)
    with pytest.raises(ConnectionError):
        job.add([inner, actor.message()])
    assert (read(job).parts.total, get_progress(inner), len(job)) == (0, None, 0)  # type: ignore[union-attr]
    broker.capacity = 1
    with pytest.raises(ConnectionError):
        job.add([actor.message(), actor.message()])
    assert read(job).parts.total == 1  # type: ignore[union-attr]


@pytest.fixture
def work_on(request: pytest.FixtureRequest) -> Callable[[StubBroker], None]:
    """Start a worker, until the end of the test."""

    def start(broker: StubBroker) -> None:
        worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
        worker.start()
        request.addfinalizer(worker.stop)

    return start


def test_an_open_group_that_was_sent_in_part_ends_with_what_was_sent(failing: Any, work_on: Any) -> None:
    broker, actor = failing
    broker.capacity = 2
    job = progress_group([actor.message() for _ in range(3)], open=True, broker=broker)
    with pytest.raises(ConnectionError):
        job.run()
    broker.capacity = 1
    job.add([actor.message()])
    job.close()
    work_on(broker)
    assert when(job, State.DONE).total == 3


def test_an_open_group_forgets_what_could_not_be_sent_while_its_store_was_full(
    failing: Any, work_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the members is written after what corrects it."""
    broker, actor = failing
    job = progress_group([], open=True, broker=broker).run()
    store = get_store()
    call = store._call

    def refuse(calls: Sequence[Call]) -> list[Any]:
        full = StoreRefused("OOM command not allowed when used memory > 'maxmemory'")
        return [full if each.script in ("gather", "enqueue") else call([each])[0] for each in calls]

    with monkeypatch.context() as patched:
        patched.setattr(store, "_call", refuse)
        broker.capacity = 1
        with pytest.raises(ConnectionError):
            job.add([actor.message(), actor.message()])
        job.close()
    wait_until(lambda: not get_recorder()._deferred)
    work_on(broker)
    assert when(job, State.DONE).total == 1


def test_members_that_could_not_be_sent_can_be_added_again(failing: Any, work_on: Any) -> None:
    """Together with the messages that were to follow them."""
    broker, actor = failing
    pipe = dramatiq.pipeline([actor.message(), actor.message()], broker=broker)
    inner = dramatiq.group([pipe], broker=broker)  # type: ignore[no-untyped-call]
    inner.add_completion_callback(actor.message())  # type: ignore[no-untyped-call]
    sent, unsent = actor.message(), actor.message()
    job = progress_group([], open=True, broker=broker).run()
    broker.capacity = 1
    with pytest.raises(ConnectionError):
        job.add([sent, inner, unsent])
    assert [get_progress(each) is None for each in (sent, pipe.messages[0], unsent)] == [False, True, True]
    broker.capacity = 10
    for refused in ([sent, inner], [unsent, sent]):
        with pytest.raises(ValueError, match="add only the messages whose get_progress\\(\\) is None"):
            job.add(refused)
    job.add([inner, unsent])
    job.close()
    work_on(broker)
    # The group that could not be sent counts as cancelled, and was then added as another one.
    wait_until(lambda: read(job).complete)
    assert (read(job).parts.done, read(job).parts.cancelled, read(job).total) == (3, 1, 4)  # type: ignore[union-attr]


def test_a_run_that_could_not_be_sent_leaves_an_open_group_as_it_was(failing: Any, work_on: Any) -> None:
    broker, actor = failing
    broker.capacity = 1
    job = progress_group([actor.message()], open=True, broker=broker).run()
    known = job.message_id
    with pytest.raises(ConnectionError):
        job.run()
    assert job.message_id == known
    with pytest.raises(ValueError, match="was already sent"):
        job.add(job.children)
    job.close()
    work_on(broker)
    assert when(job, State.DONE).total == 1


def test_a_member_whose_send_raised_although_the_broker_took_it(failing: Any) -> None:
    broker, actor = failing
    broker.capacity, broker.takes_more = 1, True
    job = progress_group([actor.message() for _ in range(2)], broker=broker)
    with pytest.raises(ConnectionError):
        job.run()
    with working(broker, threads=1):
        when(job, State.DONE)


def test_members_that_cannot_be_sent_are_cancelled(failing: Any) -> None:
    broker, actor = failing
    broker.capacity = 1
    job = progress_group([actor.message() for _ in range(3)], broker=broker)
    with pytest.raises(ConnectionError):
        job.run()
    assert read(job.children[0]).state is State.ENQUEUED
    assert [get_progress(each) for each in job.children[1:]] == [None] * 2
    assert read(job).parts.cancelled == 2  # type: ignore[union-attr]
    with working(broker, threads=1):
        when(job, State.CANCELLED)

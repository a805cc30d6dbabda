"""The contract of a store, kept by each of them; and what only one of them does."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import dramatiq
import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import (
    Cancellation,
    CancelOutcome,
    Progress,
    State,
    StoreUnavailable,
    aget_progress,
    get_progress,
)
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.base import Attempt, Report, Start
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests import servers
from tests.waiting import wait_until

FINAL = [State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED]


class Record:
    """One message's record, written as the middleware would."""

    def __init__(self, store: Store, message_id: str = "m1") -> None:
        self.store = store
        self.id = message_id

    def enqueue(self, **options: Any) -> None:
        self.store.enqueue(self.id, **{"actor": "work", "queue": "default", "retries_left": 3, **options})

    def attempt(self, **options: Any) -> Attempt:
        return Attempt(self.id, "work", "default", 3, **options)

    def start(self) -> Start:
        return self.store.start(self.attempt())

    def run(self) -> Attempt:
        attempt = self.attempt()
        assert self.store.start(attempt).verdict == "run"
        return attempt

    def report(self, attempt: Attempt, **fields: str) -> str:
        return self.store.report([Report(attempt, fields)])[0]

    def finish(self, attempt: Attempt, state: State, **options: Any) -> bool:
        return self.store.finish(attempt, state=state, **options)

    def cancel(self) -> Cancellation:
        return self.store.cancel(self.id)

    def read(self) -> Progress:
        progress = self.store.read([self.id])[0]
        assert progress is not None
        return progress

    def ended(self, state: State) -> Attempt:
        self.enqueue()
        attempt = self.run()
        assert self.finish(attempt, state)
        return attempt


@pytest.fixture(params=["redis_store", "old_redis_store", "sentinel_store", "cluster_store", "memory_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn, the oldest server, and each way to reach servers."""
    made: Store = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def record(store: Store) -> Record:
    return Record(store)


def test_a_message_lives_from_enqueued_to_done(record: Record) -> None:
    record.enqueue()
    assert (record.read().state, record.read().attempt, record.read().elapsed) == (State.ENQUEUED, 0, None)

    fence = record.run()
    assert fence.number == 1
    assert record.report(fence, current="3", total="10", description="Reading") == "written"
    running = record.read()
    assert (running.state, running.current, running.total) == (State.RUNNING, 3, 10)
    assert (running.description, running.percent, running.retries_left) == ("Reading", 30.0, 3)
    assert running.elapsed is not None

    assert record.finish(fence, State.DONE, fields={"current": "10", "result": '{"rows": 10}'})
    done = record.read()
    assert (done.state, done.current, done.total, done.result) == (State.DONE, 10, 10, {"rows": 10})
    assert (done.actor, done.queue, done.retries_left) == ("work", "default", 0)


def test_an_unknown_message_has_no_progress(store: Store) -> None:
    assert store.read(["never", "sent"]) == [None, None]


def test_many_messages_are_read_in_the_order_asked(store: Store) -> None:
    for message_id in ("a", "b"):
        Record(store, message_id).enqueue()
    found = store.read(["b", "gone", "a"])
    assert [each and each.id for each in found] == ["b", None, "a"]


def test_a_delayed_message_is_enqueued_when_it_is_due(record: Record) -> None:
    record.enqueue(delay=60)
    assert record.read().state is State.DELAYED
    record.enqueue(due=True)
    assert record.read().state is State.ENQUEUED


def test_a_due_message_without_record_gets_one(record: Record) -> None:
    record.enqueue(due=True)
    assert record.read().state is State.ENQUEUED


@pytest.mark.parametrize("state", [*FINAL, State.RUNNING])
def test_a_late_copy_from_a_delay_queue_changes_nothing(record: Record, state: State) -> None:
    if state is State.RUNNING:
        record.run()
    else:
        record.ended(state)
    before = record.read()
    record.enqueue(due=True)
    assert (record.read().state, record.read().version) == (state, before.version)


@pytest.mark.parametrize("state", FINAL)
def test_a_message_that_ended_begins_a_new_life_when_it_is_sent_again(record: Record, state: State) -> None:
    old = record.ended(state)
    before = record.read()
    record.enqueue()
    again = record.read()
    assert (again.state, again.current, again.total, again.elapsed) == (State.ENQUEUED, 0, None, None)
    assert again.version > before.version
    assert record.run().number == old.number + 1


def test_sending_a_living_message_again_changes_nothing(record: Record) -> None:
    fence = record.run()
    record.report(fence, current="5")
    before = record.read()
    record.enqueue()
    assert (record.read().state, record.read().version) == (State.RUNNING, before.version)


def test_a_new_attempt_starts_from_nothing_but_keeps_metadata(record: Record) -> None:
    first = record.run()
    record.report(first, current="5", total="9", description="Half", metadata='{"file": "a.csv"}')
    record.finish(first, State.RETRYING, retry_in=1.0)

    start = record.start()
    assert json.loads(start.metadata) == {"file": "a.csv"}
    second = record.read()
    assert (second.current, second.total, second.description, second.attempt) == (0, None, "", 2)
    assert second.metadata == {"file": "a.csv"}


def test_retrying_tells_when_the_next_attempt_comes(record: Record) -> None:
    fence = record.run()
    assert record.finish(fence, State.RETRYING, retry_in=40.0, fields={"current": "5"})
    retrying = record.read()
    assert (retrying.state, retrying.current, retrying.attempt) == (State.RETRYING, 5, 1)
    assert retrying.retry_in is not None and 30 < retrying.retry_in <= 40
    record.enqueue(due=True)
    assert (record.read().state, record.read().retry_in) == (State.ENQUEUED, None)


@pytest.mark.parametrize("state", [State.DONE, State.SKIPPED])
def test_a_message_that_is_over_runs_unseen_when_delivered_again(record: Record, state: State) -> None:
    record.ended(state)
    before = record.read()
    assert record.start() == Start("unseen")
    assert record.read().version == before.version


def test_a_cancelled_message_is_not_started(record: Record) -> None:
    record.ended(State.CANCELLED)
    assert record.start() == Start("cancelled")
    assert record.read().state is State.CANCELLED


def test_a_failed_message_is_opened_again_by_a_delivery(record: Record) -> None:
    record.ended(State.FAILED)
    assert record.run().number == 2
    assert record.read().state is State.RUNNING


def test_a_late_write_of_an_older_attempt_is_refused(record: Record) -> None:
    old = record.run()
    new = record.run()
    record.report(new, current="7")
    version = record.read().version

    assert record.report(old, current="99") == "refused"
    assert not record.finish(old, State.FAILED)
    assert not record.finish(old, State.RETRYING, retry_in=1.0)
    assert (record.read().state, record.read().current, record.read().version) == (State.RUNNING, 7, version)


def test_an_attempt_of_the_same_number_with_another_token_is_refused(record: Record) -> None:
    fence = record.run()
    assert record.report(record.attempt(number=fence.number), current="99") == "refused"


@pytest.mark.parametrize("state", [*FINAL, State.RETRYING])
def test_reports_after_the_end_of_an_attempt_are_refused(record: Record, state: State) -> None:
    fence = record.run()
    record.finish(fence, state, retry_in=1.0 if state is State.RETRYING else None)
    assert record.report(fence, current="99") == "refused"
    assert record.read().current == 0


@pytest.mark.parametrize("state", FINAL)
def test_an_end_is_written_once(record: Record, state: State) -> None:
    fence = record.ended(state)
    assert not record.finish(fence, State.FAILED)
    assert not record.finish(record.attempt(), State.SKIPPED, began=False)
    assert record.read().state is state


def test_a_delivery_whose_retry_could_not_be_sent_has_failed(record: Record) -> None:
    fence = record.run()
    record.finish(fence, State.RETRYING, retry_in=1.0)
    assert record.finish(fence, State.FAILED)
    assert (record.read().state, record.read().retry_in) == (State.FAILED, None)


def test_an_end_without_an_attempt_needs_a_record(record: Record) -> None:
    assert not record.finish(record.attempt(), State.FAILED, began=False)
    assert record.store.read([record.id]) == [None]
    record.enqueue()
    assert record.finish(record.attempt(), State.SKIPPED, began=False)
    assert (record.read().state, record.read().attempt) == (State.SKIPPED, 0)


def test_the_end_of_an_attempt_is_kept_when_its_record_was_lost(record: Record) -> None:
    lost = record.attempt(number=2, version=17)
    assert record.finish(lost, State.DONE, fields={"current": "5"})
    done = record.read()
    assert (done.state, done.attempt, done.current, done.actor, done.version) == (State.DONE, 2, 5, "work", 18)


def test_the_end_of_an_attempt_whose_start_was_not_written_counts_it(record: Record) -> None:
    record.enqueue()
    assert record.finish(record.attempt(), State.RETRYING, retry_in=5.0)
    assert (record.read().state, record.read().attempt) == (State.RETRYING, 1)
    assert record.finish(record.attempt(), State.DONE)
    assert (record.read().state, record.read().attempt) == (State.DONE, 2)
    assert not record.finish(record.attempt(), State.FAILED)


def test_a_report_makes_a_lost_record_anew(record: Record) -> None:
    attempt = record.attempt(number=3, version=40, began_at=time.monotonic() - 100)
    assert record.report(attempt, current="5") == "renewed"
    again = record.read()
    assert (again.state, again.attempt, again.current, again.version) == (State.RUNNING, 3, 5, 41)
    assert again.elapsed is not None and 99 < again.elapsed < 130
    assert (again.actor, again.queue, again.retries_left) == ("work", "default", 3)
    assert attempt.version == 41
    assert record.report(attempt, current="6") == "written"


def test_a_report_takes_over_a_record_that_went_back_to_an_older_attempt(record: Record) -> None:
    old = record.run()
    record.report(old, current="9", description="Old")
    newer = record.attempt(number=2, version=50)
    assert record.report(newer) == "renewed"
    assert (record.read().attempt, record.read().current, record.read().description) == (2, 0, "")
    assert record.report(old, current="10") == "refused"


def test_what_is_told_late_says_when_it_happened(record: Record) -> None:
    attempt = record.attempt(began_at=time.monotonic() - 60)
    record.store.start(attempt, age=60)
    elapsed = record.read().elapsed
    assert elapsed is not None and 59 < elapsed < 90
    record.finish(attempt, State.RETRYING, retry_in=100.0, age=30)
    retry_in = record.read().retry_in
    assert retry_in is not None and 60 < retry_in <= 70


@pytest.mark.parametrize("state", [*FINAL, State.RUNNING])
def test_an_enqueue_that_is_told_late_changes_no_record(record: Record, state: State) -> None:
    if state is State.RUNNING:
        record.run()
    else:
        record.ended(state)
    record.enqueue(age=1.0)
    assert record.read().state is state


def test_an_enqueue_that_is_told_late_makes_a_record_where_there_is_none(record: Record) -> None:
    record.enqueue(age=1.0)
    assert record.read().state is State.ENQUEUED


def test_a_late_start_does_not_overtake_a_delivery_that_began_after_it(record: Record) -> None:
    early = record.attempt(began_at=time.monotonic() - 60)
    later = record.run()
    assert record.store.start(early, age=60).verdict == "unseen"
    assert record.report(later, current="5") == "written"
    assert record.finish(later, State.DONE)


@pytest.mark.parametrize("state", [State.RETRYING, State.DONE, State.FAILED])
def test_the_late_end_of_an_unwritten_attempt_is_refused_by_one_that_began_after_it(
    record: Record, state: State
) -> None:
    early = record.attempt(began_at=time.monotonic() - 60)
    later = record.run()
    assert not record.finish(early, state, age=5)
    assert record.report(later, current="5") == "written"
    assert record.finish(later, State.DONE)


def test_a_zombie_of_a_lost_record_cannot_move_the_one_that_came_after_it(record: Record) -> None:
    """Its number is from before the loss, and higher."""
    zombie = record.attempt(number=2, version=9, began_at=time.monotonic() - 60)
    later = record.run()
    assert record.report(zombie, current="99") == "refused"
    record.finish(later, State.DONE)
    assert record.report(zombie, current="99") == "refused"
    assert not record.finish(zombie, State.FAILED)
    assert (record.read().state, record.read().attempt) == (State.DONE, 1)


def test_an_unwritten_attempt_has_at_least_dramatiqs_number(record: Record) -> None:
    assert record.finish(record.attempt(least=3), State.DONE)
    assert record.read().attempt == 3


def test_a_record_that_went_back_goes_on_from_the_version_that_was_seen(record: Record) -> None:
    attempt = record.run()
    attempt.version = 70
    record.report(attempt, current="5")
    assert record.read().version == 71
    attempt.version = 90
    record.finish(attempt, State.DONE)
    assert record.read().version == 91


def test_a_start_that_is_told_twice_counts_once(record: Record) -> None:
    """Its answer may have been lost on the way."""
    attempt = record.attempt()
    first = record.store.start(attempt)
    record.report(attempt, current="3")
    again = record.store.start(attempt, age=1.0)
    assert (again.verdict, again.deliveries, attempt.number) == ("run", first.deliveries, 1)
    assert (record.read().current, record.read().attempt) == (3, 1)


def test_the_end_of_an_attempt_knows_its_start_whose_answer_was_lost(record: Record) -> None:
    written = record.attempt()
    record.store.start(written)
    unknowing = record.attempt(token=written.token)
    assert record.finish(unknowing, State.DONE)
    assert (record.read().state, record.read().attempt) == (State.DONE, 1)
    assert not record.finish(record.attempt(token=written.token), State.FAILED)


def test_deliveries_are_counted_until_an_attempt_ends(record: Record) -> None:
    assert [record.start().deliveries for _ in range(3)] == [1, 2, 3]
    record.finish(record.run(), State.RETRYING, retry_in=1.0)
    assert record.start().deliveries == 1


def test_a_sign_of_life_does_not_raise_the_version(record: Record) -> None:
    fence = record.run()
    before = record.read().version
    assert record.report(fence) == "written"
    assert record.read().version == before
    record.report(fence, current="1")
    assert record.read().version == before + 1


def test_a_running_message_without_sign_of_life_is_lost_and_comes_back(record: Record, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.05}
    fence = record.run()
    wait_until(lambda: record.read().state is State.LOST)
    record.report(fence)
    assert record.read().state is State.RUNNING


def test_a_finished_record_goes_after_its_time(record: Record, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 0.05}
    record.ended(State.DONE)
    wait_until(lambda: record.store.read([record.id]) == [None])


def test_text_of_any_kind_comes_back_as_it_went_in(record: Record) -> None:
    text = "<b>né 東京 \U0001f600</b>\0\n\"'"
    fence = record.run()
    record.report(fence, description=text)
    assert record.read().description == text


def test_progress_can_be_read_from_async_code(record: Record) -> None:
    record.enqueue()
    progress = asyncio.run(aget_progress(record.id))
    assert progress == get_progress(record.id)
    assert progress is not None and progress.state is State.ENQUEUED


# Whose it is


def test_an_owner_stays_through_all_lives(record: Record) -> None:
    record.enqueue(owner="somebody")
    assert record.read().owner == "somebody"
    record.enqueue(owner="another")
    fence = record.run()
    record.finish(fence, State.RETRYING, retry_in=1.0)
    record.enqueue(due=True)
    record.finish(record.run(), State.DONE)
    assert record.read().owner == "somebody"
    record.enqueue(owner="another")
    assert (record.read().state, record.read().owner) == (State.ENQUEUED, "somebody")


def test_a_message_may_be_nobodys(record: Record) -> None:
    record.enqueue()
    record.report(record.run(), current="1")
    assert record.read().owner == ""


@pytest.mark.parametrize("state", [*FINAL, State.RUNNING])
def test_an_enqueue_that_is_told_late_still_says_whose_it_is(record: Record, state: State) -> None:
    if state is State.RUNNING:
        record.run()
    else:
        record.finish(record.run(), state)
    version = record.read().version
    record.enqueue(age=1.0, owner="somebody")
    assert (record.read().state, record.read().owner, record.read().version) == (state, "somebody", version)
    record.enqueue(age=1.0, owner="another")
    assert record.read().owner == "somebody"


def test_a_living_message_of_nobody_is_taken_by_nobody(record: Record) -> None:
    record.enqueue()
    record.enqueue(owner="another")
    assert record.read().owner == ""


def test_a_store_that_lost_a_record_learns_again_whose_it_is(store: Store) -> None:
    by_start, by_report, by_finish = (Record(store, name) for name in ("start", "report", "finish"))
    store.start(by_start.attempt(owner="somebody"))
    assert by_report.report(by_report.attempt(number=1, owner="somebody"), current="1") == "renewed"
    assert by_finish.finish(by_finish.attempt(number=1, owner="somebody"), State.DONE)
    assert {each.read().owner for each in (by_start, by_report, by_finish)} == {"somebody"}


# Cancelling


@pytest.fixture
def asked(record: Record) -> Attempt:
    """A running attempt, whose message somebody wishes to be cancelled."""
    record.enqueue()
    attempt = record.run()
    record.report(attempt, current="3", total="9")
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
    return attempt


@pytest.mark.parametrize("waiting", [State.ENQUEUED, State.DELAYED, State.RETRYING])
def test_one_that_waits_is_cancelled_at_once_and_skipped_when_it_comes(record: Record, waiting: State) -> None:
    record.enqueue(delay=600 if waiting is State.DELAYED else None)
    if waiting is State.RETRYING:
        record.finish(record.run(), waiting, retry_in=600.0, fields={"current": "5"})
    before = record.read()
    assert record.cancel() == Cancellation(CancelOutcome.CANCELLED, waiting)

    cancelled = record.read()
    assert (cancelled.state, cancelled.result) == (State.CANCELLED, "The task was cancelled.")
    assert (cancelled.cancel_requested, cancelled.can_cancel, cancelled.retry_in) == (True, False, None)
    assert (cancelled.current, cancelled.elapsed, cancelled.attempt) == (before.current, before.elapsed, before.attempt)
    assert cancelled.version == before.version + 1
    record.enqueue(due=True)
    assert record.start() == Start("cancelled")
    assert record.read().without_clocks() == cancelled.without_clocks()


def test_one_that_runs_is_told_with_the_answer_to_its_next_write(record: Record) -> None:
    attempt = record.run()
    assert (record.report(attempt), attempt.to_cancel) == ("written", False)
    assert record.read().can_cancel
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
    running = record.read()
    assert (running.state, running.cancel_requested, running.can_cancel) == (State.RUNNING, True, False)
    assert (record.report(attempt), attempt.to_cancel) == ("written", True)
    assert record.finish(attempt, State.CANCELLED, fields={"current": "4"})
    assert (record.read().state, record.read().current) == (State.CANCELLED, 4)


@pytest.mark.parametrize("state", [State.DONE, State.SKIPPED])
def test_one_that_ends_well_before_it_hears_of_a_cancel_has_ended_well(
    record: Record, asked: Attempt, state: State
) -> None:
    assert record.finish(asked, state)
    assert (record.read().state, record.read().cancel_requested) == (state, True)


@pytest.mark.parametrize("retry_in", [None, 600.0])
def test_one_that_fails_when_it_is_to_be_cancelled_is_not_tried_again(
    record: Record, asked: Attempt, retry_in: float | None
) -> None:
    fields = {"current": "4", "result": '"Line 7 is broken."'}
    assert record.finish(asked, State.RETRYING if retry_in else State.FAILED, retry_in=retry_in, fields=fields)
    cancelled = record.read()
    assert (cancelled.state, cancelled.current, cancelled.retry_in) == (State.CANCELLED, 4, None)
    assert cancelled.result == "The task was cancelled."
    record.enqueue(due=True)
    assert record.start() == Start("cancelled")


def test_a_second_cancel_is_answered_as_the_first_and_changes_nothing(record: Record) -> None:
    attempt = record.run()
    record.cancel()
    version = record.read().version
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
    assert record.read().version == version
    record.finish(attempt, State.CANCELLED)
    version = record.read().version
    assert record.cancel() == Cancellation(CancelOutcome.CANCELLED, State.CANCELLED)
    assert record.read().version == version


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.SKIPPED])
def test_one_that_has_ended_is_not_cancelled(record: Record, state: State) -> None:
    record.ended(state)
    before = record.read()
    assert record.cancel() == Cancellation(CancelOutcome.FINISHED, state)
    assert record.read().without_clocks() == before.without_clocks()
    assert not before.can_cancel


def test_an_unknown_message_cannot_be_cancelled(record: Record) -> None:
    assert record.cancel() == Cancellation(CancelOutcome.NOT_FOUND)
    assert record.store.read([record.id]) == [None]


@pytest.mark.parametrize("known_from", ["enqueue", "start", "report", "finish"])
def test_what_its_actor_forbids_is_not_cancelled(record: Record, known_from: str) -> None:
    """Whichever write it is that makes the record."""
    attempt = record.attempt(cancellable=False)
    if known_from == "enqueue":
        record.enqueue(cancellable=False)
    elif known_from == "finish":
        assert record.finish(attempt, State.RETRYING, retry_in=60.0)
    elif known_from == "report":
        attempt.number = 1
        assert record.report(attempt) == "renewed"
    else:
        record.store.start(attempt)
    before = record.read()
    assert record.cancel() == Cancellation(CancelOutcome.NOT_CANCELLABLE, before.state)
    assert record.read().without_clocks() == before.without_clocks()
    assert not before.can_cancel and not before.cancel_requested


def test_one_that_was_lost_is_cancelled_when_it_is_delivered_again(record: Record, asked: Attempt) -> None:
    before = record.read()
    assert record.start() == Start("cancelled", previous=State.RUNNING)
    cancelled = record.read()
    assert (cancelled.state, cancelled.current, cancelled.attempt) == (State.CANCELLED, 3, before.attempt)
    # The worker that was taken for dead, and lives.
    assert (record.report(asked, current="4"), asked.to_cancel) == ("refused", True)
    assert not record.finish(asked, State.DONE)
    assert record.read() == cancelled


def test_an_attempt_that_was_overtaken_is_told_too(record: Record) -> None:
    old, new = record.run(), record.run()
    record.cancel()
    assert (record.report(old), old.to_cancel) == ("refused", True)
    assert (record.report(new), new.to_cancel) == ("written", True)


def test_a_start_that_is_told_late_does_not_cancel_one_that_began_after_it(record: Record, asked: Attempt) -> None:
    late = record.attempt()
    assert record.store.start(late, age=600.0) == Start("unseen")
    assert record.read().state is State.RUNNING


def test_a_message_that_was_cancelled_and_is_sent_again_is_not_to_be_cancelled(record: Record) -> None:
    record.enqueue(cancellable=True)
    record.cancel()
    record.enqueue()
    assert (record.read().state, record.read().cancel_requested) == (State.ENQUEUED, False)
    attempt = record.run()
    assert (record.report(attempt), attempt.to_cancel) == ("written", False)


def test_a_record_that_went_back_to_an_older_attempt_keeps_the_wish(record: Record, asked: Attempt) -> None:
    again = record.attempt()
    again.number = asked.number + 1
    assert (record.report(again), again.to_cancel) == ("renewed", True)


def test_one_that_is_cancelled_leaves_the_line_and_nobody_else_does(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq_progress.stores.base.LINE_PATIENCE_SECONDS", 0)
    for name in ("a", "b", "c"):
        Record(store, name).enqueue()
    Record(store, "b").cancel()
    assert in_line(store, "a", "b", "c") == [(1, 2), (None, None), (2, 2)]


# The index of an owner


def test_an_owner_has_an_index_newest_first(store: Store) -> None:
    for name in ("first", "second"):
        Record(store, name).enqueue(owner="somebody")
    Record(store, "third").enqueue(owner="another")
    Record(store, "fourth").enqueue(owner="somebody", delay=60)
    Record(store, "zeroth").enqueue(owner="somebody", age=60.0)
    Record(store, "nobodys").enqueue()
    assert store.owned(["somebody"]) == ["fourth", "second", "first", "zeroth"]
    assert store.owned(["another", "somebody", "nobody"]) == ["fourth", "third", "second", "first", "zeroth"]
    assert store.owned([]) == store.owned(["nobody"]) == []


def test_a_message_has_one_place_in_the_index(store: Store) -> None:
    again, other = Record(store, "again"), Record(store, "other")
    again.enqueue(owner="somebody", delay=60)
    other.enqueue(owner="somebody")
    again.enqueue(owner="somebody", due=True)
    assert store.owned(["somebody"]) == ["other", "again"]
    again.finish(again.run(), State.DONE)
    again.enqueue(owner="somebody")
    assert store.owned(["somebody"]) == ["again", "other"]


def test_an_index_keeps_the_newest(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq_progress.stores.base.MOST_OWNED", 3)
    for number in range(5):
        Record(store, str(number)).enqueue(owner="somebody")
    assert store.owned(["somebody"]) == ["4", "3", "2"]


def test_an_index_goes_after_its_time_and_not_before_the_longest_delay(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"UNFINISHED_TTL": 0.05}
    Record(store, "short").enqueue(owner="somebody")
    wait_until(lambda: store.owned(["somebody"]) == [])
    Record(store, "long").enqueue(owner="another", delay=60)
    Record(store, "short").enqueue(owner="another")
    wait_until(lambda: store.read(["short"]) == [None])
    assert store.owned(["another"]) == ["short", "long"]


# Redis and Valkey


def client_of(valkey: str) -> redis.Redis:
    return redis.Redis.from_url(f"{valkey}/1", decode_responses=True)


def test_every_record_has_a_time_to_live(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    with client_of(valkey) as client:

        def ttl() -> int:
            return int(client.ttl(redis_store.key(record.id)))

        record.enqueue()
        assert ttl() > 6 * 24 * 3600
        record.enqueue(delay=3600)
        fence = record.run()
        assert ttl() > 6 * 24 * 3600
        record.finish(fence, State.RETRYING, retry_in=7200.0)
        assert ttl() > 7 * 24 * 3600
        record.finish(fence, State.DONE)
        assert 3000 < ttl() <= 3600


def test_a_cancelled_record_is_kept_until_its_message_has_come(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    with client_of(valkey) as client:

        def ttl() -> int:
            return int(client.ttl(redis_store.key(record.id)))

        record.enqueue(delay=7200)
        record.cancel()
        assert ttl() > 7 * 24 * 3600
        record.start()
        assert 3000 < ttl() <= 3600

        record.enqueue()
        client.expire(redis_store.key(record.id), 100)
        record.cancel()
        assert ttl() > 6 * 24 * 3600
        record.enqueue()
        record.run()
        record.cancel()
        record.start()
        assert 3000 < ttl() <= 3600


def test_reading_does_not_renew_the_time_to_live(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    record.enqueue()
    with client_of(valkey) as client:
        client.expire(redis_store.key(record.id), 100)
        record.read()
        assert client.ttl(redis_store.key(record.id)) <= 100


def test_scripts_are_loaded_again_when_the_server_forgot_them(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    record.enqueue()
    with client_of(valkey) as client:
        client.script_flush()
    fence = record.run()
    assert record.report(fence, current="1") == "written"
    with client_of(valkey) as client:
        client.script_flush()
    assert record.read().current == 1


def test_a_plain_record_is_packed_by_redis(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store, "0b1f6a0e-6d1c-4f0e-9a42-0f1c3f6f7a11")
    record.enqueue()
    fence = record.run()
    record.report(fence, current="1200", total="5000", description="Importing")
    with client_of(valkey) as client:
        assert client.object("encoding", redis_store.key(record.id)) == "listpack"


def test_a_store_that_is_down_says_so_without_its_password() -> None:
    store = RedisStore(prefix="p:", url="redis://someone:hunter2@127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable) as raised:
        store.ping()
    assert "127.0.0.1:1" in str(raised.value)
    assert "hunter2" not in str(raised.value) + repr(store)


def test_a_command_is_neither_slow_nor_repeated_by_default() -> None:
    options = RedisStore(prefix="p:")._servers.client.get_connection_kwargs()
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.25, 0.25)
    assert options["retry"].get_retries() == 0


def test_redis_options_are_passed_on() -> None:
    store = RedisStore(prefix="p:", host="127.0.0.1", port=1234, db=5, socket_timeout=2, client_name="web")
    options = store._servers.client.get_connection_kwargs()
    assert (options["port"], options["db"], options["socket_timeout"]) == (1234, 5, 2)
    assert options["client_name"] == "web"


def test_two_servers_in_turn_hold_nothing_of_each_other(settings: Any) -> None:
    """A store is made anew when the settings change."""
    with servers.valkey() as url:
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"{url}/0"}, "PREFIX": "one:"}
        one = get_store()
        Record(one).enqueue()
        assert get_store() is one
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"{url}/0"}, "PREFIX": "two:"}
        assert get_store() is not one
        assert get_progress("m1") is None


# The choice of a store


@pytest.fixture
def broker_set() -> Any:
    before = dramatiq.get_broker()
    yield dramatiq.set_broker
    dramatiq.set_broker(before)


def test_the_store_of_a_stub_broker_is_memory(settings: Any, broker_set: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {}
    broker_set(StubBroker(middleware=[]))
    assert isinstance(get_store(), MemoryStore)


def test_the_store_of_a_redis_broker_is_its_redis(settings: Any, broker_set: Any, valkey: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"PREFIX": "of-broker:"}
    broker = RedisBroker(url=f"{valkey}/4", middleware=[])
    broker_set(broker)
    store = get_store()
    assert isinstance(store, RedisStore)
    Record(store).enqueue()
    assert broker.client.exists("of-broker:m1")
    assert store._servers.client.connection_pool is not broker.client.connection_pool
    store.close()
    broker.client.close()


def test_any_other_broker_means_redis_on_this_machine(settings: Any, broker_set: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {}
    broker_set(dramatiq.Broker(middleware=[]))
    assert "127.0.0.1:6379/0" in repr(get_store())


def test_options_alone_mean_redis(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:9/2"}}
    assert "127.0.0.1:9/2" in repr(get_store())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STORE": "nowhere.Store"}, "'nowhere.Store', which cannot be imported"),
        ({"STORE": "collections.OrderedDict"}, "which is no Store"),
        ({"OPTIONS": {"colour": "red"}}, "colour"),
        ({"OPTIONS": {"url": "redis://127.0.0.1:9/0", "colour": "red"}}, "colour"),
        ({"OPTIONS": {"url": "http://127.0.0.1"}}, "does not fit"),
    ],
)
def test_a_store_that_cannot_be_made_is_an_error_that_names_it(
    settings: Any, given: dict[str, Any], message: str
) -> None:
    settings.DRAMATIQ_PROGRESS = given
    with pytest.raises(ImproperlyConfigured, match=message):
        get_store()


# The line in front of a queue


def in_line(store: Store, *message_ids: str) -> list[tuple[int | None, int | None]]:
    return [
        (each.queue_position, each.queue_length) if each is not None else (None, None)
        for each in store.read(message_ids)
    ]


def test_waiting_messages_stand_in_line(store: Store) -> None:
    records = [Record(store, name) for name in ("a", "b", "c")]
    for record in records:
        record.enqueue()
    assert in_line(store, "a", "b", "c") == [(1, 3), (2, 3), (3, 3)]
    assert in_line(store, "c", "gone") == [(3, 3), (None, None)]
    records[0].run()
    assert in_line(store, "a", "b", "c") == [(None, None), (1, 2), (2, 2)]


def test_each_queue_has_its_own_line(store: Store) -> None:
    Record(store, "a").enqueue()
    Record(store, "b").enqueue(queue="slow")
    assert in_line(store, "a", "b") == [(1, 1), (1, 1)]


def test_delayed_and_retrying_messages_are_not_in_line(store: Store) -> None:
    delayed, failed = Record(store, "a"), Record(store, "b")
    delayed.enqueue(delay=60)
    failed.enqueue()
    failed.finish(failed.run(), State.RETRYING, retry_in=60.0)
    Record(store, "c").enqueue()
    assert in_line(store, "a", "b", "c") == [(None, None), (None, None), (1, 1)]
    delayed.enqueue(due=True)
    assert in_line(store, "a", "c") == [(2, 2), (1, 2)]


def test_a_message_that_is_skipped_or_ends_unknown_leaves_the_line(store: Store) -> None:
    for name in ("a", "b", "c"):
        Record(store, name).enqueue()
    Record(store, "a").finish(Record(store, "a").attempt(), State.SKIPPED, began=False)
    Record(store, "b").finish(Record(store, "b").attempt(), State.DONE)
    assert in_line(store, "c") == [(1, 1)]


def test_what_a_purge_of_the_broker_left_behind_goes_away(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq_progress.stores.base.LINE_PATIENCE_SECONDS", 0)
    for name in ("purged", "next", "last"):
        Record(store, name).enqueue()
    assert in_line(store, "last") == [(3, 3)]
    Record(store, "next").run()
    assert in_line(store, "purged", "last") == [(None, None), (1, 1)]


def test_a_line_has_a_time_to_live(redis_store: Store, valkey: str) -> None:
    Record(redis_store).enqueue()
    with client_of(valkey) as client:
        assert client.ttl(redis_store.line_key("default")) > 6 * 24 * 3600


def test_a_record_that_cannot_be_read_hides_no_other(redis_store: Store, valkey: str, caplog: Any) -> None:
    for message_id in ("good", "newer", "broken", "odd"):
        redis_store.enqueue(message_id, actor="work", queue="default", retries_left=0)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        client.hset(redis_store.key("newer"), "state", "a state of a later version")
        client.hdel(redis_store.key("broken"), "state", "version")
        odd = {"state": "running", "heartbeat": str(10**10), "rate": "0", "total": "5"}
        client.hset(redis_store.key("odd"), mapping=odd)
    good, *others = redis_store.read(["good", "newer", "broken", "odd"])
    assert good is not None and others == [None, None, None]
    assert "message newer cannot be read" in caplog.text and "message broken cannot be read" in caplog.text


def test_what_was_reported_outlives_only_the_start_that_is_one_too_many(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"MAX_DELIVERIES": 2}
    seen = []
    for _ in range(3):
        attempt = Attempt("m1", "work", "default")
        store.start(attempt)
        [progress] = store.read(["m1"])
        assert progress is not None
        seen.append((progress.current, progress.total))
        store.report([Report(attempt, {"current": "4", "total": "5"})])
    assert seen == [(0, None), (0, None), (4, 5)]


@pytest.mark.parametrize(
    "text", ["", '"quoted" \\ /slash', "line\nbreak\x00\x1f\x7f", "žluťoučký 進捗 🦆", "{}", "[]", "'"]
)
def test_any_text_comes_back_as_it_was(store: Store, text: str) -> None:
    attempt = Attempt("m1", "work", "default")
    store.start(attempt)
    store.report([Report(attempt, {"description": text, "metadata": json.dumps({"text": text})})])
    [progress, missing] = store.read(["m1", "m2"])
    assert progress is not None and missing is None
    assert (progress.description, progress.metadata) == (text, {"text": text})


def test_one_that_is_told_late_is_in_line_where_it_came(store: Store) -> None:
    for message_id, age in (("second", 0.0), ("first", 5.0)):
        store.enqueue(message_id, actor="work", queue="default", retries_left=0, age=age)
    first, second = store.read(["first", "second"])
    assert first is not None and second is not None
    assert (first.queue_position, second.queue_position, second.queue_length) == (1, 2, 2)
    store.start(Attempt("third", "work", "default"))
    store.enqueue("third", actor="work", queue="default", retries_left=0, age=5.0)
    [second] = store.read(["second"])
    assert second is not None and second.queue_length == 2

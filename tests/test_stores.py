"""The contract of all stores, and tests of single ones."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
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
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import Contribution, Membership, waiting_slot
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.outcomes import Start
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.stores.redis import options as redis_options
from tests import servers
from tests.reading import seconds_left
from tests.waiting import PATIENT, wait_until

FINAL = [State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED]


def without_clocks(progress: Progress) -> Progress:
    """Return a reading without the values that change without a write."""
    return replace(progress, retry_in=None, elapsed=None, rate=None, eta=None, silence=0.0)


class Record:
    """The record of one message, written as the middleware writes it."""

    def __init__(self, store: Store, message_id: str = "m1") -> None:
        self.store = store
        self.id = message_id

    def enqueue(self, **options: Any) -> None:
        self.store.enqueue(
            self.id, **{"actor": "work", "queue": "default", "retries_left": 3, "cancellable": True, **options}
        )

    def attempt(self, **options: Any) -> Attempt:
        return Attempt(self.id, "work", "default", 3, **{"cancellable": True, **options})

    def start(self) -> Start:
        return self.store.start(self.attempt())

    def run(self) -> Attempt:
        attempt = self.attempt()
        assert self.store.start(attempt).verdict == "run"
        return attempt

    def run_after_a_death(self, settings: Any) -> Attempt:
        """Start an attempt after the heartbeats of the one that is shown have stopped for long enough."""
        known = settings.DRAMATIQ_PROGRESS
        self.lose(settings)
        attempt = self.run()
        settings.DRAMATIQ_PROGRESS = known
        return attempt

    def lose(self, settings: Any) -> None:
        """Wait until the attempts that are known are taken for dead, and keep the setting for that."""
        settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
        wait_until(lambda: self.read().state is State.LOST)

    def report(self, attempt: Attempt, *, has_all: bool = True, **fields: str) -> str:
        attempt.sends_all = has_all
        return self.store.report([(attempt, fields)])[0]

    def finish(self, attempt: Attempt, state: State, **options: Any) -> bool:
        return self.store.finish(attempt, state=state, **options)

    def cancel(self) -> Cancellation:
        return self.store.cancel(self.id)

    def read(self) -> Progress:
        progress = self.store.read([self.id])[0]
        assert progress is not None
        return progress

    def fields(self) -> dict[str, str]:
        """Return the record as it is stored."""
        [(_, stored)] = self.store._read_answers(self.store._call(self.store._read_calls([self.store.key(self.id)])))
        assert isinstance(stored, dict)
        return stored

    def change(self, **fields: str) -> None:
        """Change stored fields as no script does."""
        key = self.store.key(self.id)
        if isinstance(self.store, MemoryStore):
            self.store._records[key] |= fields
        else:
            pairs = [text for pair in fields.items() for text in pair]
            assert isinstance(self.store, RedisStore)
            text = "return redis.call('HSET', KEYS[1], unpack(ARGV))"
            self.store._servers.send([("EVAL", text, 1, key, *pairs)])

    def turn_clock_back(self, seconds: float) -> None:
        """Let the store's clock be behind the one by which the record was written."""
        known = self.fields()
        times = ("started_at", "ended_at", "enqueued_at", "reported_at", "heartbeat", "retry_at")
        self.change(**{name: f"{float(known[name]) + seconds:.6f}" for name in times if name in known})

    def ended(self, state: State) -> Attempt:
        self.enqueue()
        attempt = self.run()
        assert self.finish(attempt, state)
        return attempt


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


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


def test_many_messages_are_read_in_the_order_of_their_ids(store: Store) -> None:
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
def test_a_finished_message_starts_over_when_it_is_sent_again(record: Record, state: State) -> None:
    old = record.ended(state)
    before = record.read()
    record.enqueue()
    again = record.read()
    assert (again.state, again.current, again.total, again.elapsed) == (State.ENQUEUED, 0, None, None)
    assert again.version > before.version
    assert record.run().number == old.number + 1


def test_sending_an_unfinished_message_again_changes_nothing(record: Record) -> None:
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


def test_a_retrying_record_has_the_time_of_the_next_attempt(record: Record) -> None:
    fence = record.run()
    assert record.finish(fence, State.RETRYING, retry_in=40.0, fields={"current": "5"})
    retrying = record.read()
    assert (retrying.state, retrying.current, retrying.attempt) == (State.RETRYING, 5, 1)
    assert retrying.retry_in is not None and 30 < retrying.retry_in <= 40
    record.enqueue(due=True)
    assert (record.read().state, record.read().retry_in) == (State.ENQUEUED, None)


@pytest.mark.parametrize("state", [State.DONE, State.SKIPPED])
def test_a_final_record_ignores_another_delivery(record: Record, state: State) -> None:
    record.ended(state)
    before = record.read()
    assert record.start() == Start("ignored")
    assert record.read().version == before.version


def test_a_cancelled_message_is_not_started(record: Record) -> None:
    record.ended(State.CANCELLED)
    assert record.start() == Start("cancelled")
    assert record.read().state is State.CANCELLED


def test_a_delivery_reopens_a_failed_message(record: Record) -> None:
    record.ended(State.FAILED)
    assert record.run().number == 2
    assert record.read().state is State.RUNNING


def test_a_late_write_of_an_older_attempt_is_refused(record: Record, settings: Any) -> None:
    old = record.run()
    new = record.run_after_a_death(settings)
    record.report(new, current="7")
    version = record.read().version

    assert record.report(old, current="99") == "superseded"
    assert not record.finish(old, State.FAILED)
    assert not record.finish(old, State.RETRYING, retry_in=1.0)
    assert not record.finish(old, State.DONE)
    assert (record.read().state, record.read().current, record.read().version) == (State.RUNNING, 7, version)


def test_an_attempt_of_the_same_number_with_another_token_is_refused(record: Record) -> None:
    fence = record.run()
    assert record.report(record.attempt(number=fence.number), current="99") == "superseded"


@pytest.mark.parametrize("state", [*FINAL, State.RETRYING])
def test_reports_after_the_end_of_an_attempt_are_refused(record: Record, state: State) -> None:
    fence = record.run()
    record.finish(fence, state, retry_in=1.0 if state is State.RETRYING else None)
    assert record.report(fence, current="99") == "superseded"
    assert record.read().current == 0


@pytest.mark.parametrize("state", FINAL)
def test_an_outcome_is_written_once(record: Record, state: State) -> None:
    fence = record.ended(state)
    assert not record.finish(fence, State.FAILED)
    assert not record.finish(record.attempt(), State.SKIPPED, started=False)
    assert record.read().state is state


def test_a_delivery_whose_retry_cannot_be_sent_has_failed(record: Record) -> None:
    fence = record.run()
    record.finish(fence, State.RETRYING, retry_in=1.0)
    assert record.finish(fence, State.FAILED)
    assert (record.read().state, record.read().retry_in) == (State.FAILED, None)


def test_an_outcome_without_an_attempt_needs_a_record(record: Record) -> None:
    assert not record.finish(record.attempt(), State.FAILED, started=False)
    assert record.store.read([record.id]) == [None]
    record.enqueue()
    assert record.finish(record.attempt(), State.SKIPPED, started=False)
    assert (record.read().state, record.read().attempt) == (State.SKIPPED, 0)


def test_an_outcome_rebuilds_a_lost_record(record: Record) -> None:
    lost = record.attempt(number=2, version=17)
    assert record.finish(lost, State.DONE, fields={"current": "5"})
    done = record.read()
    assert (done.state, done.attempt, done.current, done.actor, done.version) == (State.DONE, 2, 5, "work", 18)


def test_an_outcome_counts_an_attempt_whose_start_was_not_written(record: Record) -> None:
    record.enqueue()
    assert record.finish(record.attempt(), State.RETRYING, retry_in=5.0)
    assert (record.read().state, record.read().attempt) == (State.RETRYING, 1)
    assert record.finish(record.attempt(), State.DONE)
    assert (record.read().state, record.read().attempt) == (State.DONE, 2)
    assert not record.finish(record.attempt(), State.FAILED)


def test_a_report_rebuilds_a_lost_record(record: Record) -> None:
    attempt = record.attempt(number=3, version=40, started_at=time.monotonic() - 100)
    assert record.report(attempt, current="5") == "rebuilt"
    again = record.read()
    assert (again.state, again.attempt, again.current, again.version) == (State.RUNNING, 3, 5, 41)
    assert again.elapsed is not None and 99 < again.elapsed < 130
    assert (again.actor, again.queue, again.retries_left) == ("work", "default", 3)
    assert attempt.version == 41
    assert record.report(attempt, current="6") == "written"


def test_a_record_that_is_lost_is_only_made_again_with_all_values(record: Record) -> None:
    attempt = record.attempt(number=1, version=3)
    assert record.report(attempt, has_all=False, current="7") == "incomplete"
    assert record.store.read([record.id]) == [None]
    assert record.report(attempt, current="7", total="10") == "rebuilt"
    assert record.read().percent == 70.0
    assert not attempt.sends_all


def test_a_report_replaces_an_older_attempt_that_a_store_has_restored(record: Record, settings: Any) -> None:
    old = record.run()
    record.report(old, current="9", description="Old")
    newer = record.attempt(number=2, version=50)
    # Whether the older one is dead is known when its heartbeats have stopped.
    assert record.report(newer) == "waiting"
    record.lose(settings)
    assert record.report(newer) == "rebuilt"
    assert (record.read().attempt, record.read().current, record.read().description) == (2, 0, "")
    assert record.report(old, current="10") == "superseded"


def test_an_attempt_that_has_waited_is_shown_with_the_values_it_went_on_from(record: Record, settings: Any) -> None:
    """Also while it has reported only those that it has changed."""
    record.report(record.run(), cursor='[1, [], "", 5, null]', current="5", total="9", description="Reading")
    record.change(**long_item(record))
    later = record.run()
    assert record.report(later, has_all=False, current="6") == "waiting"
    record.lose(settings)
    assert record.report(later, has_all=False, current="6") == "incomplete"
    assert (record.read().attempt, record.read().total) == (1, 9)
    assert record.report(later, current="6", total="9", description="Reading") == "rebuilt"
    again = record.read()
    assert (again.attempt, again.current, again.total, again.description) == (2, 6, 9, "Reading")


def test_a_deferred_write_has_the_time_of_its_event(record: Record) -> None:
    attempt = record.attempt(started_at=time.monotonic() - 60)
    record.store.start(attempt, age=60)
    elapsed = record.read().elapsed
    assert elapsed is not None and 59 < elapsed < 90
    record.finish(attempt, State.RETRYING, retry_in=100.0, age=30)
    retry_in = record.read().retry_in
    assert retry_in is not None and 60 < retry_in <= 70


@pytest.mark.parametrize("state", [*FINAL, State.RUNNING])
def test_a_deferred_enqueue_changes_no_record(record: Record, state: State) -> None:
    if state is State.RUNNING:
        record.run()
    else:
        record.ended(state)
    record.enqueue(age=1.0)
    assert record.read().state is state


def test_a_deferred_enqueue_creates_a_missing_record(record: Record) -> None:
    record.enqueue(age=1.0)
    assert record.read().state is State.ENQUEUED


def test_a_deferred_start_does_not_replace_a_later_delivery(record: Record) -> None:
    early = record.attempt(started_at=time.monotonic() - 60)
    later = record.run()
    assert record.store.start(early, age=60).verdict == "run"
    assert record.report(early, current="50") == "waiting"
    assert record.report(later, current="5") == "written"
    assert (record.read().current, record.read().attempt) == (5, 1)
    assert record.finish(later, State.DONE)


@pytest.mark.parametrize("state", [State.RETRYING, State.FAILED])
def test_a_deferred_outcome_of_an_unwritten_attempt_does_not_replace_a_later_one(record: Record, state: State) -> None:
    early = record.attempt(started_at=time.monotonic() - 60)
    later = record.run()
    assert not record.finish(early, state, age=5)
    assert record.report(later, current="5") == "written"
    assert record.finish(later, State.DONE)


def test_an_attempt_from_before_a_loss_cannot_write_the_record_of_a_later_one(record: Record) -> None:
    """Its number is from before the loss, and therefore higher."""
    zombie = record.attempt(number=2, version=9, started_at=time.monotonic() - 60)
    later = record.run()
    assert record.report(zombie, current="99") == "waiting"
    assert record.read().current == 0
    record.finish(later, State.DONE)
    assert record.report(zombie, current="99") == "superseded"
    assert not record.finish(zombie, State.FAILED)
    assert (record.read().state, record.read().attempt) == (State.DONE, 1)


def test_an_unwritten_attempt_has_at_least_dramatiqs_number(record: Record) -> None:
    assert record.finish(record.attempt(min_attempt=3), State.DONE)
    assert record.read().attempt == 3


def test_the_version_of_a_restored_record_continues_from_the_last_known_one(record: Record) -> None:
    attempt = record.run()
    attempt.version = 70
    record.report(attempt, current="5")
    assert record.read().version == 71
    attempt.version = 90
    record.finish(attempt, State.DONE)
    assert record.read().version == 91


def test_a_start_that_is_written_twice_counts_once(record: Record) -> None:
    """The answer to the first may have been lost."""
    attempt = record.attempt()
    first = record.store.start(attempt)
    record.report(attempt, current="3")
    waiting = record.attempt()
    assert [record.store.start(waiting).deliveries for _ in range(2)] == [2, 2]
    assert waiting.number == 2
    record.report(attempt)
    again = record.store.start(attempt, age=1.0)
    assert (again.verdict, again.deliveries, attempt.number) == ("run", first.deliveries, 1)
    assert (record.read().current, record.read().attempt) == (3, 1)


def test_an_outcome_belongs_to_a_start_whose_answer_was_lost(record: Record) -> None:
    written = record.attempt()
    record.store.start(written)
    unanswered = record.attempt(token=written.token)
    assert record.finish(unanswered, State.DONE)
    assert (record.read().state, record.read().attempt) == (State.DONE, 1)
    assert not record.finish(record.attempt(token=written.token), State.FAILED)


def test_deliveries_are_counted_until_an_attempt_ends(record: Record) -> None:
    assert [record.start().deliveries for _ in range(3)] == [1, 2, 3]
    record.finish(record.run(), State.RETRYING, retry_in=1.0)
    assert record.start().deliveries == 1


# Two attempts at the same time


def test_a_delivery_during_a_living_attempt_waits(record: Record) -> None:
    first = record.run()
    record.report(first, current="6", total="10")
    before = record.read()
    second = record.run()
    assert second.number == 2
    assert record.report(second, current="1", total="10") == "waiting"
    assert without_clocks(record.read()) == without_clocks(before)
    assert record.report(first, current="7") == "written"
    assert (record.read().percent, record.read().attempt) == (70.0, 1)


def test_a_delivery_is_no_death_if_the_attempt_before_gives_a_heartbeat(record: Record) -> None:
    first = record.run()
    for _ in range(10):
        assert record.start().deliveries == 2
        record.report(first)


def test_the_attempt_that_waits_is_shown_when_the_other_has_died(record: Record, settings: Any) -> None:
    first = record.run()
    record.report(first, current="6", total="10", description="First")
    second = record.run()
    record.lose(settings)
    assert record.report(second, current="1", total="4") == "rebuilt"
    seen = record.read()
    assert (seen.current, seen.total, seen.description, seen.attempt) == (1, 4, "", 2)
    assert record.report(first, current="7") == "superseded"
    # The first one has died, so the second delivery counts.
    assert record.start().deliveries == 3


def long_item(record: Record) -> dict[str, str]:
    """Return the fields of an attempt that has not got further since it started, an hour ago."""
    return {"deliveries": "1", "started_at": f"{float(record.fields()['started_at']) - 3600:.6f}"}


@pytest.mark.parametrize("has_moved", [True, False])
def test_a_delivery_takes_over_from_a_living_attempt_that_can_be_gone_on_from(record: Record, has_moved: bool) -> None:
    first = record.run()
    record.report(first, cursor='[1, [], "", 5, null]', current="5", total="9")
    # Two copies that start at once know of the same place.
    record.change(**(long_item(record) | {"deliveries": "0"} if has_moved else {"deliveries": "1"}))
    start = record.store.start(second := record.attempt())
    assert (start.verdict, start.is_shown, start.kept["current"]) == ("run", True, "5")
    assert record.report(first, cursor='[1, [], "", 7, null]', current="7") == "superseded"
    assert record.report(second, cursor='[2, [], "", 6, null]', current="6") == "written"
    assert not record.finish(first, State.DONE)
    assert (record.read().state, record.read().attempt, record.read().current) == (State.RUNNING, 2, 6)


@pytest.mark.parametrize("is_dead", [False, True])
def test_another_round_of_a_job_that_sent_itself_again_begins_at_the_start(
    record: Record, settings: Any, is_dead: bool
) -> None:
    first = record.run()
    record.report(first, cursor='[1, ["pages"], null, 0, null]', current="9", total="9")
    if is_dead:
        record.lose(settings)
    second = record.attempt(follows=first.token)
    start = record.store.start(second)
    assert (start.verdict, start.is_shown, start.kept) == ("run", is_dead, {})
    if not is_dead:
        assert record.report(second, has_all=False) == "waiting"
        assert not record.finish(first, State.ENQUEUED, fields={"cursor": ""})
        assert record.report(second, current="0", total="9") == "rebuilt"
    # What the first round has done isn't done in this one, also if its worker dies now.
    assert "cursor" not in record.fields()
    assert record.read().current == 0


def test_a_delivery_waits_for_an_attempt_that_works_on_one_item_for_long(record: Record) -> None:
    """With items that take longer than the broker waits, no item would ever be done."""
    first = record.run()
    record.report(first, cursor='[1, [], "", 5, null]', current="5", total="9")
    record.change(**long_item(record))
    second = record.run()
    assert record.report(second, cursor='[2, [], "", 6, null]', current="6") == "waiting"
    assert record.report(first, cursor='[1, [], "", 6, null]', current="6") == "written"


def test_a_deferred_start_does_not_take_over_from_an_attempt_that_started_later(record: Record) -> None:
    record.report(shown := record.run(), cursor='[1, [], "", 5, null]', current="5", total="9")
    early = record.attempt()
    assert not record.store.start(early, age=60.0).is_shown
    assert record.report(shown, current="6") == "written"


def test_a_message_whose_next_attempt_is_alive_is_not_lost(record: Record, settings: Any) -> None:
    record.run()
    second = record.run()
    record.lose(settings)
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"LOST_AFTER": 3600.0}
    record.report(second)
    heartbeat = record.fields()["heartbeat"]
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"LOST_AFTER": 60.0}
    record.change(heartbeat=f"{float(heartbeat) - 100:.6f}")
    assert record.read().state is State.RUNNING
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)


@pytest.mark.parametrize("is_waiting", [False, True])
def test_the_success_of_either_attempt_ends_the_message(record: Record, is_waiting: bool) -> None:
    attempts = [record.run(), record.run()]
    winner, other = reversed(attempts) if is_waiting else attempts
    assert record.finish(winner, State.DONE, fields={"current": "10"})
    assert record.report(other, current="3") == "superseded"
    assert not record.finish(other, State.FAILED)
    assert not record.finish(other, State.RETRYING, retry_in=1.0)
    assert (record.read().state, record.read().current) == (State.DONE, 10)


@pytest.mark.parametrize("state", [State.FAILED, State.RETRYING, State.ENQUEUED])
def test_the_failure_of_the_attempt_that_is_shown_leaves_the_message_to_the_one_that_waits(
    record: Record, state: State
) -> None:
    first = record.run()
    record.report(first, current="6", total="10")
    second = record.run()
    assert not record.finish(first, state, retry_in=1.0)
    assert (record.read().state, record.read().percent) == (State.RUNNING, 60.0)
    assert record.report(second, current="3", total="4") == "rebuilt"
    seen = record.read()
    assert (seen.state, seen.percent, seen.attempt) == (State.RUNNING, 75.0, 2)
    assert record.finish(second, State.FAILED)


def test_the_failure_of_the_attempt_that_waits_changes_nothing_while_the_other_is_alive(record: Record) -> None:
    first, second = record.run(), record.run()
    record.report(first, current="6")
    assert not record.finish(second, State.FAILED)
    assert (record.read().state, record.read().current) == (State.RUNNING, 6)
    # The record isn't left to an attempt that has ended.
    assert record.finish(first, State.FAILED)
    assert record.read().state is State.FAILED


@pytest.mark.parametrize("state", [State.FAILED, State.RETRYING])
@pytest.mark.parametrize("by", ["report", "outcome"])
def test_a_failure_while_it_is_unknown_whether_the_attempt_before_is_alive_is_corrected_when_it_is(
    record: Record, state: State, by: str
) -> None:
    first, second = record.run(), record.run()
    assert record.finish(second, state, retry_in=9.0)
    assert (record.read().state, record.read().attempt) == (state, 2)
    if by == "report":
        assert record.report(first, current="7") == "rebuilt"
        assert (record.read().state, record.read().current) == (State.RUNNING, 7)
        assert record.start().deliveries == 2
    assert record.finish(first, State.DONE, fields={"current": "9"})
    assert (record.read().state, record.read().current) == (State.DONE, 9)


def test_the_outcome_of_an_attempt_that_lived_replaces_the_conclusion_that_it_was_given_up(
    record: Record, settings: Any
) -> None:
    first = record.run()
    for _ in range(2):
        last = record.run_after_a_death(settings)
    assert record.finish(last, State.FAILED, given_up=True, fields={"result": '"given up"'})
    assert record.read().result == "given up"
    assert record.finish(first, State.DONE, fields={"current": "9", "result": "1"})
    assert (record.read().state, record.read().current, record.read().result) == (State.DONE, 9, 1)
    assert not record.finish(last, State.FAILED)


def test_a_message_that_was_given_up_runs_again_if_an_attempt_is_alive(record: Record) -> None:
    first = record.run()
    record.report(first, current="6", total="10")
    last = record.run()
    assert record.finish(last, State.FAILED, given_up=True)
    assert (record.read().state, record.read().percent) == (State.FAILED, 60.0)
    assert record.report(first, has_all=False) == "incomplete"
    assert record.report(first, current="6", total="10") == "rebuilt"
    assert (record.read().state, record.read().percent) == (State.RUNNING, 60.0)
    assert record.start().deliveries == 2


def test_an_attempt_of_an_earlier_life_of_a_message_cannot_write(record: Record) -> None:
    first, waiting = record.run(), record.run()
    record.finish(first, State.DONE)
    record.enqueue()
    assert record.report(waiting, current="5") == "superseded"
    assert not record.finish(waiting, State.DONE)
    assert record.read().state is State.ENQUEUED
    assert record.run().number == 3


# A failover to a server whose clock is behind: times in the record are in the future


def test_an_attempt_whose_start_was_lost_writes_to_a_store_whose_clock_is_behind(record: Record) -> None:
    record.finish(record.run(), State.RETRYING, retry_in=1.0)
    record.turn_clock_back(3600)
    second = record.attempt(number=2)
    assert record.report(second, current="5") == "rebuilt"
    assert (record.read().state, record.read().attempt, record.read().current) == (State.RUNNING, 2, 5)
    assert record.finish(second, State.DONE)


def test_an_outcome_whose_start_was_lost_is_written_to_a_store_whose_clock_is_behind(record: Record) -> None:
    record.finish(record.run(), State.RETRYING, retry_in=1.0)
    record.turn_clock_back(3600)
    assert record.finish(record.attempt(number=2), State.DONE)
    assert (record.read().state, record.read().attempt) == (State.DONE, 2)


def test_a_deferred_start_and_its_outcome_are_written_to_a_store_whose_clock_is_behind(record: Record) -> None:
    record.finish(record.run(), State.RETRYING, retry_in=1.0)
    record.turn_clock_back(3600)
    second = record.attempt(started_at=time.monotonic() - 5)
    assert record.store.start(second, age=5.0).verdict == "run"
    assert record.finish(second, State.RETRYING, retry_in=1.0)
    record.turn_clock_back(3600)
    third = record.attempt(started_at=time.monotonic() - 5)
    assert record.finish(third, State.DONE, age=1.0)
    assert record.read().state is State.DONE


def test_a_worker_that_died_before_a_failover_is_lost_in_a_store_whose_clock_is_behind(record: Record) -> None:
    record.run()
    record.turn_clock_back(3600)
    assert record.read().state is State.LOST
    second = record.run()
    assert record.report(second, current="1") == "written"
    assert (record.read().state, record.read().attempt) == (State.RUNNING, 2)


def test_an_outcome_of_an_earlier_retry_does_not_replace_a_later_one(record: Record) -> None:
    """Its start was never written, and its outcome had to wait for the store until the retry had ended too."""
    early = record.attempt(started_at=time.monotonic() - 60)
    retry = Attempt(record.id, "work", "default", 2, min_attempt=2)
    record.store.start(retry)
    record.finish(retry, State.FAILED)
    assert not record.finish(early, State.RETRYING, retry_in=1.0, age=30)
    assert record.read().state is State.FAILED


@pytest.mark.parametrize("state", FINAL)
def test_an_outcome_is_written_if_its_sender_has_counted_fewer_retries(record: Record, state: State) -> None:
    """A deployment has raised the actor's `max_retries`, and no attempt could be written."""
    record.enqueue(retries_left=1)
    assert not record.finish(record.attempt(), State.RETRYING, retry_in=60)
    assert record.finish(record.attempt(), state)
    assert (record.read().state, record.read().attempt) == (state, 1)


def test_a_heartbeat_does_not_raise_the_version(record: Record) -> None:
    fence = record.run()
    before = record.read().version
    assert record.report(fence) == "written"
    assert record.read().version == before
    record.report(fence, current="1")
    assert record.read().version == before + 1


def test_a_message_whose_heartbeat_is_overdue_has_no_time_left(record: Record, settings: Any) -> None:
    """Its worker may have died. Until that is certain, it is shown as running."""
    attempt = record.run()
    record.report(attempt, current="10", total="1000", rate="1.0")
    assert record.read().eta is not None
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.05, "LOST_AFTER": 60}
    wait_until(lambda: record.read().eta is None)
    assert (record.read().state, record.read().rate) == (State.RUNNING, 1.0)
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 5}
    assert record.read().eta is not None


def test_a_running_message_without_a_heartbeat_is_lost_until_the_next_one(record: Record, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.05}
    fence = record.run()
    wait_until(lambda: record.read().state is State.LOST)
    wait_until(lambda: record.report(fence) == "written" and record.read().state is State.RUNNING)


def test_a_finished_record_expires(record: Record, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 0.05}
    record.ended(State.DONE)
    wait_until(lambda: record.store.read([record.id]) == [None])


def test_any_description_is_read_as_it_was_written(record: Record) -> None:
    text = "<b>né 東京 \U0001f600</b>\0\n\"'"
    fence = record.run()
    record.report(fence, description=text)
    assert record.read().description == text


def test_progress_can_be_read_from_async_code(record: Record) -> None:
    record.enqueue()
    progress = asyncio.run(aget_progress(record.id))
    assert progress == get_progress(record.id)
    assert progress is not None and progress.state is State.ENQUEUED


# Owners


def test_a_message_keeps_its_owner_when_it_is_sent_again(record: Record) -> None:
    record.enqueue(owner="ann")
    assert record.read().owner == "ann"
    record.enqueue(owner="bob")
    fence = record.run()
    record.finish(fence, State.RETRYING, retry_in=1.0)
    record.enqueue(due=True)
    record.finish(record.run(), State.DONE)
    assert record.read().owner == "ann"
    record.enqueue(owner="bob")
    assert (record.read().state, record.read().owner) == (State.ENQUEUED, "ann")


def test_a_message_may_have_no_owner(record: Record) -> None:
    record.enqueue()
    record.report(record.run(), current="1")
    assert record.read().owner == ""


@pytest.mark.parametrize("state", [*FINAL, State.RUNNING])
def test_a_deferred_enqueue_still_adds_the_owner(record: Record, state: State) -> None:
    if state is State.RUNNING:
        record.run()
    else:
        record.finish(record.run(), state)
    version = record.read().version
    record.enqueue(age=1.0, owner="ann")
    assert (record.read().state, record.read().owner, record.read().version) == (state, "ann", version)
    record.enqueue(age=1.0, owner="bob")
    assert record.read().owner == "ann"


def test_an_unfinished_message_without_an_owner_gets_none(record: Record) -> None:
    record.enqueue()
    record.enqueue(owner="bob")
    assert record.read().owner == ""


def test_a_rebuilt_record_has_its_owner(store: Store) -> None:
    by_start, by_report, by_finish = (Record(store, name) for name in ("start", "report", "finish"))
    store.start(by_start.attempt(owner="ann"))
    assert by_report.report(by_report.attempt(number=1, owner="ann"), current="1") == "rebuilt"
    assert by_finish.finish(by_finish.attempt(number=1, owner="ann"), State.DONE)
    assert {each.read().owner for each in (by_start, by_report, by_finish)} == {"ann"}


# Cancelling


@pytest.fixture
def requested(record: Record) -> Attempt:
    """A running attempt for which a cancel was requested."""
    record.enqueue()
    attempt = record.run()
    record.report(attempt, current="3", total="9")
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
    return attempt


@pytest.mark.parametrize("waiting", [State.ENQUEUED, State.DELAYED, State.RETRYING])
def test_a_waiting_message_is_cancelled_immediately_and_skipped_when_delivered(record: Record, waiting: State) -> None:
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
    assert without_clocks(record.read()) == without_clocks(cancelled)


def test_the_answer_to_the_next_write_has_the_cancel_request(record: Record) -> None:
    attempt = record.run()
    assert (record.report(attempt), attempt.cancel_requested) == ("written", False)
    assert record.read().can_cancel
    assert record.cancel() == Cancellation(CancelOutcome.REQUESTED, State.RUNNING)
    running = record.read()
    assert (running.state, running.cancel_requested, running.can_cancel) == (State.RUNNING, True, False)
    assert (record.report(attempt), attempt.cancel_requested) == ("written", True)
    assert record.finish(attempt, State.CANCELLED, fields={"current": "4"})
    assert (record.read().state, record.read().current) == (State.CANCELLED, 4)


@pytest.mark.parametrize("state", [State.DONE, State.SKIPPED])
def test_a_message_that_finishes_before_a_cancel_reaches_it_keeps_its_outcome(
    record: Record, requested: Attempt, state: State
) -> None:
    assert record.finish(requested, state)
    assert (record.read().state, record.read().cancel_requested) == (state, True)


@pytest.mark.parametrize("retry_in", [None, 600.0])
def test_a_message_that_fails_after_a_cancel_request_is_not_retried(
    record: Record, requested: Attempt, retry_in: float | None
) -> None:
    fields = {"current": "4", "result": '"Line 7 is broken."'}
    assert record.finish(requested, State.RETRYING if retry_in else State.FAILED, retry_in=retry_in, fields=fields)
    cancelled = record.read()
    assert (cancelled.state, cancelled.current, cancelled.retry_in) == (State.CANCELLED, 4, None)
    assert cancelled.result == "The task was cancelled."
    record.enqueue(due=True)
    assert record.start() == Start("cancelled")


def test_a_second_cancel_has_the_same_outcome_and_changes_nothing(record: Record) -> None:
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
def test_a_finished_message_is_not_cancelled(record: Record, state: State) -> None:
    record.ended(state)
    before = record.read()
    assert record.cancel() == Cancellation(CancelOutcome.FINISHED, state)
    assert without_clocks(record.read()) == without_clocks(before)
    assert not before.can_cancel


def test_an_unknown_message_cannot_be_cancelled(record: Record) -> None:
    assert record.cancel() == Cancellation(CancelOutcome.NOT_FOUND)
    assert record.store.read([record.id]) == [None]


@pytest.mark.parametrize("known_from", ["enqueue", "start", "report", "finish"])
def test_a_message_that_is_not_cancellable_is_not_cancelled_except_by_force(record: Record, known_from: str) -> None:
    """Whichever write creates the record."""
    attempt = record.attempt(cancellable=False)
    if known_from == "enqueue":
        record.enqueue(cancellable=False)
    elif known_from == "finish":
        assert record.finish(attempt, State.RETRYING, retry_in=60.0)
    elif known_from == "report":
        attempt.number = 1
        assert record.report(attempt) == "rebuilt"
    else:
        record.store.start(attempt)
    before = record.read()
    assert record.cancel() == Cancellation(CancelOutcome.NOT_CANCELLABLE, before.state)
    assert without_clocks(record.read()) == without_clocks(before)
    assert not before.can_cancel and not before.cancel_requested
    assert record.store.cancel(record.id, force=True) and record.read().cancel_requested


def test_a_lost_message_is_cancelled_when_it_is_redelivered(record: Record, requested: Attempt) -> None:
    before = record.read()
    assert record.start() == Start("cancelled", previous=State.RUNNING)
    cancelled = record.read()
    assert (cancelled.state, cancelled.current, cancelled.attempt) == (State.CANCELLED, 3, before.attempt)
    # The worker that was taken for dead is alive.
    assert (record.report(requested, current="4"), requested.cancel_requested) == ("superseded", True)
    assert not record.finish(requested, State.DONE)
    assert record.read() == cancelled


def test_every_attempt_receives_the_cancel_request(record: Record, settings: Any) -> None:
    old = record.run()
    shown, waiting = record.run_after_a_death(settings), record.run()
    record.cancel()
    assert (record.report(old), old.cancel_requested) == ("superseded", True)
    assert (record.report(shown), shown.cancel_requested) == ("written", True)
    assert (record.report(waiting), waiting.cancel_requested) == ("waiting", True)


def test_a_deferred_start_does_not_cancel_a_later_attempt(record: Record, requested: Attempt) -> None:
    late = record.attempt()
    assert record.store.start(late, age=600.0) == Start("cancelled")
    assert record.read().state is State.RUNNING


def test_sending_a_cancelled_message_again_drops_the_cancel_request(record: Record) -> None:
    record.enqueue()
    record.cancel()
    record.enqueue()
    assert (record.read().state, record.read().cancel_requested) == (State.ENQUEUED, False)
    attempt = record.run()
    assert (record.report(attempt), attempt.cancel_requested) == ("written", False)


def test_a_restored_record_keeps_the_cancel_request(record: Record, requested: Attempt) -> None:
    again = record.attempt()
    again.number = requested.number + 1
    assert (record.report(again), again.cancel_requested) == ("waiting", True)


def test_only_the_cancelled_message_leaves_its_queue(store: Store, monkeypatch: Any) -> None:
    # With it, a cancel would purge the older message as well.
    monkeypatch.setattr("dramatiq_progress.stores.steering.PURGED_AFTER_SECONDS", 0, raising=False)
    for name in ("a", "b", "c"):
        Record(store, name).enqueue()
    Record(store, "b").cancel()
    assert positions(store, "a", "b", "c") == [(1, 2), (None, None), (2, 2)]


# The index of an owner


def test_an_owner_has_an_index_newest_first(store: Store) -> None:
    for name in ("first", "second"):
        Record(store, name).enqueue(owner="ann")
    Record(store, "third").enqueue(owner="bob")
    Record(store, "fourth").enqueue(owner="ann", delay=60)
    Record(store, "zeroth").enqueue(owner="ann", age=60.0)
    Record(store, "unowned").enqueue()
    assert store.owned(["ann"]) == ["fourth", "second", "first", "zeroth"]
    assert store.owned(["bob", "ann", "unknown"]) == ["fourth", "third", "second", "first", "zeroth"]
    assert store.owned([]) == store.owned(["unknown"]) == []


def test_a_message_is_in_the_index_once(store: Store) -> None:
    again, other = Record(store, "again"), Record(store, "other")
    again.enqueue(owner="ann", delay=60)
    other.enqueue(owner="ann")
    again.enqueue(owner="ann", due=True)
    assert store.owned(["ann"]) == ["other", "again"]
    again.finish(again.run(), State.DONE)
    again.enqueue(owner="ann")
    assert store.owned(["ann"]) == ["again", "other"]


def test_an_index_keeps_the_newest(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq_progress.stores.calls.OWNED_LIMIT", 3)
    for number in range(5):
        Record(store, str(number)).enqueue(owner="ann")
    assert store.owned(["ann"]) == ["4", "3", "2"]


def test_an_index_expires_after_its_longest_delay(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"UNFINISHED_TTL": 0.05}
    Record(store, "short").enqueue(owner="ann")
    wait_until(lambda: store.owned(["ann"]) == [])
    Record(store, "long").enqueue(owner="bob", delay=60)
    Record(store, "short").enqueue(owner="bob")
    wait_until(lambda: store.read(["short"]) == [None])
    assert store.owned(["bob"]) == ["short", "long"]


@pytest.mark.parametrize("days", [-8, 10**12])
def test_a_record_is_kept_with_any_delay_that_dramatiq_accepts(store: Store, days: int) -> None:
    """One until a moment in the past, as ``when - now`` may be, is none."""
    delay = days * 24 * 3600.0
    record = Record(store)
    record.enqueue(owner="ann", delay=delay)
    assert record.read().state is State.DELAYED
    assert record.finish(record.run(), State.RETRYING, retry_in=delay)
    assert record.read().state is State.RETRYING
    inner = Membership("g1", planned=1, name="resize")
    store.gather([Contribution((inner,), "ann", {"m1": waiting_slot(1)}, delay)], [])
    assert store.read(["g1"]) != [None]
    assert store.owned(["ann"]) == ["g1", "m1"]
    for key in (store.key("m1"), store.key("g1"), store.owner_key("ann")):
        assert seconds_left(store, key) > 0


# Redis and Valkey


def client_of(valkey: str) -> redis.Redis:
    return redis.Redis.from_url(f"{valkey}/1", decode_responses=True)


def test_every_record_has_a_ttl(redis_store: Store, valkey: str) -> None:
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


def test_a_cancelled_record_is_kept_until_its_message_is_delivered(redis_store: Store, valkey: str) -> None:
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


def test_reading_does_not_renew_the_ttl(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    record.enqueue()
    with client_of(valkey) as client:
        client.expire(redis_store.key(record.id), 100)
        record.read()
        assert client.ttl(redis_store.key(record.id)) <= 100


def test_scripts_are_loaded_again_after_a_flush(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store)
    record.enqueue()
    with client_of(valkey) as client:
        client.script_flush()
    fence = record.run()
    assert record.report(fence, current="1") == "written"
    with client_of(valkey) as client:
        client.script_flush()
    assert record.read().current == 1


def test_redis_packs_a_plain_record(redis_store: Store, valkey: str) -> None:
    record = Record(redis_store, "0b1f6a0e-6d1c-4f0e-9a42-0f1c3f6f7a11")
    record.enqueue()
    fence = record.run()
    record.report(fence, current="1200", total="5000", description="Importing")
    with client_of(valkey) as client:
        assert client.object("encoding", redis_store.key(record.id)) == "listpack"


def test_the_error_of_a_store_that_is_down_has_no_password() -> None:
    store = RedisStore(prefix="p:", url="redis://someone:hunter2@127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable) as raised:
        store.ping()
    assert "127.0.0.1:1" in str(raised.value)
    assert "hunter2" not in str(raised.value) + repr(store)


def test_a_command_has_a_short_timeout_and_no_retries_by_default() -> None:
    options = RedisStore(prefix="p:")._servers.client.get_connection_kwargs()
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.25, 0.25)
    assert options["retry"].get_retries() == 0


def test_redis_options_are_passed_on() -> None:
    store = RedisStore(prefix="p:", host="127.0.0.1", port=1234, db=5, socket_timeout=2, client_name="web")
    options = store._servers.client.get_connection_kwargs()
    assert (options["port"], options["db"], options["socket_timeout"]) == (1234, 5, 2)
    assert options["client_name"] == "web"


def test_a_store_is_created_again_when_the_settings_change(settings: Any) -> None:
    with servers.valkey() as url:
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"{url}/0", **PATIENT}, "PREFIX": "one:"}
        one = get_store()
        Record(one).enqueue()
        assert get_store() is one
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"{url}/0", **PATIENT}, "PREFIX": "two:"}
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


def test_the_store_of_a_redis_broker_is_its_redis(
    settings: Any, broker_set: Any, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There are no options in which to give one.
    monkeypatch.setattr(redis_options, "COMMAND_TIMEOUT_SECONDS", PATIENT["socket_timeout"])
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


def test_the_store_of_any_other_broker_is_redis_on_this_machine(settings: Any, broker_set: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {}
    broker_set(dramatiq.Broker(middleware=[]))
    assert "127.0.0.1:6379/0" in repr(get_store())


def test_options_without_a_store_configure_redis(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:9/2"}}
    assert "127.0.0.1:9/2" in repr(get_store())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STORE": "nowhere.Store"}, "'nowhere.Store', which can't be imported"),
        ({"STORE": "collections.OrderedDict"}, "which isn't a Store"),
        ({"OPTIONS": {"colour": "red"}}, "colour"),
        ({"OPTIONS": {"url": "redis://127.0.0.1:9/0", "colour": "red"}}, "colour"),
        ({"OPTIONS": {"url": "http://127.0.0.1"}}, "doesn't fit"),
    ],
)
def test_a_store_that_cannot_be_created_is_named_in_the_error(
    settings: Any, given: dict[str, Any], message: str
) -> None:
    settings.DRAMATIQ_PROGRESS = given
    with pytest.raises(ImproperlyConfigured, match=message):
        get_store()


# Queue positions


def positions(store: Store, *message_ids: str) -> list[tuple[int | None, int | None]]:
    return [
        (each.queue_position, each.queue_length) if each is not None else (None, None)
        for each in store.read(message_ids)
    ]


def test_waiting_messages_have_queue_positions(store: Store) -> None:
    records = [Record(store, name) for name in ("a", "b", "c")]
    for record in records:
        record.enqueue()
    assert positions(store, "a", "b", "c") == [(1, 3), (2, 3), (3, 3)]
    assert positions(store, "c", "gone") == [(3, 3), (None, None)]
    records[0].run()
    assert positions(store, "a", "b", "c") == [(None, None), (1, 2), (2, 2)]


def test_each_queue_has_its_own_positions(store: Store) -> None:
    Record(store, "a").enqueue()
    Record(store, "b").enqueue(queue="slow")
    assert positions(store, "a", "b") == [(1, 1), (1, 1)]


def test_delayed_and_retrying_messages_have_no_position(store: Store) -> None:
    delayed, failed = Record(store, "a"), Record(store, "b")
    delayed.enqueue(delay=60)
    failed.enqueue()
    failed.finish(failed.run(), State.RETRYING, retry_in=60.0)
    Record(store, "c").enqueue()
    assert positions(store, "a", "b", "c") == [(None, None), (None, None), (1, 1)]
    delayed.enqueue(due=True)
    assert positions(store, "a", "c") == [(2, 2), (1, 2)]


def test_a_message_that_is_skipped_or_whose_start_was_not_written_leaves_its_queue(store: Store) -> None:
    for name in ("a", "b", "c"):
        Record(store, name).enqueue()
    Record(store, "a").finish(Record(store, "a").attempt(), State.SKIPPED, started=False)
    Record(store, "b").finish(Record(store, "b").attempt(), State.DONE)
    assert positions(store, "c") == [(1, 1)]


def test_messages_that_the_broker_purged_leave_the_queue(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("dramatiq_progress.stores.reporting.PURGED_AFTER_SECONDS", 0)
    for name in ("purged", "next", "last"):
        Record(store, name).enqueue()
    assert positions(store, "last") == [(3, 3)]
    Record(store, "next").run()
    assert positions(store, "purged", "last") == [(None, None), (1, 1)]


def test_a_queue_index_has_a_ttl(redis_store: Store, valkey: str) -> None:
    Record(redis_store).enqueue()
    with client_of(valkey) as client:
        assert client.ttl(redis_store.queue_key("default")) > 6 * 24 * 3600


def test_an_unreadable_record_does_not_affect_others(redis_store: Store, valkey: str, caplog: Any) -> None:
    for message_id in ("good", "newer", "broken", "odd"):
        redis_store.enqueue(message_id, actor="work", queue="default", retries_left=0)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        client.hset(redis_store.key("newer"), "state", "a state of a later version")
        client.hdel(redis_store.key("broken"), "state", "version")
        odd = {"state": "running", "heartbeat": str(time.time()), "rate": "0", "total": "5"}
        client.hset(redis_store.key("odd"), mapping=odd)
    good, *others = redis_store.read(["good", "newer", "broken", "odd"])
    assert good is not None and others == [None, None, None]
    assert "message newer can't be read" in caplog.text and "message broken can't be read" in caplog.text


def test_reported_values_survive_only_the_start_that_exceeds_the_limit(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"MAX_DELIVERIES": 2}
    record, seen = Record(store), []
    for number in range(3):
        attempt = record.run_after_a_death(settings) if number else record.run()
        seen.append((record.read().current, record.read().total))
        record.report(attempt, current="4", total="5")
    assert seen == [(0, None), (0, None), (4, 5)]


@pytest.mark.parametrize(
    "text", ["", '"quoted" \\ /slash', "line\nbreak\x00\x1f\x7f", "žluťoučký 進捗 🦆", "{}", "[]", "'"]
)
def test_any_text_is_read_as_it_was_written(store: Store, text: str) -> None:
    attempt = Attempt("m1", "work", "default")
    store.start(attempt)
    store.report([(attempt, {"description": text, "metadata": json.dumps({"text": text})})])
    [progress, missing] = store.read(["m1", "m2"])
    assert progress is not None and missing is None
    assert (progress.description, progress.metadata) == (text, {"text": text})


def test_a_deferred_enqueue_has_its_original_queue_position(store: Store) -> None:
    for message_id, age in (("second", 0.0), ("first", 5.0)):
        store.enqueue(message_id, actor="work", queue="default", retries_left=0, age=age)
    first, second = store.read(["first", "second"])
    assert first is not None and second is not None
    assert (first.queue_position, second.queue_position, second.queue_length) == (1, 2, 2)
    store.start(Attempt("third", "work", "default"))
    store.enqueue("third", actor="work", queue="default", retries_left=0, age=5.0)
    [second] = store.read(["second"])
    assert second is not None and second.queue_length == 2


def test_a_lost_message_is_cancelled_immediately_and_its_next_delivery_is_skipped(
    record: Record, settings: Any
) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    record.enqueue()
    attempt = record.run()
    wait_until(lambda: record.read().state is State.LOST)
    assert record.cancel() == Cancellation(CancelOutcome.CANCELLED, State.LOST)
    assert record.read().state is State.CANCELLED
    # Its worker was only frozen: it is interrupted, and can't change the outcome.
    assert record.report(attempt, current="5") == "superseded"
    assert attempt.cancel_requested
    assert not record.finish(attempt, State.DONE)
    assert record.start().verdict == "cancelled"


def test_a_message_that_was_lost_after_its_cancel_request_is_cancelled_by_the_next_one(
    record: Record, settings: Any
) -> None:
    record.enqueue()
    record.run()
    assert record.cancel().outcome is CancelOutcome.REQUESTED
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    wait_until(lambda: record.read().state is State.LOST)
    assert record.cancel().outcome is CancelOutcome.CANCELLED


@pytest.mark.parametrize("how", ["report", "finish"])
def test_a_rebuilt_record_is_among_its_owners_messages_again(record: Record, how: str, store: Store) -> None:
    """The store came back empty, and with it the index of the owner's messages."""
    attempt = record.attempt(owner="ann", number=1, version=4)
    assert store.owned(["ann"]) == []
    if how == "report":
        assert record.report(attempt, current="5") == "rebuilt"
    else:
        assert record.finish(attempt, State.DONE)
    assert store.owned(["ann"]) == [record.id]


def test_a_finish_whose_token_matches_ends_an_attempt_that_is_not_known_to_have_started(record: Record) -> None:
    """The worker's thread was interrupted between the start and what follows it."""
    record.enqueue()
    attempt = record.attempt()
    record.store.start(attempt)
    attempt.number = 0
    assert record.finish(attempt, State.FAILED, started=False)
    assert record.read().state is State.FAILED
    assert record.start().deliveries == 1

"""The record of a message that can be resumed, as a state machine: cursors, yields and pauses, in two stores.

tests/test_record_machine.py has the rules for which delivery may write. Here two or more deliveries go through the same
loop, and die, fail, make room or are paused at any point, while the store goes back to an older record or comes back
empty. Both stores give the same answers and have the same records; what must hold is in `check`.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, precondition, rule, run_state_machine_as_test

from dramatiq_progress import PauseOutcome, Progress, State
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.store_server import eternal_keys
from tests.waiting import PATIENT

ID, TOTAL = "m1", 100
DAY_SECONDS = 24 * 3600.0
TIMES = ("started_at", "ended_at", "enqueued_at", "reported_at", "heartbeat", "retry_at", "later")


class Delivery:
    """One delivery: an `Attempt` for each store, and the items that it has done."""

    def __init__(self, order: int, brought: dict[str, str]) -> None:
        self.brought = brought
        options = {"token": f"token-{order}", "brought": brought, "min_attempt": 1 + attempt_of(brought)}
        self.attempts = [Attempt(ID, "work", "default", 3, **options) for _ in range(2)]
        self.kept = dict(brought)
        self.count = count_of(brought)

    def go_on(self, kept: dict[str, str]) -> None:
        """Begin at the place that the store knows."""
        self.kept, self.count = kept, count_of(kept)
        for attempt in self.attempts:
            attempt.resumable = True

    @property
    def fields(self) -> dict[str, str]:
        """The place as it is reported: that of an earlier attempt until this one gets further."""
        if self.count == count_of(self.kept):
            return {"cursor": self.kept.get("cursor", ""), "current": str(self.count), "total": str(TOTAL)}
        cursor = json.dumps([self.attempts[0].number, [], "read", self.count, None])
        return {"cursor": cursor, "current": str(self.count), "total": str(TOTAL)}


def attempt_of(fields: dict[str, str]) -> int:
    return int(json.loads(fields["cursor"])[0]) if fields.get("cursor") else 0


def count_of(fields: dict[str, str]) -> int:
    return int(json.loads(fields["cursor"])[3]) if fields.get("cursor") else 0


class ResumingMachine(RuleBasedStateMachine):
    """The record of one message in memory and in Valkey."""

    deliveries = Bundle("deliveries")

    def __init__(self, url: str) -> None:
        super().__init__()
        prefix = f"machine-{secrets.token_hex(4)}:"
        self.stores: list[Any] = [MemoryStore(prefix=prefix), RedisStore(prefix=prefix, url=url, **PATIENT)]
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.key, self.pattern = self.stores[0].key(ID), f"{prefix}*"
        self.orders = itertools.count()
        self.saved: dict[str, str] = {}
        self.last: Delivery | None = None
        #: What a message may bring: nothing, and the places of all attempts so far.
        self.places: list[dict[str, str]] = [{}]

    def both(self, act: Callable[[Any, int], Any]) -> Any:
        """Run an action on both stores, which give the same answer."""
        memory, valkey = (act(store, i) for i, store in enumerate(self.stores))
        assert memory == valkey
        self.check()
        return memory

    @property
    def record(self) -> dict[str, str]:
        """The one in memory."""
        return dict(self.stores[0]._records.get(self.key, {}))

    def records(self) -> tuple[dict[str, str], dict[str, str]]:
        return self.record, self.client.hgetall(self.key)

    def check(self) -> Progress | None:
        """The records are the same but for their clocks, and can be read."""
        records = self.records()
        assert records[0].keys() == records[1].keys()
        memory, valkey = ({name: text for name, text in each.items() if name not in TIMES} for each in records)
        assert memory == valkey
        [[progress], [other]] = [store.read([ID]) for store in self.stores]
        assert (progress is None) == (other is None) == (not memory)
        if progress is not None:
            assert (progress.state, progress.percent) == (other.state, other.percent)
            assert progress.pause_requested is (progress.state is State.PAUSED or progress.pause_requested)
            # The page shows the place that the next attempt begins at.
            if progress.continues and memory.get("cursor"):
                assert progress.current == count_of(memory)
        assert eternal_keys(self.client, self.pattern) == []
        found: Progress | None = progress
        return found

    @rule(due=st.booleans(), delay=st.sampled_from([None, DAY_SECONDS]))
    def enqueue(self, due: bool, delay: float | None) -> None:
        before = self.check()
        how = {"actor": "work", "queue": "default", "retries_left": 3, "due": due, "delay": None if due else delay}
        change = self.both(lambda store, _: store.enqueue(ID, **how))
        if before is not None and before.state is State.PAUSED:
            # It has come from the delay queue, and waits on.
            assert not change and self.check().state is State.PAUSED  # type: ignore[union-attr]

    @rule(target=deliveries, place=st.integers(0, 10), late=st.sampled_from([False, False, True]))
    def start(self, place: int, late: bool) -> Any:
        """A message that brings nothing, or an older or newer place than the record has, or the same."""
        brought = self.places[-1 - place % len(self.places)]
        delivery = Delivery(next(self.orders), brought)
        before, record = self.check(), self.record
        start = self.both(lambda store, i: store.start(delivery.attempts[i], age=1000.0 if late else 0.0))
        after = self.check()
        newest = max((brought, record), key=attempt_of)
        if start.verdict in ("run", "paused"):
            assert count_of(dict(start.kept)) >= (count_of(newest) if attempt_of(brought) != attempt_of(record) else 0)
        if start.verdict == "paused":
            assert not late and before is not None and before.pause_requested
            assert after is not None and after.state is State.PAUSED and after.attempt == before.attempt
            assert record.get("deliveries") == self.record.get("deliveries")
        if before is not None and before.state is State.PAUSED and not late:
            assert start.verdict == "paused"
        if start.verdict != "run":
            return multiple()
        assert after is not None and after.state is not State.PAUSED
        delivery.go_on(dict(start.kept))
        self.last = delivery
        return delivery

    @rule(delivery=deliveries, items=st.integers(0, 3))
    def report(self, delivery: Delivery, items: int) -> None:
        """A worker is asked to pause, as long as a pause is requested."""
        delivery.count = min(TOTAL, delivery.count + items)
        fields = delivery.fields if items else {}
        for attempt in delivery.attempts:
            attempt.sends_all = bool(items)
        before = self.check()
        self.both(lambda store, i: store.report([(delivery.attempts[i], fields)]))
        asked = {each.pause_requested for each in delivery.attempts}
        assert asked == {before is not None and "pause_requested" in self.record}
        self.note(delivery)

    @rule(
        delivery=deliveries,
        state=st.sampled_from(
            [State.ENQUEUED, State.ENQUEUED, State.RETRYING, State.FAILED, State.DONE, State.ENQUEUED]
        ),
        times=st.sampled_from([1, 1, 2]),
    )
    def finish(self, delivery: Delivery, state: State, times: int) -> None:
        """It makes room, fails or succeeds; the answer may be lost, and it is asked again."""
        yields = state is State.ENQUEUED
        how: dict[str, Any] = {"state": state, "yields": yields, "fields": delivery.fields}
        how["retry_in"] = DAY_SECONDS if state is State.RETRYING else None
        before = self.check()
        finish = lambda store, i: store.finish(delivery.attempts[i], **how)._replace(moment=None)  # noqa: E731
        answers = [self.both(finish) for _ in range(times)]
        self.note(delivery)
        if not answers[0]:
            return
        after = self.check()
        assert after is not None
        if before is not None and before.cancel_requested and (yields or not state.is_final or state is State.FAILED):
            assert after.state is State.CANCELLED
        elif before is not None and before.pause_requested and not state.is_final:
            assert after.state is State.PAUSED
        else:
            assert after.state is state
        if not state.is_final and after.state is not State.CANCELLED:
            # Otherwise the worker would take it for another one's, and drop the message.
            assert all(each.written and each.state is after.state for each in answers)
            assert after.current == delivery.count

    def note(self, delivery: Delivery) -> None:
        """The message carries the place from now on."""
        if attempt_of(delivery.fields):
            self.places.append(delivery.fields)

    @precondition(lambda self: self.record)
    @rule(wanted=st.booleans())
    def pause(self, wanted: bool) -> None:
        before, record = self.check(), self.record
        assert before is not None
        answer = self.both(lambda store, _: store.pause(ID, wanted=wanted))
        after = self.check()
        assert after is not None and answer.previous is before.state
        if before.complete:
            assert answer.outcome is PauseOutcome.FINISHED and after.version == before.version
        elif not wanted:
            assert answer.outcome is PauseOutcome.RESUMED and not after.pause_requested
            assert after.state is not State.PAUSED and after.percent == before.percent
        elif before.state in (State.RUNNING, State.LOST):
            is_resumable = "cursor" in record
            assert answer.outcome is (PauseOutcome.REQUESTED if is_resumable else PauseOutcome.NOT_RESUMABLE)
            assert after.pause_requested is is_resumable and after.state is before.state
        else:
            assert answer.outcome is PauseOutcome.PAUSED and after.state is State.PAUSED
        assert (after.attempt, after.current) == (before.attempt, before.current)

    # Otherwise most pauses would be of messages that wait, and most deliveries of messages that aren't paused.
    @precondition(lambda self: "cursor" in self.record and self.record["state"] == "running")
    @rule()
    def pause_running(self) -> None:
        self.pause(wanted=True)

    @precondition(lambda self: self.record.get("state") == "running" and self.last is not None)
    @rule(items=st.integers(1, 3), is_end=st.booleans())
    def go_on(self, items: int, is_end: bool) -> None:
        """The last delivery reports, or makes room."""
        assert self.last is not None
        self.report(self.last, items)
        if is_end:
            self.finish(self.last, State.ENQUEUED, 1)

    @precondition(lambda self: self.record.get("state") == "paused")
    @rule(place=st.integers(0, 10))
    def deliver_paused(self, place: int) -> None:
        assert self.start(place, late=False) is not None

    @precondition(lambda self: self.record and not State(self.record["state"]).is_final)
    @rule(chance=st.integers(0, 5))
    def cancel(self, chance: int) -> None:
        if chance:
            return
        before = self.check()
        self.both(lambda store, _: store.cancel(ID, force=True))
        after = self.check()
        assert before is not None and after is not None
        if before.state is not State.RUNNING:
            assert after.state is State.CANCELLED and not after.pause_requested

    @precondition(lambda self: self.record.get("state") == "running")
    @rule()
    def fall_silent(self) -> None:
        """All workers of the message die, or are frozen."""
        for record in (memory := self.stores[0]._records[self.key], valkey := self.client.hgetall(self.key)):
            for name in ("heartbeat", "later"):
                if name in record:
                    rest, _, moment = record[name].rpartition(" ")
                    record[name] = f"{rest} {float(moment) - 1000 * DAY_SECONDS:.6f}".lstrip()
        assert memory
        self.client.hset(self.key, mapping=valkey)
        self.check()

    @rule()
    def save(self) -> None:
        self.saved = self.client.hgetall(self.key)

    @rule(empty=st.booleans(), chance=st.integers(0, 2))
    def lose(self, empty: bool, chance: int) -> None:
        """The record expires, or the server restarts with an older one."""
        if chance:
            return
        record = {} if empty else self.saved
        self.client.delete(self.key)
        self.stores[0]._records.pop(self.key, None)
        self.stores[0]._expires_at.pop(self.key, None)
        if record:
            self.client.hset(self.key, mapping=record)
            self.client.expire(self.key, 1000)
            self.stores[0]._records[self.key] = dict(record)
            self.stores[0]._expire(self.key, "1000000")
        self.check()

    def teardown(self) -> None:
        self.client.delete(self.key, *self.client.keys(self.pattern))
        self.client.close()
        self.stores[1].close()


@pytest.mark.slow(20)
def test_a_message_goes_on_where_it_was_after_any_order_of_events(valkey: str, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"LOST_AFTER": DAY_SECONDS}
    run_state_machine_as_test(
        lambda: ResumingMachine(f"{valkey}/9"),
        settings=hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True),
    )

"""The record's fences and guards as a state machine: any order of writes, by any delivery, to two stores at once.

Read it as the specification of a record: each rule says who may write, and what a reader sees then. A delivery is
*overtaken* when one that began later is in the record; whatever it writes is refused. After a loss, when the numbers
begin anew, the moments at which two began tell which is the later; zombies of the same moment are left out.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, precondition, rule, run_state_machine_as_test

from dramatiq_progress import Cancellation, CancelOutcome, Progress, State
from dramatiq_progress.progress import DEFAULT_RESULTS
from dramatiq_progress.stores.base import Attempt, Change, Report, Start
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.conftest import PATIENT

ID, ACTOR, QUEUE = "m1", "work", "default"
#: Moments are 0, 1 or 2 of these apart, so that a busy machine is not mistaken for a wrong clock.
LONG_SECONDS = 1000.0
#: No record; and what each life of a message and each attempt begins with.
NOTHING = Progress(id=ID, actor=ACTOR, queue=QUEUE, state=State.ENQUEUED)
Fields = dict[str, Any]
#: A call of a store, with 0 for the one in memory and 1 for the one in Valkey.
Told = Callable[[Any, int], Any]
#: How an attempt ends, the values that it reported last, and how long ago that was.
End = tuple[State, Fields, float]


class Delivery:
    """One delivery of the message to a worker, with an `Attempt` for each store."""

    def __init__(
        self, order: int, retries_left: int | None = 0, least: int = 1, age: float = 0.0, cancellable: bool = True
    ) -> None:
        self.order, self.retries_left, self.age, self.cancellable = order, retries_left, age, cancellable
        #: Its record was lost and it wrote a new one, whose beginning is late by as long as that write was on its way.
        self.has_renewed = False
        options = {"least": least, "token": f"token-{order}", "began_at": time.monotonic() - age}
        options |= {"cancellable": cancellable}
        self.attempts = [Attempt(ID, ACTOR, QUEUE, retries_left, **options) for _ in range(2)]

    def anew(self, seen: Progress, number: int = 0) -> Progress:
        """This attempt as one that has reported nothing.

        Metadata stays, and the wish to cancel; the version goes on from the higher one.
        """
        number, version = number or self.attempts[0].number, max(seen.version, self.attempts[0].version) + 1
        kept = {"attempt": number, "retries_left": self.retries_left, "metadata": seen.metadata, "version": version}
        kept |= {"cancel_requested": seen.cancel_requested, "cancellable": self.cancellable}
        return replace(NOTHING, state=State.RUNNING, **kept)


class Model(NamedTuple):
    """What a reader sees, which delivery holds the fence, which began last, and the starts since an attempt ended."""

    seen: Progress = NOTHING
    holder: Delivery | None = None
    latest: Delivery | None = None
    starts: int = 0

    def change(self, after: Model) -> Change:
        """What the store answers to a change of state: whether it was written, and the state before."""
        return Change(after is not self, None if self.seen is NOTHING else self.seen.state)


ages = st.sampled_from([0.0, LONG_SECONDS])
limits = st.sampled_from([None, 0, 3])
numbers = {"current": st.integers(0, 10), "total": st.sampled_from([None, 10])}
texts = {"description": st.sampled_from(["", "Reading"]), "metadata": st.sampled_from([{}, {"file": "a.csv"}])}
permitted = st.sampled_from([True, True, False])
reported = st.fixed_dictionaries({}, optional=numbers | texts)
end_states = st.sampled_from([State.RETRYING, State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED])


class RecordMachine(RuleBasedStateMachine):
    """One message's record in memory and in Valkey."""

    started = Bundle("started")  # the deliveries that the store has counted; all of them may still write

    def __init__(self, url: str) -> None:
        super().__init__()
        prefix = f"machine-{secrets.token_hex(4)}:"
        self.memory, self.valkey = MemoryStore(prefix=prefix), RedisStore(prefix=prefix, url=url, **PATIENT)
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.key, self.pattern = self.memory.key(ID), f"{prefix}*"
        self.orders, self.model = itertools.count(), Model()
        self.saved: tuple[Model, dict[str, str]] = (Model(), {})

    @rule(
        origin=st.sampled_from(["new", "due", "late"]),
        delay=st.sampled_from([None, LONG_SECONDS]),
        left=limits,
        cancellable=permitted,
    )
    def enqueue(self, origin: str, delay: float | None, left: int | None, cancellable: bool) -> None:
        """New: resets what has ended. Due: wakes what waits. Told late: makes a record where there is none."""
        seen, after = self.model.seen, self.model
        delay = None if origin == "due" else delay
        changes = {"state": State.ENQUEUED if delay is None else State.DELAYED, "retries_left": left}
        changes |= {"attempt": seen.attempt, "version": seen.version + 1, "cancellable": cancellable}
        if seen is NOTHING or (origin == "new" and seen.complete):
            after = Model(replace(NOTHING, **changes), latest=self.model.latest)
        elif origin == "due" and seen.state in (State.DELAYED, State.RETRYING):
            after = self.model._replace(seen=replace(seen, retry_in=None, **changes))
        options = {"actor": ACTOR, "queue": QUEUE, "retries_left": left, "cancellable": cancellable, "delay": delay}
        options |= {"due": origin == "due", "age": LONG_SECONDS if origin == "late" else 0.0}
        self.step(lambda store, _: store.enqueue(ID, **options), self.model.change(after), after, opens=origin == "new")

    @rule(target=started, left=limits, least=st.sampled_from([1, 3]), age=ages, cancellable=permitted)
    def start(self, left: int | None, least: int, age: float, cancellable: bool) -> Any:
        """The first time, for a retry, or while an older one is alive; told late when it has an age.

        Runs unseen when the message is done or skipped, or told late of one that was overtaken, and not at all when it
        is cancelled, or is to be. Opens one that failed.
        """
        delivery = Delivery(next(self.orders), left, least, age, cancellable)
        seen, after = self.model.seen, self.model
        unseen = {State.DONE: "unseen", State.SKIPPED: "unseen", State.CANCELLED: "cancelled"}
        answer = Start("unseen" if age and self.began_before_holder(delivery) else "run")
        answer = Start(unseen.get(seen.state, answer.verdict))
        if answer.verdict == "run" and seen.cancel_requested:
            answer, after = Start("cancelled", previous=seen.state), self.cancelled()
        elif answer.verdict == "run":
            answer = Start("run", self.model.starts + 1, json.dumps(seen.metadata), self.model.change(after).previous)
            after = Model(delivery.anew(seen, max(seen.attempt + 1, least)), delivery, delivery, answer.deliveries)
        told: Told = lambda store, i: store.start(delivery.attempts[i], age=age)  # noqa: E731
        self.step(told, answer, after, opens=seen.state is State.FAILED)
        return delivery if answer.verdict == "run" else multiple()

    @rule(delivery=started, fields=reported)
    def report(self, delivery: Delivery, fields: Fields) -> None:
        """Only the holder of the fence may, while it runs. With no fields it is a sign of life, and nothing is seen."""
        seen, answer, after = self.model.seen, "refused", self.model
        if self.is_left_out(delivery):
            return
        if (lost := self.has_lost(delivery)) and not self.began_before_holder(delivery):
            renewed = replace(delivery.anew(seen), **fields)
            delivery.has_renewed = True
            answer, after = "renewed", Model(renewed, delivery, delivery, self.model.starts)
        elif delivery is self.model.holder and seen.state is State.RUNNING:
            known = max(seen.version, delivery.attempts[0].version)
            written = replace(seen, **fields, version=known + bool(fields))
            answer, after = "written", self.model._replace(seen=written)

        def told(store: Any, i: int) -> Any:
            return store.report([Report(delivery.attempts[i], as_text(fields))]), delivery.attempts[i].to_cancel

        self.step(told, ([answer], seen.cancel_requested), after, opens=lost, reports=bool(fields))

    # One that has ended would be asked most of the time, and nothing comes of it.
    @precondition(lambda self: self.model.seen is not NOTHING and not self.model.seen.complete)
    @rule()
    def cancel(self) -> None:
        """What waits is cancelled; what runs is to be, and whoever reports is told."""
        seen, after, outcome = self.model.seen, self.model, CancelOutcome.REQUESTED
        if not seen.cancellable:
            outcome = CancelOutcome.NOT_CANCELLABLE
        elif seen.state is not State.RUNNING:
            outcome, after = CancelOutcome.CANCELLED, self.cancelled()
        elif not seen.cancel_requested:
            after = self.model._replace(seen=replace(seen, cancel_requested=True, version=seen.version + 1))
        answer = Cancellation(outcome, seen.state)
        self.step(lambda store, _: store.cancel(ID), answer, after)

    def cancelled(self) -> Model:
        """The message, cancelled without an attempt that heard of it."""
        told = {"state": State.CANCELLED, "result": DEFAULT_RESULTS[State.CANCELLED], "cancel_requested": True}
        version = self.model.seen.version + 1
        shown = replace(self.model.seen, **told, retries_left=0, retry_in=None, version=version)
        return self.model._replace(seen=shown, starts=0)

    @rule(delivery=started, end=st.tuples(end_states, reported, ages))
    def finish(self, delivery: Delivery, end: End) -> None:
        """Only the holder of the fence may, once; and once more when the retry that it told of could not be sent."""
        seen, base = self.model.seen, None
        if self.is_left_out(delivery):
            return
        if (lost := self.has_lost(delivery)) and not self.began_before_holder(delivery):
            base = delivery.anew(seen)
            delivery.has_renewed = True
        elif not lost and delivery is self.model.holder and seen.state in (State.RUNNING, State.RETRYING):
            base = replace(seen, version=max(seen.version, delivery.attempts[0].version) + 1)
        self.end(delivery, end, base, opens=lost)

    @rule(left=limits, age=ages, end=st.tuples(end_states, reported, ages))
    def finish_unwritten(self, left: int | None, age: float, end: End) -> None:
        """An attempt whose start was never written is counted now; refused where a message ended, unless it failed."""
        delivery, seen = Delivery(next(self.orders), left, age=age), self.model.seen
        refused = (seen.complete and seen.state is not State.FAILED) or self.began_before_holder(delivery)
        self.end(delivery, end, None if refused else delivery.anew(seen, seen.attempt + 1), opens=True)

    @rule(state=end_states)
    def finish_unbegun(self, state: State) -> None:
        """The actor was never called: refused where a message ended or runs elsewhere, and where there is no record."""
        seen = self.model.seen
        refused = seen is NOTHING or seen.complete or seen.state is State.RUNNING
        base = None if refused else replace(seen, version=seen.version + 1)
        self.end(Delivery(next(self.orders)), (state, {}, 0.0), base, began=False)

    def end(self, delivery: Delivery, end: End, base: Progress | None, began: bool = True, opens: bool = False) -> None:
        """An attempt ends; `base` is its record until then, with the new version, and None when it is refused."""
        (state, fields, age), after = end, self.model
        told_state = state
        retry_in = 2 * LONG_SECONDS if state is State.RETRYING else None
        if began and state is State.DONE:
            fields = fields | {"result": {"rows": 10}}
        if base is not None:
            if base.cancel_requested and state in (State.RETRYING, State.FAILED):
                state = State.CANCELLED
            left = 0 if state.is_final else base.retries_left
            left_to_retry = retry_in - age if retry_in and state is State.RETRYING else None
            told_user = {"result": DEFAULT_RESULTS.get(state)} | fields
            shown = replace(base, **told_user, state=state, retries_left=left, retry_in=left_to_retry)
            after = Model(shown, delivery, delivery) if began else self.model._replace(seen=shown, starts=0)
        how = {"state": told_state, "fields": as_text(fields), "retry_in": retry_in, "began": began, "age": age}
        told: Told = lambda store, i: store.finish(delivery.attempts[i], **how)  # noqa: E731
        self.step(told, self.model.change(after), after, opens=opens, reports=bool(fields))

    @rule()
    def save(self) -> None:
        self.saved = self.model, self.client.hgetall(self.key)

    @rule(empty=st.booleans())
    def lose(self, empty: bool) -> None:
        """The record expires or is evicted; or the server comes back with what it had saved."""
        self.model, record = (Model(), {}) if empty else self.saved
        self.client.delete(self.key)
        self.memory._records.pop(self.key, None)
        self.memory._expires_at.pop(self.key, None)
        if record:
            self.client.hset(self.key, mapping=record)
            self.client.expire(self.key, int(LONG_SECONDS))
            self.memory._written(self.key, dict(record), str(int(LONG_SECONDS * 1000)), raises_version=False)
        self.check()

    def teardown(self) -> None:
        self.client.delete(self.key, *self.client.keys(self.pattern))
        self.client.close()
        self.valkey.close()

    def has_lost(self, delivery: Delivery) -> bool:
        """The store had counted this delivery and has forgotten it: the one that began last may write all the same."""
        return self.model.seen.attempt < delivery.attempts[0].number

    def began_before_holder(self, delivery: Delivery) -> bool:
        """The one in the record began later, so long that a clock can tell."""
        return self.model.holder is not None and delivery.age > self.model.holder.age

    def is_left_out(self, delivery: Delivery) -> bool:
        """It lost its record, and no clock can tell whether it or the one that began last is the later one."""
        latest = self.model.latest
        if latest is None or delivery is latest or not self.has_lost(delivery) or self.began_before_holder(delivery):
            return False
        return delivery.order < latest.order or (latest.has_renewed and delivery.age == latest.age)

    def step(self, told: Told, answer: Any, after: Model, opens: bool = False, reports: bool = False) -> None:
        """Tell both stores. What `opens` may leave a final state; what `reports` may lower the percentage."""
        assert [told(self.memory, 0), told(self.valkey, 1)] == [answer] * 2
        before, now, self.model = self.model.seen, after.seen, after
        self.check()
        assert now.state is before.state or not before.complete or opens
        assert now.attempt >= before.attempt and now.version >= before.version + (now != before)
        if (now.percent or 0) < (before.percent or 0):
            assert now.attempt > before.attempt or reports or (before.complete and opens)

    def check(self) -> None:
        """Both stores say what the model says, and every key has a time to live."""
        seen = None if self.model.seen is NOTHING else self.model.seen
        [memory], [valkey] = self.memory.read([ID]), self.valkey.read([ID])
        assert without_clocks(memory) == without_clocks(valkey) == without_clocks(seen)
        if seen is not None:
            clocks = [(memory.retry_in, memory.elapsed), (seen.retry_in, memory.elapsed)]
            assert clocks == [pytest.approx((valkey.retry_in, valkey.elapsed), abs=LONG_SECONDS / 2)] * 2
        if (holder := self.model.holder) is not None:
            assert len({(each.number, each.version) for each in holder.attempts}) == 1
        assert all(self.client.ttl(key) > 0 for key in self.client.keys(self.pattern))


def as_text(fields: Fields) -> dict[str, str]:
    return {name: value if name == "description" else json.dumps(value) for name, value in fields.items()}


def without_clocks(progress: Progress | None) -> Progress | None:
    """Without the place in the queue too, which is not of the record."""
    return progress and replace(progress, elapsed=None, retry_in=None, queue_position=None, queue_length=None)


def test_a_record_obeys_its_fences_and_guards_in_any_order(valkey: str, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"LOST_AFTER": 24 * 3600.0}
    run_state_machine_as_test(
        lambda: RecordMachine(f"{valkey}/9"),
        settings=hypothesis_settings(max_examples=300, stateful_step_count=40, deadline=None, derandomize=True),
    )

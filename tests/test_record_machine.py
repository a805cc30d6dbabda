"""A record as a state machine: any order of writes, by any delivery, to two stores at the same time.

Read it as the specification of a record: each rule says which delivery may write, and what a reader then sees. One
delivery *holds* the record: it is the one that is shown. While it is alive, by its heartbeats, later deliveries *wait*.
A delivery is *superseded* when a later one holds the record. No rule depends on the order of two times.
"""

from __future__ import annotations

import itertools
import json
import operator
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
from dramatiq_progress.progress import DEFAULT_RESULTS, StepProgress
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.outcomes import Change, Start
from dramatiq_progress.stores.redis import RedisStore
from tests.store_server import eternal_keys
from tests.waiting import PATIENT

ID, ACTOR, QUEUE = "m1", "work", "default"
#: Heartbeats are recent, or several times as old as `LOST_AFTER`.
DAY_SECONDS = 24 * 3600.0
#: Moments are 0, 1 or 2 of these apart, so that the delays of a busy machine don't matter.
LONG_SECONDS = 1000.0
#: No record. Also the initial values of a message that is sent, and of an attempt.
NOTHING = Progress(id=ID, actor=ACTOR, queue=QUEUE, state=State.ENQUEUED, title="Work")
#: What may be given with the message.
GIVEN = {"title": "people.csv", "metadata": {"file": "people.csv"}}
TIMES = ("started_at", "ended_at", "enqueued_at", "reported_at", "heartbeat", "retry_at")
Fields = dict[str, Any]
#: A call of a store: 0 is the one in memory, 1 the one in Valkey.
Write = Callable[[Any, int], Any]
#: The outcome of an attempt, the values that it reported last, and the seconds since then.
End = tuple[State, Fields, float]


class Delivery:
    """One delivery of the message to a worker, with an `Attempt` for each store."""

    def __init__(
        self,
        order: int,
        retries_left: int | None = 0,
        min_attempt: int = 1,
        age: float = 0.0,
        cancellable: bool = False,
        given: bool = False,
    ) -> None:
        self.order, self.retries_left, self.age, self.cancellable = order, retries_left, age, cancellable
        options = {"min_attempt": min_attempt, "token": f"token-{order}", "started_at": time.monotonic() - age}
        options |= {"cancellable": cancellable} | (as_text(GIVEN) if given else {})
        self.attempts = [Attempt(ID, ACTOR, QUEUE, retries_left, **options) for _ in range(2)]

    @property
    def number(self) -> int:
        return self.attempts[0].number

    def fresh(self, seen: Progress, number: int = 0) -> Progress:
        """Return the record of this attempt before its first report.

        Title, metadata and a cancel request stay. The version continues from the higher one. The number never falls.
        """
        number, version = number or max(self.number, seen.attempt), max(seen.version, self.attempts[0].version) + 1
        kept = {"attempt": number, "retries_left": self.retries_left, "metadata": seen.metadata, "version": version}
        kept |= {"title": seen.title, "cancel_requested": seen.cancel_requested, "cancellable": self.cancellable}
        return replace(NOTHING, state=State.RUNNING, **kept)


class Later(NamedTuple):
    """The deliveries that wait: their highest number, the starts since the holder's last heartbeat, the last one."""

    number: int = 0
    undecided: int = 0
    delivery: Delivery | None = None
    is_alive: bool = False

    def after(self, number: int) -> Later:
        """Return what is left of them when the attempt of this number holds the record."""
        return self._replace(undecided=0) if self.number > number else Later()


class Model(NamedTuple):
    """The record.

    Attributes:
      holder: The delivery that is shown; None also if it has left the record to any that waits.
      starts: The starts without an outcome.
      left: The retries that the last attempt had left.
      is_alive: Whether the holder's heartbeat is recent.
      beat: The order of the delivery that would have been created next at the time of that heartbeat.
      doubted: The delivery that continues a record that failed if it turns out to be alive; or ``any``.
    """

    seen: Progress = NOTHING
    holder: Delivery | None = None
    starts: int = 0
    left: int | None = None
    is_alive: bool = False
    beat: int = 0
    later: Later = Later()
    doubted: Delivery | str | None = None

    def change(self, after: Model) -> Change:
        """Return the store's answer to a change of state: whether it was written, and the state before."""
        return Change(after is not self, None if self.seen is NOTHING else self.seen.state)

    @property
    def is_running(self) -> bool:
        return self.seen.state is State.RUNNING

    @property
    def has_living_holder(self) -> bool:
        return self.is_running and self.is_alive

    @property
    def is_over(self) -> bool:
        return self.seen.complete and self.seen.state is not State.FAILED

    @property
    def latest(self) -> int:
        """The highest number of an attempt."""
        return max(self.seen.attempt, self.later.number)

    def doubts(self, delivery: Delivery) -> bool:
        return not self.is_running and self.doubted in (delivery, "any")

    def shown(self) -> Progress | None:
        """Return what a reader sees."""
        if self.seen is NOTHING:
            return None
        is_lost = self.is_running and not self.is_alive and not self.later.is_alive
        return replace(self.seen, state=State.LOST) if is_lost else self.seen


ages = st.sampled_from([0.0, LONG_SECONDS])
limits = st.sampled_from([None, 0, 3])
numbers = {"current": st.integers(0, 10), "total": st.sampled_from([None, 10])}
texts = {"description": st.sampled_from(["", "Reading"]), "metadata": st.sampled_from([{"file": "a"}, {"file": "b"}])}
texts["title"] = st.sampled_from(["a.csv", "b.csv"])
permitted = st.sampled_from([True, True, False])
steps = st.sampled_from([{}, {"has_steps": True, "overall": 0.25, "step": StepProgress(1, 2, "Reading")}])
reported = st.builds(operator.or_, st.fixed_dictionaries({}, optional=numbers | texts), steps)
end_states = st.sampled_from([State.RETRYING, State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED])


class RecordMachine(RuleBasedStateMachine):
    """The record of one message in memory and in Valkey."""

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
        given=st.booleans(),
    )
    def enqueue(self, origin: str, delay: float | None, left: int | None, cancellable: bool, given: bool) -> None:
        """New: resets a final record. Due: enqueues a delayed one. Deferred: creates a missing record."""
        seen, after = self.model.seen, self.model
        delay = None if origin == "due" else delay
        changes = {"state": State.ENQUEUED if delay is None else State.DELAYED, "retries_left": left}
        changes |= {"attempt": seen.attempt, "version": seen.version + 1, "cancellable": cancellable}
        if seen is NOTHING or (origin == "new" and seen.complete):
            after = Model(named(replace(NOTHING, **changes | {"attempt": self.model.latest}), given), left=left)
        elif origin == "due" and seen.state in (State.DELAYED, State.RETRYING):
            after = self.model._replace(seen=named(replace(seen, retry_in=None, **changes), given), left=left)
        options = {"actor": ACTOR, "queue": QUEUE, "retries_left": left, "cancellable": cancellable, "delay": delay}
        options |= {"due": origin == "due", "age": LONG_SECONDS if origin == "late" else 0.0}
        options |= as_text(GIVEN) if given else {}
        answer = self.model.change(after)
        answer = answer._replace(version=after.seen.version if answer.written else 0)
        self.step(lambda store, _: store.enqueue(ID, **options), answer, after, opens=origin == "new")

    @rule(
        target=started,
        left=limits,
        min_attempt=st.sampled_from([1, 3]),
        age=ages,
        cancellable=permitted,
        given=st.booleans(),
    )
    def start(self, left: int | None, min_attempt: int, age: float, cancellable: bool, given: bool) -> Any:
        """The first attempt, a retry, or a redelivery; deferred if it has an age.

        Waits while the holder is alive. Ignored if the message is done or skipped. Cancelled if a cancel was requested.
        A failed message is reopened.
        """
        delivery = Delivery(next(self.orders), left, min_attempt, age, cancellable, given)
        model, seen, after = self.model, self.model.seen, self.model
        unseen = {State.DONE: "ignored", State.SKIPPED: "ignored", State.CANCELLED: "cancelled"}
        answer = Start(unseen.get(seen.state, "run"))
        if answer.verdict == "run" and seen.cancel_requested:
            answer = Start("cancelled")
            if not (age and model.has_living_holder):
                answer, after = Start("cancelled", previous=seen.state), self.cancelled()
        elif answer.verdict == "run":
            previous = None if seen is NOTHING else seen.state
            is_shown = not model.has_living_holder
            known = named(seen, given)
            title = "" if known.title == NOTHING.title else known.title
            answer = Start("run", model.starts + 1, title, json.dumps(known.metadata), previous, is_shown)
            number = max(model.latest + 1, min_attempt)
            if model.has_living_holder:
                later = Later(number, model.later.undecided + 1, delivery, is_alive=True)
                after = model._replace(starts=answer.deliveries, later=later)
            else:
                after = Model(delivery.fresh(known, number), delivery, answer.deliveries, left, True, self.next_order)
        write: Write = lambda store, i: store.start(delivery.attempts[i], age=age)  # noqa: E731
        self.step(write, answer, after, opens=seen.state is State.FAILED)
        return delivery if answer.verdict == "run" else multiple()

    @rule(delivery=started, fields=reported, has_all=st.booleans())
    def report(self, delivery: Delivery, fields: Fields, has_all: bool) -> None:
        """The holder reports, while it runs; without fields it is a heartbeat, which changes nothing that is seen.

        A later delivery waits while the holder is alive. Otherwise it holds the record from now on, and so does one
        that was doubted, if the report has all values.
        """
        model, seen, answer, after = self.model, self.model.seen, "superseded", self.model
        doubted = model.doubts(delivery)
        if model.is_running and delivery is model.holder:
            known = max(seen.version, delivery.attempts[0].version)
            written = replace(seen, **fields, version=known + bool(fields))
            starts, later = model.starts - model.later.undecided, model.later._replace(undecided=0)
            after = model._replace(seen=written, starts=starts, later=later, is_alive=True, beat=self.next_order)
            answer = "written"
        elif model.is_over or (not doubted and delivery.number <= seen.attempt):
            pass
        elif model.has_living_holder and model.holder is not None:
            number, last = max(model.later.number, delivery.number), model.later.delivery or delivery
            after, answer = model._replace(later=Later(number, model.later.undecided, last, is_alive=True)), "waiting"
        elif not has_all:
            answer = "incomplete"
        else:
            values = delivery.fresh(seen)
            starts, later = 1 if doubted else model.starts, model.later.after(delivery.number)
            left, beat = delivery.retries_left, self.next_order
            after, answer = Model(replace(values, **fields), delivery, starts, left, True, beat, later), "rebuilt"

        def write(store: Any, i: int) -> Any:
            delivery.attempts[i].sends_all = has_all
            return store.report([(delivery.attempts[i], as_text(fields))]), delivery.attempts[i].cancel_requested

        changes_values = bool(fields) or answer == "rebuilt"
        self.step(write, ([answer], seen.cancel_requested), after, opens=answer == "rebuilt", reports=changes_values)

    # Otherwise most cancels would be of finished messages, which change nothing.
    @precondition(lambda self: self.model.seen is not NOTHING and not self.model.seen.complete)
    @rule(force=st.booleans())
    def cancel(self, force: bool) -> None:
        """A waiting message is cancelled. A running one gets a cancel request, which every report receives."""
        seen, after, outcome = self.model.seen, self.model, CancelOutcome.REQUESTED
        if not (seen.cancellable or force):
            outcome = CancelOutcome.NOT_CANCELLABLE
        elif self.model.shown() != seen or seen.state is not State.RUNNING:
            outcome, after = CancelOutcome.CANCELLED, self.cancelled()
        elif not seen.cancel_requested:
            after = self.model._replace(seen=replace(seen, cancel_requested=True, version=seen.version + 1))
        shown = self.model.shown()
        answer = Cancellation(outcome, shown and shown.state)
        self.step(lambda store, _: store.cancel(ID, force=force), answer, after)

    def cancelled(self) -> Model:
        """Return the message, cancelled without an attempt that received the request."""
        changes = {"state": State.CANCELLED, "result": DEFAULT_RESULTS[State.CANCELLED], "cancel_requested": True}
        version = self.model.seen.version + 1
        shown = replace(self.model.seen, **changes, retries_left=0, retry_in=None, version=version)
        return self.model._replace(seen=shown, starts=0)

    @rule(delivery=started, end=st.tuples(end_states, reported, ages), given_up=st.booleans())
    def finish(self, delivery: Delivery, end: End, given_up: bool) -> None:
        """The holder finishes, once; and again if the retry that it recorded could not be sent.

        Its failure leaves the record to a living delivery that waits.
        """
        model, seen, given_up = self.model, self.model.seen, given_up and end[0] is State.FAILED
        if delivery is not model.holder:
            self.finish_later(delivery, end, number=delivery.number, given_up=given_up)
            return
        left_to_later = model.is_running and model.later.is_alive and not seen.cancel_requested
        if left_to_later and end[0] in (State.RETRYING, State.FAILED):
            after = model._replace(holder=None, starts=1, is_alive=True, later=model.later._replace(undecided=0))
            self.end(delivery, end, None, refused=after, given_up=given_up)
            return
        base = None
        if seen.state in (State.RUNNING, State.RETRYING):
            version = max(seen.version, delivery.attempts[0].version) + 1
            base = model._replace(seen=replace(seen, version=version), doubted="any" if given_up else None)
        self.end(delivery, end, base, given_up=given_up)

    @rule(left=limits, age=ages, end=st.tuples(end_states, reported, ages))
    def finish_unwritten(self, left: int | None, age: float, end: End) -> None:
        """If its start was never written, an attempt is counted now, unless the record is of a later retry.

        With no attempt started, a final end is always counted.
        """
        delivery, model = Delivery(next(self.orders), left, age=age), self.model
        has_fewer = left is not None and model.left is not None and model.left < left
        if has_fewer and (model.latest > 0 or not end[0].is_final):
            self.end(delivery, end, None)
        else:
            self.finish_later(delivery, end, number=model.latest + 1)

    def finish_later(self, delivery: Delivery, end: End, number: int, given_up: bool = False) -> None:
        """A delivery that isn't shown finishes. Refused by a final record, unless it failed, and by a later holder.

        Of any end but a success it matters whether the holder is alive. If that isn't known, the holder is doubted.
        """
        model, refused = self.model, self.model
        if model.later.delivery is delivery:
            refused = model._replace(later=model.later._replace(is_alive=False))
        doubted: Delivery | str | None = "any" if given_up else None
        is_superseded = number <= model.seen.attempt and not model.doubts(delivery)
        if model.has_living_holder and model.holder is not None and end[0] is not State.DONE:
            is_superseded = is_superseded or delivery.age > 0 or model.beat > delivery.order
            doubted = doubted or model.holder
        if model.is_over or is_superseded:
            self.end(delivery, end, None, refused=refused, given_up=given_up)
            return
        seen = model.seen
        values = delivery.fresh(seen, max(number, seen.attempt))
        if given_up:
            values = replace(values, current=seen.current, total=seen.total, description=seen.description)
        later = refused.later.after(number)
        base = Model(values, delivery, 0, delivery.retries_left, model.is_alive, model.beat, later, doubted)
        self.end(delivery, end, base, given_up=given_up, opens=True)

    @rule(state=end_states)
    def finish_unstarted(self, state: State) -> None:
        """The actor was never called. Refused if the record is final or missing, or if another delivery is alive."""
        model, seen = self.model, self.model.seen
        refused = seen is NOTHING or seen.complete or model.has_living_holder
        base = None if refused else model._replace(seen=replace(seen, version=seen.version + 1), doubted=None)
        self.end(Delivery(next(self.orders)), (state, {}, 0.0), base, started=False)

    def end(
        self,
        delivery: Delivery,
        end: End,
        base: Model | None,
        *,
        refused: Model | None = None,
        started: bool = True,
        given_up: bool = False,
        opens: bool = False,
    ) -> None:
        """An attempt ends; `base` is its record before, with the new version, or None if it is `refused`."""
        (state, fields, age), after = end, refused or self.model
        given_state = state
        retry_in = 2 * LONG_SECONDS if state is State.RETRYING else None
        if started and state is State.DONE:
            fields = fields | {"result": {"rows": 10}}
        if base is not None:
            if base.seen.cancel_requested and state in (State.RETRYING, State.FAILED):
                state = State.CANCELLED
            left = 0 if state.is_final else base.left
            left_to_retry = retry_in - age if retry_in and state is State.RETRYING else None
            result = {"result": DEFAULT_RESULTS.get(state)} | fields
            shown = replace(base.seen, **result, state=state, retries_left=left, retry_in=left_to_retry)
            after = base._replace(seen=shown, starts=0)
        how = {"state": given_state, "fields": as_text(fields), "retry_in": retry_in, "started": started, "age": age}
        how["given_up"] = given_up
        # The moment is of two clocks.
        write: Write = lambda store, i: store.finish(delivery.attempts[i], **how)._replace(moment=None)  # noqa: E731
        # An end is answered by what the record shows then.
        now = {} if after.seen is NOTHING else {"state": after.seen.state, "attempt": after.seen.attempt}
        answer = Change(base is not None, self.model.change(after).previous, **now)
        self.step(write, answer, after, opens=opens, reports=bool(fields) or opens)

    # A delivery that has died, or is frozen.
    @precondition(lambda self: self.model.is_running)
    @rule(waiting=st.booleans())
    def fall_silent(self, waiting: bool) -> None:
        """The holder gives no heartbeat for a long time, and maybe none that waits does."""
        # Clocks that are behind, again and again, make it no recent one.
        silence = -1000 * DAY_SECONDS
        record = {"heartbeat": silence} | ({"later": silence} if waiting else {})
        later = self.model.later._replace(is_alive=self.model.later.is_alive and not waiting)
        self.model = self.model._replace(is_alive=False, later=later)
        self.shift(record)
        self.check()

    @rule()
    def save(self) -> None:
        self.saved = self.model, self.client.hgetall(self.key)

    @rule(empty=st.booleans(), behind=st.booleans())
    def lose(self, empty: bool, behind: bool) -> None:
        """The record expires or is evicted, or the server restarts with an older one, maybe with a clock behind."""
        self.model, record = (Model(), {}) if empty else self.saved
        self.client.delete(self.key)
        self.memory._records.pop(self.key, None)
        self.memory._expires_at.pop(self.key, None)
        if record:
            self.client.hset(self.key, mapping=record)
            self.client.expire(self.key, int(LONG_SECONDS))
            self.memory._records[self.key] = dict(record)
            self.memory._expire(self.key, str(int(LONG_SECONDS * 1000)))
        if record and behind:
            self.shift(dict.fromkeys(("later", *TIMES), 2 * DAY_SECONDS))
            seen, later = self.model.seen, self.model.later._replace(is_alive=False)
            if seen.retry_in is not None:
                seen = replace(seen, retry_in=seen.retry_in + 2 * DAY_SECONDS)
            self.model = self.model._replace(seen=seen, later=later, is_alive=False)
        self.check()

    def shift(self, fields: dict[str, float]) -> None:
        """Change times of the record in both stores by seconds; ``later`` ends with one."""
        known = self.memory._records[self.key], self.client.hgetall(self.key)
        for record in known:
            for name in fields.keys() & record.keys():
                rest, _, moment = record[name].rpartition(" ")
                record[name] = f"{rest} {float(moment) + fields[name]:.6f}".lstrip()
        if known[1]:
            self.client.hset(self.key, mapping=known[1])

    def teardown(self) -> None:
        self.client.delete(self.key, *self.client.keys(self.pattern))
        self.client.close()
        self.valkey.close()

    @property
    def next_order(self) -> int:
        """A number above those of the deliveries so far, and not above that of the next one."""
        order = next(self.orders)
        self.orders = itertools.count(order)
        return order

    def step(self, write: Write, answer: Any, after: Model, opens: bool = False, reports: bool = False) -> None:
        """Write to both stores. With `opens`, a final state may be left; with `reports`, the percentage may fall."""
        assert [write(self.memory, 0), write(self.valkey, 1)] == [answer] * 2
        before, now, self.model = self.model.seen, after.seen, after
        self.check()
        assert now.state is before.state or not before.complete or opens
        assert now.attempt >= before.attempt and now.version >= before.version + (now != before)
        if (now.percent or 0) < (before.percent or 0):
            assert now.attempt > before.attempt or reports or (before.complete and opens)

    def check(self) -> None:
        """Both stores agree with the model, and every key has a TTL."""
        seen = self.model.shown()
        [memory], [valkey] = self.memory.read([ID]), self.valkey.read([ID])
        assert without_clocks(memory) == without_clocks(valkey) == without_clocks(seen)
        if seen is not None:
            clocks = [(memory.retry_in, memory.elapsed), (seen.retry_in, memory.elapsed)]
            assert clocks == [pytest.approx((valkey.retry_in, valkey.elapsed), abs=LONG_SECONDS / 2)] * 2
        if (holder := self.model.holder) is not None:
            assert len({(each.number, each.version) for each in holder.attempts}) == 1
        assert eternal_keys(self.client, self.pattern) == []


def as_text(fields: Fields) -> dict[str, str]:
    fields = {name: value for name, value in fields.items() if name != "has_steps"}
    if "step" in fields:
        fields["step"] = [fields["step"].index, fields["step"].count, fields["step"].name]
    return {name: value if name in ("description", "title") else json.dumps(value) for name, value in fields.items()}


def named(seen: Progress, given: bool) -> Progress:
    """Return a record that has at least what was given with the message, if anything was."""
    if not given:
        return seen
    title = GIVEN["title"] if seen.title == NOTHING.title else seen.title
    return replace(seen, title=title, metadata=seen.metadata or GIVEN["metadata"])


def without_clocks(progress: Progress | None) -> Progress | None:
    """Return a reading without clocks and queue position, which isn't part of the record."""
    return progress and replace(progress, elapsed=None, retry_in=None, queue_position=None, queue_length=None)


@pytest.mark.slow(20)
def test_a_record_is_right_after_any_order_of_writes(valkey: str, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"LOST_AFTER": DAY_SECONDS}
    run_state_machine_as_test(
        lambda: RecordMachine(f"{valkey}/9"),
        settings=hypothesis_settings(max_examples=300, stateful_step_count=40, deadline=None, derandomize=True),
    )

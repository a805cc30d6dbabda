"""A composite as a state machine: any order of contributions of its members, to two stores at the same time.

Read it as the specification of a composite: its record shows what follows from the slots of its members. The model
keeps those, and counts them from the start each time.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dramatiq_progress import CancelOutcome, State
from dramatiq_progress.progress import Parts
from dramatiq_progress.stores.composites import Contribution, Place, as_unsent, slot, waiting_slot
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.conftest import PATIENT

ID = "g1"
#: The weight of each member.
WEIGHTS = {"a": 1, "b": 2, "c": 5}
ENDS = (State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED)
DAY_SECONDS = 24 * 3600.0


class Slot(NamedTuple):
    """A member, as it has contributed. A member that is only known by its place has the attempt 0."""

    state: State = State.ENQUEUED
    attempt: int = 0
    thousandths: int = 0

    @property
    def stage(self) -> int:
        """The stage of an attempt: it runs, it waits for another one, it has ended."""
        return 3 if self.state in ENDS else 2 if self.state in (State.RETRYING, State.ENQUEUED) else 1

    def may_follow(self, known: Slot, *, renews: bool) -> bool:
        if known.state in ENDS and known.state is not State.FAILED and known.attempt:
            return False
        is_newer = (self.attempt, self.stage) >= (known.attempt, known.stage) and self.attempt >= known.attempt
        return renews or (is_newer and not (self.attempt == known.attempt and known.stage == 3))

    def counted(self, known: Slot) -> Slot:
        """A success and a failure count as all of the work. An end before any report counts as what was known."""
        if self.state in (State.DONE, State.FAILED):
            return self._replace(thousandths=1000)
        return self._replace(thousandths=self.thousandths or known.thousandths) if self.stage == 3 else self


class Model(NamedTuple):
    """The record, and its members."""

    slots: dict[str, Slot] = {}  # noqa: RUF012  # never changed
    state: State | None = None
    #: None, or why it is to be cancelled: by a user or an operator, or because a member failed.
    cancel: str | None = None
    has_begun: bool = False

    def parts(self, place: Place) -> Parts:
        counts = {state.value: sum(each.state is state for each in self.slots.values()) for state in ENDS}
        total = max(place.planned, len(self.slots))
        active = {state.value: sum(each.state is state for each in self.slots.values()) for state in ACTIVE}
        return Parts(total=total, waiting=total - sum(counts.values()) - sum(active.values()), **counts, **active)

    def fraction(self, place: Place) -> float | None:
        whole = max(place.weight or place.planned, sum(WEIGHTS[each] for each in self.slots))
        done = sum(WEIGHTS[name] * each.thousandths for name, each in self.slots.items())
        return done / whole / 1000 if whole else None

    def settled(self, place: Place, *, is_delayed: bool = False) -> Model:
        """Return the record after something has changed in it, or after another member has become due."""
        parts = self.parts(place)
        cancel = self.cancel or ("fail_fast" if parts.failed and "f" in place.flags else None)
        begun = self.has_begun or any(
            each.state is not State.ENQUEUED or each.thousandths for each in self.slots.values()
        )
        model = self._replace(cancel=cancel, has_begun=begun)
        is_final = self.state in ENDS
        if cancel and is_final:
            return model
        ended = parts.done + parts.failed + parts.cancelled + parts.skipped
        is_complete, is_idle = ended == parts.total, not (parts.running or parts.retrying)
        is_stuck = ended > parts.done and is_idle
        rest_never_comes = "p" in place.flags or (place.callbacks and ended == parts.total - place.callbacks)
        if not (is_complete or (is_stuck and rest_never_comes) or (cancel and not parts.running)):
            may_be_delayed = is_delayed and self.state in (None, State.DELAYED)
            waiting = State.DELAYED if may_be_delayed else State.ENQUEUED
            return model._replace(state=State.RUNNING if begun else waiting)
        some_cancelled = parts.cancelled or (cancel and not is_complete)
        outcomes = {
            State.CANCELLED: cancel in ("user", "operator") and some_cancelled,
            State.FAILED: parts.failed,
            State.DONE: ended == parts.total == parts.done,
            State.SKIPPED: not some_cancelled,
        }
        return model._replace(state=next((state for state, holds in outcomes.items() if holds), State.CANCELLED))


ACTIVE = (State.RUNNING, State.RETRYING)
members = st.sampled_from(sorted(WEIGHTS))
states = st.sampled_from([State.RUNNING, State.RUNNING, State.RETRYING, State.ENQUEUED, *ENDS])
thousandths = st.sampled_from([0, 1, 400, 999, 1000])


class CompositeMachine(RuleBasedStateMachine):
    """The record of one composite in memory and in Valkey."""

    contributed = Bundle("contributed")

    def __init__(self, url: str) -> None:
        super().__init__()
        prefix = f"machine-{secrets.token_hex(4)}:"
        self.stores = [MemoryStore(prefix=prefix), RedisStore(prefix=prefix, url=url, **PATIENT)]
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.pattern = f"{prefix}*"
        self.model = Model()
        self.version = 0

    @initialize(
        planned=st.sampled_from([0, 3, 3]), flags=st.sampled_from(["c", "cp", "cf"]), callbacks=st.sampled_from([0, 1])
    )
    def plan(self, planned: int, flags: str, callbacks: int) -> None:
        weight = sum(WEIGHTS.values()) if planned else 0
        self.place = Place(ID, planned, "work", flags, 1, weight, callbacks)

    @rule(names=st.sets(members), is_delayed=st.booleans())
    def gather(self, names: set[str], is_delayed: bool) -> None:
        """Members are about to be sent, or are recorded late. Those that are known stay as they are."""
        known = self.model.slots
        after = self.model._replace(slots={**dict.fromkeys(names, Slot()), **known})
        slots = {name: waiting_slot(WEIGHTS[name]) for name in sorted(names)}
        self.write([Contribution((self.place,), "", slots, is_delayed=is_delayed)], after)

    @rule(name=members)
    def cannot_send(self, name: str) -> None:
        """The send of a member raised. The broker may have taken it."""
        slots, unsent = dict(self.model.slots), Slot(State.CANCELLED)
        if name not in slots or unsent.may_follow(slots[name], renews=False):
            slots[name] = unsent
        texts = {name: as_unsent(waiting_slot(WEIGHTS[name]))}
        self.write([Contribution((self.place,), "", texts)], self.model._replace(slots=slots))

    @rule(
        target=contributed,
        name=members,
        state=states,
        attempt=st.integers(1, 3),
        thousandths=thousandths,
        renews=st.booleans(),
    )
    def contribute(self, name: str, state: State, attempt: int, thousandths: int, renews: bool) -> Any:
        """Any attempt starts, reports or ends: a living one, one that is late, or one that was superseded."""
        made = name, Slot(state, attempt, thousandths), renews
        self.tell([made])
        return made

    @rule(made=st.lists(contributed, min_size=1, max_size=3))
    def contribute_again(self, made: list[tuple[str, Slot, bool]]) -> None:
        """A script is run twice, or a process contributes again what it remembers, for several members at once."""
        self.tell(list({each[0]: each for each in made}.values()))

    @precondition(lambda self: self.model.state is not None)
    @rule(force=st.booleans())
    def cancel(self, force: bool) -> None:
        """At once if no member runs; otherwise when none does any more."""
        model, parts = self.model, self.model.parts(self.place)
        assert model.state is not None
        if model.state in ENDS:
            outcome = CancelOutcome.CANCELLED if model.state is State.CANCELLED else CancelOutcome.FINISHED
        elif model.state is State.RUNNING and parts.running:
            outcome = CancelOutcome.REQUESTED
            self.model = model._replace(cancel="operator" if force else model.cancel or "user")
        else:
            outcome = CancelOutcome.CANCELLED
            self.model = model._replace(cancel="operator" if force else "user", state=State.CANCELLED)
        assert [store.cancel(ID, force=force).outcome for store in self.stores] == [outcome] * 2
        self.check()

    @rule(record=st.booleans(), slots=st.booleans())
    def lose(self, record: bool, slots: bool) -> None:
        """The record, its members, or both expire or are evicted. The next contribution counts what is left."""
        memory, valkey = self.stores
        if record:
            self.model = Model(self.model.slots)
            self.delete(valkey.key(ID), memory)
        if slots:
            self.model = self.model._replace(slots={})
            self.delete(valkey.members_key(ID), memory)
        self.tell([])

    def delete(self, key: str, memory: Any) -> None:
        self.client.delete(key)
        for kept in (memory._records, memory._members, memory._expires_at):
            kept.pop(key, None)

    def tell(self, made: list[tuple[str, Slot, bool]]) -> None:
        slots, texts = dict(self.model.slots), {}
        for name, new, renews in made:
            known = slots.get(name)
            if known is None or new.may_follow(known, renews=renews):
                slots[name] = new.counted(known or Slot())
            texts[name] = slot(new.state, new.attempt, new.thousandths, WEIGHTS[name], renews=renews)
        self.write([Contribution((self.place,), "", texts)], self.model._replace(slots=slots))

    def write(self, contributions: list[Contribution], after: Model) -> None:
        is_delayed = any(each.is_delayed for each in contributions)
        before, self.model = self.model.state, after.settled(self.place, is_delayed=is_delayed)
        for store in self.stores:
            [told] = store.tell(contributions)
            assert (told.previous, told.state) == (before, self.model.state)  # type: ignore[union-attr]
            assert told.running == self.model.parts(self.place).running  # type: ignore[union-attr]
            assert told.cancel_requested == bool(self.model.cancel)  # type: ignore[union-attr]
            assert told.is_forced == (self.model.cancel == "operator")  # type: ignore[union-attr]
        self.check()

    def check(self) -> None:
        """Both stores agree with the model, and every key has a TTL."""
        parts, fraction = self.model.parts(self.place), self.model.fraction(self.place)
        ended = parts.done + parts.failed + parts.cancelled + parts.skipped
        for store in self.stores:
            [seen] = store.read([ID])
            if self.model.state is None:
                assert seen is None
                continue
            assert seen is not None
            assert (seen.state, seen.parts, seen.current, seen.total) == (self.model.state, parts, ended, parts.total)
            assert seen.overall == pytest.approx(fraction)
            assert seen.cancel_requested == bool(self.model.cancel)
        assert all(self.client.ttl(key) > 0 for key in self.client.keys(self.pattern))

    def teardown(self) -> None:
        if keys := self.client.keys(self.pattern):
            self.client.delete(*keys)
        self.client.close()
        self.stores[1].close()


@pytest.mark.slow(20)
def test_a_composite_is_right_after_any_order_of_contributions(valkey: str, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"LOST_AFTER": DAY_SECONDS}
    run_state_machine_as_test(
        lambda: CompositeMachine(f"{valkey}/9"),
        settings=hypothesis_settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True),
    )

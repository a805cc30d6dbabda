"""A composite as a state machine: any order of contributions of its members, to two stores at the same time.

Read it as the specification of a composite: its record shows what follows from the slots of its members. The model
keeps those, and counts them from the start each time.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dramatiq_progress import CancelOutcome, State
from dramatiq_progress.progress import Parts
from dramatiq_progress.stores.composites import UNSENT, Contribution, Membership, as_unsent, slot
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.store_server import eternal_keys
from tests.waiting import PATIENT

ID = "g1"
#: The weight of each member; the last one is sent by another member.
WEIGHTS = {"a": 1, "b": 2, "c": 5, "d": 3}
CHILD = "d"
ENDS = (State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED)
DAY_SECONDS = 24 * 3600.0
FINISHED_TTL_SECONDS = 3600.0


class Slot(NamedTuple):
    """A member, as it has contributed. One that hasn't started has the attempt 0."""

    state: State = State.ENQUEUED
    attempt: int = 0
    thousandths: int = 0

    @property
    def stage(self) -> int:
        """The stage of an attempt: it runs, it waits for another one, it has ended."""
        return 3 if self.state in ENDS else 2 if self.state in (State.RETRYING, State.ENQUEUED) else 1

    def may_follow(self, known: Slot, *, has_new_record: bool) -> bool:
        if known.state in ENDS and known.state is not State.FAILED and known.attempt:
            return False
        is_newer = (self.attempt, self.stage) >= (known.attempt, known.stage) and self.attempt >= known.attempt
        return has_new_record or (is_newer and not (self.attempt == known.attempt and known.stage == 3))

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
    is_closed: bool = False
    #: Number of failed members, as of the last write.
    failed: int = 0
    #: Whether it is kept for ``FINISHED_TTL`` only: it has ended, and no member is awaited or may be sent again.
    is_over: bool = False

    @property
    def others(self) -> dict[str, Slot]:
        """The slots of members that no other member has sent."""
        return {name: each for name, each in self.slots.items() if name != CHILD}

    def is_open(self, membership: Membership) -> bool:
        return "o" in membership.flags and not self.is_closed

    def is_growing(self, membership: Membership) -> bool:
        """Whether it isn't known how many members there will be."""
        over = [each for each in self.others.values() if each.state in ENDS]
        is_awaited = "w" in membership.flags and len(over) < max(membership.planned, len(self.others))
        return self.state not in ENDS and (self.is_open(membership) or is_awaited)

    def parts(self, membership: Membership) -> Parts:
        counts = {state.value: sum(each.state is state for each in self.slots.values()) for state in ENDS}
        total = max(membership.planned, len(self.others)) + (CHILD in self.slots)
        active = {state.value: sum(each.state is state for each in self.slots.values()) for state in ACTIVE}
        return Parts(total=total, waiting=total - sum(counts.values()) - sum(active.values()), **counts, **active)

    def fraction(self, membership: Membership) -> float | None:
        whole = max(membership.planned_weight or membership.planned, sum(WEIGHTS[each] for each in self.others))
        whole += WEIGHTS[CHILD] * (CHILD in self.slots)
        done = sum(WEIGHTS[name] * each.thousandths for name, each in self.slots.items())
        return done / whole / 1000 if whole else None

    def settled(self, membership: Membership, *, is_delayed: bool = False) -> Model:
        """Return the record after something has changed in it, or after another member has become due."""
        parts = self.parts(membership)
        # Only a new failure: members that have failed may be sent again, one after the other.
        cancel = self.cancel or ("fail_fast" if parts.failed > self.failed and "f" in membership.flags else None)
        begun = self.has_begun or any(
            each.state is not State.ENQUEUED or each.thousandths for each in self.slots.values()
        )
        ended = parts.done + parts.failed + parts.cancelled + parts.skipped
        is_complete = ended == parts.total and not self.is_open(membership)
        is_idle = not (parts.running or parts.retrying)
        bad = [each for each in self.others.values() if each.state in ENDS and each.state is not State.DONE]
        over = sum(each.state in ENDS for each in self.others.values())
        # The others have ended, not all of them well, and no callback has.
        no_callbacks = (
            membership.callbacks
            and ended == parts.total - membership.callbacks
            and over == max(membership.planned, len(self.others)) - membership.callbacks
            and bad
        )
        rest_never_comes = no_callbacks or ("p" in membership.flags and ended > parts.done)
        is_awaited = not (is_complete or (is_idle and rest_never_comes))
        # All others have been cancelled: a failed member that is sent again runs.
        cancel = None if cancel == "fail_fast" and not is_awaited else cancel
        is_over = not (is_awaited or parts.failed)
        model = self._replace(cancel=cancel, has_begun=begun, failed=parts.failed, is_over=is_over)
        if cancel and self.state in ENDS:
            return model
        if is_awaited and (parts.running or not cancel):
            may_be_delayed = is_delayed and self.state in (None, State.DELAYED)
            waiting = State.DELAYED if may_be_delayed else State.ENQUEUED
            return model._replace(state=State.RUNNING if begun else waiting)
        some_cancelled = parts.cancelled or (cancel and not is_complete)
        outcomes = {
            State.CANCELLED: cancel in ("user", "operator") and some_cancelled,
            State.FAILED: parts.failed,
            State.DONE: is_complete and parts.total == parts.done,
            State.SKIPPED: not some_cancelled,
        }
        return model._replace(state=next((state for state, holds in outcomes.items() if holds), State.CANCELLED))


ACTIVE = (State.RUNNING, State.RETRYING)
members = st.sampled_from(sorted(WEIGHTS))
states = st.sampled_from([State.RUNNING, State.RUNNING, State.RETRYING, State.ENQUEUED, *ENDS])
thousandths = st.sampled_from([0, 1, 400, 999, 1000])


def waiting_text(name: str) -> str:
    return slot(*Slot(), WEIGHTS[name], is_child=name == CHILD)


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
        planned=st.sampled_from([0, 3, 3]),
        flags=st.sampled_from(["c", "cp", "cf", "cw", "co", "cow"]),
        callbacks=st.sampled_from([0, 1]),
    )
    def plan(self, planned: int, flags: str, callbacks: int) -> None:
        planned = 0 if "o" in flags else planned
        weight = sum(WEIGHTS.values()) - WEIGHTS[CHILD] if planned else 0
        self.membership = Membership(ID, planned, "work", flags, 1, weight, callbacks)

    @rule(names=st.sets(members), is_delayed=st.booleans())
    def gather(self, names: set[str], is_delayed: bool) -> None:
        """Members are about to be sent, or are recorded late. Those that are known stay as they are."""
        known = self.model.slots
        after = self.model._replace(slots={**dict.fromkeys(names, Slot()), **known})
        slots = {name: waiting_text(name) for name in sorted(names)}
        self.write([Contribution((self.membership,), "", slots, is_delayed=is_delayed)], after)

    @rule(name=members)
    def cannot_send(self, name: str) -> None:
        """The send of a member raised. The broker may have taken it."""
        slots, unsent = dict(self.model.slots), Slot(State.CANCELLED)
        if name not in slots or unsent.may_follow(slots[name], has_new_record=False):
            slots[name] = unsent
        texts = {name: as_unsent(waiting_text(name))}
        self.write([Contribution((self.membership,), "", texts)], self.model._replace(slots=slots))

    @rule(name=members)
    def forget_unsent(self, name: str) -> None:
        """The send of a member raised, whose composite is open or which another member was to send."""
        slots = {each: known for each, known in self.model.slots.items() if each != name or known != Slot()}
        self.write([Contribution((self.membership,), "", {name: UNSENT})], self.model._replace(slots=slots))

    @precondition(lambda self: "o" in self.membership.flags)
    @rule(count=st.integers(0, 3))
    def close(self, count: int) -> None:
        """No more members are added; the process that closes it has added this many."""
        membership = self.membership._replace(flags=self.membership.flags + "x", planned=count)
        self.membership = self.membership._replace(planned=max(self.membership.planned, count))
        closing = Contribution((membership,), "", {}, is_delayed=True)
        self.write([closing], self.model._replace(is_closed=True))

    @rule(
        target=contributed,
        name=members,
        state=states,
        attempt=st.integers(1, 3),
        thousandths=thousandths,
        has_new_record=st.booleans(),
    )
    def contribute(self, name: str, state: State, attempt: int, thousandths: int, has_new_record: bool) -> Any:
        """Any attempt starts, reports or ends: a living one, one that is late, or one that was superseded."""
        made = name, Slot(state, attempt, thousandths), has_new_record
        self.write_slots([made])
        return made

    @rule(made=st.lists(contributed, min_size=1, max_size=3))
    def contribute_again(self, made: list[tuple[str, Slot, bool]]) -> None:
        """A script is run twice, or a process contributes again what it remembers, for several members at once."""
        self.write_slots(list({each[0]: each for each in made}.values()))

    @precondition(lambda self: self.model.state is not None)
    @rule(force=st.booleans())
    def cancel(self, force: bool) -> None:
        """At once if no member runs; otherwise when none does any more."""
        model, parts = self.model, self.model.parts(self.membership)
        assert model.state is not None
        if model.state in ENDS:
            outcome = CancelOutcome.CANCELLED if model.state is State.CANCELLED else CancelOutcome.FINISHED
        elif model.state is State.RUNNING and parts.running:
            outcome = CancelOutcome.REQUESTED
            self.model = model._replace(cancel="operator" if force or model.cancel == "operator" else "user")
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
        self.write_slots([])

    def delete(self, key: str, memory: Any) -> None:
        self.client.delete(key)
        for kept in (memory._records, memory._members, memory._expires_at):
            kept.pop(key, None)

    def write_slots(self, made: list[tuple[str, Slot, bool]]) -> None:
        slots, texts = dict(self.model.slots), {}
        for name, new, has_new_record in made:
            known = slots.get(name)
            if known is None or new.may_follow(known, has_new_record=has_new_record):
                slots[name] = new.counted(known or Slot())
            texts[name] = slot(*new, WEIGHTS[name], is_child=name == CHILD, has_new_record=has_new_record)
        self.write([Contribution((self.membership,), "", texts)], self.model._replace(slots=slots))

    def write(self, contributions: list[Contribution], after: Model) -> None:
        is_delayed = any(each.is_delayed for each in contributions)
        before, self.model = self.model.state, after.settled(self.membership, is_delayed=is_delayed)
        for store in self.stores:
            [answer] = store.contribute(contributions)
            assert (answer.previous, answer.state) == (before, self.model.state)  # type: ignore[union-attr]
            assert answer.running == self.model.parts(self.membership).running  # type: ignore[union-attr]
            assert answer.cancel_requested == bool(self.model.cancel)  # type: ignore[union-attr]
            assert answer.thousandths == int((self.model.fraction(self.membership) or 0) * 1000 + 1e-9)  # type: ignore[union-attr]
            assert answer.is_forced == (self.model.cancel == "operator")  # type: ignore[union-attr]
        self.check()

    def check(self) -> None:
        """Both stores agree with the model, and every key has a TTL."""
        parts, is_growing = self.model.parts(self.membership), self.model.is_growing(self.membership)
        fraction = None if is_growing else self.model.fraction(self.membership)
        ended = parts.done + parts.failed + parts.cancelled + parts.skipped
        for store in self.stores:
            [seen] = store.read([ID])
            if self.model.state is None:
                assert seen is None
                continue
            assert seen is not None
            total = None if is_growing else parts.total
            assert (seen.state, seen.parts, seen.current, seen.total) == (self.model.state, parts, ended, total)
            assert seen.overall == pytest.approx(fraction)
            assert seen.cancel_requested == bool(self.model.cancel)
        assert eternal_keys(self.client, self.pattern) == []
        memory, valkey = self.stores
        keys = [valkey.key(ID)] * (self.model.state is not None) + [valkey.members_key(ID)] * bool(self.model.slots)
        for key in keys:
            ttls = [self.client.pttl(key) / 1000, memory._expires_at[key] - time.monotonic()]  # type: ignore[attr-defined]
            assert [ttl <= FINISHED_TTL_SECONDS for ttl in ttls] == [self.model.is_over] * 2

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

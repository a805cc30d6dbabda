"""The contract of all stores for composites: one record for many messages."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from redis.crc import key_slot

from dramatiq_progress import CancelOutcome, Progress, State
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.progress import Parts, StepProgress
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.calls import NewMessage
from dramatiq_progress.stores.composites import (
    UNSENT,
    CompositeAnswer,
    Contribution,
    Membership,
    as_unsent,
    slot,
    waiting_slot,
)
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until

ENDS = [State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED]


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


class Group:
    """A composite of three members of the weight 1, written as a worker writes it."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.membership = Membership(**{"id": "g1", "planned": 3, "name": "resize", "flags": "c", **options})

    def gather(self, *names: str, is_delayed: bool = False) -> CompositeAnswer:
        slots = {name: waiting_slot(1) for name in names}
        answers, _ = self.store.gather([Contribution((self.membership,), "", slots, is_delayed=is_delayed)], [])
        return answers["g1"]

    def contribute(self, **slots: str) -> CompositeAnswer:
        [answer] = self.store.contribute([Contribution((self.membership,), "", slots)])
        assert isinstance(answer, CompositeAnswer), answer
        return answer

    def runs(self, *names: str, thousandths: int = 0, attempt: int = 1) -> CompositeAnswer:
        return self.contribute(**{name: slot(State.RUNNING, attempt, thousandths, 1) for name in names})

    def ends(self, state: State, *names: str, attempt: int = 1) -> CompositeAnswer:
        return self.contribute(**{name: slot(state, attempt, 0, 1) for name in names})

    def close(self, planned: int) -> CompositeAnswer:
        membership = self.membership._replace(flags=self.membership.flags + "x", planned=planned)
        [answer] = self.store.contribute([Contribution((membership,), "", {}, is_delayed=True)])
        assert isinstance(answer, CompositeAnswer), answer
        return answer

    def read(self) -> Progress:
        [progress] = self.store.read(["g1"])
        assert progress is not None
        return progress


@pytest.fixture
def group(store: Store) -> Group:
    return Group(store)


def test_a_composite_lives_from_enqueued_to_done(group: Group) -> None:
    group.gather("a", "b", "c")
    seen = group.read()
    assert (seen.state, seen.actor, seen.current, seen.total, seen.percent) == (State.ENQUEUED, "resize", 0, 3, 0.0)
    assert (seen.queue_position, seen.elapsed) == (None, None)

    group.runs("a", thousandths=500)
    group.ends(State.DONE, "b")
    seen = group.read()
    assert (seen.state, seen.current, seen.percent) == (State.RUNNING, 1, 50.0)
    assert seen.parts == Parts(total=3, waiting=1, running=1, retrying=0, done=1, failed=0, cancelled=0, skipped=0)
    assert seen.as_dict()["parts"]["waiting"] == 1

    answer = group.ends(State.DONE, "a", "c")
    assert (answer.previous, answer.state) == (State.RUNNING, State.DONE)
    seen = group.read()
    assert (seen.state, seen.current, seen.percent, seen.result) == (State.DONE, 3, 100.0, None)
    json.dumps(seen.as_dict(), allow_nan=False)


def test_members_count_by_their_weights(store: Store) -> None:
    group = Group(store, planned=2, planned_weight=10)
    group.contribute(a=slot(State.RUNNING, 1, 500, 8), b=slot(State.DONE, 1, 1000, 2))
    assert group.read().percent == 60.0


def test_a_retried_member_falls_and_is_not_counted_as_failed(group: Group) -> None:
    group.runs("a", thousandths=900)
    group.contribute(a=slot(State.RETRYING, 1, 900, 1))
    seen = group.read()
    assert (seen.state, seen.percent, seen.parts and seen.parts.retrying) == (State.RUNNING, 30.0, 1)
    group.runs("a", attempt=2)
    assert (group.read().percent, group.read().parts.failed) == (0.0, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "ends, state",
    [
        (["done", "skipped"], State.SKIPPED),
        (["skipped", "cancelled"], State.CANCELLED),
        (["cancelled", "failed", "skipped"], State.FAILED),
    ],
)
def test_the_end_is_the_worst_of_all(group: Group, ends: Sequence[str], state: State) -> None:
    group.ends(State.DONE, "a", "b", "c")
    group = Group(group.store, id="g2")
    slots = {name: slot(State(end), 1, 0, 1) for name, end in zip("abc", [*ends, "done"], strict=False)}
    group.store.contribute([Contribution((group.membership,), "", slots)])
    [seen] = group.store.read(["g2"])
    assert seen is not None and seen.state is state


def test_a_failed_composite_says_how_many_failed(group: Group) -> None:
    group.ends(State.FAILED, "a")
    group.ends(State.DONE, "b", "c")
    assert (group.read().state, group.read().result) == (State.FAILED, "1 of 3 failed.")


def test_a_failed_member_that_runs_again_opens_its_composite(group: Group) -> None:
    group.ends(State.DONE, "b", "c")
    group.ends(State.FAILED, "a")
    assert group.runs("a", attempt=2).state is State.RUNNING
    assert group.ends(State.DONE, "a", attempt=2).state is State.DONE


def test_a_pipeline_ends_with_its_first_stage_that_ends_badly(store: Store) -> None:
    pipe = Group(store, flags="p")
    pipe.gather("a", "b", "c")
    assert pipe.read().step is None
    pipe.runs("a")
    assert pipe.read().step == StepProgress(1, 3, "")
    pipe.ends(State.DONE, "a")
    seen = pipe.read()
    assert (seen.state, seen.step) == (State.RUNNING, StepProgress(2, 3, ""))
    pipe.ends(State.FAILED, "b")
    seen = pipe.read()
    assert seen.step == StepProgress(2, 3, "")
    assert (seen.state, seen.percent, seen.parts and seen.parts.waiting) == (State.FAILED, 66.6, 1)


def test_callbacks_are_not_awaited_if_a_member_ends_badly(store: Store) -> None:
    group = Group(store, callbacks=1)
    group.gather("a", "b", "callback")
    group.ends(State.FAILED, "a")
    assert group.read().state is State.RUNNING
    assert group.ends(State.DONE, "b").state is State.FAILED


def test_a_callback_is_awaited_if_all_members_succeed(store: Store) -> None:
    group = Group(store, callbacks=1)
    assert group.ends(State.DONE, "a", "b").state is State.RUNNING
    assert group.ends(State.DONE, "callback").state is State.DONE


def test_all_callbacks_are_awaited_once_they_have_been_sent(store: Store) -> None:
    group = Group(store, planned=4, callbacks=2)
    group.ends(State.DONE, "a", "b")
    assert group.ends(State.FAILED, "first").state is State.RUNNING
    assert group.ends(State.DONE, "second").state is State.FAILED


def test_a_member_whose_send_raised_although_the_broker_took_it(group: Group) -> None:
    group.gather("a", "b", "c")
    group.contribute(a=as_unsent(waiting_slot(1)))
    group.ends(State.DONE, "b")
    assert group.ends(State.DONE, "c").state is State.CANCELLED
    assert group.runs("a").state is State.RUNNING
    assert group.ends(State.DONE, "a").state is State.DONE


def test_a_composite_has_its_own_owner_also_after_a_loss(store: Store) -> None:
    for id, owner in (("g1", ""), ("g2", "bob")):
        membership = Membership(id, 1, "resize", owner=owner)
        contribution = Contribution(
            (Membership.parse(membership.option()),), "ann", {"a": slot(State.RUNNING, 1, 0, 1)}
        )
        for _ in range(2):
            store.contribute([contribution])
            [seen] = store.read([id])
            assert seen is not None and seen.owner == owner
            drop(store, id)
    assert store.owned(["ann"]) == [] and store.owned(["bob"]) == ["g2"]


CHILD = Membership("g1", 1, "resize", "cw+")


def test_the_number_of_members_is_unknown_while_one_may_send_others(store: Store) -> None:
    group = Group(store, planned=1, flags="cw")
    group.gather("root")
    group.runs("root")
    store.contribute([Contribution((CHILD,), "", {"a": CHILD.waiting_slot(), "b": CHILD.waiting_slot()})])
    group.contribute(a=CHILD.slot(State.DONE, 1, 1000))
    seen = group.read()
    assert (seen.current, seen.total, seen.percent, seen.eta) == (1, None, None, None)
    assert seen.parts is not None and (seen.parts.total, seen.parts.running, seen.parts.waiting) == (3, 1, 1)
    assert group.ends(State.DONE, "root").state is State.RUNNING
    assert (group.read().total, group.read().percent) == (3, 66.6)
    assert group.contribute(b=CHILD.slot(State.DONE, 1, 1000)).state is State.DONE


def test_a_child_is_added_with_its_record(store: Store) -> None:
    group = Group(store, planned=1, flags="cw")
    group.runs("root")
    added = Contribution((CHILD,), "ann", {"a": CHILD.waiting_slot()})
    options: Any = {"actor": "work", "queue": "default", "retries_left": 3, "owner": "ann", "is_listed": False}
    change = store.enqueue("a", contribution=added, **options)
    assert change.written and isinstance(change.composite, CompositeAnswer) and change.composite.running == 1
    assert group.read().parts.waiting == 1  # type: ignore[union-attr]
    [child] = store.read(["a"])
    assert child is not None and child.state is State.ENQUEUED


def test_a_message_that_could_not_be_sent_is_no_member(store: Store) -> None:
    group = Group(store, planned=1, flags="cw")
    for text in (CHILD.waiting_slot(), UNSENT, UNSENT):
        group.contribute(root=slot(State.RUNNING, 1, 0, 1), a=text)
    assert group.read().parts.total == 1  # type: ignore[union-attr]
    group.contribute(a=CHILD.slot(State.RUNNING, 1, 0))
    group.contribute(a=UNSENT)
    assert group.read().parts.running == 2, "it was sent after all"  # type: ignore[union-attr]


def test_children_have_the_weight_of_their_sender(store: Store) -> None:
    group = Group(store, planned=2, planned_weight=8, flags="cw")
    child = CHILD._replace(weight=5)
    group.contribute(a=slot(State.DONE, 1, 0, 5), b=slot(State.DONE, 1, 0, 3), c=child.slot(State.RUNNING, 1, 400))
    assert group.read().percent == 76.9  # 10 of 13


def test_callbacks_come_also_if_a_child_ends_badly(store: Store) -> None:
    """Dramatiq counts the members that it knows."""
    group = Group(store, planned=2, callbacks=1, flags="w")
    group.contribute(root=slot(State.DONE, 1, 0, 1), a=CHILD.slot(State.FAILED, 1, 0))
    assert group.read().state is State.RUNNING
    assert group.ends(State.DONE, "callback").state is State.FAILED


def test_an_open_composite_does_not_end_before_it_is_closed(store: Store) -> None:
    group = Group(store, planned=0, flags="co")
    assert group.gather().state is State.ENQUEUED
    group.gather("a")
    group.ends(State.DONE, "a")
    seen = group.read()
    assert (seen.state, seen.current, seen.total, seen.percent) == (State.RUNNING, 1, None, None)
    assert group.close(2).state is State.RUNNING
    assert (group.read().total, group.read().percent) == (2, 50.0)
    group.gather("b")
    assert group.ends(State.DONE, "b").state is State.DONE


def test_an_open_composite_without_members_is_done_when_it_is_closed(store: Store) -> None:
    group = Group(store, planned=0, flags="co")
    group.gather()
    assert group.close(0).state is State.DONE


def test_a_delayed_composite_stays_so_when_it_is_closed(store: Store) -> None:
    group = Group(store, planned=0, flags="co")
    group.gather("a", is_delayed=True)
    assert group.close(1).state is State.DELAYED


def test_a_composite_can_be_read_as_its_members_carry_it(store: Store) -> None:
    membership = Membership("g1", 0, "nightly", "co", description="Working", title="Night", owner="ann")
    store.gather([Contribution((membership,), "", {})], [])
    assert store.read_membership("g1") == membership._replace(flags="co")
    assert store.read_membership("g2") is None


def test_the_membership_of_a_message_has_no_flags(store: Store) -> None:
    store.enqueue("m1", actor="work", queue="default", retries_left=0, cancellable=True, owner="ann")
    assert store.read_membership("m1") == Membership("m1", 0, "work", owner="ann")


def test_a_composite_is_lost_when_its_running_members_are_silent(group: Group) -> None:
    group.runs("a")
    version = group.read().version
    change_heartbeat(group.store)
    assert group.read().state is State.LOST
    group.runs("a")
    assert group.read().state is State.RUNNING
    assert group.read().version == version, "a heartbeat changes nothing that a reader sees"


def test_a_composite_whose_members_wait_is_not_lost(group: Group) -> None:
    group.ends(State.DONE, "b")
    group.contribute(a=slot(State.ENQUEUED, 7, 500, 1))
    change_heartbeat(group.store)
    assert group.read().state is State.RUNNING


def test_the_time_left_is_that_of_the_share(group: Group) -> None:
    def read() -> Progress:
        done["a"] = min(done["a"] + 1, 900)
        group.runs("a", thousandths=done["a"])
        return group.read()

    done = {"a": 0}
    seen = wait_until(lambda: found if (found := read()).eta is not None else None)
    assert seen is not None and seen.rate is None
    assert seen.eta is not None and seen.eta > 0


def test_fail_fast_cancels_the_rest(store: Store) -> None:
    group = Group(store, flags="f")
    group.gather("a", "b", "c")
    assert not group.runs("a", "b").cancel_requested
    answer = group.ends(State.FAILED, "a")
    assert (answer.cancel_requested, answer.state) == (True, State.RUNNING)
    assert group.ends(State.CANCELLED, "b").state is State.FAILED
    assert group.ends(State.CANCELLED, "c").state is State.FAILED


def test_a_failed_member_that_is_sent_again_runs_after_fail_fast(store: Store) -> None:
    group = Group(store, flags="f")
    group.gather("a", "b", "c")
    group.ends(State.DONE, "a")
    group.runs("b", "c")
    assert group.ends(State.FAILED, "b").cancel_requested
    assert not group.ends(State.FAILED, "c").cancel_requested, "there are no others"
    for name, state in (("b", State.FAILED), ("c", State.DONE)):
        assert not store.start(Attempt(name, "work", "default", path=(group.membership,))).is_unwanted
        answer = group.runs(name, attempt=2)
        assert (answer.state, answer.cancel_requested) == (State.RUNNING, False), "the other one has failed before"
        assert group.ends(State.DONE, name, attempt=2).state is state


def test_fail_fast_works_again_in_a_group_that_was_opened_again(store: Store) -> None:
    group = Group(store, flags="f")
    group.ends(State.DONE, "a")
    group.ends(State.FAILED, "b", "c")
    assert not group.runs("b", "c", attempt=2).cancel_requested
    assert group.ends(State.FAILED, "b", attempt=2).cancel_requested


def test_fail_fast_awaits_no_callback_that_is_never_sent(store: Store) -> None:
    group = Group(store, flags="f", callbacks=1)
    group.gather("a", "b", "callback")
    assert group.ends(State.FAILED, "a").cancel_requested
    answer = group.ends(State.CANCELLED, "b")
    assert (answer.state, answer.cancel_requested) == (State.FAILED, False)


# Cancel


@pytest.mark.parametrize("force", [False, True])
def test_a_group_that_a_failure_cancels_can_be_cancelled_too(store: Store, force: bool) -> None:
    group = Group(store, flags="cf")
    group.runs("a", "b", "c")
    group.ends(State.FAILED, "a")
    assert store.cancel("g1", force=force).outcome is CancelOutcome.REQUESTED
    version = group.read().version
    assert store.cancel("g1").outcome is CancelOutcome.REQUESTED
    assert group.read().version == version, "nothing is left to change"
    assert group.runs("b", thousandths=1).is_forced is force
    group.ends(State.CANCELLED, "b", "c")
    assert group.read().state is State.CANCELLED
    assert store.start(Attempt("a", "work", "default", path=(group.membership,))).is_unwanted


def test_a_composite_of_which_no_member_runs_is_cancelled_at_once(group: Group) -> None:
    group.gather("a", "b", "c")
    group.ends(State.DONE, "a")
    assert group.store.cancel("g1").outcome is CancelOutcome.CANCELLED
    assert group.read().state is State.CANCELLED
    assert [each.cancel_requested for each in group.store.peek(["g1"])] == [True]  # type: ignore[union-attr]
    assert group.ends(State.CANCELLED, "b", "c").state is State.CANCELLED


def test_a_cancelled_composite_never_fills_itself_up(group: Group) -> None:
    group.ends(State.DONE, "a")
    group.runs("b", thousandths=500)
    group.store.cancel("g1")
    group.contribute(b=slot(State.CANCELLED, 1, 600, 1))
    group.ends(State.SKIPPED, "c")
    seen = group.read()
    assert (seen.state, seen.current, seen.percent) == (State.CANCELLED, 3, 53.3)


def test_a_member_that_is_cancelled_before_it_runs_again_counts_with_its_last_report(group: Group) -> None:
    group.contribute(a=slot(State.RETRYING, 1, 900, 1))
    group.ends(State.CANCELLED, "a", attempt=2)
    assert group.read().percent == 30.0


def test_the_running_members_of_a_cancelled_composite_are_told(group: Group) -> None:
    group.runs("a")
    assert group.store.cancel("g1").outcome is CancelOutcome.REQUESTED
    assert group.runs("a", thousandths=1).cancel_requested
    assert group.ends(State.CANCELLED, "a").state is State.CANCELLED
    assert group.store.cancel("g1").outcome is CancelOutcome.CANCELLED


def test_a_start_finds_out_that_a_composite_is_to_be_cancelled(group: Group) -> None:
    group.gather("a", "b", "c")
    inner = Membership("g2", 1, "fetch")
    assert not group.store.start(Attempt("a", "work", "default", path=(inner, group.membership))).is_unwanted
    group.store.cancel("g1")
    assert group.store.start(Attempt("b", "work", "default", path=(inner, group.membership))).is_unwanted


def test_only_an_operator_cancels_members_whose_actors_are_not_cancellable(store: Store) -> None:
    group = Group(store)
    group.runs("a")
    assert store.cancel("g1") and not group.runs("a").is_forced
    assert store.cancel("g1", force=True).outcome is CancelOutcome.REQUESTED
    assert group.runs("a").is_forced
    [peek] = store.peek(["g1"])
    assert peek.cancel_requested and peek.is_forced  # type: ignore[union-attr]


def test_a_composite_can_be_cancelled_if_all_its_actors_can(store: Store) -> None:
    group = Group(store, flags="")
    group.gather("a")
    assert store.cancel("g1").outcome is CancelOutcome.NOT_CANCELLABLE
    # Also when others are added that can.
    group.membership = group.membership._replace(flags="c")
    group.gather("b")
    assert store.cancel("g1").outcome is CancelOutcome.NOT_CANCELLABLE
    assert store.cancel("g1", force=True).outcome is CancelOutcome.CANCELLED


# Losses


@pytest.mark.parametrize("flags", ["", "p"])
def test_a_failed_member_is_counted_once_if_it_is_sent_again_after_its_record_expired(
    store: Store, settings: Any, flags: str
) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 0.05}
    group = Group(store, planned=2, flags=flags)
    group.ends(State.DONE, "a")
    attempts = [Attempt("b", "work", "default", path=(group.membership,)) for _ in range(2)]
    store.start(attempts[0])
    store.finish(attempts[0], state=State.FAILED)
    assert group.ends(State.FAILED, "b").state is State.FAILED
    wait_until(lambda: store.read(["b"]) == [None])
    assert group.read().state is State.FAILED, "a group with a failed member lives longer"

    store.enqueue("b", actor="work", queue="default", retries_left=0)
    store.start(attempts[1])
    assert (attempts[1].number, attempts[1].has_new_record) == (1, True)
    text = group.membership.slot(State.RUNNING, 1, 0, has_new_record=attempts[1].has_new_record)
    assert group.contribute(b=text).state is State.RUNNING
    assert group.ends(State.DONE, "b").state is State.DONE
    wait_until(lambda: store.read(["g1"]) == [None])


def test_a_cancelled_group_with_a_failed_member_is_known_when_that_is_sent_again(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"FINISHED_TTL": 0.05}
    for id, state in (("g1", State.FAILED), ("g2", State.DONE)):
        group = Group(store, id=id)
        group.runs("a", "b", "c")
        group.ends(state, "a")
        store.cancel(id)
        group.ends(State.CANCELLED, "b", "c")
    wait_until(lambda: store.read(["g2"]) == [None])
    assert group.store.start(Attempt("a", "work", "default", path=(Membership("g1", 3, "resize"),))).is_unwanted


def test_an_attempt_after_a_failure_has_no_new_record(group: Group) -> None:
    """A report of an older attempt would be taken for a newer one otherwise."""
    for number in (1, 2):
        attempt = Attempt("a", "work", "default", path=(group.membership,))
        group.store.start(attempt)
        assert (attempt.number, attempt.has_new_record) == (number, number == 1)
        group.store.finish(attempt, state=State.FAILED)
        group.ends(State.FAILED, "a", attempt=number)
        group.store.enqueue("a", actor="work", queue="default", retries_left=0)


def test_a_composite_that_is_made_again_has_a_higher_version_and_another_birth(group: Group) -> None:
    before = group.runs("a")
    wait_until(lambda: time.time() * 1000 > int(before.born) + 2)
    drop(group.store, "g1")
    after = group.runs("b")
    assert after.previous is None and after.version > before.version and after.born != before.born
    assert group.read().parts == Parts(
        total=3, waiting=1, running=2, retrying=0, done=0, failed=0, cancelled=0, skipped=0
    ), "the members' own hash was still there"


def test_members_that_are_evicted_alone_are_noticed(group: Group) -> None:
    before = group.ends(State.DONE, "a", "b")
    drop(group.store, "members:{" + group.store.key("g1") + "}")
    after = group.ends(State.DONE, "c")
    assert (after.state, after.born != before.born) == (State.RUNNING, True)
    assert group.ends(State.DONE, "a", "b").state is State.DONE


def drop(store: Store, name: str) -> None:
    """Remove a key as an eviction does."""
    key = store.prefix + name
    if isinstance(store, MemoryStore):
        for kept in (store._records, store._members, store._expires_at):
            kept.pop(key, None)
        return
    assert isinstance(store, RedisStore)
    store._servers.send([("EVAL", "return redis.call('DEL', KEYS[1])", 1, key)])


def change_heartbeat(store: Store) -> None:
    """Let the last heartbeat be long ago."""
    if isinstance(store, MemoryStore):
        store._records[store.key("g1")]["heartbeat"] = "1.0"
        return
    assert isinstance(store, RedisStore)
    text = "return redis.call('HSET', KEYS[1], 'heartbeat', '1.0')"
    store._servers.send([("EVAL", text, 1, store.key("g1"))])


@pytest.mark.parametrize("prefix", ["dramatiq-progress:", "{site}:", "a{site}b:"])
def test_both_keys_are_in_one_slot_of_a_cluster(prefix: str) -> None:
    store = MemoryStore(prefix=prefix)
    record, members = store.key("g1"), store.members_key("g1")
    assert key_slot(record.encode()) == key_slot(members.encode())
    assert members.startswith(prefix) and members != record


def test_a_full_store_refuses_new_members_and_takes_ends(server: Server, settings: Any) -> None:
    store = RedisStore(prefix="x:", url=server.url, **PATIENT)
    group = Group(store)
    group.gather("a", "b", "c")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreRefused):
        group.gather("d")
    assert group.ends(State.DONE, "a", "b", "c").state is State.DONE
    server.ask("CONFIG", "SET", "maxmemory", "0")
    store.close()


def test_a_server_that_has_forgotten_the_scripts_gets_each_text_once(server: Server) -> None:
    store = RedisStore(prefix="x:", url=server.url, **PATIENT)
    members = new_messages(250)
    store.gather([], members)
    with server.client() as client:

        def received() -> int:
            return int(client.info("stats")["total_net_input_bytes"])

        before = received()
        store.gather([], members)
        known = received() - before
        client.script_flush()
        before = received()
        _, changes = store.gather([], members)
        # Sent twice, and the texts of two scripts.
        assert received() - before < 2 * known + 50_000
    assert len(changes) == 250
    store.close()


def test_the_order_in_which_a_server_learns_scripts_does_not_matter(server: Server) -> None:
    """`finish` is unknown and `part` known, so that the contribution is written first."""
    store = RedisStore(prefix="x:", url=server.url, **PATIENT)
    attempt = Attempt("a", "work", "default", path=(Membership("g1", 1, "resize"),))
    store.start(attempt)
    end = Contribution(attempt.path, "", {"a": slot(State.DONE, 1, 1000, 1)})
    with server.client() as client:
        client.script_flush()
    store.contribute([Contribution((Membership("other", 1, "resize"),), "", {})])
    change = store.finish(attempt, state=State.DONE, contribution=end)
    assert (change.written, change.state, change.attempt) == (True, State.DONE, 1)
    assert isinstance(change.composite, CompositeAnswer) and (change.composite.previous, change.composite.state) == (
        None,
        State.DONE,
    )
    assert [seen and seen.state for seen in store.read(["a", "g1"])] == [State.DONE, State.DONE]
    store.close()


# Many at once


def new_messages(count: int, **options: Any) -> list[NewMessage]:
    known: Mapping[str, Any] = {"actor": "work", "queue": "default", "retries_left": 3, "cancellable": True}
    return [NewMessage(id=f"m{i}", **{**known, "owner": "", "delay": None, **options}) for i in range(count)]


def test_a_thousand_members_are_recorded_in_few_round_trips(store: Store, monkeypatch: Any) -> None:
    calls: list[int] = []
    original = store._call

    def counted(made: Any) -> Any:
        calls.append(len(made))
        return original(made)

    monkeypatch.setattr(store, "_call", counted)
    members = new_messages(1000, owner="ann")
    slots = {each.id: waiting_slot(1) for each in members}
    membership = Membership("g1", 1000, "resize")
    answers, changes = store.gather([Contribution((membership,), "ann", slots)], members)
    assert len(calls) <= 7
    assert answers["g1"].previous is None and all(changes.values()) and len(changes) == 1000
    assert store.owned(["ann"]) == ["g1"], "the composite is listed, and no member"
    [group, first, last] = store.read(["g1", "m0", "m999"])
    assert group is not None and group.total == 1000
    assert first is not None and (first.state, first.owner) == (State.ENQUEUED, "ann")
    assert last is not None and (last.queue_position, last.queue_length) == (1000, 1000)


def test_members_that_are_recorded_late_only_add_what_is_missing(group: Group) -> None:
    group.ends(State.DONE, "m0")
    group.store.start(Attempt("m0", "work", "default"))
    slots = {f"m{i}": waiting_slot(1) for i in range(3)}
    members = new_messages(3)
    _, changes = group.store.gather([Contribution((group.membership,), "", slots)], members, age=5.0)
    assert [each.written for each in changes.values()] == [False, True, True]
    assert group.read().parts == Parts(
        total=3, waiting=2, running=0, retrying=0, done=1, failed=0, cancelled=0, skipped=0
    )
    [last] = group.store.read(["m2"])
    assert last is not None and last.queue_length == 2


def test_delayed_members_wait_in_no_queue(group: Group) -> None:
    slots = {f"m{i}": waiting_slot(1) for i in range(3)}
    contribution = Contribution((group.membership,), "", slots, 60.0, is_delayed=True)
    group.store.gather([contribution], new_messages(3, delay=60.0))
    assert group.read().state is State.DELAYED
    [member] = group.store.read(["m0"])
    assert member is not None and (member.state, member.queue_position) == (State.DELAYED, None)


def test_a_delayed_composite_waits_in_the_queue_once_a_member_is_due(group: Group) -> None:
    assert group.gather("a", "b", is_delayed=True).state is State.DELAYED
    assert group.gather().state is State.ENQUEUED
    assert group.gather("c", is_delayed=True).state is State.ENQUEUED


def test_what_could_not_be_sent_is_withdrawn(store: Store) -> None:
    contribution = Contribution((Membership("g1", 3, "resize"),), "ann", {f"m{i}": waiting_slot(1) for i in range(3)})
    answers, changes = store.gather([contribution], new_messages(3))
    store.withdraw_all({name: (change, "default") for name, change in changes.items()})
    store.withdraw_composite(contribution, answers["g1"])
    assert store.read(["g1", "m0", "m1", "m2"]) == [None] * 4
    assert store.owned(["ann"]) == []


def test_a_composite_that_has_changed_is_not_withdrawn(group: Group) -> None:
    answer = group.gather("a")
    group.runs("a")
    group.store.withdraw_composite(Contribution((group.membership,), "", {}), answer)
    assert group.read().state is State.RUNNING


def test_an_empty_composite_is_done(store: Store) -> None:
    group = Group(store, planned=0)
    assert group.gather().state is State.DONE
    assert (group.read().percent, group.read().total) == (None, 0)


def test_the_places_of_a_message_are_those_that_it_was_sent_with() -> None:
    membership = Membership("g1", 3, "resize", "c", 2, 9, 0, "")
    assert membership.option() == ["g1", 3, "resize", "c", 2, 9]
    assert Membership.parse(membership.option()) == membership
    assert Membership("g1", 3, "resize").option() == ["g1", 3, "resize"]


@pytest.mark.parametrize(
    "option", [[], "g1", ["a b", 3, "x"], ["g1", -1, "x"], ["g1", 3.5, "x"], ["g1", 3, None], ["g1", 3, "x", "?"], 3]
)
def test_odd_memberships_are_refused(option: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Membership.parse(option)


@pytest.mark.parametrize("state", ENDS)
def test_an_end_of_the_same_attempt_again_changes_nothing(group: Group, state: State) -> None:
    group.ends(state, "a")
    version = group.read().version
    for again in ENDS:
        assert group.ends(again, "a").version == version
    assert group.runs("a").version == version

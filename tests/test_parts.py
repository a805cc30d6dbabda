"""The contributions of members when the store loses records, refuses them or is down, and when messages come twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Pipelines, Retries

from dramatiq_progress import ProgressObserver, State, get_progress, owned_by, progress_actor, progress_group
from dramatiq_progress.errors import StoreUnavailable, StoreUnreachable
from dramatiq_progress.message_ids import MessageLike
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.owners import current_owner
from dramatiq_progress.progress import Parts
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import PATH_OPTION, CompositeAnswer, Contribution, Membership, slot
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.worker.recording import deferred
from dramatiq_progress.worker.recording.contributing import Contributor
from dramatiq_progress.worker.recording.deferred import Refusals
from dramatiq_progress.worker.recording.ledger import COMPOSITES_LIMIT, Ledger
from tests.brokers import as_global_broker, working
from tests.reading import when
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until


@pytest.fixture
def store(redis_store: Store, settings: Any) -> Store:
    """A store in Valkey, since others evict and flush it, and frequent heartbeats."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.2, "LOST_AFTER": 30.0}
    return redis_store


@pytest.fixture
def client(store: Any) -> Iterator[redis.Redis]:
    with store._servers._make_client() as made:
        yield made


@pytest.fixture
def broker(store: Store) -> Iterator[StubBroker]:
    made = StubBroker(middleware=[Pipelines(), Retries(max_retries=0), ProgressMiddleware()])
    with as_global_broker(made):
        with working(made, queues={"default"}):
            yield made
        made.close()


class Gate:
    """An actor whose messages end one by one, as a test lets them; another one ends at once."""

    def __init__(self, broker: StubBroker) -> None:
        self.allowed = threading.Semaphore(0)
        self.work = progress_actor(broker=broker, actor_name="work")(self._work)
        self.quick = progress_actor(broker=broker, actor_name="quick")(lambda *_: None)

    def _work(self, progress_observer: ProgressObserver, *_: Any) -> None:
        progress_observer.set_progress(1, 2)
        assert self.allowed.acquire(timeout=60)


@pytest.fixture
def gate(broker: StubBroker) -> Iterator[Gate]:
    made = Gate(broker)
    yield made
    made.allowed.release(1000)


def parts(message: MessageLike) -> Parts:
    found = get_progress(message)
    return found.parts if found is not None and found.parts is not None else Parts(**dict.fromkeys(FIELDS, 0))


FIELDS = ("total", "waiting", "running", "retrying", "done", "failed", "cancelled", "skipped")


def evict(client: redis.Redis, store: Store, *patterns: str) -> None:
    keys = [key for pattern in patterns for key in client.scan_iter(f"{store.prefix}{pattern}")]
    client.delete(*keys)


def test_a_store_that_is_emptied_gets_all_ends_again(gate: Gate, client: redis.Redis, store: Store) -> None:
    job = progress_group([gate.work.message(i) for i in range(6)]).run()
    gate.allowed.release(3)
    wait_until(lambda: parts(job).done == 3 and parts(job).running == 2)
    evict(client, store, "*")
    wait_until(lambda: parts(job).done == 3 and parts(job).total == 6)
    gate.allowed.release(3)
    assert when(job, State.DONE).current == 6


def test_members_that_are_evicted_while_none_runs_are_contributed_again(
    gate: Gate, client: redis.Redis, store: Store
) -> None:
    """No member runs that would find out: the process checks composites that aren't over."""
    job = progress_group([gate.quick.message(), gate.work.message().copy(queue_name="unserved")])
    job.broker.declare_queue("unserved")
    job.run()
    wait_until(lambda: parts(job).done == 1)
    evict(client, store, f"*{job.message_id}*")
    wait_until(lambda: parts(job).done == 1)


def test_an_inner_composite_that_is_lost_alone_comes_back(gate: Gate, client: redis.Redis, store: Store) -> None:
    inner = progress_group([gate.work.message(i) for i in range(4)], name="inner")
    job = progress_group([gate.quick.message(), inner]).run()
    gate.allowed.release(2)
    wait_until(lambda: parts(inner).done == 2 and parts(job).done == 1)
    evict(client, store, f"*{inner.message_id}*")
    wait_until(lambda: parts(inner).done == 2)
    gate.allowed.release(2)
    when(inner, State.DONE)
    assert when(job, State.DONE).current == 2


def test_a_redelivery_contributes_the_end_of_an_earlier_one(gate: Gate, broker: StubBroker, store: Store) -> None:
    """The worker was killed between the two writes."""
    message = gate.quick.message()
    membership = Membership("g1", 1, "quick")
    attempt = Attempt(message.message_id, "quick", "default")
    store.start(attempt)
    store.finish(attempt, state=State.DONE)
    assert get_progress("g1") is None
    broker.enqueue(message.copy(options={PATH_OPTION: [membership.option()]}))
    assert when("g1", State.DONE).current == 1


def test_a_composite_that_the_store_refuses_harms_no_member(
    gate: Gate, client: redis.Redis, store: Store, caplog: Any
) -> None:
    job = progress_group([gate.quick.message() for _ in range(3)])
    client.set(store.key(job.message_id), "of another program", ex=60)
    job.run()
    for message in job.children:
        when(message, State.DONE)
    client.delete(store.key(job.message_id))
    assert when(job, State.DONE).current == 3
    assert caplog.text.count(f"refused to write message {job.message_id}") <= 1


def test_a_group_that_is_sent_while_the_store_is_down_is_recorded_later(gate: Gate, settings: Any) -> None:
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = good | {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    job = progress_group([gate.work.message(i) for i in range(3)], description="Working").run()
    settings.DRAMATIQ_PROGRESS = good
    wait_until(lambda: parts(job).total == 3)
    gate.allowed.release(3)
    done = when(job, State.DONE)
    assert (done.current, done.description) == (3, "Working")


def test_groups_that_wait_for_the_store_take_limited_memory(gate: Gate, settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(deferred, "DEFERRED_BYTES", 100_000)
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = good | {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    jobs = [
        progress_group([gate.quick.message_with_options(metadata={"text": "x" * 1000}).copy(queue_name="unserved")])
        for _ in range(200)
    ]
    jobs[0].broker.declare_queue("unserved")
    for job in jobs:
        job.run()
    settings.DRAMATIQ_PROGRESS = good
    wait_until(lambda: get_progress(jobs[-1]) is not None)
    kept = [get_progress(job) is not None for job in jobs]
    assert 20 < sum(kept) < 100 and all(kept[-20:])


def test_ends_that_wait_for_the_store_are_contributed_when_it_is_back(gate: Gate, settings: Any) -> None:
    job = progress_group([gate.work.message(i) for i in range(2)]).run()
    wait_until(lambda: parts(job).running == 2)
    good = settings.DRAMATIQ_PROGRESS
    settings.DRAMATIQ_PROGRESS = good | {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    gate.allowed.release(2)
    job.broker.join("default")
    settings.DRAMATIQ_PROGRESS = good
    assert when(job, State.DONE).current == 2


def test_my_jobs_have_the_group_and_none_of_its_members(gate: Gate, store: Store, admin_user: Any) -> None:
    with owned_by(admin_user):
        job = progress_group([gate.quick.message() | gate.quick.message(), gate.quick.message()]).run()
        owner = current_owner(job.message_id)
    done = when(job, State.DONE)
    assert store.owned([owner]) == [job.message_id]
    assert done.owner == owner
    [member] = store.read([job.children[1].message_id])
    assert member is not None and member.owner == owner


def test_a_thousand_members_are_sent_in_few_round_trips(store: Any, monkeypatch: Any) -> None:
    broker = StubBroker(middleware=[Retries(), ProgressMiddleware()])
    actor = progress_actor(broker=broker, actor_name="work")(lambda *_: None)
    trips: list[int] = []
    send = store._servers.send
    monkeypatch.setattr(store._servers, "send", lambda commands, *rest: (trips.append(1), send(commands, *rest))[1])
    with as_global_broker(broker):
        job = progress_group([actor.message(i) for i in range(1000)]).run()
    assert len(trips) <= 20
    assert parts(job).waiting == 1000
    broker.close()


def test_a_message_with_an_odd_membership_runs_by_itself(gate: Gate, broker: StubBroker, caplog: Any) -> None:
    message = broker.enqueue(gate.quick.message().copy(options={PATH_OPTION: ["g1", 3]}))
    when(message, State.DONE)
    assert "doesn't contribute to its group or pipeline" in caplog.text


def note(ledger: Ledger, composite: str, member: str, state: State = State.RUNNING) -> None:
    contribution = Contribution((Membership(composite, 1, "work"),), "", {member: slot(State.DONE, 1, 0, 1)})
    ledger.note(contribution, CompositeAnswer(None, state, 1, False, False, "1", 0, 0), keeps=True)


def test_a_member_that_was_cancelled_counts_with_its_last_report_after_a_loss(
    gate: Gate, broker: StubBroker, client: redis.Redis, store: Store
) -> None:
    """It waited for a retry, here or in another process: the record has its last report."""
    message = gate.quick.message()
    membership = Membership("g1", 2, "quick")
    attempt = Attempt(message.message_id, "quick", "default", path=(membership,))
    store.start(attempt)
    store.finish(attempt, state=State.RETRYING, fields={"current": "9", "total": "10"}, retry_in=0.0)
    store.cancel(message.message_id, force=True)
    broker.queues["default"].put(message.copy(options={PATH_OPTION: [membership.option()]}).encode())
    wait_until(lambda: parts("g1").cancelled == 1)
    for _ in range(2):
        seen = get_progress("g1")
        assert seen is not None and seen.percent == 45.0
        evict(client, store, "*")
        wait_until(lambda: parts("g1").cancelled == 1)


def test_the_end_of_a_member_brings_along_what_the_store_refused(
    gate: Gate, broker: StubBroker, server: Server, settings: Any
) -> None:
    """A full store refuses new members, and takes ends."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"OPTIONS": {"url": server.url, **PATIENT}}
    broker.declare_queue("unserved")

    def send() -> None:
        server.ask("CONFIG", "SET", "maxmemory", "1")
        for _ in range(2):
            broker.enqueue(gate.quick.message().copy(queue_name="unserved"))
        inner = gate.quick.message().copy(queue_name="unserved") | gate.quick.message()
        progress_group([inner], broker=broker).run()

    root = progress_actor(broker=broker, actor_name="send")(send)
    job = progress_group([progress_group([root.message()])], with_children=True).run()
    wait_until(lambda: parts(job).done == 1)
    found = get_progress(job)
    assert found is not None and (found.state, found.total) == (State.RUNNING, 4)
    server.ask("CONFIG", "SET", "maxmemory", "0")


class Failing(MemoryStore):
    """A store in memory that fails at the first contributions.

    Parameters:
      error: What it answers, or raises unless it is of the store.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(prefix="p:")
        self._errors = [error]

    def contribute(
        self, contributions: Sequence[Contribution], *, age: float = 0.0
    ) -> list[CompositeAnswer | StoreUnavailable]:
        if not self._errors:
            return super().contribute(contributions, age=age)
        error = self._errors.pop()
        if isinstance(error, StoreUnavailable):
            return [error] * len(contributions)
        raise error


@pytest.mark.parametrize(
    "error", [StoreUnreachable("timeout"), RuntimeError("a bug")], ids=lambda each: type(each).__name__
)
def test_ends_are_contributed_again_after_an_error_that_left_them_out(error: Exception) -> None:
    """A store came back empty, and failed again at the first of several round trips."""
    groups = [f"g{number}" for number in range(6)]
    contributor = Contributor(Refusals(), lambda: None)

    def end(store: Store, member: str) -> None:
        for group in groups:
            text = slot(State.DONE, 1, 0, 1)
            contributor.contribute(store, [Contribution((Membership(group, 2, "work"),), "", {member: text})])

    end(MemoryStore(prefix="p:"), "a")
    emptied = Failing(error)
    contributor.doubt()
    with pytest.raises(type(error)):
        contributor.repair(emptied)
    end(emptied, "b")
    for _ in range(3):
        contributor.doubt()
        contributor.repair(emptied)
    states = {each.id: each.state for each in emptied.read(groups) if each is not None}
    assert states == dict.fromkeys(groups, State.DONE)


def test_the_ledger_keeps_the_last_report_of_a_member_that_is_cancelled_before_it_runs_again() -> None:
    ledger = Ledger()
    for text in (slot(State.RETRYING, 1, 900, 1), slot(State.CANCELLED, 2, 0, 1)):
        contribution = Contribution((Membership("g1", 1, "work"),), "", {"a": text})
        ledger.note(contribution, CompositeAnswer(None, State.RUNNING, 1, False, False, "1", 0, 0), keeps=True)
    ledger.mark_incomplete("g1")
    [again] = ledger.take_incomplete()
    assert again.slots == {"a": slot(State.CANCELLED, 2, 900, 1)}


def test_the_ledger_remembers_the_composites_that_contributed_last() -> None:
    ledger = Ledger()
    inner = [f"g{number}" for number in range(COMPOSITES_LIMIT + 5)]
    for each in inner:
        note(ledger, each, "a")
        note(ledger, "outer", each)
    known = ledger.unfinished(without=())
    assert len(known) == COMPOSITES_LIMIT and "g0" not in known
    ledger.mark_incomplete("outer")
    assert [list(each.slots) for each in ledger.take_incomplete()] == [inner]


def test_the_ledger_forgets_composites_that_are_over_first() -> None:
    ledger = Ledger()
    note(ledger, "first", "a")
    for number in range(COMPOSITES_LIMIT + 5):
        note(ledger, f"g{number}", "a", State.DONE)
    assert ledger.unfinished(without=()) == ["first"]

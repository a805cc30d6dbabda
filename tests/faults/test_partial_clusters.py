"""A cluster that serves some of its slots: the records on the nodes that are alive aren't affected by the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, StoreUnavailable, get_progress
from dramatiq_progress.errors import StoreUnreachable
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.web.streams.hub import Hub
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests import topologies
from tests.event_streams import run_within
from tests.reading import found, when
from tests.steps import Steps
from tests.store_server import Server
from tests.topologies import Topology
from tests.waiting import BUSY_SECONDS, PATIENT, wait_until

PARTIAL = ("--cluster-require-full-coverage", "no")

#: For tests of how often a frozen node is waited for. With the default of 0.25 s, a living node on a busy machine may
#: be late too, and twenty timeouts take hardly longer than a busy machine.
TIMEOUT_SECONDS = 2.0
TIMEOUTS = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}


@pytest.fixture
def cluster(tmp_path: Path, settings: Any) -> Iterator[Topology]:
    with topologies.cluster(tmp_path, configuration=PARTIAL) as made:
        options = {**made.options, **PATIENT}
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": options, "FLUSH_INTERVAL": 0.02, "HEARTBEAT_INTERVAL": 0.1}
        yield made
        get_store().close()


def id_on(cluster: Topology, node: Server, prefix: str = "m", *, elsewhere: bool = False) -> str:
    """Return a message id whose record is on this node, or on any other."""
    ids = (f"{prefix}{number}" for number in count())
    return next(each for each in ids if (cluster.master(get_store().key(each)) is node) is not elsewhere)


def lose(cluster: Topology, node: Server, *, how: str = "killed") -> list[Server]:
    """Lose a master and its replica, and return the other masters, which serve their slots."""
    replica = next(each for each in cluster.servers if each.ask("ROLE")[:3] == ["slave", "127.0.0.1", node.port])
    replica.kill()
    if how == "killed":
        node.kill()
    else:
        node.freeze()
    lost = (node, replica)
    living = [each for each in cluster.servers if each not in lost and each.is_master()]
    wait_until(lambda: all(each.ask("CLUSTER INFO")["cluster_slots_fail"] != "0" for each in living))
    wait_until(lambda: all(each.ask("CLUSTER INFO")["cluster_state"] == "ok" for each in living))
    return living


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_only_the_records_of_a_lost_node_are_unreachable(
    cluster: Topology, client: Client, settings: Any, how: str
) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, "OPTIONS": {**cluster.options, **TIMEOUTS}}
    store = get_store()
    lost = cluster.master(store.key("m0"))
    assert lost is not None
    here, gone = id_on(cluster, lost, elsewhere=True), "m0"
    attempts = [Attempt(each, "work", "default") for each in (gone, here)]
    for each in attempts:
        store.start(each)
    lose(cluster, lost, how=how)
    took = []
    for number in range(1, 21):
        began = time.monotonic()
        first, second = store.report([(each, {"current": str(number)}) for each in attempts])
        assert isinstance(first, StoreUnreachable)
        # In the first round trip it isn't tried, so that there is one timeout.
        assert second == "written" or number == 1
        [progress] = store.read([here])
        assert (progress is not None and progress.current == number) or number == 1
        with pytest.raises(StoreUnreachable, match=str(lost.port)):
            store.read([gone])
        took.append(time.monotonic() - began)
    # One timeout, and the patience of readers at the start of an outage.
    assert sum(took) < TIMEOUT_SECONDS + 1 + BUSY_SECONDS
    assert store.health.is_available
    assert client.get(f"/progress/{gone}/").status_code == 503
    # Not in "unknown": whether it exists isn't known.
    assert client.get(f"/progress/?id={here}&id={gone}").status_code == 503
    with pytest.raises(StoreUnreachable, match=str(lost.port)):
        store.ping()
    assert store.health.is_available
    if how == "killed":
        lost.start()
    else:
        lost.thaw()
    wait_until(lambda: reported(store, attempts[0]))
    store.ping()


def reported(store: RedisStore, attempt: Attempt) -> bool:
    [outcome] = store.report([(attempt, {"current": "30"})])
    return not isinstance(outcome, StoreUnavailable)


def test_jobs_are_right_on_living_nodes_and_on_the_lost_one_when_it_is_back(
    cluster: Topology, broker: StubBroker
) -> None:
    steps = Steps(broker)
    store = get_store()

    def send(message_id: str) -> dramatiq.Message[Any]:
        return broker.enqueue(steps.actor.message().copy(message_id=message_id))

    queue = cluster.master(store.queue_key("default"))
    lost = next(each for each in cluster.masters() if each is not queue)
    ids = [id_on(cluster, lost, prefix) for prefix in ("early", "late", "lasting")]
    here_id = id_on(cluster, lost, elsewhere=True)
    gone = send(ids[0])
    # It occupies one of the two threads of the worker.
    steps.go(4)
    wait_until(lambda: (reading := found(gone)) is not None and reading.current == 4)
    living = lose(cluster, lost)
    late = send(ids[1])
    steps.go(16)
    broker.join("default")
    here = send(here_id)
    steps.go(3)
    wait_until(lambda: (reading := found(here)) is not None and reading.current == 3)
    assert when(here, State.RUNNING).total == 10
    for each in (gone, late):
        with pytest.raises(StoreUnreachable):
            get_progress(each.message_id)
    # Heartbeats are sent too.
    node = next(each for each in living if store.key(here_id) in each.ask("KEYS", "*"))
    before = node.ask("HGET", store.key(here_id), "heartbeat")
    wait_until(lambda: node.ask("HGET", store.key(here_id), "heartbeat") != before)
    lasting = send(ids[2])
    wait_until(lambda: len(get_recorder().bindings()) == 2)
    # It comes back empty.
    lost.start()
    for each in (gone, late):
        done = when(each, State.DONE)
        assert (done.current, done.total, done.description, done.result) == (10, 10, "Stepping", "all")
    # Its start is written first, and then its report.
    wait_until(lambda: (reading := found(lasting)) is not None and reading.total == 10)
    assert when(lasting, State.RUNNING).metadata == {"kind": "steps"}
    steps.go(17)
    assert when(here, State.DONE).result == when(lasting, State.DONE).result == "all"


class Watching:
    """A stream that records what it is notified of."""

    def __init__(self) -> None:
        self.news: list[str | None] = []

    def notify(self, message_id: str | None) -> None:
        self.news.append(message_id)


def test_streams_of_messages_on_living_nodes_continue(cluster: Topology) -> None:
    store = get_store()
    lost = cluster.master(store.key("m0"))
    assert lost is not None
    here, gone = Attempt(id_on(cluster, lost, elsewhere=True), "work", "default"), Attempt("m0", "work", "default")
    for each in (here, gone):
        store.start(each)

    async def scenario() -> None:
        hub, both, one = Hub(store), Watching(), Watching()
        hub.watch(both, [here.message_id, gone.message_id])
        hub.watch(one, [here.message_id])
        await until(lambda: gone.message_id in both.news and here.message_id in one.news)
        await asyncio.to_thread(lose, cluster, lost)
        await until(lambda: None in both.news)
        both.news.clear()
        one.news.clear()
        await asyncio.to_thread(store.report, [(here, {"current": "2"})])
        await until(lambda: here.message_id in both.news and here.message_id in one.news)
        assert None not in one.news
        await asyncio.to_thread(lost.start)
        # As one that doesn't exist: the node has come back empty.
        await until(lambda: gone.message_id in both.news)
        assert None not in both.news
        hub.close()

    run_within(120, scenario)


async def until(condition: Any) -> None:
    await asyncio.to_thread(wait_until, condition)


def test_a_call_that_is_redirected_to_a_frozen_node_costs_one_timeout(tmp_path: Path, settings: Any) -> None:
    # Long enough that the node isn't replaced during the test.
    with topologies.cluster(tmp_path, configuration=("--cluster-node-timeout", "60000")) as cluster:
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": {**cluster.options, **TIMEOUTS}}
        store = get_store()
        queue = cluster.master(store.queue_key("default"))
        assert queue is not None
        source, target = (each for each in cluster.masters() if each is not queue)
        moving, staying = id_on(cluster, source), id_on(cluster, queue)
        for each in (moving, staying):
            store.enqueue(each, actor="work", queue="default", retries_left=0)
        steps = topologies.move(cluster, [store.key(moving)], target)
        next(steps)
        next(steps)
        assert store.read([moving])[0] is not None
        target.freeze()
        took = []
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(StoreUnreachable):
                store.read([moving])
            took.append(time.monotonic() - began)
            assert store.read([staying])[0] is not None
        # After the patience of the first reader, none waits: a timeout for each would be 38 s.
        assert sum(took[1:]) < BUSY_SECONDS
        assert store.health.is_available
        target.thaw()
        wait_until(lambda: can_read(store, moving))
        store.close()


def can_read(store: RedisStore, message_id: str) -> bool:
    try:
        return store.read([message_id])[0] is not None
    except StoreUnreachable:
        return False

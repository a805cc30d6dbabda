"""Failovers of the store: masters that are killed or frozen, and slots that move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, StoreUnavailable
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from tests import topologies
from tests.faults import tasks
from tests.faults.scene import SceneFactory
from tests.reading import found, when
from tests.steps import Steps
from tests.store_server import Server
from tests.topologies import Topology
from tests.waiting import BUSY_SECONDS, PATIENT, wait_until

#: The time within which the store must be usable after a failover.
RECOVERY_SECONDS = 2.0


@pytest.fixture(params=[topologies.sentinel, topologies.cluster])
def topology(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[Topology]:
    """The servers of this process's store, for this test only, with the default timeouts."""
    with request.param(tmp_path) as made:
        yield from use(made, settings)


@pytest.fixture
def cluster(tmp_path: Path, settings: Any) -> Iterator[Topology]:
    """The nodes of this process's store, for a test in which no timeout matters: none of them is due to a fault."""
    with topologies.cluster(tmp_path) as made:
        yield from use(made, settings, **PATIENT)


@pytest.fixture
def sentinels(tmp_path: Path, settings: Any) -> Iterator[Topology]:
    """The same with Sentinels."""
    with topologies.sentinel(tmp_path) as made:
        yield from use(made, settings, **PATIENT)


def use(topology: Topology, settings: Any, **timeouts: float) -> Iterator[Topology]:
    options = {**topology.options, **timeouts}
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": options, "FLUSH_INTERVAL": 0.02, "HEARTBEAT_INTERVAL": 0.1}
    yield topology
    get_store().close()


def seconds(action: Callable[[], object]) -> float:
    """Return how long a caller waited, with or without success."""
    began = time.monotonic()
    with suppress(StoreUnavailable):
        action()
    return time.monotonic() - began


def reaches(message: dramatiq.Message[Any], current: int) -> None:
    wait_until(lambda: (reading := found(message)) is not None and reading.current >= current)


def lose_master(topology: Topology, how: str, key: str) -> Server:
    return topology.kill_master(key) if how == "killed" else topology.freeze_master(key)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_job_that_ends_while_its_master_is_gone_is_done_after_the_failover(
    topology: Topology, broker: StubBroker, how: str
) -> None:
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(4)
    reaches(message, 3)
    key = get_store().key(message.message_id)
    lost = lose_master(topology, how, key)
    steps.go(6)
    broker.join("default")
    assert steps.attempts == [1]
    topology.wait_for_failover(lost, key)
    began = time.monotonic()
    done = when(message, State.DONE)
    assert time.monotonic() - began < RECOVERY_SECONDS + BUSY_SECONDS
    assert (done.current, done.total, done.description, done.result) == (10, 10, "Stepping", "all")
    assert (done.attempt, done.metadata) == (1, {"kind": "steps"})
    if how == "frozen":
        # It takes itself for the master until it is reconfigured (by Sentinels, 8 s later). No client queries it.
        lost.thaw()
        wait_until(lost.answers)
        assert when(message, State.DONE).current == 10


def test_callers_wait_for_a_frozen_master_once(topology: Topology) -> None:
    store = get_store()
    wait_until(lambda: can_read(store))
    lost = topology.freeze_master(store.key("m1"))
    waits = [seconds(lambda: store.read([f"m{i}" for i in range(1, 101)])) for _ in range(60)]
    # A timeout for each would be 15 s.
    assert sum(waits) < 0.25 + BUSY_SECONDS
    lost.thaw()


def can_read(store: Store) -> bool:
    try:
        store.read(["m1"])
        return True
    except StoreUnavailable:
        return False


def test_threads_wait_together_for_one_attempt_to_reach_a_cluster(cluster: Topology) -> None:
    for each in cluster.servers:
        each.freeze()
    store = RedisStore(prefix="p:", **cluster.options)
    waits: list[float] = []
    # Those that come after an attempt make another one.
    together = threading.Barrier(8)

    def wait() -> None:
        together.wait()
        waits.append(seconds(lambda: store.read(["m1"])))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One timeout for each node in the settings, and not eight times that.
    assert len(waits) == 8 and max(waits) < 0.25 * len(cluster.servers) + BUSY_SECONDS
    store.close()
    for each in cluster.servers:
        each.thaw()


def test_a_cluster_that_was_completely_down_is_found_again(cluster: Topology, broker: StubBroker) -> None:
    for each in cluster.servers:
        each.kill()
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(2)
    for each in cluster.servers:
        each.start()
    reaches(message, 1)
    steps.go(8)
    assert when(message, State.DONE).attempt == 1


def test_commands_go_to_the_new_master_after_a_demotion(sentinels: Topology) -> None:
    store, attempt = get_store(), Attempt("m1", "work", "default")
    store.start(attempt)
    old = sentinels.master()
    assert old is not None
    sentinels.others[0].ask("SENTINEL", "FAILOVER", topologies.SERVICE_NAME)
    new = sentinels.wait_for_failover(old)
    # A Sentinel does this 8 s later. Until then the old master accepts writes, which are lost.
    old.ask("REPLICAOF", "127.0.0.1", new.port)
    wait_until(lambda: written(store, attempt))
    assert new.ask("HGET", store.key("m1"), "current") == "7"


def written(store: RedisStore, attempt: Attempt) -> bool:
    try:
        store.ping()
        [outcome] = store.report([(attempt, {"current": "7"})])
        return not isinstance(outcome, StoreUnavailable)
    except StoreUnavailable:
        return False


def test_a_server_that_accepts_no_writes_refuses_them_and_can_be_read(server: Server) -> None:
    store = RedisStore(prefix="p:", url=f"redis://{server.address}/0", **PATIENT)
    attempt = Attempt("m1", "work", "default")
    store.start(attempt)
    server.ask("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreRefused, match="ReadOnlyError"):
        store.finish(attempt, state=State.DONE)
    [progress] = store.read(["m1"])
    assert progress is not None and progress.state is State.RUNNING
    server.ask("REPLICAOF", "NO", "ONE")
    store.ping()
    assert store.finish(attempt, state=State.DONE)
    store.close()


def test_a_cluster_without_a_part_of_its_slots_is_unavailable(cluster: Topology) -> None:
    """After the loss of a master without a replica, nothing is written or read until it is back."""
    store = get_store()
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    lost = cluster.kill_master(store.key("m1"))
    others = [each for each in cluster.servers if each is not lost]
    replica = next(each for each in others if each.ask("ROLE")[:3] == ["slave", "127.0.0.1", lost.port])
    replica.kill()
    others.remove(replica)
    # The other masters answer PING, and refuse every write.
    wait_until(lambda: all(each.ask("CLUSTER INFO")["cluster_state"] == "fail" for each in others))
    with pytest.raises(StoreUnavailable):
        store.ping()
    lost.start()
    assert wait_until(lambda: written(store, Attempt("m1", "work", "default", number=1)))


def test_records_are_written_and_read_while_their_slots_move(cluster: Topology, tmp_path: Path) -> None:
    """The target is a new node, which isn't in the slot map before it gets its first slot."""
    store = get_store()
    attempts = [Attempt(f"m{i}", "work", "default") for i in range(40)]
    for attempt in attempts:
        store.start(attempt)
    target = topologies.add_node(cluster, tmp_path)
    # A node that is silent on a busy machine isn't replaced, which would lose writes.
    cluster.never_fail_over()
    step = 0
    for done in topologies.move(cluster, [store.key(each.message_id) for each in attempts[:12]], target):
        step += 1
        answers = store.report([(each, {"current": str(step)}) for each in attempts])
        assert answers == ["written"] * len(attempts), done
        readings = store.read([each.message_id for each in attempts])
        assert [each and each.current for each in readings] == [step] * len(attempts), done
    assert target.is_master() and step > 12


@pytest.mark.parametrize("make_topology", [topologies.sentinel, topologies.cluster])
def test_the_jobs_of_a_worker_are_right_after_a_failover(
    make_topology: Callable[[Path], AbstractContextManager[Topology]], make_scene: SceneFactory, tmp_path: Path
) -> None:
    """Some jobs of a real worker end before the master is killed, some while there is none, some afterwards."""
    folder = tmp_path / "servers"
    folder.mkdir()
    with make_topology(folder) as topology:
        scene = make_scene(store=topology)
        go_on = tmp_path / "go-on"
        with scene.worker("-p", "1", "-t", "4"):
            before = scene.send(tasks.report_for, 0.1)
            scene.when(before, State.DONE)
            meanwhile, lasting = scene.send(tasks.report_for, 1.0), scene.send(tasks.wait_for, str(go_on))
            scene.when(lasting, State.RUNNING, current=1)
            key = f"dramatiq-progress:{lasting.message_id}"
            # A replica may not have received the last writes. It isn't read before that is noted.
            with scene.reader.between_looks:
                lost = topology.kill_master(key)
                scene.lost_records()
            wait_until(lambda: scene.deeds(meanwhile, "ended"))
            topology.wait_for_failover(lost, key)
            scene.when(meanwhile, State.DONE)
            scene.when(lasting, State.RUNNING, current=1)
            go_on.touch()
            scene.heal()

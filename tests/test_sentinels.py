"""The thread that asks the Sentinels for the master: where it runs, and what follows from its answer."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from tests import topologies
from tests.reading import found, when
from tests.steps import Steps
from tests.topologies import Topology
from tests.waiting import PATIENT, wait_until

# Most start three Sentinels.
pytestmark = pytest.mark.slow(2)


def watchers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "dramatiq-progress-sentinels"]


@pytest.fixture
def watched(sentinels: Topology) -> Iterator[RedisStore]:
    wait_until(lambda: not watchers())
    store = RedisStore(prefix="test-sentinels:", **sentinels.options, **PATIENT)
    yield store
    store.close()


def test_one_thread_asks_the_sentinels_until_the_store_is_closed(watched: RedisStore) -> None:
    assert not watchers()
    callers = [threading.Thread(target=lambda: watched.read(["m1"])) for _ in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    wait_until(lambda: len(watchers()) == 1)
    watched.close()
    wait_until(lambda: not watchers())
    watched.read(["m1"])
    assert not watchers()


# The sockets of such a store are closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_that_is_dropped_without_being_closed_leaves_no_thread(sentinels: Topology) -> None:
    wait_until(lambda: not watchers())
    store: RedisStore | None = RedisStore(prefix="test-sentinels:", **sentinels.options, **PATIENT)
    assert store is not None
    store.read(["m1"])
    wait_until(watchers)
    store = None
    # A store and its health refer to each other. Again and again: the thread refers to the store while it looks at it.
    wait_until(lambda: gc.collect() is not None and not watchers())


def test_no_thread_is_started_without_sentinels(valkey: str) -> None:
    wait_until(lambda: not watchers())
    store = RedisStore(prefix="test-sentinels:", url=valkey, **PATIENT)
    before = threading.active_count()
    store.read(["m1"])
    assert threading.active_count() == before
    store.close()


def test_a_forked_process_asks_the_sentinels_too(watched: RedisStore) -> None:
    watched.read(["m1"])
    wait_until(watchers)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            inherited = len(watchers())
            watched.read(["m1"])
            wait_until(watchers)
            status = inherited
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- A planned failover: the old master accepts writes until it is demoted, 10 s later ----


@pytest.fixture
def topology(tmp_path: Path, settings: Any) -> Iterator[Topology]:
    with topologies.sentinel(tmp_path) as made:
        options = {**made.options, **PATIENT}
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": options, "FLUSH_INTERVAL": 0.02, "HEARTBEAT_INTERVAL": 0.1}
        yield made
        get_store().close()


def test_commands_go_to_the_new_master_before_the_old_one_is_demoted(topology: Topology) -> None:
    store, attempt = get_store(), Attempt("m1", "work", "default")
    store.start(attempt)
    old, new = topologies.replace_master(topology)

    def is_written() -> bool:
        store.report([(attempt, {"current": "7"})])
        return bool(new.ask("HGET", store.key("m1"), "current") == "7")

    wait_until(is_written)
    assert old.is_master()
    assert store.finish(attempt, state=State.DONE)
    assert new.ask("HGET", store.key("m1"), "state") == "done"


def test_a_running_job_is_complete_on_the_new_master(topology: Topology, broker: StubBroker) -> None:
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(4)
    wait_until(lambda: (reading := found(message)) is not None and reading.current == 4)
    # As if the last writes hadn't been replicated.
    replica = next(each for each in topology.servers if not each.is_master())
    replica.ask("CONFIG", "SET", "replica-read-only", "no")
    key = get_store().key(message.message_id)
    assert replica.ask("HDEL", key, "description", "total") == 2
    old, new = topologies.replace_master(topology)
    wait_until(lambda: new.ask("HMGET", key, "description", "total") == ["Stepping", "10"])
    assert old.is_master()
    steps.go(6)
    assert when(message, State.DONE).current == 10

"""A closed store leaves no connection open, whatever its threads are doing at that moment."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from dramatiq_progress import StoreUnavailable
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.stores.subscription import Listener
from tests import topologies
from tests.store_server import Server
from tests.topologies import Topology
from tests.waiting import PATIENT, wait_until

NAME = "closing"


class _OneServer(Topology):
    def master(self, key: str = "") -> Server | None:
        return self.servers[0]


@contextmanager
def one_server(folder: Path) -> Iterator[Topology]:
    server = Server(folder, *topologies.IN_MEMORY)
    server.start()
    yield _OneServer({"url": server.url}, [server])
    server.stop()


@pytest.fixture(scope="module", params=[one_server, topologies.sentinel, topologies.cluster])
def topology(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with request.param(tmp_path_factory.mktemp("closing")) as made:
        made.never_fail_over()
        yield made


def new_store(topology: Topology, **given: Any) -> RedisStore:
    options = {**topology.options, **PATIENT, "client_name": NAME, **given}
    if "sentinels" in options:
        options["sentinel_kwargs"] = {"client_name": NAME}
    return RedisStore(prefix="closing:", **options)


def connections(topology: Topology, servers: list[Server] | None = None) -> list[dict[str, str]]:
    """Return a store's connections according to the servers, or to these of them."""
    answers = [each.ask("CLIENT LIST") for each in servers or [*topology.servers, *topology.others]]
    return [client for answer in answers for client in answer if client["name"] == NAME]


@contextmanager
def frozen(servers: list[Server]) -> Iterator[None]:
    with ExitStack() as all_frozen:
        for each in servers:
            all_frozen.enter_context(each.frozen())
        yield


def reading(store: RedisStore) -> threading.Thread:
    """Start a thread that reads a record once, from a store that may be closed meanwhile."""

    def read() -> None:
        with suppress(StoreUnavailable):
            store.read(["m1"])

    made = threading.Thread(target=read)
    made.start()
    return made


def new_thread(name: str, before: Collection[threading.Thread]) -> threading.Thread:
    """Wait for a thread with this name that is not among those from before."""
    found = wait_until(lambda: [each for each in threading.enumerate() if each.name == name and each not in before])
    return found[0]


def wait_for_round_trip(thread: threading.Thread) -> None:
    """Wait until a thread waits for a server's answer."""

    def functions() -> list[str]:
        frame = sys._current_frames().get(thread.ident or 0)
        return [] if frame is None else [each.f_code.co_name for each, _ in traceback.walk_stack(frame)]

    wait_until(lambda: "read_response" in functions())


def test_a_command(topology: Topology) -> None:
    store = new_store(topology)
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    assert connections(topology)
    with frozen(topology.servers):
        reader = reading(store)
        wait_for_round_trip(reader)
        # The command isn't cut off: it would be sent again, over a connection that nothing closes.
        store.close()
    reader.join()
    # A thread that asks the Sentinels may end later.
    wait_until(lambda: not connections(topology))


def test_the_probe_of_a_store_that_was_unreachable(topology: Topology) -> None:
    store = new_store(topology, socket_timeout=1)
    store.enqueue("m1", actor="work", queue="default", retries_left=0)
    before = threading.enumerate()
    with frozen(topology.servers):
        reading(store).join()
        probe = new_thread("dramatiq-progress-probe", before)
        wait_for_round_trip(probe)
        store.close()
    probe.join()
    wait_until(lambda: not connections(topology))


def test_a_subscription(topology: Topology) -> None:
    store, before = new_store(topology), threading.enumerate()
    with frozen(topology.servers):
        store.subscribe(Mock(Listener))
        thread = new_thread("dramatiq-progress-subscription", before)
        wait_for_round_trip(thread)
        store.close()
    thread.join()
    wait_until(lambda: not connections(topology))


@pytest.mark.parametrize("topology", [topologies.sentinel], indirect=True)
def test_the_search_for_the_master(topology: Topology) -> None:
    store, before = new_store(topology), threading.enumerate()
    store.read(["m1"])
    watcher = new_thread("dramatiq-progress-sentinels", before)
    wait_until(lambda: connections(topology, topology.others))
    with frozen(topology.others):
        wait_for_round_trip(watcher)
        # The thread asks the next Sentinel.
        store.close()
    watcher.join()
    assert not connections(topology)

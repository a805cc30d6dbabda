"""Fixtures that every test may use."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import hypothesis
import pytest
import redis

from dramatiq_progress import stores
from dramatiq_progress.stores import Store, get_store, schedules
from dramatiq_progress.worker.recording import recorder
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests import servers, topologies
from tests.store_server import Server, eternal_keys
from tests.waiting import PATIENT, wait_until

pytest_plugins = [
    "tests.axe",
    "tests.bars",
    "tests.browser",
    "tests.django_site",
    "tests.engines",
    "tests.people",
    "tests.rabbitmq",
    "tests.scheduling",
    "tests.steps",
    "tests.streaming_site",
    "tests.faults.scene",
]

# No deadline, since a busy machine is not a failure. In CI a test that passed once passes again.
hypothesis.settings.register_profile("project", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("project")

#: Tests of tasks, which Django has from 6.0 on, and of their absence. They aren't skipped elsewhere: in CI no test is.
collect_ignore = ["test_backends_import.py"]
if django.VERSION < (6, 0):
    collect_ignore = [
        "faults/test_tasks.py",
        "test_backends.py",
        "test_django_suite.py",
        "test_django_tasks_page.py",
        "test_schedule_tasks.py",
        "test_task_consumers.py",
    ]
elif sys.version_info < (3, 13):
    # django-periodic-tasks requires it.
    collect_ignore += ["test_task_consumers.py"]

#: The databases of the Valkey server that contain nothing but stores.
ONLY_STORES = (0, 1)


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    """A store for this test only: one with the same settings may be in an outage, or closed, in another test."""
    yield
    current, stores._current = stores._current, stores._Current()
    if current.store is not None:
        current.store.close()


@pytest.fixture(autouse=True)
def own_recorder(own_store: None) -> Iterator[None]:
    """A recorder for this test only: no test inherits the messages or the outage of another."""
    yield
    used = get_recorder()

    def has_ended() -> bool:
        for source in used.bindings():
            used.close(source)
        # Otherwise its thread would write them to the store of the next test, or continue without a store.
        deferred = used._deferred
        for kept in (deferred._ready, deferred._waiting, deferred._parked, used._running._changed):
            kept.clear()
        used.stop()
        # What was being written at that moment may have been kept again.
        return not (used._thread.is_running or used._has_more())

    wait_until(has_ended)
    recorder.replace_recorder()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a Valkey server, without a database number; each test has its own key prefix or database."""
    with servers.valkey() as url:
        yield url
        for database in range(16):
            # Most are shared with a broker, whose keys don't expire.
            pattern = "*" if database in ONLY_STORES else "dramatiq-progress:*"
            with client_of(f"{url}/{database}") as client:
                assert eternal_keys(client, pattern) == []


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server, the oldest that is supported, without a database number."""
    with servers.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[topologies.Topology]:
    """A master that Sentinels monitor, for tests that don't break it."""
    with topologies.sentinel(tmp_path_factory.mktemp("sentinel")) as made:
        made.never_fail_over()
        yield made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[topologies.Topology]:
    """A cluster, for tests that don't break it."""
    with topologies.cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.never_fail_over()
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server for a store, for this test only."""
    made = Server(tmp_path, "--save", "")
    made.start()
    yield made
    if made.is_running():
        with made.client() as client:
            assert eternal_keys(client) == []
    made.stop()


@pytest.fixture
def redis_store(valkey: str, settings: Any) -> Iterator[Store]:
    """The store of this process, in Valkey, with a key prefix for this test only."""
    url = f"{valkey}/1"
    yield from _use(settings, _in_redis({"url": url}), lambda: [client_of(url)])


@pytest.fixture
def old_redis_store(redis_server: str, settings: Any) -> Iterator[Store]:
    """The store of this process, in the oldest supported Redis, with a key prefix for this test only."""
    url = f"{redis_server}/1"
    yield from _use(settings, _in_redis({"url": url}), lambda: [client_of(url)])


@pytest.fixture
def sentinel_store(sentinels: topologies.Topology, settings: Any) -> Iterator[Store]:
    """The store of this process, in the master that Sentinels monitor, with a key prefix for this test only."""
    yield from _use(settings, _in_redis(sentinels.options), lambda: _clients_of(sentinels))


@pytest.fixture
def cluster_store(cluster: topologies.Topology, settings: Any) -> Iterator[Store]:
    """The store of this process, in a cluster, with a key prefix for this test only."""
    yield from _use(settings, _in_redis(cluster.options), lambda: _clients_of(cluster))


@pytest.fixture
def memory_store(settings: Any) -> Iterator[Store]:
    """The store of this process, in memory."""
    yield from _use(
        settings,
        {"STORE": "dramatiq_progress.stores.memory.MemoryStore", "PREFIX": f"test-{secrets.token_hex(4)}:"},
    )


@pytest.fixture(params=["redis_store", "memory_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn."""
    made: Store = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=["redis_store", "old_redis_store", "sentinel_store", "cluster_store", "memory_store"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn, with the oldest server and each kind of topology."""
    made: Store = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that is declared as known by a scheduler can be claimed at once, as if its record weren't lost."""
    monkeypatch.setattr(schedules, "HOLD_SECONDS", 0.0)


def _in_redis(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "STORE": "dramatiq_progress.stores.redis.RedisStore",
        "OPTIONS": {**options, **PATIENT},
        "PREFIX": f"test-{secrets.token_hex(4)}:",
    }


def _use(
    settings: Any, wanted: dict[str, Any], clients: Callable[[], list[redis.Redis]] = lambda: []
) -> Iterator[Store]:
    """Yield the store of this process. Afterwards, check that each of its keys has a TTL."""
    settings.DRAMATIQ_PROGRESS = wanted
    made = get_store()
    yield made
    made.close()
    for each in clients():
        with each as client:
            assert eternal_keys(client, f"{wanted['PREFIX']}*") == []


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, **PATIENT)


def _clients_of(topology: topologies.Topology) -> list[redis.Redis]:
    return [each.client() for each in topology.masters()]

"""Fixtures that every test may use."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from dramatiq_progress import recorder
from dramatiq_progress.recorder import get_recorder
from dramatiq_progress.stores import Store, get_store
from tests import servers, topologies
from tests.store_server import Server

pytest_plugins = [
    "tests.axe",
    "tests.bars",
    "tests.browser",
    "tests.django_site",
    "tests.people",
    "tests.rabbitmq",
    "tests.steps",
    "tests.streaming_site",
    "tests.faults.scene",
]

# A busy machine is no failure; and what passes once in CI passes again.
hypothesis.settings.register_profile("project", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("project")

#: A test must not fail because the machine is busy; the default of 0.25 s has tests of its own.
PATIENT = {"socket_timeout": 10, "socket_connect_timeout": 10}


@pytest.fixture(autouse=True)
def own_recorder() -> Iterator[None]:
    """No test inherits the messages or the trouble of another."""
    yield
    used = get_recorder()
    for source in used.sources():
        used.close(source)
    used.stop()
    recorder.replace_recorder()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a Valkey server, without a database number; tests keep apart by key prefix or database."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server, the oldest that is supported, without a database number."""
    with servers.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[topologies.Topology]:
    """A master that Sentinels watch, for tests that do it no harm."""
    with topologies.sentinel(tmp_path_factory.mktemp("sentinel")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[topologies.Topology]:
    """A cluster, for tests that do it no harm."""
    with topologies.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A store's server of this test's own, which runs."""
    made = Server(tmp_path, "--save", "")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def redis_store(valkey: str, settings: Any) -> Iterator[Store]:
    """A store in Valkey, as this process's own, with keys of this test only."""
    yield from _use(settings, _in_redis({"url": f"{valkey}/1"}))


@pytest.fixture
def old_redis_store(redis_server: str, settings: Any) -> Iterator[Store]:
    """A store in the oldest Redis, as this process's own, with keys of this test only."""
    yield from _use(settings, _in_redis({"url": f"{redis_server}/1"}))


@pytest.fixture
def sentinel_store(sentinels: topologies.Topology, settings: Any) -> Iterator[Store]:
    """A store in the master that Sentinels name, as this process's own, with keys of this test only."""
    yield from _use(settings, _in_redis(sentinels.options))


@pytest.fixture
def cluster_store(cluster: topologies.Topology, settings: Any) -> Iterator[Store]:
    """A store in a cluster, as this process's own, with keys of this test only."""
    yield from _use(settings, _in_redis(cluster.options))


@pytest.fixture
def memory_store(settings: Any) -> Iterator[Store]:
    """A store in memory, as this process's own."""
    yield from _use(
        settings,
        {"STORE": "dramatiq_progress.stores.memory.MemoryStore", "PREFIX": f"test-{secrets.token_hex(4)}:"},
    )


@pytest.fixture(params=["redis_store", "memory_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn."""
    made: Store = request.getfixturevalue(request.param)
    return made


def _in_redis(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "STORE": "dramatiq_progress.stores.redis.RedisStore",
        "OPTIONS": {**options, **PATIENT},
        "PREFIX": f"test-{secrets.token_hex(4)}:",
    }


def _use(settings: Any, wanted: dict[str, Any]) -> Iterator[Store]:
    settings.DRAMATIQ_PROGRESS = wanted
    made = get_store()
    yield made
    made.close()

"""A site of several processes: this one sends, and workers in processes of their own do the work."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from dramatiq_progress import Progress, State, get_progress
from dramatiq_progress.middleware import ProgressMiddleware
from tests import rabbitmq, servers
from tests.conftest import PATIENT
from tests.waiting import wait_until

#: With these the Redis broker notices within seconds that a worker is gone; by default it takes minutes.
QUICK_REDIS_BROKER = {"heartbeat_timeout": 1000, "maintenance_chance": 1_000_000}
#: The defaults, ten times as quick.
QUICK_PROGRESS = {"HEARTBEAT_INTERVAL": 0.5, "LOST_AFTER": 1.5}


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rabbitmq.rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url


@dataclass
class Site:
    """This process as the sender, and workers in processes of their own."""

    broker: dramatiq.Broker
    environment: dict[str, str]
    folder: Path

    def send(self, actor: dramatiq.Actor[..., Any], *args: Any) -> dramatiq.Message[Any]:
        return self.broker.enqueue(actor.message(*args))

    @contextmanager
    def worker(self, *options: str, program: str = "dramatiq") -> Iterator[Any]:
        log = self.folder / f"worker-{secrets.token_hex(2)}.log"
        with servers.worker(*options, log=log, environment=self.environment, program=program) as child:
            yield child


def read(message: dramatiq.Message[Any]) -> Progress:
    progress = get_progress(message.message_id)
    assert progress is not None
    return progress


def when(message: dramatiq.Message[Any], state: State) -> Progress:
    wait_until(lambda: read(message).state is state)
    return read(message)


@pytest.fixture(params=["redis", "rabbitmq"])
def site(request: pytest.FixtureRequest, valkey: str, settings: Any, tmp_path: Path) -> Iterator[Site]:
    """A site on each broker in turn, with the intervals of QUICK_PROGRESS."""
    store_url = f"{valkey}/3"
    settings.DRAMATIQ_PROGRESS = {
        "STORE": "dramatiq_progress.stores.redis.RedisStore",
        "OPTIONS": {"url": store_url, **PATIENT},
        **QUICK_PROGRESS,
    }
    environment = {"TEST_STORE_URL": store_url, "TEST_PROGRESS": json.dumps(QUICK_PROGRESS)}
    broker: dramatiq.Broker
    if request.param == "redis":
        broker_url = f"{valkey}/4"
        broker = RedisBroker(url=broker_url, middleware=[], **QUICK_REDIS_BROKER)
        environment["TEST_BROKER_OPTIONS"] = json.dumps(QUICK_REDIS_BROKER)
    else:
        broker_url = request.getfixturevalue("rabbitmq_url")
        broker = RabbitmqBroker(url=broker_url, middleware=[])
    broker.add_middleware(ProgressMiddleware())
    # The sender knows the actors by name, as a web process does that has imported them.
    broker.actors.update(dramatiq.get_broker().actors)
    broker.declare_queue("default")
    environment["TEST_BROKER_URL"] = broker_url
    yield Site(broker, environment, tmp_path)
    broker.close()
    if isinstance(broker, RedisBroker):
        broker.client.close()

"""Real worker processes, of every kind that Dramatiq starts, on Redis and on RabbitMQ."""

from __future__ import annotations

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
from tests import rabbitmq, servers, tasks
from tests.conftest import PATIENT
from tests.waiting import wait_until


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
    store_url = f"{valkey}/3"
    settings.DRAMATIQ_PROGRESS = {
        "STORE": "dramatiq_progress.stores.redis.RedisStore",
        "OPTIONS": {"url": store_url, **PATIENT},
    }
    broker: dramatiq.Broker
    if request.param == "redis":
        broker_url = f"{valkey}/4"
        broker = RedisBroker(url=broker_url, middleware=[])
    else:
        broker_url = request.getfixturevalue("rabbitmq_url")
        broker = RabbitmqBroker(url=broker_url, middleware=[])
    broker.add_middleware(ProgressMiddleware())
    # The sender knows the actors by name, as a web process does that has imported them.
    broker.actors.update(dramatiq.get_broker().actors)
    broker.declare_queue("default")
    yield Site(broker, {"TEST_BROKER_URL": broker_url, "TEST_STORE_URL": store_url}, tmp_path)
    broker.close()
    if isinstance(broker, RedisBroker):
        broker.client.close()


def test_every_broker_tells_the_same_story(site: Site) -> None:
    waiting, next_one = site.send(tasks.asynchronous), site.send(tasks.asynchronous)
    assert read(waiting).state is State.ENQUEUED
    before, behind = read(waiting).queue_position, read(next_one).queue_position
    assert before is not None and behind == before + 1 == read(next_one).queue_length
    with site.worker("-p", "1", "-t", "2"):
        assert when(waiting, State.DONE).current == 1

        failing = site.send(tasks.fail_once)
        retrying = when(failing, State.RETRYING)
        assert (retrying.attempt, retrying.current, retrying.retries_left) == (1, 1, 2)
        done = when(failing, State.DONE)
        assert (done.attempt, done.current) == (2, 2)

        plain = site.send(tasks.plain)
        assert get_progress(plain.message_id) is None


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("dramatiq", ["-p", "2", "-t", "4"]),
        ("dramatiq", ["-p", "2", "-t", "4", "--use-spawn"]),
        ("dramatiq-gevent", ["-p", "1", "-t", "4"]),
    ],
    ids=["fork", "spawn", "gevent"],
)
@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_that_is_told_to_stop_finishes_and_tells_so(
    site: Site, program: str, options: list[str], tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    messages = [site.send(tasks.wait_for_file, str(go_on)) for _ in range(4)]
    with site.worker(*options, program=program) as child:
        for message in messages:
            wait_until(lambda message=message: read(message).current == 1)
            assert read(message).state is State.RUNNING
        child.terminate()
        go_on.touch()
        child.wait(30)
    assert [(read(each).state, read(each).current) for each in messages] == [(State.DONE, 2)] * 4

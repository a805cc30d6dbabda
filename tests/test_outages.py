"""Jobs and their records while the store is down, empty, full or mute, with a real server."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_progress import (
    Progress,
    ProgressObserver,
    State,
    StoreUnavailable,
    get_progress,
    progress_actor,
    progress_group,
)
from dramatiq_progress.errors import StoreRefused, StoreUnreachable
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.reading import found, when
from tests.steps import Steps
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until


@pytest.fixture
def server(settings: Any, tmp_path: Path) -> Iterator[Server]:
    """A server that can be stopped and started again, empty, on the same port."""
    made = Server(tmp_path, "--save", "")
    settings.DRAMATIQ_PROGRESS = {
        "OPTIONS": {"url": made.url, **PATIENT},
        "FLUSH_INTERVAL": 0.02,
        "HEARTBEAT_INTERVAL": 0.1,
    }
    yield made
    get_store().close()
    made.stop()


def test_a_job_that_ends_during_an_outage_is_done_afterwards(server: Server, broker: StubBroker) -> None:
    server.start()
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(4)
    wait_until(lambda: (found(message) or Progress(id="", actor="", queue="", state=State.LOST)).current >= 3)
    server.stop()
    steps.go(6)
    broker.join("default")
    assert steps.attempts == [1]
    server.start()
    done = when(message, State.DONE)
    assert (done.current, done.total, done.description, done.result) == (10, 10, "Stepping", "all")
    assert (done.attempt, done.metadata) == (1, {"kind": "steps"})


def test_a_running_job_is_complete_again_when_the_store_is_back_empty(server: Server, broker: StubBroker) -> None:
    server.start()
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(4)
    before = when(message, State.RUNNING)
    server.stop()
    server.start()
    wait_until(lambda: (reading := found(message)) is not None and reading.current == 4)
    again = when(message, State.RUNNING)
    assert (again.total, again.description, again.metadata) == (10, "Stepping", {"kind": "steps"})
    assert (again.attempt, again.actor, again.queue) == (1, "steps", "default")
    assert again.version > before.version
    steps.go(6)
    assert when(message, State.DONE).current == 10


def test_jobs_that_started_during_an_outage_appear_afterwards(server: Server, broker: StubBroker) -> None:
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(2)
    server.start()
    running = when(message, State.RUNNING)
    assert running.attempt == 1
    wait_until(lambda: (reading := found(message)) is not None and reading.current >= 1)
    steps.go(8)
    assert when(message, State.DONE).metadata == {"kind": "steps"}


def test_a_message_that_was_sent_during_an_outage_appears_afterwards(server: Server) -> None:
    idle = StubBroker(middleware=[ProgressMiddleware()])
    message = progress_actor(broker=idle, actor_name="idle")(lambda: None).send()
    server.start()
    assert when(message, State.ENQUEUED).attempt == 0


def test_an_open_group_is_found_after_an_outage_in_which_members_were_added(server: Server) -> None:
    server.start()
    idle = StubBroker(middleware=[ProgressMiddleware()])
    actor = progress_actor(broker=idle, actor_name="idle")(lambda: None)
    job = progress_group([], name="nightly", fail_fast=True, open=True, broker=idle).run()
    message = actor.send()
    other, wrong = (progress_group.of(each, broker=idle) for each in (job, message))
    with server.frozen():
        other.add([actor.message()])
    wait_until(lambda: (reading := found(job)) is not None and reading.parts is not None and reading.parts.total == 1)
    other.add([actor.message()])
    assert (other.composition.name, other.composition.flags) == ("nightly", "fo")
    with pytest.raises(ValueError, match=f"{message.message_id} isn't an open group"):
        wrong.add([actor.message()])


def test_a_message_that_is_finished_during_an_outage_is_done_afterwards(server: Server, broker: StubBroker) -> None:
    """It is sent, fails, is retried and done while the store is down. Its outcome is shown."""
    runs: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        runs.append(progress_observer.attempt)
        progress_observer.set_progress(len(runs), 2)
        if len(runs) == 1:
            raise RuntimeError("the first")

    message = progress_actor(broker=broker)(work).send()
    broker.join("default")
    assert runs == [1, 2]
    server.start()
    done = when(message, State.DONE)
    assert (done.current, done.attempt) == (2, 2)


def test_an_outage_and_its_end_are_logged_once(server: Server, broker: StubBroker, caplog: Any) -> None:
    caplog.set_level(logging.INFO, logger="dramatiq_progress")
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    messages = [actor.send() for _ in range(50)]
    broker.join("default")
    server.start()
    for message in messages:
        when(message, State.DONE)
    wait_until(lambda: "The progress store is available again." in caplog.text)
    assert caplog.text.count("The progress store is unavailable") == 1


def test_many_requests_in_one_outage_are_one_log_line(server: Server, client: Client, caplog: Any) -> None:
    for _ in range(5):
        assert client.get("/progress/m1/").status_code == 503
    assert caplog.text.count("The progress store is unavailable") == 1
    server.start()
    wait_until(lambda: client.get("/progress/m1/").status_code == 404)


def test_changes_that_are_lost_with_a_process_are_logged(server: Server, broker: StubBroker, caplog: Any) -> None:
    progress_actor(broker=broker, actor_name="work")(lambda: None).send()
    broker.join("default")
    get_recorder().stop()
    assert "2 state changes are lost" in caplog.text


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_only_the_first_caller_waits_for_a_store_that_never_answers(mute: socket.socket) -> None:
    store = RedisStore(prefix="p:", url=f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
    before = threading.enumerate()
    with pytest.raises(StoreUnreachable):
        store.read(["m1"])
    store.health.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each not in before])
    drain(mute)
    for _ in range(20):
        with pytest.raises(StoreUnreachable):
            store.read(["m1"])
    assert drain(mute) == 0
    store.close()


def drain(mute: socket.socket) -> int:
    """Close the connections that wait to be accepted, and return their number."""
    mute.setblocking(False)
    count = 0
    while True:
        try:
            mute.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_full_store_accepts_a_cancel_and_an_outcome(server: Server) -> None:
    server.start()
    store = get_store()
    attempt = Attempt("m1", "work", "default", cancellable=True)
    store.start(attempt)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            store.enqueue("m2", actor="work", queue="default", retries_left=0)
        (outcome,) = store.report([(attempt, {"current": "4"})])
        assert isinstance(outcome, StoreRefused) and "OutOfMemory" in str(outcome)
        assert store.cancel("m1")
        assert store.finish(attempt, state=State.DONE, fields={"current": "5"})
        client.config_set("maxmemory", "0")
    progress = get_progress("m1")
    assert progress is not None and (progress.state, progress.current) == (State.DONE, 5)
    assert progress.cancel_requested


def test_a_record_that_cannot_be_written_does_not_affect_others(redis_store: RedisStore, valkey: str) -> None:
    good, bad = Attempt("good", "work", "default"), Attempt("bad", "work", "default")
    for each in (good, bad):
        redis_store.start(each)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        client.delete(redis_store.key("bad"))
        client.lpush(redis_store.key("bad"), "no hash")
        client.expire(redis_store.key("bad"), 60)
    reports = [(bad, {"current": "1"}), (good, {"current": "2"})]
    assert redis_store.report(reports)[1] == "written"


def test_the_log_of_an_outage_names_the_address_and_no_password(settings: Any, client: Client, caplog: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://:hunter2@127.0.0.1:1/0"}}
    assert client.get("/progress/m1/").status_code == 503
    assert "127.0.0.1:1" in caplog.text and "hunter2" not in caplog.text
    get_store().close()


class ConnectionOfBroker(redis.Connection):
    """A connection with a timeout that can be changed while it is open."""

    timeout: float = PATIENT["socket_timeout"]

    def read_response(self, *args: Any, **options: Any) -> Any:
        if self._sock is not None:
            self._sock.settimeout(self.timeout)
        return super().read_response(*args, **options)


def test_a_server_that_is_the_broker_too_and_is_frozen(
    server: Server,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dramatiq gives up the acknowledgement after redis-py's timeouts. The server may have received it, or not."""
    server.start()

    def work() -> tuple[Steps, Worker]:
        pool = redis.ConnectionPool(
            connection_class=ConnectionOfBroker, host="127.0.0.1", port=server.port, retry=Retry(NoBackoff(), 0)
        )
        quick = {"heartbeat_timeout": 1_000, "maintenance_chance": 1_000_000}
        broker = RedisBroker(client=redis.Redis(connection_pool=pool), **quick)
        request.addfinalizer(pool.disconnect)
        broker.add_middleware(ProgressMiddleware())
        broker.emit_after("process_boot")
        steps = Steps(broker)
        worker = Worker(broker, worker_timeout=100, worker_threads=1)
        worker.start()
        request.addfinalizer(worker.stop)
        return steps, worker

    steps, worker = work()
    message = steps.actor.send()
    steps.go(4)
    when(message, State.RUNNING)
    # A short timeout only while the server is frozen. If a fetch times out, the server keeps its message for the broker
    # that has fetched it as long as that broker lives, and no worker gets it.
    with server.frozen(), monkeypatch.context() as patched:
        patched.setattr(ConnectionOfBroker, "timeout", 0.5)
        steps.go(6)
        wait_until(lambda: "You've found a bug in Dramatiq" in caplog.text)
    done = when(message, State.DONE)
    assert done.current == 10
    worker.stop()
    again, _ = work()
    with server.client() as client:
        if client.hlen("dramatiq:default.msgs"):
            again.go(10)
        wait_until(lambda: not client.hlen("dramatiq:default.msgs"))
    assert when(message, State.DONE).attempt == 1
    assert steps.attempts == [1]

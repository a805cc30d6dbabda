"""What happens to jobs and their records while the store is down, gone, empty, full or mute; with a real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import Progress, ProgressObserver, State, StoreUnavailable, get_progress, progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.recorder import get_recorder
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.base import Attempt, Report
from dramatiq_progress.stores.redis import RedisStore
from tests.steps import Steps, found, when
from tests.store_server import Server
from tests.waiting import wait_until


@pytest.fixture
def server(settings: Any, tmp_path: Path) -> Iterator[Server]:
    """A server that goes down and comes back, empty, at the same address."""
    made = Server(tmp_path, "--save", "")
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": made.url}, "FLUSH_INTERVAL": 0.02, "HEARTBEAT_INTERVAL": 0.1}
    yield made
    get_store().close()
    made.stop()


def test_a_job_that_ends_while_the_store_is_down_is_done_when_it_is_back(server: Server, broker: StubBroker) -> None:
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


def test_a_running_job_is_right_again_when_the_store_came_back_empty(server: Server, broker: StubBroker) -> None:
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


def test_jobs_that_began_without_a_store_appear_when_there_is_one(server: Server, broker: StubBroker) -> None:
    steps = Steps(broker)
    message = steps.actor.send()
    steps.go(2)
    server.start()
    running = when(message, State.RUNNING)
    assert running.attempt == 1
    wait_until(lambda: (reading := found(message)) is not None and reading.current >= 1)
    steps.go(8)
    assert when(message, State.DONE).metadata == {"kind": "steps"}


def test_a_message_that_waits_appears_when_there_is_a_store(server: Server) -> None:
    idle = StubBroker(middleware=[ProgressMiddleware()])
    message = progress_actor(broker=idle, actor_name="idle")(lambda: None).send()
    server.start()
    assert when(message, State.ENQUEUED).attempt == 0


def test_a_whole_life_without_a_store_ends_well(server: Server, broker: StubBroker) -> None:
    """Sent, failed, retried and done while the store was down: the end is what is shown."""
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


def test_an_outage_is_told_once_and_its_end_too(server: Server, broker: StubBroker, caplog: Any) -> None:
    actor = progress_actor(broker=broker, actor_name="work")(lambda: None)
    messages = [actor.send() for _ in range(50)]
    broker.join("default")
    server.start()
    for message in messages:
        when(message, State.DONE)
    wait_until(lambda: "The progress store answers again." in caplog.text)
    assert caplog.text.count("Progress is not being written") == 1


def test_many_browsers_and_one_outage_are_one_log_line(server: Server, client: Client, caplog: Any) -> None:
    for _ in range(5):
        assert client.get("/progress/m1/").status_code == 503
    assert caplog.text.count("Progress is not being written or read") == 1
    server.start()
    wait_until(lambda: client.get("/progress/m1/").status_code == 404)


def test_what_is_lost_with_a_process_is_told(server: Server, broker: StubBroker, caplog: Any) -> None:
    progress_actor(broker=broker, actor_name="work")(lambda: None).send()
    broker.join("default")
    get_recorder().stop()
    assert "2 changes of state are lost when this process ends" in caplog.text


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_store_that_never_answers_is_asked_once(mute: socket.socket) -> None:
    store = RedisStore(prefix="p:", url=f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            store.read(["m1"])
    mute.setblocking(False)
    asked = 0
    while True:
        try:
            mute.accept()[0].close()
        except BlockingIOError:
            break
        asked += 1
    assert asked == 1
    store.close()


def test_a_full_store_takes_a_cancel_and_the_end_of_a_message_all_the_same(server: Server) -> None:
    server.start()
    store = get_store()
    attempt = Attempt("m1", "work", "default")
    store.start(attempt)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            store.enqueue("m2", actor="work", queue="default", retries_left=0)
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            store.report([Report(attempt, {"current": "4"})])
        assert store.cancel("m1")
        assert store.finish(attempt, state=State.DONE, fields={"current": "5"})
        client.config_set("maxmemory", "0")
    progress = get_progress("m1")
    assert progress is not None and (progress.state, progress.current) == (State.DONE, 5)
    assert progress.cancel_requested


def test_one_record_that_cannot_be_written_keeps_back_no_other(redis_store: RedisStore, valkey: str) -> None:
    good, bad = Attempt("good", "work", "default"), Attempt("bad", "work", "default")
    for each in (good, bad):
        redis_store.start(each)
    with redis.Redis.from_url(f"{valkey}/1") as client:
        client.delete(redis_store.key("bad"))
        client.lpush(redis_store.key("bad"), "no hash")
    reports = [Report(bad, {"current": "1"}), Report(good, {"current": "2"})]
    assert redis_store.report(reports) == ["failed", "written"]

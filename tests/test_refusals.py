"""A record that the store refuses to write or to read concerns no other record, and is no outage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import State, StoreUnavailable, get_progress
from dramatiq_progress.errors import StoreRefused, StoreUnreachable
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.recording import deferred
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests import topologies
from tests.reading import found, when
from tests.steps import Steps
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until

FAST = {"FLUSH_INTERVAL": 0.02, "HEARTBEAT_INTERVAL": 0.1, "LOST_AFTER": 2.0}


@pytest.fixture
def server(server: Server, settings: Any) -> Iterator[Server]:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url, **PATIENT}, **FAST}
    yield server
    get_store().close()


@pytest.fixture
def steps(broker: StubBroker) -> Steps:
    return Steps(broker, total=1_000)


@pytest.fixture
def other(broker: StubBroker) -> Steps:
    return Steps(broker, total=10, actor_name="other")


def spoil(server: Server, message_id: str) -> None:
    """Replace a record by a value that isn't a hash: the store refuses to write or read it from now on."""
    with server.client() as client:
        key = get_store().key(message_id)
        # At once: a heartbeat in between would make the record again.
        client.pipeline().delete(key).rpush(key, "not a hash").expire(key, 60).execute()


def current(message: dramatiq.Message[Any]) -> float:
    progress = found(message)
    return -1 if progress is None else progress.current


def keeps_moving(steps: Steps, message: dramatiq.Message[Any]) -> bool:
    """Take steps, and return whether the reports of each are written."""
    for _ in range(5):
        steps.go(1)
        # The last step is reported when the loop comes back for the next one.
        wait_until(lambda: current(message) >= steps.taken - 1)
    progress = get_progress(message.message_id)
    return progress is not None and progress.state is State.RUNNING


def test_a_refused_start_keeps_no_other_message_from_being_written(
    server: Server, broker: StubBroker, steps: Steps, other: Steps
) -> None:
    good = steps.actor.send()
    steps.go(1)
    when(good, State.RUNNING)
    bad = other.actor.message()
    spoil(server, bad.message_id)
    broker.enqueue(bad)
    other.go(3)
    assert keeps_moving(steps, good)
    assert get_store().health.is_available
    other.go(7)
    wait_until(lambda: other.attempts == [1])
    assert keeps_moving(steps, good)
    steps.go(1_000 - steps.taken)
    when(good, State.DONE)


def test_a_refused_outcome_is_no_outage_and_is_logged_once(
    server: Server, broker: StubBroker, steps: Steps, other: Steps, caplog: Any
) -> None:
    good, bad = steps.actor.send(), other.actor.send()
    steps.go(1)
    other.go(1)
    when(bad, State.RUNNING)
    spoil(server, bad.message_id)
    other.go(9)
    wait_until(lambda: other.attempts == [1])
    wait_until(lambda: "refused" in caplog.text)
    assert keeps_moving(steps, good)
    steps.go(1_000 - steps.taken)
    when(good, State.DONE)
    broker.join("default")
    get_recorder().stop()
    assert caplog.text.count(f"refused to write message {bad.message_id}") == 1
    assert "The progress store is unavailable;" not in caplog.text


def test_a_refused_message_is_written_when_the_store_accepts_it(server: Server, steps: Steps, other: Steps) -> None:
    bad = other.actor.send()
    other.go(1)
    when(bad, State.RUNNING)
    spoil(server, bad.message_id)
    other.go(3)
    wait_until(lambda: bool(get_recorder()._running._held))
    with server.client() as client:
        client.delete(get_store().key(bad.message_id))
    wait_until(lambda: current(bad) >= 3, timeout=30)
    other.go(6)
    assert when(bad, State.DONE).current == 10


def test_a_refused_record_is_dropped_after_the_limit_that_the_log_names(
    server: Server, broker: StubBroker, other: Steps, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(deferred, "REFUSED_LIMIT_SECONDS", 1.0)
    bad = other.actor.send()
    other.go(1)
    when(bad, State.RUNNING)
    spoil(server, bad.message_id)
    other.go(9)
    broker.join("default")
    wait_until(lambda: f"Dropping the progress of message {bad.message_id}" in caplog.text)
    assert "has refused for 1 s (the limit)" in caplog.text
    wait_until(lambda: not get_recorder()._deferred)


def test_a_full_node_of_a_cluster_keeps_no_message_of_another_node_from_being_written(
    broker: StubBroker, steps: Steps, other: Steps, settings: Any, tmp_path: Path
) -> None:
    with topologies.cluster(tmp_path) as cluster:
        settings.DRAMATIQ_PROGRESS = {"OPTIONS": cluster.options | PATIENT, **FAST}
        good = steps.actor.send()
        steps.go(1)
        when(good, State.RUNNING)
        key = get_store().key
        home = cluster.master(key(good.message_id))
        bad = other.actor.message()
        while cluster.master(key(bad.message_id)) is home:
            bad = other.actor.message()
        full = cluster.master(key(bad.message_id))
        full.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        full.ask("CONFIG", "SET", "maxmemory", "1")
        broker.enqueue(bad)
        other.go(3)
        assert keeps_moving(steps, good)
        full.ask("CONFIG", "SET", "maxmemory", "0")
        other.go(7)
        when(bad, State.DONE)
        steps.go(1_000 - steps.taken)
        when(good, State.DONE)
        get_recorder().stop()
        get_store().close()


def test_one_unreadable_key_among_many_hides_only_itself(
    server: Server, client: Client, steps: Steps, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    idle = [steps.actor.message().message_id for _ in range(99)]
    store = get_store()
    for message_id in idle:
        store.start(Attempt(message_id, "work", "default"))
    spoil(server, "bad")
    query = "&".join(f"id={each}" for each in [*idle, "bad"])
    for _ in range(3):
        answer = client.get(f"/progress/?{query}")
        assert answer.status_code == 200
        assert [each["id"] for each in answer.json()["messages"]] == idle
        assert answer.json()["unknown"] == ["bad"]
    assert caplog.text.count("The record of message bad can't be read") == 1
    assert store.health.is_available


def test_an_error_says_whether_the_store_was_unreachable_or_refused(server: Server) -> None:
    store = get_store()
    spoil(server, "bad")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        store.start(Attempt("bad", "work", "default"))
    server.stop()
    with pytest.raises(StoreUnreachable):
        store.start(Attempt("m1", "work", "default"))
    assert issubclass(StoreRefused, StoreUnavailable) and issubclass(StoreUnreachable, StoreUnavailable)


@pytest.mark.parametrize("milliseconds", [200, 300, 400])
def test_a_short_pause_of_the_store_is_no_error_to_those_who_poll(
    server: Server, client: Client, milliseconds: int
) -> None:
    """A fork for a snapshot pauses a server for up to 300 ms."""
    store = get_store()
    store.start(Attempt("m1", "work", "default"))
    with server.client() as other:
        other.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")
    until = time.monotonic() + 1.5
    statuses = []
    while time.monotonic() < until:
        statuses.append(client.get("/progress/m1/").status_code)
        time.sleep(0.01)
    assert set(statuses) == {200}


def test_a_frozen_store_costs_readers_their_patience_once(server: Server, client: Client) -> None:
    get_store().start(Attempt("m1", "work", "default"))
    with server.frozen():
        assert client.get("/progress/m1/").status_code == 503
        # Each of these would otherwise wait as long as the first.
        began = time.monotonic()
        assert {client.get("/progress/m1/").status_code for _ in range(50)} == {503}
        assert time.monotonic() - began < 25
    wait_until(lambda: client.get("/progress/m1/").status_code == 200)


def test_a_write_that_is_blocked_while_reads_are_answered_is_an_outage(
    server: Server, settings: Any, caplog: Any
) -> None:
    """As in a failover: CLIENT PAUSE … WRITE answers PING, and a probe that only reads would end the outage."""
    caplog.set_level(logging.INFO, logger="dramatiq_progress")
    # The server has the script. The default timeout is only for the write that is blocked.
    get_store().start(Attempt("m1", "work", "default"))
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": server.url}, **FAST}
    store = get_store()
    with server.client() as other:
        # Until it is ended below, however late that is.
        other.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        with pytest.raises(StoreUnreachable):
            store.start(Attempt("m2", "work", "default"))
        time.sleep(1)  # long enough for several probes
        assert not store.health.is_available
        other.execute_command("CLIENT", "UNPAUSE")
        wait_until(lambda: store.health.is_available)
    assert caplog.text.count("The progress store is unavailable;") == 1

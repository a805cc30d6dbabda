"""Subscriptions to changes: the contract of every store, and recovery from failures."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dramatiq_progress import StoreUnavailable, jitter
from dramatiq_progress.progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore, subscription
from tests import proxy, topologies
from tests.store_server import Server
from tests.waiting import PATIENT, wait_until


class Recording:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.begins = 0
        self.breaks: list[Exception] = []

    def on_change(self, message_id: str) -> None:
        self.changes.append(message_id)

    def on_begin(self) -> None:
        self.begins += 1

    def on_break(self, error: Exception) -> None:
        self.breaks.append(error)


@contextmanager
def subscribed(store: Store) -> Iterator[Recording]:
    recording = Recording()
    made = store.subscribe(recording)
    try:
        wait_until(lambda: recording.begins)
        yield recording
    finally:
        made.close()


def test_exactly_the_visible_changes_are_notified(any_store: Store) -> None:
    with subscribed(any_store) as recording:
        attempt = Attempt("m1", "work", "default", 3)
        expected = 0

        def expect(count: int) -> None:
            nonlocal expected
            expected += count
            wait_until(lambda: len(recording.changes) >= expected)

        any_store.enqueue("m1", actor="work", queue="default", retries_left=3)
        expect(1)
        any_store.enqueue("m1", actor="work", queue="default", retries_left=3)  # refused
        any_store.start(attempt)
        expect(1)
        any_store.report([(attempt, {})])  # a heartbeat
        any_store.report([(attempt, {"current": "1"})])
        expect(1)
        any_store.report([(Attempt("m1", "work", "default", token="other", number=1), {"current": "2"})])
        any_store.finish(attempt, state=State.RETRYING, retry_in=1)
        expect(1)
        any_store.enqueue("m1", actor="work", queue="default", retries_left=2, due=True)
        expect(1)
        any_store.start(again := Attempt("m1", "work", "default", 2))
        expect(1)
        any_store.finish(again, state=State.DONE)
        expect(1)
        any_store.enqueue("m2", actor="work", queue="default", retries_left=3, delay=1)
        expect(1)
        assert recording.changes == ["m1"] * (expected - 1) + ["m2"]


@pytest.mark.parametrize("prefix", ["a[b]*?\\c:", "plain"])
def test_a_prefix_is_not_a_pattern(valkey: str, prefix: str) -> None:
    wanted, other = (RedisStore(prefix=each, url=valkey, **PATIENT) for each in (prefix, "ab12c:"))
    with subscribed(wanted) as recording:
        for store in (other, wanted):
            store.enqueue("m1", actor="work", queue="default", retries_left=3)
        wait_until(lambda: recording.changes)
        assert recording.changes == ["m1"]
    wanted.close()
    other.close()


def test_a_silent_connection_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path, "--save", "")
    server.start()
    with proxy.before(server.port) as between:
        store = RedisStore(prefix="test:", url=f"redis://127.0.0.1:{between.port}/0", **PATIENT)
        with subscribed(store) as recording:
            between.is_mute = True
            # Only now: on a busy machine, a connection that isn't silent would be replaced too.
            with monkeypatch.context() as short:
                short.setattr(subscription, "PING_INTERVAL_SECONDS", 0.2)
                short.setattr(subscription, "PING_LIMIT_SECONDS", 0.2)
                short.setattr(subscription, "WAIT_SECONDS", 0.05)
                wait_until(lambda: recording.breaks)
            assert "no message for" in str(recording.breaks[0])
            between.is_mute = False
            wait_until(lambda: recording.begins >= 2)
            store.enqueue("m1", actor="work", queue="default", retries_left=3)
            wait_until(lambda: recording.changes)
        store.close()
    server.stop()


def test_an_answer_to_ping_keeps_a_silent_connection(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(subscription, "WAIT_SECONDS", 0.05)
    store = RedisStore(prefix="test:", url=valkey, **PATIENT)
    pings = lambda: store._servers.client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0)  # type: ignore[attr-defined] # noqa: E731
    before = pings()
    with subscribed(store) as recording:
        wait_until(lambda: pings() >= before + 5)
        assert (recording.begins, recording.breaks) == (1, [])
    store.close()


@pytest.mark.parametrize("servers", ["sentinels", "cluster", "valkey"])
def test_commands_keep_all_their_connections(request: pytest.FixtureRequest, servers: str) -> None:
    """A pool may be limited to one connection, and the subscription keeps its connection."""
    found = request.getfixturevalue(servers)
    options = {"url": found} if servers == "valkey" else found.options
    store = RedisStore(prefix="test-one:", **options, **PATIENT, max_connections=1)
    with subscribed(store) as recording:
        store.enqueue("m1", actor="work", queue="default", retries_left=3)
        assert store.read(["m1"])
        wait_until(lambda: recording.changes)
    store.close()


def test_an_unreachable_store_is_retried(tmp_path: Path, caplog: Any) -> None:
    server = Server(tmp_path, "--save", "")
    store = RedisStore(prefix="test:", url=server.url)
    recording = Recording()
    made = store.subscribe(recording)
    wait_until(lambda: len(recording.breaks) >= 2)
    assert caplog.text.count("Lost the subscription") == 1
    server.start()
    # With the default timeout it may be lost, and begin, more than once.
    wait_until(lambda: recording.begins)
    made.close()
    server.stop()


def test_a_closed_store_leaves_no_thread(valkey: str) -> None:
    store = RedisStore(prefix="test:", url=valkey, **PATIENT)
    recording = Recording()
    store.subscribe(recording)
    wait_until(lambda: recording.begins)
    store.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "dramatiq-progress-subscription"])
    assert recording.breaks == []


def test_a_user_without_publish_permission_can_report(tmp_path: Path) -> None:
    server = Server(tmp_path, "--save", "")
    server.start()
    server.ask("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels")
    store = RedisStore(prefix="test:", url=server.url, username="mute", password="pw", **PATIENT)
    attempt = Attempt("m1", "work", "default", 3)
    store.enqueue("m1", actor="work", queue="default", retries_left=3)
    store.start(attempt)
    assert store.report([(attempt, {"current": "2"})]) == ["written"]
    assert store.finish(attempt, state=State.DONE)
    store.close()
    server.stop()


# ---- Servers that are replaced, and stay connected ----


def test_a_subscription_goes_to_the_new_master_before_the_old_one_is_demoted(tmp_path: Path) -> None:
    with topologies.sentinel(tmp_path) as sentinels:
        store = RedisStore(prefix="test:", **sentinels.options, **PATIENT)
        with subscribed(store) as recording:
            old, new = topologies.replace_master(sentinels)
            wait_until(lambda: recording.begins >= 2)
            new.ask("PUBLISH", store.key("m1"), "")
            wait_until(lambda: recording.changes == ["m1"])
            assert old.is_master() and recording.breaks == []
        store.close()


def test_a_subscription_leaves_a_node_that_has_left_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with topologies.cluster(tmp_path) as nodes:
        store = RedisStore(prefix="test:", **nodes.options)
        old = nodes.master(store.key("m1"))
        assert old is not None
        chosen = lambda found: next((each for each in found if each.port == old.port), found[0])  # noqa: E731
        monkeypatch.setattr(jitter.generator, "choice", chosen)
        numbers = itertools.count(2)
        with subscribed(store) as recording:
            replica = next(each for each in nodes.servers if each.ask("ROLE")[:3] == ["slave", "127.0.0.1", old.port])
            replica.ask("CLUSTER", "FAILOVER")
            nodes.wait_for_failover(old, store.key("m1"))
            wait_until(lambda: not old.is_master())
            name = old.ask("CLUSTER", "MYID")
            old.ask("CLUSTER", "RESET")
            for each in nodes.servers:
                if each is not old:
                    each.ask("CLUSTER", "FORGET", name)
            # A command to it is answered with an error, and the map is read again. On a busy machine the subscription
            # may have begun again, at the same node, before that; it then begins a third time.
            wait_until(lambda: can_write(store) and recording.begins >= 2)
            recording.changes.clear()
            wait_until(lambda: can_write(store, f"m{next(numbers)}") and recording.changes)
            assert {"m2", *recording.changes} <= {f"m{number}" for number in range(2, next(numbers))}
        store.close()


def can_write(store: Store, message_id: str = "m1") -> bool:
    with suppress(StoreUnavailable):
        store.enqueue(message_id, actor="work", queue="default", retries_left=3)
        return True
    return False

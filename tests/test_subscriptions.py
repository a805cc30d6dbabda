"""What a store tells of changes: the contract of every kind, and what a subscription survives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dramatiq_progress.progress import State
from dramatiq_progress.stores import Store, subscription
from dramatiq_progress.stores.base import Attempt, Report
from dramatiq_progress.stores.redis import RedisStore
from tests import proxy
from tests.conftest import PATIENT
from tests.store_server import Server
from tests.waiting import wait_until


class Heard:
    """A listener that keeps what it hears."""

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
def subscribed(store: Store) -> Iterator[Heard]:
    heard = Heard()
    made = store.subscribe(heard)
    try:
        wait_until(lambda: heard.begins)
        yield heard
    finally:
        made.close()


@pytest.fixture(params=["redis_store", "memory_store", "old_redis_store", "sentinel_store", "cluster_store"])
def any_store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.getfixturevalue(request.param)
    return made


def test_every_change_that_is_seen_is_told_and_no_other(any_store: Store) -> None:
    with subscribed(any_store) as heard:
        attempt = Attempt("m1", "work", "default", 3)
        told = 0

        def expect(count: int) -> None:
            nonlocal told
            told += count
            wait_until(lambda: len(heard.changes) >= told)

        any_store.enqueue("m1", actor="work", queue="default", retries_left=3)
        expect(1)
        any_store.enqueue("m1", actor="work", queue="default", retries_left=3)  # refused
        any_store.start(attempt)
        expect(1)
        any_store.report([Report(attempt)])  # a sign of life
        any_store.report([Report(attempt, {"current": "1"})])
        expect(1)
        any_store.report([Report(Attempt("m1", "work", "default", token="other", number=1), {"current": "2"})])
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
        assert heard.changes == ["m1"] * (told - 1) + ["m2"]


@pytest.mark.parametrize("prefix", ["a[b]*?\\c:", "plain"])
def test_a_prefix_is_no_pattern(valkey: str, prefix: str) -> None:
    wanted, other = (RedisStore(prefix=each, url=valkey, **PATIENT) for each in (prefix, "ab12c:"))
    with subscribed(wanted) as heard:
        for store in (other, wanted):
            store.enqueue("m1", actor="work", queue="default", retries_left=3)
        wait_until(lambda: heard.changes)
        assert heard.changes == ["m1"]
    wanted.close()
    other.close()


def test_a_silent_connection_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "PING_LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "WAIT_SECONDS", 0.05)
    server = Server(tmp_path, "--save", "")
    server.start()
    with proxy.before(server.port) as between:
        store = RedisStore(prefix="test:", url=f"redis://127.0.0.1:{between.port}/0")
        with subscribed(store) as heard:
            between.is_mute = True
            wait_until(lambda: heard.breaks)
            assert "silent" in str(heard.breaks[0])
            between.is_mute = False
            wait_until(lambda: heard.begins == 2)
            store.enqueue("m1", actor="work", queue="default", retries_left=3)
            wait_until(lambda: heard.changes)
        store.close()
    server.stop()


def test_an_answer_to_ping_keeps_a_silent_store(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(subscription, "WAIT_SECONDS", 0.05)
    store = RedisStore(prefix="test:", url=valkey, **PATIENT)
    pings = lambda: store._servers.client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0)  # type: ignore[attr-defined] # noqa: E731
    before = pings()
    with subscribed(store) as heard:
        wait_until(lambda: pings() >= before + 5)
        assert (heard.begins, heard.breaks) == (1, [])
    store.close()


@pytest.mark.parametrize("servers", ["sentinels", "cluster", "valkey"])
def test_commands_keep_all_their_connections(request: pytest.FixtureRequest, servers: str) -> None:
    """A pool may have one connection only, and the subscription holds one for good."""
    found = request.getfixturevalue(servers)
    options = {"url": found} if servers == "valkey" else found.options
    store = RedisStore(prefix="test-one:", **options, **PATIENT, max_connections=1)
    with subscribed(store) as heard:
        store.enqueue("m1", actor="work", queue="default", retries_left=3)
        assert store.read(["m1"])
        wait_until(lambda: heard.changes)
    store.close()


def test_a_store_that_is_not_there_is_tried_again(tmp_path: Path, caplog: Any) -> None:
    server = Server(tmp_path, "--save", "")
    store = RedisStore(prefix="test:", url=server.url)
    heard = Heard()
    made = store.subscribe(heard)
    wait_until(lambda: len(heard.breaks) >= 2)
    assert caplog.text.count("Streams look for changes") == 1
    server.start()
    wait_until(lambda: heard.begins == 1)
    made.close()
    server.stop()


def test_a_closed_store_leaves_no_thread(valkey: str) -> None:
    store = RedisStore(prefix="test:", url=valkey, **PATIENT)
    heard = Heard()
    store.subscribe(heard)
    wait_until(lambda: heard.begins)
    store.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "dramatiq-progress-subscription"])
    assert heard.breaks == []


def test_a_user_that_may_not_publish_can_report(tmp_path: Path) -> None:
    server = Server(tmp_path, "--save", "")
    server.start()
    server.ask("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels")
    store = RedisStore(prefix="test:", url=server.url, username="mute", password="pw", **PATIENT)
    attempt = Attempt("m1", "work", "default", 3)
    store.enqueue("m1", actor="work", queue="default", retries_left=3)
    store.start(attempt)
    assert store.report([Report(attempt, {"current": "2"})]) == ["written"]
    assert store.finish(attempt, state=State.DONE)
    store.close()
    server.stop()

"""The private data of a message in a second key: stored behind the record's fence, and gone with the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from redis.crc import key_slot

from dramatiq_progress import State
from dramatiq_progress.conf import Configuration
from dramatiq_progress.errors import StoreUnreachable
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.calls import NewMessage
from dramatiq_progress.stores.companion import Companion
from dramatiq_progress.stores.composites import Contribution, Membership, waiting_slot
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.redis import RedisStore
from dramatiq_progress.worker.recording.deferred import DEFERRED_BYTES, DeferredChanges, Refusals
from tests.waiting import wait_until

ID = "m1"


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


def send(store: Store, **options: Any) -> Companion:
    companion = Companion("shop.tasks.pay", "about it", "host:1", **options)
    store.enqueue(ID, actor=companion.name, queue="default", retries_left=3, cancellable=True, companion=companion)
    return companion


def attempt(**options: Any) -> Attempt:
    return Attempt(ID, "shop.tasks.pay", "default", 3, cancellable=True, companion=companion(**options))


def companion(worker: str = "host:2", **options: Any) -> Companion:
    return Companion("shop.tasks.pay", "about it", worker, **options)


def run(store: Store, **options: Any) -> Attempt:
    made = attempt(**options)
    assert store.start(made).verdict == "run"
    return made


def beside(store: Store) -> Mapping[str, str]:
    return store.read_kept(ID).beside


def seconds_left(store: Store, key: str) -> float:
    if isinstance(store, MemoryStore):
        return store._expires_at[key] - time.monotonic()
    assert isinstance(store, RedisStore)
    [milliseconds] = store._servers.send([("EVAL", "return redis.call('PTTL', KEYS[1])", 1, key)])
    return float(milliseconds) / 1000


def test_what_is_known_of_a_message_is_kept_from_its_send_to_its_end(store: Store) -> None:
    sent = send(store, metadata='{"trace": 1}')
    assert beside(store) == {"about": "about it", "metadata": '{"trace": 1}', **times(store, "enqueued_at")}
    assert sent.stored["enqueued_at"] == store.read_kept(ID).record["enqueued_at"]

    first = run(store, worker="host:1")
    assert first.companion is not None
    assert first.companion.stored["worker:1"] == "host:1"
    assert "about" not in first.companion.stored
    assert first.companion.attempted_at == float(store.read_kept(ID).record["started_at"])
    change = store.finish(first, state=State.RETRYING, retry_in=0.0, beside={"error:": "first"})
    assert (change.state, change.moment) == (State.RETRYING, float(store.read_kept(ID).record["ended_at"]))

    second = run(store, worker="host:2")
    store.finish(second, state=State.DONE, beside={"value": "7"}, fields={"current": "3"})
    kept = store.read_kept(ID)
    assert kept.beside == {
        **{"about": "about it", "metadata": '{"trace": 1}', "value": "7", "error:1": "first"},
        **{"worker:1": "host:1", "worker:2": "host:2"},
        **times(store, "enqueued_at", "started_at"),
    }
    assert float(kept.beside["started_at"]) < float(kept.record["started_at"])
    assert kept.record["current"] == "3"


def times(store: Store, *names: str) -> dict[str, str]:
    return {name: beside(store)[name] for name in names}


def test_members_of_a_composite_have_their_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In few round trips, none of which is too large."""
    sizes = [1] * 300 + [200_000] * 3
    members = [
        NewMessage(
            f"m{i}", "shop.tasks.pay", "default", 0, False, "", None, companion=Companion("", i * "." + size * "x")
        )
        for i, size in enumerate(sizes)
    ]
    kept: list[int] = []
    call = store._call

    def counted(calls: Any) -> Any:
        if calls[0].script == "keep":
            kept.append(sum(len(text) for each in calls for text in each.arguments))
        return call(calls)

    monkeypatch.setattr(store, "_call", counted)
    membership = Membership("g1", len(members), "pay")
    slots = {each.id: waiting_slot(1) for each in members}
    for _ in range(2):
        store.gather([Contribution((membership,), "", slots)], members)
    for each in members:
        assert each.companion is not None
        assert store.read_kept(each.id).beside["about"] == each.companion.about
        assert each.companion.stored["enqueued_at"] == store.read_kept(each.id).record["enqueued_at"]
    assert len(kept) == 2 * 4 and max(kept) < 300_000


def test_no_reading_of_progress_has_anything_of_it(store: Store) -> None:
    send(store, metadata='"secret"')
    store.finish(run(store), state=State.DONE, beside={"value": '"secret"'})
    [progress] = store.read([ID])
    assert "secret" not in repr(progress)


def test_the_values_of_an_attempt_that_is_not_shown_are_refused(store: Store) -> None:
    send(store)
    zombie = run(store)
    store.finish(zombie, state=State.RETRYING, retry_in=0.0)
    shown = run(store)
    assert not store.finish(zombie, state=State.DONE, beside={"value": '"of a zombie"'})
    assert not store.keep(zombie, {"metadata": '"of a zombie"'})
    assert store.keep(shown, {"metadata": '"new"'})
    assert (beside(store).get("value"), beside(store)["metadata"]) == (None, '"new"')


def test_an_attempt_that_waits_is_counted_by_its_number(store: Store) -> None:
    send(store)
    run(store, worker="shown")
    waiting = run(store, worker="waiting")
    assert {name: text for name, text in beside(store).items() if name.startswith("worker:")} == {
        "worker:1": "shown",
        "worker:2": "waiting",
    }
    assert store.keep(waiting, {"metadata": '"of both"'})


def test_every_write_is_idempotent(store: Store) -> None:
    for _ in range(2):
        send(store)
    only = attempt(worker="host:1")
    for _ in range(2):
        store.start(only)
        store.keep(only, {"metadata": "{}"})
    before = beside(store)
    store.finish(only, state=State.FAILED, beside={"error:": "e"})
    assert not store.finish(only, state=State.FAILED, beside={"error:": "e"})
    assert beside(store) == {**before, "error:1": "e"}


def test_a_message_that_is_sent_again_begins_without_the_old_values(store: Store) -> None:
    send(store)
    store.finish(run(store), state=State.FAILED, beside={"error:": "old"})
    send(store)
    assert set(beside(store)) == {"about", "enqueued_at"}


def test_only_the_last_attempts_are_kept(store: Store) -> None:
    send(store)
    for _ in range(53):
        store.finish(run(store), state=State.RETRYING, retry_in=0.0, beside={"error:": "e"})
    errors = {int(name.removeprefix("error:")) for name in beside(store) if name.startswith("error:")}
    assert errors == set(range(4, 54))
    assert {f"worker:{number}" for number in errors} <= beside(store).keys()


def test_an_attempt_of_a_message_that_is_given_up_has_no_worker(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {
        **{"MAX_DELIVERIES": 1, "HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    }
    send(store)
    run(store)
    wait_until(lambda: store.read([ID])[0].state is State.LOST)  # type: ignore[union-attr]  # it exists
    last = run(store)
    assert "worker:2" not in beside(store)
    store.finish(last, state=State.FAILED, given_up=True)
    assert not [name for name in beside(store) if name.startswith("error:")]


def test_nor_has_it_one_while_the_last_heartbeat_of_the_attempt_before_is_recent(store: Store, settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"MAX_DELIVERIES": 1}
    send(store)
    run(store)
    last = run(store)
    change = store.finish(last, state=State.FAILED, given_up=True)
    assert (change.written, change.attempt) == (True, 2)
    assert [name for name in beside(store) if name.startswith("worker:")] == ["worker:1"]


def test_a_record_that_was_lost_is_rebuilt_with_what_is_known(store: Store) -> None:
    send(store)
    running = run(store)
    lose(store)
    running.sends_all = True
    store.report([(running, {"current": "1"})])
    assert (beside(store)["about"], beside(store)["worker:1"]) == ("about it", "host:2")
    lose(store)
    store.finish(running, state=State.DONE, beside={"value": "7"})
    assert (beside(store)["about"], beside(store)["value"]) == ("about it", "7")


def lose(store: Store) -> None:
    if isinstance(store, MemoryStore):
        store._records.clear()
        return
    assert isinstance(store, RedisStore)
    store._servers.send([("EVAL", "return redis.call('DEL', unpack(KEYS))", 2, *store._keys(ID))])


def test_a_server_that_has_forgotten_some_scripts_keeps_everything(redis_store: Store) -> None:
    def forget() -> None:
        assert isinstance(redis_store, RedisStore)
        redis_store._servers.send([("SCRIPT", "FLUSH")])
        # It learns this one again, and not the one that must run before it.
        redis_store.keep(attempt(), {})

    forget()
    assert send(redis_store).stored.keys() == {"enqueued_at"}
    forget()
    running = run(redis_store)
    assert running.companion is not None
    assert running.companion.stored["worker:1"] == beside(redis_store)["worker:1"] == "host:2"


def test_both_keys_live_equally_long(store: Store) -> None:
    send(store)
    assert_equally_long(store)
    running = run(store, finished_ttl=90_000)
    assert_equally_long(store)
    store.report([(running, {})])
    assert_equally_long(store)
    store.finish(running, state=State.DONE)
    assert assert_equally_long(store) == pytest.approx(90_000, abs=120)


def test_both_keys_of_a_cancelled_message_live_until_it_is_delivered(store: Store) -> None:
    send(store)
    store.cancel(ID)
    assert assert_equally_long(store) > 90_000
    assert store.start(attempt(finished_ttl=90_000)).verdict == "cancelled"
    assert assert_equally_long(store) == pytest.approx(90_000, abs=120)


def assert_equally_long(store: Store) -> float:
    record, companion = (seconds_left(store, key) for key in store._keys(ID))
    assert record == pytest.approx(companion, abs=1)
    return record


def test_a_message_that_could_not_be_sent_leaves_nothing(store: Store) -> None:
    change = store.enqueue(ID, actor="a", queue="default", retries_left=0, companion=companion())
    store.withdraw(ID, change, queue="default")
    assert store.read_kept(ID) == ({}, {})


def test_a_late_send_leaves_the_values_of_an_attempt_that_has_started(store: Store) -> None:
    running = run(store, worker="host:1")
    late = companion()
    store.enqueue(ID, actor="a", queue="default", retries_left=0, companion=late, age=1.0)
    assert beside(store)["worker:1"] == "host:1"
    assert late.stored == {}
    assert store.finish(running, state=State.DONE)


@pytest.mark.parametrize("prefix", ["progress:", "{app}:", "a{b}c{", "ü:"])
def test_both_keys_are_in_one_slot_of_a_cluster(prefix: str) -> None:
    Configuration(prefix=prefix)
    record, companion = (key_slot(key.encode()) for key in MemoryStore(prefix=prefix)._keys(ID))
    assert record == companion


def test_changes_that_wait_for_the_store_hold_a_limited_amount_of_private_data(memory_store: Store) -> None:
    waiting = DeferredChanges(Refusals())
    written: list[int] = []
    size = DEFERRED_BYTES // 100
    for i in range(150):
        waiting.add(f"m{i}", lambda store, age, i=i: written.append(i), StoreUnreachable(), size)
    assert (len(waiting), waiting.dropped) == (100, 50)
    waiting.write(memory_store)
    assert written == list(range(50, 150))
    for i in range(100):
        waiting.add(f"m{i}", lambda store, age: None, StoreUnreachable(), size)
    assert len(waiting) == 100


def test_a_change_that_is_being_written_still_waits(memory_store: Store) -> None:
    """A process that ends now loses it."""
    waiting = DeferredChanges(Refusals())
    seen: list[int] = []
    waiting.add("m1", lambda store, age: seen.append(len(waiting)), StoreUnreachable())
    waiting.write(memory_store)
    assert (seen, len(waiting)) == ([1], 0)

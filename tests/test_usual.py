"""Usual durations and waits: what is counted, what a reader is told, and that neither costs commands."""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import (
    Cancelled,
    ProgressObserver,
    State,
    UserFacingError,
    progress_actor,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.progress import UsualTimes
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.durations import BUCKETS, MAX_KEYS, MAX_RUNS, RATIO, Estimate, bucket_of, estimate
from dramatiq_progress.stores.encoding import Call, Leave
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.pace import MEMORY_SECONDS, after_departure
from dramatiq_progress.stores.times import _about
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.faults import tasks
from tests.faults.scene import Scene
from tests.reading import read, when
from tests.test_titles import forget_everything
from tests.waiting import TIMEOUT_SECONDS, wait_until

DAY = 24 * 3600

EVERY_STORE = ["redis_store", "old_redis_store", "sentinel_store", "cluster_store", "memory_store"]


@pytest.fixture(params=["redis_store", "memory_store"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Each kind of store in turn, whose estimates are read at each use."""
    monkeypatch.setattr("dramatiq_progress.stores.durations.CACHE_SECONDS", -1)
    made: Store = request.getfixturevalue(request.param)
    return made


def count(*durations: float, actor: str = "work", key: str = "") -> dict[str, list[str]]:
    """Count runs that took these seconds."""
    return get_store().durations.add({actor: {key: Counter(map(bucket_of, durations))}})


def histograms(actor: str = "work", store: Store | None = None) -> dict[str, str]:
    """Return the histograms that are stored, without the time of the last run, by estimate key."""
    store = store or get_store()
    [flat] = store._call([Call("durations", (store.durations_key(actor),))])
    return {key: text.partition(" ")[2] for key, text in zip(flat[::2], flat[1::2], strict=True)}


def write(key: str, **fields: str) -> None:
    """Write a text, or fields, as no script does."""
    store = get_store()
    if isinstance(store, MemoryStore):
        store._expires_at[key] = time.monotonic() + 60
        if "text" in fields:
            store._paces[key] = fields["text"]
        else:
            store._durations[key] = fields
        return
    set_text, set_fields = "'SET', KEYS[1], ARGV[2]", "'HSET', KEYS[1], unpack(ARGV)"
    text = f"redis.call({set_text if 'text' in fields else set_fields}) return redis.call('EXPIRE', KEYS[1], 60)"
    pairs = [text for pair in fields.items() for text in pair]
    store._servers.send([("EVAL", text, 1, key, *pairs)])  # type: ignore[attr-defined]


def pace_of(queue: str = "default") -> str:
    """Return the pace of a queue as it is stored."""
    store = get_store()
    if isinstance(store, MemoryStore):
        return store._paces[store.pace_key(queue)]
    [text] = store._servers.send([("EVAL", "return redis.call('GET', KEYS[1])", 1, store.pace_key(queue))])  # type: ignore[attr-defined]
    return str(text)


def enqueue(*message_ids: str, **options: Any) -> None:
    for message_id in message_ids:
        get_store().enqueue(message_id, **{"actor": "work", "queue": "default", "retries_left": 0, **options})


def start(message_id: str, **options: Any) -> Attempt:
    attempt = Attempt(message_id, "work", "default", 0, **options)
    assert get_store().start(attempt).verdict == "run"
    return attempt


def usual(message_id: str = "m1") -> UsualTimes | None:
    return read(message_id).usual


# ---- The histogram ----


def test_the_first_and_the_last_bucket_take_everything_beyond() -> None:
    assert [bucket_of(each) for each in (0.0, 0.001, 0.1, 0.124)] == [0, 0, 0, 0]
    assert bucket_of(0.126) == 1
    end = 0.1 * RATIO**BUCKETS
    assert 44 * 3600 < end < 45 * 3600
    assert [bucket_of(each) for each in (end * 0.81, end * 0.99, end * 1.01, 10 * DAY)] == [BUCKETS - 1] * 4
    assert bucket_of(end * 0.79) == BUCKETS - 2


@pytest.mark.parametrize("seconds", [0.11, 1.0, 59.0, 3_000.0, 43.9 * 3600])
def test_an_estimate_of_equal_runs_is_less_than_a_bucket_away(seconds: float) -> None:
    found = estimate(f"0 {bucket_of(seconds)}:9")
    assert found is not None
    for each in found:
        assert seconds / RATIO <= each <= seconds * RATIO


@pytest.mark.parametrize(
    ("counts", "known"),
    [
        ("", False),
        ("20:4", False),
        ("20:4.9", False),
        ("20:5", True),
        # Nine of ten take at most 3, 9, and 12 times as long as half of them.
        ("20:5 25:5", True),
        ("20:5 30:5", True),
        ("20:5 31:5", False),
    ],
)
def test_too_few_runs_and_runs_that_differ_too_much_have_no_estimate(counts: str, known: bool) -> None:
    assert (estimate(f"0 {counts}".strip()) is not None) is known


def test_half_of_the_runs_and_nine_of_ten_are_told() -> None:
    found = estimate("0 10:8 15:2")
    assert found is not None
    assert found == pytest.approx(Estimate(0.1 * RATIO ** (10 + 5 / 8), 0.1 * RATIO ** (15 + 1 / 2)))


def test_an_actor_that_becomes_slower_is_known_to_be_so_after_36_runs(store: Store) -> None:
    enqueue("m1")
    count(*[10.0] * 60)
    for _ in range(36):
        count(40.0)
    assert (found := usual()) is not None and found.run is not None
    assert 40 / RATIO <= found.run <= 40 * RATIO
    counts = [float(pair.partition(":")[2]) for pair in histograms()[""].split()]
    assert MAX_RUNS / 2 < sum(counts) <= MAX_RUNS


def test_runs_that_are_counted_at_once_are_halved_as_often_as_it_takes(store: Store) -> None:
    count(*[1.0] * 1_000, *[3.0] * 3)
    # 1,003 / 16; three runs of a thousand have no weight left after some more.
    assert histograms() == {"": "10:62.5 15:0.1875"}
    count(*[1.0] * 1_000)
    assert histograms() == {"": "10:33.2"}


def test_memory_counts_as_redis_does(redis_store: Store) -> None:
    """Also the number of halvings, and how a count is written."""
    memory, chance = MemoryStore(prefix="test:"), random.Random(7)
    for _ in range(60):
        buckets = Counter(chance.randrange(BUCKETS) for _ in range(chance.choice([1, 3, 40, 400])))
        runs = {"work": {chance.choice(["", "a", "b"]): buckets}}
        assert redis_store.durations.add(runs) == memory.durations.add(runs) == {}
        assert histograms(store=redis_store) == histograms(store=memory)


# ---- What a reader is told ----


@pytest.mark.parametrize("store", EVERY_STORE, indirect=True)
def test_a_message_says_how_long_it_usually_takes_after_five_runs(store: Store) -> None:
    enqueue("m1")
    count(*[60.0] * 4)
    assert usual() is None
    count(60.0)
    found = usual()
    assert found is not None and found.wait is None
    assert found.run is not None and found.run_most is not None
    assert 60 / RATIO <= found.run <= found.run_most <= 60 * RATIO
    # Two digits.
    assert found.run == round(found.run, -1 if found.run >= 100 else 0)


def test_only_messages_that_wait_or_run_say_it(store: Store, settings: Any) -> None:
    count(*[60.0] * 5)
    enqueue("enqueued")
    enqueue("delayed", delay=60)
    start("running")
    store.finish(start("retrying"), state=State.RETRYING, retry_in=60)
    assert all(usual(each) for each in ("enqueued", "delayed", "running", "retrying"))
    for state in (State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED):
        store.finish(start(state), state=state)
        assert usual(state) is None
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.01, "LOST_AFTER": 0.02}
    wait_until(lambda: read("running").state is State.LOST)
    assert usual("running") is None
    # A record of several messages isn't one of an actor, even with an actor's name, nor beside a message of that actor.
    enqueue("composite", queue="")
    assert usual("composite") is None
    composite, message = store.read(["composite", "enqueued"])
    assert composite is not None and composite.usual is None
    assert message is not None and message.usual is not None


def test_each_kind_of_run_has_its_own(store: Store) -> None:
    count(*[1.0] * 5)
    count(*[100.0] * 5, key="large")
    enqueue("small")
    enqueue("m1", estimate_key="large")
    enqueue("new", estimate_key="another")
    start("waited", estimate_key="large")
    for message_id, most in (("small", 2), ("m1", 125), ("waited", 125)):
        assert (found := usual(message_id)) is not None and found.run is not None
        assert most / 2 <= found.run <= most
    assert usual("new") is None


def test_a_record_that_was_lost_has_its_estimate_key_again(store: Store) -> None:
    count(*[100.0] * 5, key="large")
    attempt = start("m1", estimate_key="large")
    observer = ProgressObserver(Binding(attempt=attempt))
    forget_everything(store, "m1")
    attempt.sends_all = True
    assert store.report([(attempt, {})]) == ["rebuilt"]
    observer._binding.forget_stored()
    store.report([(attempt, observer._binding.take_changes())])
    assert usual() is not None


def test_a_message_that_is_sent_again_has_its_own_estimate_key(store: Store) -> None:
    count(*[100.0] * 5, key="large")
    enqueue("m1", estimate_key="large")
    store.finish(start("m1", estimate_key="large"), state=State.DONE)
    enqueue("m1")
    assert usual() is None


def test_a_store_that_is_emptied_says_nothing_until_five_more_runs(store: Store) -> None:
    enqueue("m1")
    count(*[60.0] * 64)
    assert usual() is not None
    if isinstance(store, MemoryStore):
        store._durations.clear()
    else:
        key = store.durations_key("work")
        store._servers.send([("EVAL", "return redis.call('DEL', KEYS[1])", 1, key)])  # type: ignore[attr-defined]
    assert usual() is None
    count(*[60.0] * 4)
    assert usual() is None
    count(60.0)
    assert usual() is not None


@pytest.mark.parametrize("text", ["", "odd", "0 1:", "0 a:b", "0 9999:9", "0 20:nan", "0 20:inf", "0 20:5:5"])
def test_durations_that_another_program_has_written_are_no_estimate(store: Store, text: str) -> None:
    enqueue("m1")
    write(store.durations_key("work"), **{"": text, "large": "0 20:9"})
    enqueue("m2", estimate_key="large")
    assert usual("m1") is None and usual("m2") is not None


def test_durations_that_cannot_be_read_are_no_error(redis_store: Store) -> None:
    enqueue("m1")
    write(redis_store.durations_key("work"), text="0 20:9", **{"": ""})
    assert read("m1").state is State.ENQUEUED and usual() is None


# ---- The wait ----


def paced(seconds: float, departures: float = 3, *, age: float = 0.0, waiting: bool = True) -> str:
    """Return the pace of a queue in which a message leaves each time that these seconds have passed."""
    return f"{departures:.4f} {departures * seconds:.4f} {time.time() - age:.6f} {int(waiting)}"


@pytest.mark.parametrize("store", EVERY_STORE, indirect=True)
def test_a_message_says_how_long_it_waits_at_the_pace_of_its_queue(store: Store) -> None:
    enqueue("m1", "m2", "m3")
    enqueue("other", queue="slow")
    assert usual() is None
    write(store.pace_key("default"), text=paced(13.0))
    assert [usual(each) for each in ("m1", "m2", "m3")] == [UsualTimes(None, None, n) for n in (13, 26, 39)]
    assert usual("other") is None
    count(*[1.0] * 5)
    assert (found := usual("m2")) is not None and found.wait == 26 and found.run is not None
    start("m1")
    assert (running := usual("m1")) is not None and running.wait is None


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        (lambda: paced(2.0, departures=2.9), None),
        (lambda: paced(2.0, age=55), 2),
        (lambda: paced(2.0, age=90), None),
        # In a slow queue the last departure may be long ago.
        (lambda: paced(600.0, age=1_500), 600),
        (lambda: paced(600.0, age=1_900), None),
        # Of another server's clock, before a failover.
        (lambda: paced(2.0, age=-90), None),
        (lambda: paced(0.0), 0.1),
        (lambda: "odd", None),
        (lambda: "1 2 3", None),
        (lambda: "9 nan 9e9 1", None),
    ],
)
def test_a_pace_is_told_while_it_is_known(store: Store, text: Callable[[], str], wait: float | None) -> None:
    enqueue("m1")
    write(store.pace_key("default"), text=text())
    assert (found := usual()) == (None if wait is None else UsualTimes(None, None, wait)), found


def numbers(pace: str) -> list[float]:
    return [float(each) for each in pace.split(" ")]


@pytest.mark.parametrize("store", EVERY_STORE, indirect=True)
@pytest.mark.parametrize(
    "pace",
    [
        lambda: "",
        lambda: paced(5.0, 7, age=4),
        lambda: paced(5.0, 7, age=4, waiting=False),
        lambda: paced(5.0, 7, age=400),
        lambda: paced(5.0, 7, age=400, waiting=False),
        lambda: paced(5.0, 7, age=-4),
    ],
    ids=["first", "waited", "idle", "slow", "idle for long", "clock behind"],
)
def test_every_store_keeps_the_same_pace(store: Store, pace: Callable[[], str]) -> None:
    enqueue("m1", "m2")
    if before := pace():
        write(store.pace_key("default"), text=before)
    start("m1")
    given = Leave("m1", "600", str(MEMORY_SECONDS), "1000")
    found = numbers(pace_of())
    # Memory computes with the time before it is rounded, which may change the last digit.
    expected = numbers(after_departure(before, found[2], given, waiting=True))
    assert found == pytest.approx(expected, abs=2e-4)
    start("m2")
    assert pace_of().endswith(" 0")


def test_only_intervals_in_which_a_message_waited_are_a_pace(store: Store) -> None:
    """A message that finds a free worker says nothing about how long others would wait."""
    for message_id in ("m1", "m2", "m3", "m4"):
        enqueue(message_id)
        start(message_id)
    assert float(pace_of().split(" ")[0]) == 0
    enqueue("m5", "m6", "m7", "m8", "m9")
    for message_id in ("m5", "m6", "m7", "m8"):
        start(message_id)
    assert float(pace_of().split(" ")[0]) == pytest.approx(3, abs=0.5)


def test_a_message_that_leaves_without_its_turn_is_no_departure(store: Store) -> None:
    enqueue("m1", "m2", "m3", "m4", cancellable=True)
    start("m1")
    known = pace_of()
    store.cancel("m2")
    store.start(Attempt("m3", "work", "default"), age=5.0)
    store.finish(Attempt("m4", "work", "default"), state=State.SKIPPED, started=False)
    assert pace_of() == known


# ---- What is counted ----


@pytest.fixture
def quick(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 0.05, "LOST_AFTER": 60}


@pytest.fixture
def silent(settings: Any) -> None:
    """No heartbeat, and no runs that are counted with it."""
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"HEARTBEAT_INTERVAL": 300, "LOST_AFTER": 900}


def runs_of(histogram: str) -> float:
    return sum(float(pair.partition(":")[2]) for pair in histogram.split())


def test_only_runs_that_succeeded_are_counted(store: Store, quick: None, broker: StubBroker) -> None:
    @progress_actor(broker=broker, actor_name="work", cancellable=True)
    def work(observer: ProgressObserver, how: str) -> None:
        if how == "fails":
            raise UserFacingError("No.")
        if how == "is retried" and observer.attempt == 1:
            raise ConnectionError
        if how == "is cancelled":
            raise Cancelled

    for how, state in (("fails", State.FAILED), ("is cancelled", State.CANCELLED), ("succeeds", State.DONE)):
        when(work.send(how), state)
    when(work.send("is retried"), State.DONE)
    large = work.send_with_options(args=("succeeds",), estimate_key="large")
    when(large, State.DONE)
    wait_until(lambda: set(histograms()) == {"", "large"})
    assert {key: runs_of(each) for key, each in histograms().items()} == {"": 2, "large": 1}


def test_a_round_of_an_actor_that_sends_itself_again_is_not_counted(
    store: Store, quick: None, broker: StubBroker
) -> None:
    rounds: list[int] = []

    @progress_actor(broker=broker, actor_name="work")
    def work(observer: ProgressObserver) -> None:
        rounds.append(1)
        if len(rounds) < 3:
            broker.enqueue(message)

    message = work.message()
    broker.enqueue(message)
    when(message, State.DONE)
    wait_until(lambda: "" in histograms())
    assert len(rounds) == 3 and runs_of(histograms()[""]) == 1


def test_an_actor_has_a_kind_of_run_for_all_its_messages(store: Store, quick: None, broker: StubBroker) -> None:
    work = progress_actor(broker=broker, actor_name="work", estimate_key="v2")(lambda: None)
    for message in (work.send(), work.send_with_options(estimate_key="large")):
        when(message, State.DONE)
    wait_until(lambda: set(histograms()) == {"v2", "large"})


def test_the_duration_is_the_run_without_the_wait(store: Store, quick: None, broker: StubBroker) -> None:
    work = progress_actor(broker=broker, actor_name="work")(lambda: time.sleep(0.3))
    for message in [work.send() for _ in range(8)]:
        when(message, State.DONE)
    wait_until(lambda: runs_of(histograms().get("", "")) == 8)
    assert (found := estimate(f"0 {histograms()['']}")) is not None
    assert 0.3 / RATIO <= found.run < 1


@pytest.mark.parametrize("patient_scene", ["redis", "rabbitmq"], indirect=True)
def test_a_killed_worker_loses_no_more_than_the_runs_since_its_last_heartbeats(
    patient_scene: Scene, tmp_path: Path
) -> None:
    """Whatever it lost, the runs of other workers are counted as before."""
    scene = patient_scene
    go_on = tmp_path / "go-on"
    with scene.worker("-p", "1", "-t", "2") as killed:
        for _ in range(5):
            scene.when(scene.send(tasks.sleep_for, 0.01), State.DONE)
        wait_until(lambda: runs_of(histograms("sleep_for").get("", "")) == 5)
        message = scene.send(tasks.wait_for, str(go_on))
        scene.when(message, State.RUNNING, current=1)
        scene.when(scene.send(tasks.sleep_for, 0.01), State.DONE)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    known = runs_of(histograms("sleep_for")[""])
    assert known in (5, 6)
    with scene.worker("-p", "1", "-t", "2") as worker:
        go_on.touch()
        scene.when(message, State.DONE, attempt=2)
        scene.when(scene.send(tasks.sleep_for, 0.01), State.DONE)
        worker.terminate()
        worker.wait(TIMEOUT_SECONDS)
    # A worker that is stopped has nothing to lose.
    assert runs_of(histograms("sleep_for")[""]) == known + 1
    assert runs_of(histograms("wait_for")[""]) == 1
    scene.heal()


# ---- What it costs ----


def calls(client: redis.Redis) -> Counter[str]:
    """Return how often the server has run each command, also in scripts."""
    found: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in found.items()})


@pytest.fixture
def client_of_store(redis_store: Store, valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{valkey}/1") as client:
        yield client


def scripts_in(client: redis.Redis, act: Callable[[], object]) -> int:
    """Return the number of scripts that the server has run meanwhile: each is one command from us."""
    before = calls(client)
    act()
    found = calls(client) - before
    return found["evalsha"] + found["eval"]


@pytest.mark.parametrize("estimates", [True, False])
def test_a_message_costs_the_same_commands_with_estimates_and_without(
    silent: None, settings: Any, client_of_store: redis.Redis, broker: StubBroker, estimates: bool
) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"ESTIMATES": estimates}
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)

    def run() -> None:
        for _ in range(20):
            work.send()
        broker.join("default")

    run()
    # enqueue and join; start and leave; finish.
    assert scripts_in(client_of_store, run) == 20 * 5


def test_a_poll_costs_the_same_commands_with_an_estimate(client_of_store: redis.Redis) -> None:
    enqueue("m1")
    start("m2")
    count(*[60.0] * 5)
    write(get_store().pace_key("default"), text=paced(2.0))
    # Another test may have made the server forget the scripts, which costs one command more.
    read("m1")
    get_store().durations.estimates([{"actor": "another", "queue": "default", "state": "running"}])
    get_store().durations._known.clear()
    # An actor's durations are read once.
    assert scripts_in(client_of_store, lambda: read("m2")) == 2
    assert scripts_in(client_of_store, lambda: [read("m2") for _ in range(10)]) == 10
    # Its record, and its position in the queue.
    assert scripts_in(client_of_store, lambda: [read("m1") for _ in range(10)]) == 20
    assert (found := usual()) is not None and None not in found


@pytest.mark.slow(5)
def test_the_runs_of_an_interval_are_counted_by_one_command(
    quick: None, redis_store: Store, client_of_store: redis.Redis, broker: StubBroker, settings: Any
) -> None:
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)
    for message in [work.send() for _ in range(50)]:
        when(message, State.DONE)
    wait_until(lambda: runs_of(histograms().get("", "")) == 50)
    assert client_of_store.hlen(redis_store.durations_key("work")) == 1
    assert 29 * DAY < client_of_store.ttl(redis_store.durations_key("work")) <= 30 * DAY
    assert 0 < client_of_store.ttl(redis_store.pace_key("default")) <= DAY


def test_nothing_is_kept_or_told_without_estimates(
    store: Store, quick: None, broker: StubBroker, settings: Any
) -> None:
    enqueue("m1")
    write(store.pace_key("default"), text=paced(2.0))
    count(*[60.0] * 5)
    assert (found := usual()) is not None and None not in found
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"ESTIMATES": False}
    assert usual() is None
    known = histograms(), pace_of()
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)
    when(work.send(), State.DONE)
    get_recorder().stop()
    assert (histograms(), pace_of()) == known


def test_an_answer_is_not_modified_until_the_usual_time_changes(store: Store, client: Client) -> None:
    start("m1")
    path, etag = "/progress/m1/", ""

    def poll() -> Any:
        return client.get(path, headers={"If-None-Match": etag})

    etag = poll()["ETag"]
    count(*[60.0] * 4)
    assert poll().status_code == 304
    count(60.0)
    changed = poll()
    etag = changed["ETag"]
    assert set(changed.json()["usual"]) == {"run", "run_most", "wait"}
    assert poll().status_code == 304
    # The same time again isn't another one.
    count(*[60.0] * 5)
    assert poll().status_code == 304


# ---- Estimate keys ----


def test_an_actor_has_at_most_twenty_kinds_of_runs(store: Store) -> None:
    for number in range(MAX_KEYS):
        assert count(1.0, key=f"k{number}") == {}
    assert count(1.0, key="one more") == {"work": ["one more"]}
    assert count(1.0, key="k0") == {} and count(1.0, key="one more", actor="another") == {}
    assert len(histograms()) == MAX_KEYS


def test_a_kind_of_run_that_is_over_makes_room(store: Store) -> None:
    old, recent = (f"{time.time() - days * DAY:.0f} 1:1" for days in (31, 29))
    known = {f"k{number}": recent for number in range(MAX_KEYS - 1)}
    write(store.durations_key("work"), **known, old=old)
    assert count(1.0, key="new") == {}
    assert "old" not in histograms() and len(histograms()) == MAX_KEYS
    assert count(1.0, key="newer") == {"work": ["newer"]}


def test_a_key_too_many_is_logged_once_and_the_message_runs(
    store: Store, quick: None, broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)
    messages = [work.send_with_options(estimate_key=f"user {number}") for number in range(60)]
    for message in messages:
        when(message, State.DONE)
    wait_until(lambda: len(histograms()) == MAX_KEYS)
    for number in range(60, 64):
        when(work.send_with_options(estimate_key=f"user {number}"), State.DONE)
    get_recorder().stop()
    lines = [each for each in caplog.messages if "estimate_key='user " in each]
    assert len(lines) == 1 and "20 others" in lines[0] and "Use fewer keys" in lines[0]


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (5, TypeError, r'estimate_key=5 isn\'t a text.*estimate_key="large"'),
        ("", ValueError, r"estimate_key='' isn't a valid text of 1 to 50 characters"),
        ("a" * 51, ValueError, r"estimate_key='a{51}' isn't .* 1 to 50"),
        ("\ud800", ValueError, "estimate_key=.*isn't a valid text"),
    ],
)
def test_a_key_that_cannot_be_kept_is_an_error_where_it_is_given(
    store: Store, key: Any, error: type[Exception], text: str
) -> None:
    broker = StubBroker(middleware=[])
    broker.add_middleware(ProgressMiddleware())
    with pytest.raises(error, match=text):
        progress_actor(broker=broker, actor_name="bad", estimate_key=key)(lambda: None)
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)
    for make in (work.message_with_options, work.send_with_options):
        with pytest.raises(error, match=text):
            make(estimate_key=key)
    assert broker.queues["default"].empty()


def test_a_message_with_a_bad_key_that_was_not_made_by_its_actor_runs(
    store: Store, quick: None, broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    work = progress_actor(broker=broker, actor_name="work")(lambda: None)
    message = work.message().copy(options={"estimate_key": ["large"]})
    with caplog.at_level(logging.WARNING):
        broker.enqueue(message)
    assert f"Ignoring an option of message {message.message_id} (work): estimate_key=['large']" in caplog.text
    when(message, State.DONE)
    wait_until(lambda: set(histograms()) == {""})


def test_estimates_are_finite_numbers() -> None:
    for seconds in (0.0, 0.1, 0.994, 0.996, 9.94, 9.96, 99.4, 99.6, 1e5):
        assert math.isfinite(_about(seconds)) and _about(seconds) == pytest.approx(max(seconds, 0.1), rel=0.06)

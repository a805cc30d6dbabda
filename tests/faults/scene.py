"""The scene of a fault: a broker, a store that can be broken, workers, and a reader that reads every 10 ms."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import xq_name
from dramatiq.middleware import Retries

from dramatiq_progress import Progress, State, StoreUnavailable, cancel, progress_group, progress_pipeline
from dramatiq_progress.message_ids import HasMessageId
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.redis import RedisStore
from tests import proxy, servers
from tests.faults import tasks
from tests.faults.history import Deed, History, Resources, Sample, judge
from tests.store_server import Server, eternal_keys
from tests.topologies import Topology
from tests.waiting import PATIENT, wait_until

#: With these options the Redis broker notices a dead worker within seconds; by default it takes minutes.
QUICK_REDIS_BROKER = {"heartbeat_timeout": 1000, "maintenance_chance": 1_000_000}
#: For tests in which no worker is killed: one that a busy machine delays by seconds must not count as dead, since its
#: messages would run twice. Less than tests wait: what a worker fetched just as it stopped may return only then.
STEADY_REDIS_BROKER = {**QUICK_REDIS_BROKER, "heartbeat_timeout": 30_000}
#: A tenth and a fifth of the defaults: on a busy machine a heartbeat may be two seconds late.
QUICK_PROGRESS = {"HEARTBEAT_INTERVAL": 0.5, "LOST_AFTER": 3.0, "CANCELLABLE": True}
#: For tests in which only a fault is an outage: with the default timeout of 0.25 s, a machine that is busy for a moment
#: is one too, and a worker then starts a message although it can't know that it is paused.
PATIENT_PROGRESS = {**QUICK_PROGRESS, "OPTIONS": PATIENT}
#: For tests in which a worker that is alive must not be shown as lost: a heartbeat that a busy machine delays by
#: seconds is no fault there.
STEADY_PROGRESS = {**PATIENT_PROGRESS, "LOST_AFTER": 6.0}

#: The log lines about an outage, its end, and a record that the store refuses.
TROUBLE = "The progress store is unavailable;"
RECOVERY = "The progress store is available again."
REFUSAL = "The progress store refused to write message"

SAMPLE_INTERVAL_SECONDS = 0.01
#: With more than this many at a time, the reader would slow down what it observes.
SAMPLED_AT_ONCE = 50
#: Longer than a broker takes to redeliver the messages of a dead worker.
HEALING_SECONDS = 180.0


class Reader(threading.Thread):
    """Reads all messages repeatedly, as many browsers would, and keeps each change."""

    def __init__(self, store: RedisStore, history: History) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._history = history
        self._message_ids: list[str] = []
        self._stopping = threading.Event()
        self._last: dict[str, Sample] = {}
        self.life = 0
        #: Held during a round of reading: actions between two rounds are seen together or not at all.
        self.between_looks = threading.RLock()
        self.rounds = 0
        self.failed: BaseException | None = None

    def watch(self, message_id: str) -> None:
        self._message_ids.append(message_id)

    def last(self, message_id: str) -> Progress | None:
        sample = self._last.get(message_id)
        return None if sample is None else sample.progress

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._store.close()
        assert self.failed is None, self.failed

    def run(self) -> None:
        try:
            while not self._stopping.wait(SAMPLE_INTERVAL_SECONDS):
                with self.between_looks:
                    self._look()
        except BaseException as error:
            self.failed = error

    def _look(self) -> None:
        watched = self._message_ids
        begin = self.rounds * SAMPLED_AT_ONCE % (len(watched) or 1)
        chosen = watched[begin : begin + SAMPLED_AT_ONCE]
        life = self.life
        try:
            readings = self._store.read(chosen) if chosen else []
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                self._store.ping()  # the next round must not wait for the store's own probe
            return
        now = time.monotonic()
        for message_id, progress in zip(chosen, readings, strict=True):
            sample = Sample(now, life, message_id, progress)
            if _differs(self._last.get(message_id), sample):
                self._history.samples.append(sample)
            self._last[message_id] = sample
        self.rounds += 1


def _differs(earlier: Sample | None, later: Sample) -> bool:
    return earlier is None or _visible(earlier) != _visible(later)


def _visible(sample: Sample) -> tuple[object, ...]:
    seen = sample.progress
    return (sample.life, None if seen is None else (seen.state, seen.attempt, seen.version, seen.percent))


@dataclass
class Scene:
    """Everything that a test breaks, and everything that it observes. This process sends the messages."""

    broker: dramatiq.Broker
    #: A broker without our middleware: messages that it enqueues are deliveries that were never recorded.
    outsider: dramatiq.Broker
    store: Any
    reader: Reader
    history: History
    environment: dict[str, str]
    folder: Path
    messages: list[str] = field(default_factory=list)

    def send(self, actor: dramatiq.Actor[..., Any], *args: Any) -> dramatiq.Message[Any]:
        """Send a message, and watch it if it is tracked."""
        message = actor.message(*args)
        return self.enqueue(message) if actor.options.get("progress_actor") else self.broker.enqueue(message)

    def enqueue(self, message: dramatiq.Message[Any]) -> dramatiq.Message[Any]:
        """Send a message of a tracked actor, and watch it."""
        self.messages.append(message.message_id)
        self.reader.watch(message.message_id)
        return self.broker.enqueue(message)

    def run(self, job: progress_group | progress_pipeline, children: Sequence[str] = ()) -> None:
        """Send a group or a pipeline, and watch it and its messages.

        Parameters:
          children: The ids of the messages that its members will send.
        """
        members = [[each.message_id for each in messages] for messages in _members(job)]
        members += [[each] for each in children]
        self.history.composites[job.message_id] = members
        if children:
            self.history.growing.add(job.message_id)
        for inner in job.children if isinstance(job, progress_group) else ():
            if isinstance(inner, progress_group):
                self.history.composites[inner.message_id] = [[each.message_id] for each in inner.children]
                self.messages.append(inner.message_id)
                self.reader.watch(inner.message_id)
        # Later stages and callbacks are only sent after a success, by which the composite is judged.
        first = members[:1] if isinstance(job, progress_pipeline) else members[: len(job.children)]
        self.history.gone |= set(chain.from_iterable(members)) - {messages[0] for messages in first}
        for message_id in (job.message_id, *chain.from_iterable(members)):
            self.messages.append(message_id)
            self.reader.watch(message_id)
        job.run()

    def open_again(self, message: HasMessageId) -> None:
        """Note for the judge that a finished message is about to be sent again on purpose."""
        self.history.openings.append((time.monotonic(), message.message_id))

    def cancel(self, message: HasMessageId) -> None:
        """Cancel a message or a composite, as a page would, and note it for the judge."""
        members = self.history.composites.get(message.message_id, [])
        self.history.cancelled |= {message.message_id, *chain.from_iterable(members)}
        assert cancel(message.message_id)

    def deliver_again(self, message: dramatiq.Message[Any]) -> None:
        """Put a copy of a message into its queue, as a broker does that takes its worker for dead."""
        self.outsider.enqueue(message)

    @contextmanager
    def proxied(self) -> Iterator[proxy.Proxy]:
        """Let workers that start in this block reach the store through a proxy. The reader uses none."""
        with proxy.before(self.store.port) as made:
            wanted = json.loads(self.environment["TEST_PROGRESS"])
            wanted["OPTIONS"] = {"url": f"redis://127.0.0.1:{made.port}/0"}
            self.environment["TEST_PROGRESS"] = json.dumps(wanted)
            yield made

    def lost_records(self) -> None:
        """Note for the judge that the store may have lost records; those of finished messages aren't rebuilt."""
        with self.reader.between_looks:
            self.reader.life += 1
        self.history.gone |= self._finished()

    def forget_ends(self) -> None:
        """Note for the judge that the store has lost records, and that workers that remember ends are killed too."""
        finished = self._finished()
        for composite, members in list(self.history.composites.items()):
            if not finished.isdisjoint(chain.from_iterable(members)):
                self.history.forgotten.add(composite)

    def _finished(self) -> set[str]:
        return {deed.message_id for deed in self._ledger() if deed.what in ("ended", "failed")}

    def kill_store(self) -> None:
        self.store.kill()
        self.lost_records()

    def now(self, message: HasMessageId) -> Progress | None:
        """Return the last reading."""
        return self.reader.last(message.message_id)

    def when(self, message: HasMessageId, *states: State, timeout: float = HEALING_SECONDS, **values: Any) -> Progress:
        """Wait for a reading with one of these states and these values, and return it."""

        def seen() -> Progress | None:
            progress = self.now(message)
            if progress is None or (states and progress.state not in states):
                return None
            return progress if all(getattr(progress, name) == value for name, value in values.items()) else None

        try:
            progress = wait_until(seen, timeout=timeout)
        except AssertionError:
            raise AssertionError(f"{states} {values} was not read; the last reading was {self.now(message)}") from None
        assert progress is not None
        return progress

    def progresses(self, message: HasMessageId) -> list[Progress]:
        """Return all different readings of a message, in order."""
        samples = [each for each in self.history.samples if each.message_id == message.message_id]
        return [each.progress for each in samples if each.progress is not None]

    def states(self, message: HasMessageId) -> list[State]:
        """Return all states of a message that were read, in order."""
        return [each.state for each in self.progresses(message)]

    def deeds(self, message: dramatiq.Message[Any], what: str | None = None) -> list[Deed]:
        """Return what the message's runs wrote to the ledger."""
        return [
            deed
            for deed in self._ledger()
            if deed.message_id == message.message_id and deed.what == (what or deed.what)
        ]

    def lasted(self, message: dramatiq.Message[Any]) -> float:
        """Return the seconds from the beginning of the message's last run to its end."""
        began, ended = (
            wait_until(lambda what=what: self.deeds(message, what), timeout=HEALING_SECONDS)[-1]
            for what in ("began", "ended")
        )
        return ended.at - began.at

    def _ledger(self) -> list[Deed]:
        path = Path(self.environment["TEST_LEDGER"])
        # A line that crosses a page of the file may be read half written.
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return [Deed(**known) for line in lines if (known := json.loads(line))]

    @contextmanager
    def worker(self, *options: str, environment: dict[str, str] | None = None, **others: Any) -> Iterator[Any]:
        """Run a worker in processes of its own, with its log in ``.log``."""
        log = self.folder / f"worker-{secrets.token_hex(2)}.log"
        environment = self.environment | (environment or {})
        with servers.worker(*options, log=log, environment=environment, actors="tests.faults.tasks", **others) as child:
            child.log = log
            yield child

    @contextmanager
    def unleaking(self, child: Any) -> Iterator[None]:
        """Check that the worker's processes hold no more threads, sockets and files after the block than before."""
        # A worker has opened what it needs after a few messages.
        for _ in range(8):
            self.when(self.send(tasks.report_for, 0.01), State.DONE)
        before = holding(child.pid)
        yield
        # A pool keeps as many connections as threads ever used at the same time.
        spare = {"threads": 0, "files": 4, "sockets": 4}
        with suppress(AssertionError):
            wait_until(lambda: all(holding(child.pid)[name] <= before[name] + spare[name] for name in before))
        after = holding(child.pid)
        for name in before:
            self.history.resources.append(Resources(f"{name} of a worker", before[name], after[name], spare[name]))

    def heal(self, timeout: float = HEALING_SECONDS) -> None:
        """Wait until each message has finished, and judge the history."""
        with suppress(AssertionError):
            wait_until(self._all_ended, timeout=timeout)
        wait_until(lambda rounds=self.reader.rounds: self.reader.rounds > rounds + 1)
        self.history.ends = {message_id: self.reader.last(message_id) for message_id in self.messages}
        # The reader goes on. What it has seen until now is in the ledger that is read after that.
        samples = list(self.history.samples)
        self.history.deeds = self._ledger()
        for server in self.store.servers if isinstance(self.store, Topology) else [self.store]:
            if server.is_running() and server.is_master():
                with server.client() as client:
                    self.history.eternal_keys += eternal_keys(client)
        assert judge(replace(self.history, samples=samples)) == []

    def _all_ended(self) -> bool:
        readings = {message_id: self.reader.last(message_id) for message_id in self.messages}
        return all(
            message_id in self.history.forgotten
            or (message_id in self.history.gone if reading is None else reading.complete)
            for message_id, reading in readings.items()
        )


def _members(job: progress_group | progress_pipeline) -> list[list[dramatiq.Message[Any]]]:
    """Return the members of a composite; each is a list of messages, all of which must succeed."""
    if isinstance(job, progress_pipeline):
        return [[message] for message in job.messages]
    members = [getattr(each, "messages", getattr(each, "children", [each])) for each in job.children]
    return [*members, *([dramatiq.Message(**each)] for each in job.completion_callbacks)]


def dead_letter(broker: Any) -> dramatiq.Message[Any] | None:
    """Return the dead letter of the queue ``default``, as an operator would find it."""
    if isinstance(broker, RedisBroker):
        found = broker.client.hvals(f"{broker.namespace}:{xq_name('default')}.msgs")
        return dramatiq.Message.decode(found[0]) if found else None
    _, _, body = broker.channel.basic_get(xq_name("default"), auto_ack=True)
    return dramatiq.Message.decode(body) if body else None


def holding(group: int) -> dict[str, int]:
    """Count the threads, sockets and other open files of a process group."""
    counts = {"threads": 0, "files": 0, "sockets": 0}
    for entry in Path("/proc").iterdir():
        # A process may end while it is inspected.
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) != group:
                continue
            counts["threads"] += len(os.listdir(entry / "task"))
            for each in (entry / "fd").iterdir():
                counts["sockets" if os.readlink(each).startswith("socket:") else "files"] += 1
    return counts


#: Creates a scene. `broker` is ``redis``, or a fixture of tests/rabbitmq.py without its ``_url``. `progress` are
#: settings, `redis_broker` are options of that broker, `store` is a server (which the test starts) or a running
#: `Topology`. The test's own process has the timeouts of `PATIENT`, unless `is_patient` is False: otherwise a busy
#: machine is an outage for it.
SceneFactory = Callable[..., Scene]


@pytest.fixture
def scene(request: pytest.FixtureRequest, make_scene: SceneFactory) -> Scene:
    """A scene with a running store, short intervals, and the broker that the test names."""
    made = make_scene(broker=getattr(request, "param", "redis"))
    made.store.start()
    return made


@pytest.fixture
def steady_scene(request: pytest.FixtureRequest, make_scene: SceneFactory) -> Scene:
    """A scene in which no worker that is alive is lost, with the broker that the test names.

    The Redis broker notices only after half a minute that a worker is dead.
    """
    broker = getattr(request, "param", "redis")
    made = make_scene(broker=broker, progress=STEADY_PROGRESS, redis_broker=STEADY_REDIS_BROKER)
    made.store.start()
    return made


@pytest.fixture
def patient_scene(request: pytest.FixtureRequest, make_scene: SceneFactory) -> Scene:
    """A scene in which only a fault is an outage, with the broker that the test names."""
    broker = getattr(request, "param", "redis")
    made = make_scene(broker=broker, progress=PATIENT_PROGRESS)
    made.store.start()
    return made


@pytest.fixture
def make_scene(request: pytest.FixtureRequest, valkey: str, settings: Any, tmp_path: Path) -> Iterator[SceneFactory]:
    with ExitStack() as opened:

        def make(
            *,
            broker: str = "redis",
            progress: Mapping[str, Any] = QUICK_PROGRESS,
            redis_broker: Mapping[str, Any] = QUICK_REDIS_BROKER,
            store: Server | Topology | None = None,
            is_patient: bool = True,
        ) -> Scene:
            chosen = Server(tmp_path, "--save", "") if store is None else store
            if isinstance(chosen, Server):
                opened.callback(chosen.stop)
            options = chosen.options if isinstance(chosen, Topology) else {"url": chosen.url}
            wanted = {**progress, "OPTIONS": {**options, **progress.get("OPTIONS", {})}}
            settings.DRAMATIQ_PROGRESS = {**wanted, "OPTIONS": {**wanted["OPTIONS"], **(PATIENT if is_patient else {})}}
            broker_options: dict[str, Any] = {}
            if broker == "redis":
                url, kind = f"{valkey}/4", RedisBroker
                broker_options = {**redis_broker, "namespace": f"test-{secrets.token_hex(4)}"}
            else:
                url, kind = request.getfixturevalue(f"{broker}_url"), RabbitmqBroker
            environment = {
                "TEST_BROKER_URL": url,
                "TEST_BROKER_OPTIONS": json.dumps(broker_options),
                "TEST_PROGRESS": json.dumps(wanted),
                "TEST_LEDGER": str(tmp_path / "ledger"),
            }
            insider, outsider = (kind(url=url, middleware=[], **broker_options) for _ in range(2))
            insider.add_middleware(ProgressMiddleware())
            # The workers' broker has it by default. If the sender counted fewer retries than the worker, the end of an
            # attempt that the store never knew would be refused, as that of an earlier attempt.
            insider.add_middleware(Retries())
            for each in (insider, outsider):
                opened.callback(_close, each)
                # The sender knows the actors, like a web process that has imported them.
                each.actors.update(dramatiq.get_broker().actors)
                for queue in ("default", "short", "long"):
                    each.declare_queue(queue)
            insider.flush_all()
            opened.callback(lambda: get_store().close())
            history = History()
            reader = Reader(RedisStore(prefix="dramatiq-progress:", **options), history)
            reader.start()
            opened.callback(reader.stop)
            return Scene(insider, outsider, chosen, reader, history, environment, tmp_path)

        yield make


def _close(broker: dramatiq.Broker) -> None:
    broker.close()
    if isinstance(broker, RedisBroker):
        broker.client.close()


def wrong_clock(offset: str) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong by this many seconds; its monotonic clock is right."""
    servers.find_program("faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(Path(__file__).with_name("faketime")),
    }

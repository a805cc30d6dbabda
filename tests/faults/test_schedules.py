"""Schedulers that are killed, frozen or have wrong clocks, and a store or a broker that fails: each tick is sent once.

`make soak` runs each fault for longer.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.schedules import ScheduleRecord, Schedules
from tests import servers
from tests.faults.scene import Scene, SceneFactory, wrong_clock
from tests.store_server import Server
from tests.waiting import wait_until

#: How long schedulers run with faults; `make soak` sets it.
SECONDS = float(os.environ.get("SCHEDULE_SECONDS", "15"))

#: All are due each second.
SCHEDULES = {"once": "once", "all": "all", "all-too": "all"}
SENT = re.compile(r"Sent (\S+) for (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \S+?: message (\S+)\.$", re.MULTILINE)
LATE = re.compile(r"Sent (\S+) for (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \S+?, \d+ s late: message (\S+)\.$", re.MULTILINE)

pytestmark = [pytest.mark.slow(SECONDS + 30), pytest.mark.timeout(SECONDS + 600)]


class Schedulers:
    """Schedulers of three schedules, and a worker that runs what they send."""

    def __init__(self, scene: Scene, opened: ExitStack) -> None:
        self.scene = scene
        self._opened = opened
        wanted = json.loads(scene.environment["TEST_PROGRESS"])
        wanted["SCHEDULES"] = {
            name: {"send": "tests.faults.tasks.tick", "args": [name], "every": 1, "missed": missed}
            for name, missed in SCHEDULES.items()
        }
        self.environment = scene.environment | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_PROGRESS": json.dumps(wanted),
        }
        self.in_store = Schedules(get_store())

    def start(self, **environment: str) -> Any:
        """Start a scheduler, and wait until it sends."""
        log = self.scene.folder / f"scheduler-{secrets.token_hex(2)}.log"
        command = (sys.executable, "-m", "django", "runscheduler")
        child: Any = self._opened.enter_context(
            servers.process(*command, log=log, environment=self.environment | environment)
        )
        child.log = log
        wait_until(lambda: child.poll() is not None or " starts with " in log.read_text())
        assert child.poll() is None, log.read_text()
        return child

    def wait_for_ticks(self, count: int = 3) -> None:
        """Wait until this many further ticks of each schedule were sent."""
        before = Counter(name for name, _, _ in self.sent())
        wait_until(lambda: all(self._count(name) >= before[name] + count for name in SCHEDULES))

    def sent(self) -> list[tuple[str, str, str]]:
        """Return the schedule, the tick and the message id of everything in the schedulers' logs."""
        texts = [log.read_text() for log in self.scene.folder.glob("scheduler-*.log")]
        return [found for text in texts for pattern in (SENT, LATE) for found in pattern.findall(text)]

    def judge(self, *, killed: int = 0) -> None:
        """Stop all schedulers, and check that each tick was sent and run once.

        Parameters:
          killed: Number of schedulers that were killed, or frozen for longer than a claim lasts. Each may have sent a
            message without confirming it, which another one then sent again with the same id.
        """
        # What was claimed and not sent is sent by another scheduler, ten seconds later.
        wait_until(lambda: not any(each.age > 2 for record in self._records() for each in record.open))
        self._opened.close()
        records = dict(zip(SCHEDULES, self._records(), strict=True))
        ids = defaultdict(set)
        for name, tick, message_id in self.sent():
            ids[name, tick].add(message_id)
        assert not [tick for tick, found in ids.items() if len(found) > 1], "a tick was sent twice"
        with self.scene.worker("-p", "1", "-t", "8"):
            expected = {name: self._expected(name, records[name].last) for name in SCHEDULES}
            with suppress(AssertionError):
                wait_until(lambda: self._is_run(expected))
        for name, missed in SCHEDULES.items():
            runs = self._runs(name)
            assert len(runs) - len(set(runs)) <= killed, f"a message of {name} ran twice"
            # One whose scheduler was killed before it wrote its log has run all the same.
            least = expected[name] if missed == "all" else 1
            assert least <= len(set(runs)) <= expected[name], name

    def _records(self) -> list[ScheduleRecord]:
        return self.in_store.read(list(SCHEDULES))

    def _count(self, name: str) -> int:
        return sum(name == found for found, _, _ in self.sent())

    def _expected(self, name: str, last: datetime | None) -> int:
        """Return the number of ticks of a schedule, from the first that was sent to the last that was claimed."""
        first = min(tick for found, tick, _ in self.sent() if found == name)
        assert last is not None
        began = datetime.fromisoformat(first).astimezone()
        return round((last - began).total_seconds()) + 1

    def _is_run(self, expected: dict[str, int]) -> bool:
        """Return whether everything that was sent, or is expected of a schedule that leaves no tick out, has run."""
        runs = {name: set(self._runs(name)) for name in SCHEDULES}
        return {message_id for _, _, message_id in self.sent()} <= set().union(*runs.values()) and all(
            len(runs[name]) >= expected[name] for name, missed in SCHEDULES.items() if missed == "all"
        )

    def _runs(self, name: str) -> list[str]:
        return [
            str(deed["message_id"]) for line in self._ledger() if (deed := json.loads(line)).get("schedule") == name
        ]

    def _ledger(self) -> list[str]:
        path = Path(self.scene.environment["TEST_LEDGER"])
        return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


@pytest.fixture
def schedulers(scene: Scene) -> Iterator[Schedulers]:
    with ExitStack() as opened:
        yield Schedulers(scene, opened)


def kill(child: subprocess.Popen[bytes]) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def frozen(*children: subprocess.Popen[bytes]) -> Iterator[None]:
    for each in children:
        os.killpg(each.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in children:
            os.killpg(each.pid, signal.SIGCONT)


@pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)
def test_one_of_two_schedulers_is_killed_again_and_again(schedulers: Schedulers) -> None:
    until = time.monotonic() + SECONDS
    schedulers.start()
    killed = 0
    while time.monotonic() < until:
        other = schedulers.start()
        schedulers.wait_for_ticks()
        kill(other)
        killed += 1
        schedulers.wait_for_ticks()
    schedulers.judge(killed=killed)


@pytest.mark.parametrize("count", [1, 2])
def test_schedulers_are_frozen_and_continue(schedulers: Schedulers, count: int) -> None:
    both = [schedulers.start(), schedulers.start()]
    schedulers.wait_for_ticks()
    with frozen(*both[:count]):
        time.sleep(SECONDS)  # the fault itself
    schedulers.wait_for_ticks()
    schedulers.judge(killed=count)


@pytest.mark.parametrize("is_empty", [False, True])
def test_the_store_is_killed_and_is_back(make_scene: SceneFactory, tmp_path: Path, is_empty: bool) -> None:
    options = ("--save", "") if is_empty else ("--appendonly", "yes", "--appendfsync", "always")
    scene = make_scene(store=Server(tmp_path, *options))
    scene.store.start()
    with ExitStack() as opened:
        schedulers = Schedulers(scene, opened)
        one, other = schedulers.start(), schedulers.start()
        for _ in range(max(1, round(SECONDS / 30))):
            schedulers.wait_for_ticks()
            # The other one hasn't asked for the latest ticks, and is the first to reach the store again.
            with frozen(other):
                schedulers.wait_for_ticks(2)
                scene.store.kill()
            time.sleep(5)  # the fault itself
            with frozen(one):
                scene.store.start()
                wait_until(lambda: all(record.last for record in schedulers._records()))
        schedulers.wait_for_ticks()
        schedulers.judge()


def test_the_store_is_frozen(schedulers: Schedulers) -> None:
    for _ in range(2):
        schedulers.start()
    for _ in range(max(1, round(SECONDS / 30))):
        schedulers.wait_for_ticks()
        with schedulers.scene.store.frozen():
            time.sleep(6)  # the fault itself
    schedulers.wait_for_ticks()
    schedulers.judge()


def test_a_scheduler_ends_between_claim_and_send(schedulers: Schedulers, tmp_path: Path) -> None:
    schedulers.start()
    for number in range(max(2, round(SECONDS / 20))):
        die = tmp_path / f"die-{number}"
        other = schedulers.start(TEST_BROKER_MIDDLEWARE='["tests.faults.middleware.DieBeforeSend"]', TEST_DIE=str(die))
        schedulers.wait_for_ticks()
        die.touch()
        assert other.wait(60) == -signal.SIGKILL
    wait_until(lambda: "another scheduler claimed it" in logs(schedulers))
    schedulers.wait_for_ticks()
    schedulers.judge()


@pytest.mark.parametrize("offset", ["+120", "-3600"])
def test_the_clock_of_one_of_two_hosts_is_wrong(schedulers: Schedulers, offset: str) -> None:
    schedulers.start()
    schedulers.start(**wrong_clock(offset))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        schedulers.wait_for_ticks()
    assert "This host's clock is" in logs(schedulers)
    schedulers.judge()


def test_a_scheduler_whose_clock_is_wrong_is_alone(schedulers: Schedulers) -> None:
    schedulers.start(**wrong_clock("+3600"))
    schedulers.wait_for_ticks()
    schedulers.judge()


def test_the_broker_is_down_and_is_back(make_scene: SceneFactory, tmp_path: Path) -> None:
    """Its messages are lost with it, so only the store and the logs are judged."""
    scene = make_scene()
    scene.store.start()
    (tmp_path / "broker").mkdir()
    broker = Server(tmp_path / "broker", "--appendonly", "yes", "--appendfsync", "always")
    broker.start()
    scene.environment["TEST_BROKER_URL"] = broker.url
    with ExitStack() as opened:
        opened.callback(broker.stop)
        with ExitStack() as running:
            schedulers = Schedulers(scene, running)
            for _ in range(2):
                schedulers.start()
            schedulers.wait_for_ticks()
            broker.kill()
            wait_until(lambda: all(f"Could not send {name} " in logs(schedulers) for name in SCHEDULES))
            broker.start()
            schedulers.wait_for_ticks()
            # Once for each schedule and scheduler, not for each attempt.
            assert logs(schedulers).count("Could not send") <= 2 * len(SCHEDULES)
            schedulers.judge()


def logs(schedulers: Schedulers) -> str:
    return "\n".join(log.read_text() for log in schedulers.scene.folder.glob("scheduler-*.log"))

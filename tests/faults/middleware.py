"""Dramatiq middleware that breaks its worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.middleware import GroupCallbacks, Middleware
from dramatiq.rate_limits.backends import RedisBackend

from dramatiq_progress.stores import get_store
from dramatiq_progress.worker.recording.contributing import Contributor
from dramatiq_progress.worker.recording.recorder import get_recorder
from dramatiq_progress.worker.sending.membership import MemberEnd
from tests.faults.dying import kill_own_process


class DiesAfterRetry(Middleware):
    """Kills the process once, after a retry was sent and before its message is acknowledged."""

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        died = Path(os.environ["TEST_LEDGER"] + "-died")
        if delay is not None and not died.exists():
            died.touch()
            kill_own_process()


class BootsForever(Middleware):
    """Keeps a worker from saying that it is ready: its threads have started, and process messages."""

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        signal.pause()


class DieBeforeSend(Middleware):
    """Kills the process of a scheduler before it sends a message, as soon as a file exists."""

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        if Path(os.environ["TEST_DIE"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)


class DiesBetweenWrites(Middleware):
    """Kills the process once, after the outcome of a member was recorded and before its contribution was.

    Both are one round trip, except on a cluster whose nodes have one each.
    """

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        died = Path(os.environ["TEST_LEDGER"] + "-died")
        contribute_end = Contributor.contribute_end

        def die(*args: Any, **kwargs: Any) -> None:
            if died.exists():
                contribute_end(*args, **kwargs)
            else:
                died.touch()
                kill_own_process()

        if not died.exists():
            MemberEnd.expected = lambda _: None  # type: ignore[method-assign]
            Contributor.contribute_end = die  # type: ignore[method-assign]


class TellsWhatIsStored(Middleware):
    """Tells a test when a process last had nothing that the store lacks: by the time of a file for its group.

    The log tells it too early: when the store is available again, before all is written.
    """

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        path = stored_file(os.environ["TEST_LEDGER"], os.getpgid(0))
        recorder = get_recorder()
        while True:
            now = time.monotonic()
            if get_store().health.is_available and not recorder._deferred:
                path.write_text(str(now))
            time.sleep(0.05)


def stored_file(ledger: str, group: int) -> Path:
    """Return the file of `TellsWhatIsStored` for a process group."""
    return Path(f"{ledger}-stored-{group}")


class SharedGroupCallbacks(GroupCallbacks):
    """Dramatiq's completion callbacks, with their counters in the Redis broker's database."""

    def __init__(self, url: str | None = None) -> None:
        super().__init__(RedisBackend(url=url or os.environ["TEST_BROKER_URL"]))

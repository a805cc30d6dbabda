"""The store in the memory of one process: for tests, and for a site that runs its worker in the web process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dramatiq_progress.progress import State

from .base import Call, Store

#: How often records whose time has passed are dropped.
SWEEP_INTERVAL_SECONDS = 60.0

Record = dict[str, str]

#: The fields of one life of a message; attempt and version go on through all of them.
LIFE_FIELDS = (
    *("token", "current", "total", "description", "metadata", "result"),
    *("started_at", "ended_at", "retry_at", "heartbeat"),
)
#: The fields of one attempt.
ATTEMPT_FIELDS = ("current", "total", "description", "result", "ended_at", "retry_at")


class MemoryStore(Store):
    """Progress in this process's memory: its operations are those of the Lua scripts, line by line.

    Parameters:
      prefix: What every key begins with.
    """

    def __init__(self, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._expires_at: dict[str, float] = {}
        self._swept_at = time.monotonic()
        self._operations: dict[str, Callable[..., Any]] = {
            "enqueue": self._enqueue,
            "start": self._start,
            "report": self._report,
            "finish": self._finish,
        }

    def ping(self) -> None:
        """Memory always answers."""

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        with self._lock:
            self._sweep()
            return [
                self._operations[operation](self.key(message_id), *arguments)
                for operation, message_id, arguments in calls
            ]

    def _read(self, message_ids: Sequence[str]) -> tuple[float, list[Mapping[str, str]]]:
        with self._lock:
            return time.time(), [dict(self._record(self.key(message_id))) for message_id in message_ids]

    def _enqueue(self, key: str, origin: str, state: str, actor: str, queue: str, retries_left: str, ttl: str) -> str:
        record = self._record(key)
        before = record.get("state")
        ended = _has_ended(before)
        if origin == "due":
            if before not in (None, State.DELAYED, State.RETRYING):
                return "refused"
        elif before is not None and not ended:
            return "refused"
        if ended:
            _drop(record, LIFE_FIELDS)
        _drop(record, ("retry_at",))
        record |= {"state": state, "actor": actor, "queue": queue, "retries_left": retries_left}
        record["enqueued_at"] = _now()
        return self._written(key, record, ttl)

    def _start(self, key: str, token: str, actor: str, queue: str, retries_left: str, ttl: str) -> tuple[str, int, str]:
        record = self._record(key)
        before = record.get("state")
        if before in (State.DONE, State.SKIPPED):
            return "unseen", 0, ""
        if before == State.CANCELLED:
            return "cancelled", 0, ""
        _drop(record, ATTEMPT_FIELDS)
        record |= {"state": State.RUNNING, "token": token, "actor": actor, "queue": queue}
        record |= {"retries_left": retries_left, "started_at": (now := _now()), "heartbeat": now}
        attempt = int(record.get("attempt", "0")) + 1
        record["attempt"] = str(attempt)
        self._written(key, record, ttl)
        return "run", attempt, record.get("metadata", "{}")

    def _report(self, key: str, attempt: str, token: str, ttl: str, *fields: str) -> str:
        record = self._record(key)
        if not record:
            return "missing"
        if record["state"] != State.RUNNING or not _holds(record, attempt, token):
            return "refused"
        record |= {"heartbeat": _now(), **_pairs(fields)}
        return self._written(key, record, ttl, raises_version=bool(fields))

    def _finish(
        self,
        key: str,
        attempt: str,
        token: str,
        state: str,
        actor: str,
        queue: str,
        delay: str,
        ttl: str,
        *fields: str,
    ) -> str:
        record = self._record(key)
        before = record.get("state")
        if not token:
            if before is None:
                return "missing"
            if _has_ended(before):
                return "refused"
        elif before is None:
            record |= {"attempt": attempt, "token": token}
        elif not _holds(record, attempt, token) or before not in (State.RUNNING, State.RETRYING):
            return "refused"
        _drop(record, ("retry_at",))
        record |= {"state": state, "actor": actor, "queue": queue, "ended_at": (now := _now())}
        record |= _pairs(fields)
        if delay:
            record["retry_at"] = f"{float(now) + float(delay):.3f}"
        return self._written(key, record, ttl)

    def _record(self, key: str) -> Record:
        expires_at = self._expires_at.get(key)
        if expires_at is not None and expires_at <= time.monotonic():
            self._forget(key)
        return self._records.get(key, {})

    def _written(self, key: str, record: Record, ttl: str, *, raises_version: bool = True) -> str:
        if raises_version:
            record["version"] = str(int(record.get("version", "0")) + 1)
        self._records[key] = record
        self._expires_at[key] = time.monotonic() + int(ttl) / 1000
        return "written"

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept_at < SWEEP_INTERVAL_SECONDS:
            return
        self._swept_at = now
        for key in [key for key, moment in self._expires_at.items() if moment <= now]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        del self._records[key], self._expires_at[key]


def _now() -> str:
    return f"{time.time():.3f}"


def _has_ended(state: str | None) -> bool:
    return state is not None and State(state).is_final


def _holds(record: Record, attempt: str, token: str) -> bool:
    return record.get("attempt") == attempt and record.get("token") == token


def _drop(record: Record, names: Sequence[str]) -> None:
    for name in names:
        record.pop(name, None)


def _pairs(fields: Sequence[str]) -> Record:
    return dict(zip(fields[::2], fields[1::2], strict=True))

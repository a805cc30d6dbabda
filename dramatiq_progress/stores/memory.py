"""The store in the memory of one process: for tests, and for a site that runs its worker in the web process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from dramatiq_progress.progress import State

from .base import Call, Listener, Store, Subscription

#: How often records whose time has passed are dropped.
SWEEP_INTERVAL_SECONDS = 60.0

Record = dict[str, str]

#: The fields of one life of a message; attempt and version go on through all of them.
LIFE_FIELDS = (
    *("token", "current", "total", "description", "rate", "reported_at", "metadata", "result"),
    *("started_at", "ended_at", "heartbeat", "deliveries", "cancel_requested"),
)
#: What one attempt reported.
ATTEMPT_FIELDS = ("current", "total", "description", "rate", "reported_at", "result")


class _Writer(NamedTuple):
    """How an attempt shows itself: the first nine arguments of report and finish."""

    attempt: str
    token: str
    version: str
    actor: str
    queue: str
    retries_left: str
    cancellable: str
    running_for: str
    owner: str

    def holds(self, record: Record) -> bool:
        """Whether the record is this attempt's."""
        return record.get("attempt") == self.attempt and record.get("token") == self.token

    @property
    def began_at(self) -> float:
        """When it began, by this store's clock."""
        return time.time() - float(self.running_for)

    def is_overtaken(self, record: Record) -> bool:
        """Whether the record is that of an attempt that began later."""
        return self.began_at < float(record.get("started_at", "-inf"))

    def renew(self, record: Record) -> None:
        """Make a record that the store lost this attempt's."""
        _drop(record, ATTEMPT_FIELDS)
        record |= {"attempt": self.attempt, "token": self.token, "actor": self.actor, "queue": self.queue}
        record |= {"retries_left": self.retries_left, "started_at": _seconds(self.began_at)}
        _set_cancellable(record, self.cancellable)
        _own(record, self.owner)


class _MemorySubscription(Subscription):
    def __init__(self, listeners: list[Listener], listener: Listener) -> None:
        self._listeners = listeners
        self._listener = listener
        listeners.append(listener)
        listener.on_begin()

    def close(self) -> None:
        with suppress(ValueError):
            self._listeners.remove(self._listener)


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
        # The line of each queue: when each message came.
        self._lines: dict[str, dict[str, float]] = {}
        # The index of each owner: when each message was sent.
        self._indexes: dict[str, dict[str, float]] = {}
        self._listeners: list[Listener] = []
        self._swept_at = time.monotonic()
        self._operations: dict[str, Callable[..., Any]] = {
            "enqueue": self._enqueue,
            "start": self._start,
            "report": self._report,
            "finish": self._finish,
            "cancel": self._cancel,
            "join": self._join,
            "leave": self._leave_line,
            "place": self._place,
            "own": self._own,
            "owned": self._owned,
        }

    def ping(self) -> None:
        """Memory always answers."""

    def subscribe(self, listener: Listener) -> Subscription:
        return _MemorySubscription(self._listeners, listener)

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        with self._lock:
            self._sweep()
            return [self._operations[operation](key, *arguments) for operation, key, arguments in calls]

    def _read(self, message_ids: Sequence[str]) -> list[tuple[float, Mapping[str, str]]]:
        with self._lock:
            return [(time.time(), dict(self._record(self.key(message_id)))) for message_id in message_ids]

    def _enqueue(
        self,
        key: str,
        origin: str,
        state: str,
        actor: str,
        queue: str,
        retries_left: str,
        cancellable: str,
        ttl: str,
        age: str,
        owner: str,
    ) -> tuple[str, str]:
        record = self._record(key)
        before = record.get("state")
        ended = _has_ended(before)
        allowed = {
            "new": before is None or ended,
            "due": before in (None, State.DELAYED, State.RETRYING),
            "late": before is None,
        }
        if origin == "late" and record:
            _own(record, owner)
        if not allowed[origin]:
            return "refused", before or ""
        if ended:
            _drop(record, LIFE_FIELDS)
        _drop(record, ("retry_at",))
        record |= {"state": state, "actor": actor, "queue": queue, "retries_left": retries_left}
        record["enqueued_at"] = _seconds(time.time() - float(age))
        _set_cancellable(record, cancellable)
        _own(record, owner)
        self._written(key, record, ttl)
        return "written", before or ""

    def _start(
        self,
        key: str,
        token: str,
        actor: str,
        queue: str,
        retries_left: str,
        cancellable: str,
        ttl: str,
        age: str,
        least: str,
        limit: str,
        finished_ttl: str,
        owner: str,
    ) -> tuple[str, int, int, int, str, str]:
        record = self._record(key)
        before = record.get("state")
        if before in (State.DONE, State.SKIPPED):
            return "unseen", 0, 0, 0, "", ""
        if before == State.CANCELLED:
            self._expire(key, finished_ttl)
            return "cancelled", 0, 0, 0, "", ""
        if before == State.RUNNING and record["token"] == token:
            numbers = _number(record, "attempt"), _number(record, "version"), _number(record, "deliveries")
            return "run", *numbers, record.get("metadata", "{}"), before
        now = time.time()
        if float(age) and now - float(age) < float(record.get("started_at", "-inf")):
            return "unseen", 0, 0, 0, "", ""
        if "cancel_requested" in record:
            _drop(record, ("deliveries",))
            record |= {"state": State.CANCELLED, "ended_at": record.get("heartbeat", _seconds(now))}
            self._written(key, record, finished_ttl)
            return "cancelled", 0, 0, 0, "", before or ""
        deliveries = _increment(record, "deliveries")
        _drop(record, ("result", "ended_at", "retry_at"))
        if not int(limit) or deliveries <= int(limit):
            _drop(record, ATTEMPT_FIELDS)
        record |= {"state": State.RUNNING, "token": token, "actor": actor, "queue": queue}
        record |= {"retries_left": retries_left, "started_at": _seconds(now - float(age)), "heartbeat": _seconds(now)}
        _set_cancellable(record, cancellable)
        attempt = max(_number(record, "attempt") + 1, int(least))
        record["attempt"] = str(attempt)
        _own(record, owner)
        version = self._written(key, record, ttl)
        return "run", attempt, version, deliveries, record.get("metadata", "{}"), before or ""

    def _report(self, key: str, *arguments: str) -> tuple[str, int, int]:
        writer, (ttl, *fields) = _Writer(*arguments[:9]), arguments[9:]
        record = self._record(key)
        to_cancel = int("cancel_requested" in record)
        lost = not record or _number(record, "attempt") < int(writer.attempt)
        if not lost and (record["state"] != State.RUNNING or not writer.holds(record)):
            return "refused", 0, to_cancel
        if lost:
            if writer.is_overtaken(record):
                return "refused", 0, to_cancel
            writer.renew(record)
            _drop(record, ("ended_at", "retry_at"))
            record["state"] = State.RUNNING
        record["version"] = str(max(_number(record, "version"), int(writer.version)))
        record["heartbeat"] = now = _seconds(time.time())
        if fields:
            record |= {"reported_at": now, **_pairs(fields)}
        version = self._written(key, record, ttl, raises_version=lost or bool(fields))
        return "renewed" if lost else "written", version, to_cancel

    def _finish(self, key: str, *arguments: str) -> tuple[str, str]:
        writer, (state, delay, began, least, lost_after, ttl, age, *fields) = _Writer(*arguments[:9]), arguments[9:]
        record = self._record(key)
        before = record.get("state")
        latest = _number(record, "attempt")
        if writer.attempt == "0" and record.get("token") == writer.token:
            writer = writer._replace(attempt=str(latest))
        lost = False
        if began == "0":
            if before is None or _has_ended(before):
                return "refused", before or ""
            if before == State.RUNNING and time.time() - float(record["heartbeat"]) <= float(lost_after):
                return "refused", before or ""
        elif writer.attempt == "0":
            if _has_ended(before) and before != State.FAILED:
                return "refused", before or ""
            writer, lost = writer._replace(attempt=str(max(latest + 1, int(least)))), True
        elif before is None or latest < int(writer.attempt):
            lost = True
        elif not writer.holds(record) or before not in (State.RUNNING, State.RETRYING):
            return "refused", before or ""
        if lost:
            if writer.is_overtaken(record):
                return "refused", before or ""
            writer.renew(record)
        record["version"] = str(max(_number(record, "version"), int(writer.version)))
        now = time.time() - float(age)
        _drop(record, ("retry_at", "deliveries"))
        record |= {"state": state, "ended_at": _seconds(now), **_pairs(fields)}
        if "cancel_requested" in record and state in (State.RETRYING, State.FAILED):
            _drop(record, ("result",))
            record["state"], delay = State.CANCELLED, ""
        if delay:
            record["retry_at"] = _seconds(now + float(delay))
        self._written(key, record, ttl)
        return "written", before or ""

    def _cancel(self, key: str, ttl: str) -> tuple[str, str, str]:
        record = self._record(key)
        if not record:
            return "not_found", "", ""
        before, queue = record["state"], record["queue"]
        if before == State.CANCELLED:
            return "cancelled", before, queue
        if _has_ended(before):
            return "finished", before, queue
        if record.get("cancellable") == "0":
            return "not_cancellable", before, queue
        if "cancel_requested" in record:
            return "requested", before, queue
        if before != State.RUNNING:
            record.setdefault("ended_at", _seconds(time.time()))
            _drop(record, ("retry_at", "deliveries"))
            record["state"] = State.CANCELLED
        record["cancel_requested"] = "1"
        left = self._expires_at[key] - time.monotonic()
        self._written(key, record, str(max(int(ttl), int(left * 1000))))
        return ("requested" if before == State.RUNNING else "cancelled"), before, queue

    def _join(self, key: str, message_id: str, ttl: str, age: str) -> str:
        self._lines.setdefault(key, {})[message_id] = time.time() - float(age)
        return "written"

    def _leave_line(self, key: str, message_id: str, patience: str) -> str:
        line = self._lines.get(key, {})
        came = line.pop(message_id, None)
        if came is None:
            return "refused"
        self._lines[key] = {each: moment for each, moment in line.items() if moment >= came - float(patience)}
        return "written"

    def _place(self, key: str, message_id: str) -> tuple[int | None, int]:
        line = self._lines.get(key, {})
        ids = sorted(line, key=lambda each: (line[each], each))
        return (ids.index(message_id) if message_id in line else None), len(ids)

    def _own(self, key: str, message_id: str, ttl: str, age: str, most: str) -> str:
        index = self._index(key) | {message_id: time.time() - float(age)}
        oldest_first = sorted(index, key=lambda each: (index[each], each))
        self._indexes[key] = {each: index[each] for each in oldest_first[-int(most) :]}
        self._expires_at[key] = max(self._expires_at.get(key, 0.0), time.monotonic() + int(ttl) / 1000)
        return "written"

    def _owned(self, key: str) -> list[str]:
        newest_first = reversed(self._index(key).items())
        return [text for message_id, moment in newest_first for text in (message_id, _seconds(moment))]

    def _index(self, key: str) -> dict[str, float]:
        self._forget_expired(key)
        return self._indexes.get(key, {})

    def _record(self, key: str) -> Record:
        self._forget_expired(key)
        return self._records.get(key, {})

    def _written(self, key: str, record: Record, ttl: str, *, raises_version: bool = True) -> int:
        version = _increment(record, "version") if raises_version else _number(record, "version")
        self._records[key] = record
        self._expire(key, ttl)
        if raises_version:
            for listener in list(self._listeners):
                listener.on_change(key.removeprefix(self.prefix))
        return version

    def _expire(self, key: str, ttl: str) -> None:
        self._expires_at[key] = time.monotonic() + int(ttl) / 1000

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept_at < SWEEP_INTERVAL_SECONDS:
            return
        self._swept_at = now
        for key in [key for key, moment in self._expires_at.items() if moment <= now]:
            self._forget(key)

    def _forget_expired(self, key: str) -> None:
        expires_at = self._expires_at.get(key)
        if expires_at is not None and expires_at <= time.monotonic():
            self._forget(key)

    def _forget(self, key: str) -> None:
        del self._expires_at[key]
        self._records.pop(key, None)
        self._indexes.pop(key, None)


def _seconds(moment: float) -> str:
    return f"{moment:.6f}"


def _number(record: Record, name: str) -> int:
    return int(record.get(name, "0"))


def _increment(record: Record, name: str) -> int:
    number = _number(record, name) + 1
    record[name] = str(number)
    return number


def _set_cancellable(record: Record, cancellable: str) -> None:
    _drop(record, ("cancellable",))
    if cancellable == "0":
        record["cancellable"] = "0"


def _has_ended(state: str | None) -> bool:
    return state is not None and State(state).is_final


def _drop(record: Record, names: Sequence[str]) -> None:
    for name in names:
        record.pop(name, None)


def _own(record: Record, owner: str) -> None:
    if owner:
        record.setdefault("owner", owner)


def _pairs(fields: Sequence[str]) -> Record:
    return dict(zip(fields[::2], fields[1::2], strict=True))

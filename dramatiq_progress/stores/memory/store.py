"""`MemoryStore`: progress in one process's memory, for tests and for sites that run their worker in the web process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from dramatiq_progress.stores import encoding
from dramatiq_progress.stores.base import Store
from dramatiq_progress.stores.durations import tally
from dramatiq_progress.stores.encoding import Call, Finish, Keep, Part, Report, Tally, Writer, seconds
from dramatiq_progress.stores.pace import after_departure
from dramatiq_progress.stores.querying import Stored
from dramatiq_progress.stores.subscription import Listener, Subscription

from . import attempt_transitions, claims, contributions, transitions
from .contributions import Members
from .prelude import Outcome, Record

#: How often expired entries are removed.
SWEEP_INTERVAL_SECONDS = 60.0

_WRITER = len(Writer._fields)
_REPORT = _WRITER + len(Report._fields)
_FINISH = _WRITER + len(Finish._fields)
_PART = len(Part._fields)
_JOIN = len(encoding.Join._fields)
_TALLY = len(Tally._fields)
_KEEP = len(Keep._fields)
_START = len(encoding.Start._fields)
_DECLARE = len(encoding.Declare._fields)


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
    """Progress in this process's memory.

    Parameters:
      prefix: Prefix of every key.
    """

    def __init__(self, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        # Of composites.
        self._members: dict[str, Members] = {}
        # Queues and owners: message ids and when they were added.
        self._indexes: dict[str, dict[str, float]] = {}
        # The paces of queues, and the durations of actors.
        self._paces: dict[str, str] = {}
        self._durations: dict[str, dict[str, str]] = {}
        # By `time.monotonic`, for every key of those above.
        self._expires_at: dict[str, float] = {}
        self._listeners: list[Listener] = []
        self._swept_at = time.monotonic()
        _stores.add(self)

    def ping(self) -> None:
        """Do nothing: memory is always available."""

    def subscribe(self, listener: Listener) -> Subscription:
        return _MemorySubscription(self._listeners, listener)

    def renew_lock(self) -> None:
        """Replace the lock, which a thread of the parent process may have held at a fork."""
        self._lock = threading.Lock()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        changed: list[str] = []
        with self._lock:
            self._sweep()
            answers = [self._run(call, changed) for call in calls]
        for key in changed:
            for listener in list(self._listeners):
                listener.on_change(key.removeprefix(self.prefix))
        return answers

    def _read_answers(self, answers: Sequence[Any]) -> list[tuple[float, Stored]]:
        return [found for answer in answers for found in answer]

    def _run(self, call: Call, changed: list[str]) -> Any:
        now = time.time()
        for key in call.keys:
            self._remove_if_expired(key)
        key = call.keys[0]
        match call.script:
            case "read":
                return [(now, dict(self._records.get(each, {}))) for each in call.keys]
            case "peek":
                members = self._members.get(call.keys[-1], {})
                return contributions.peek(self._records.get(key, {}), members, encoding.Peek(*call.arguments))
            case "join":
                ids = call.arguments[_JOIN:]
                return self._join(key, encoding.Join(*call.arguments[:_JOIN]), ids, now)
            case "leave":
                return self._leave_queue(call.keys, encoding.Leave(*call.arguments), now)
            case "position":
                return self._position(call.keys, encoding.Position(*call.arguments), now)
            case "own":
                return self._own(key, encoding.Own(*call.arguments), now)
            case "disown":
                self._indexes.get(key, {}).pop(encoding.Disown(*call.arguments).message_id, None)
                return "written"
            case "owned":
                newest_first = reversed(self._indexes.get(key, {}).items())
                return [text for message_id, moment in newest_first for text in (message_id, seconds(moment))]
            case "tally":
                return self._tally(key, call.arguments, now)
            case "durations":
                return [text for pair in self._durations.get(key, {}).items() for text in pair]
        record, *beside = (self._records.get(each, {}) for each in call.keys)
        if call.script in ("part", "gather"):
            members = self._members.get(call.keys[1], {})
            slots = _pairs(call.arguments[_PART:])
            outcome = contributions.part(record, members, now, Part(*call.arguments[:_PART]), slots)
            if outcome.ttl is not None:
                self._members[call.keys[1]] = members
        else:
            outcome = self._write(call.script, record, beside, now, call.arguments)
        if outcome.ttl is not None:
            self._records[key] = record
            for each in call.keys:
                self._expire(each, outcome.ttl, only_later=outcome.only_later)
        for companion, fields in zip(call.keys[1:], beside, strict=True):
            if fields and key in self._expires_at:
                self._records[companion] = fields
                self._expires_at[companion] = self._expires_at[key]
        if outcome.changed:
            changed.append(key)
        return outcome.answer

    def _write(
        self, script: str, record: Record, beside: Sequence[Record], now: float, given: Sequence[str]
    ) -> Outcome:
        match script:
            case "enqueue":
                return transitions.enqueue(record, now, encoding.Enqueue(*given))
            case "start":
                return attempt_transitions.start(record, now, encoding.Start(*given[:_START]), _pairs(given[_START:]))
            case "report":
                writer, options = Writer(*given[:_WRITER]), Report(*given[_WRITER:_REPORT])
                return attempt_transitions.report(record, now, writer, options, _pairs(given[_REPORT:]))
            case "finish":
                how = Finish(*given[_WRITER:_FINISH])
                end = len(given) - int(how.beside)
                fields, kept = _pairs(given[_FINISH:end]), _pairs(given[end:])
                return attempt_transitions.finish(record, now, Writer(*given[:_WRITER]), how, fields, beside, kept)
            case "keep":
                return transitions.keep(record, beside[0], Keep(*given[:_KEEP]), _pairs(given[_KEEP:]))
            case "pause":
                return transitions.pause(record, now, encoding.Pause(*given))
            case "withdraw":
                return transitions.withdraw(record, encoding.Withdraw(*given), beside[0])
            case "declare":
                return claims.declare(record, now, encoding.Declare(*given[:_DECLARE]), _pairs(given[_DECLARE:]))
            case "claim":
                return claims.claim(record, now, encoding.Claim(*given))
            case "confirm":
                return claims.confirm(record, now, encoding.Confirm(*given))
            case "conclude":
                return claims.conclude(record, encoding.Conclude(*given))
            case _:
                return transitions.cancel(record, now, encoding.Cancel(*given))

    def _join(self, key: str, given: encoding.Join, ids: Sequence[str], now: float) -> str:
        self._indexes.setdefault(key, {}).update(dict.fromkeys(ids, now - float(given.age)))
        self._expire(key, given.ttl)
        return "written"

    def _leave_queue(self, keys: Sequence[str], given: encoding.Leave, now: float) -> str:
        key, *paces = keys
        index = self._indexes.get(key, {})
        enqueued_at = index.pop(given.message_id, None)
        if enqueued_at is None:
            return "refused"
        oldest = enqueued_at - float(given.patience)
        self._indexes[key] = {each: moment for each, moment in index.items() if moment >= oldest}
        for pace in paces:
            waiting = bool(self._indexes[key])
            self._paces[pace] = after_departure(self._paces.get(pace, ""), now, given, waiting=waiting)
            self._expire(pace, given.pace_ttl)
        return "written"

    def _position(self, keys: Sequence[str], given: encoding.Position, now: float) -> tuple[Any, ...]:
        ids = _sorted(self._indexes.get(keys[0], {}))
        before = ids.index(given.message_id) if given.message_id in ids else None
        return before, len(ids), self._paces.get(keys[-1]), int(now), int(now % 1 * 1e6)

    def _tally(self, key: str, given: Sequence[str], now: float) -> list[str]:
        arguments = Tally(*given[:_TALLY])
        self._expire(key, arguments.ttl)
        return tally(self._durations.setdefault(key, {}), now, arguments, _pairs(given[_TALLY:]))

    def _own(self, key: str, given: encoding.Own, now: float) -> str:
        index = self._indexes.get(key, {}) | {given.message_id: now - float(given.age)}
        self._indexes[key] = {each: index[each] for each in _sorted(index)[-int(given.limit) :]}
        self._expire(key, given.ttl, only_later=True)
        return "written"

    def _expire(self, key: str, ttl: str, *, only_later: bool = False) -> None:
        moment = time.monotonic() + int(ttl) / 1000
        self._expires_at[key] = max(moment, self._expires_at.get(key, 0.0)) if only_later else moment

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept_at >= SWEEP_INTERVAL_SECONDS:
            self._swept_at = now
            for key in list(self._expires_at):
                self._remove_if_expired(key)

    def _remove_if_expired(self, key: str) -> None:
        if self._expires_at.get(key, math.inf) <= time.monotonic():
            del self._expires_at[key]
            for kept in (self._records, self._members, self._indexes, self._paces, self._durations):
                kept.pop(key, None)


def _sorted(index: dict[str, float]) -> list[str]:
    return sorted(index, key=lambda each: (index[each], each))


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


#: The memory stores of this process.
_stores: WeakSet[MemoryStore] = WeakSet()


def _renew_locks_after_fork() -> None:
    for store in list(_stores):
        store.renew_lock()


os.register_at_fork(after_in_child=_renew_locks_after_fork)

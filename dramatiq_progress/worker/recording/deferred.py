"""State changes that wait for the store, and the back-off of records that it refuses.

Progress reports aren't kept here: observers hold the latest values.
"""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from dramatiq_progress import jitter
from dramatiq_progress.errors import StoreRefused
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.health import Health, NodeUnreachable

#: How many state changes are kept; the oldest are dropped first.
DEFERRED_LIMIT = 10_000
#: The most private data that they may hold together (see `Companion`). Without any, a change takes about 1 KB.
DEFERRED_BYTES = 64 * 1024 * 1024
#: How many of them are written before running messages are served again.
BATCH_SIZE = 500

#: Pause after the first refusal of a record; it doubles up to the longest one.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
#: How long a record is refused before its changes are dropped.
REFUSED_LIMIT_SECONDS = 3600.0

#: Writes something to a store, this many seconds after it happened.
Action = Callable[[Store, float], object]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Refusal:
    """A record that the store refuses.

    Attributes:
      since: When the store refused it first, by `time.monotonic`.
      pause: Seconds before the next try.
      due_at: When it is tried again, by `time.monotonic`.
    """

    since: float
    pause: float
    due_at: float


class Refusals:
    """The records that the store refuses, each with a back-off of its own."""

    def __init__(self) -> None:
        self._by_message: dict[str, _Refusal] = {}

    def add(self, message_id: str, error: StoreRefused) -> bool:
        """Note a refusal; the first of a message is logged.

        Returns:
          Whether to try again. If not, the message has been refused for too long, which is logged.
        """
        now = time.monotonic()
        refusal = self._by_message.get(message_id)
        if refusal is None:
            logger.warning(
                "The progress store refused to write message %s; retrying for up to %d s, while other messages aren't "
                "affected. Check the store's memory limit, its ACL and the type of the key: %s",
                message_id,
                REFUSED_LIMIT_SECONDS,
                error,
            )
            if len(self._by_message) >= DEFERRED_LIMIT:
                del self._by_message[next(iter(self._by_message))]
            refusal = self._by_message[message_id] = _Refusal(now, FIRST_PAUSE_SECONDS, 0.0)
        elif now - refusal.since >= REFUSED_LIMIT_SECONDS:
            logger.warning(
                "Dropping the progress of message %s, which the store has refused for %d s (the limit). Check the "
                "store's memory limit, its ACL and the type of the key: %s",
                message_id,
                REFUSED_LIMIT_SECONDS,
                error,
            )
            del self._by_message[message_id]
            return False
        refusal.due_at = now + jitter.shortened(refusal.pause)
        refusal.pause = min(2 * refusal.pause, LONGEST_PAUSE_SECONDS)
        return True

    def clear(self, message_id: str) -> None:
        """Note that the store accepts the message again."""
        self._by_message.pop(message_id, None)

    def due_at(self, message_id: str) -> float:
        """Return when to try the message again, by `time.monotonic`; 0 if it isn't refused."""
        refusal = self._by_message.get(message_id)
        return 0.0 if refusal is None else refusal.due_at


@dataclass(slots=True)
class DeferredChange:
    """A state change that waits for the store.

    Attributes:
      message_id: The message's id.
      action: Writes the change.
      happened_at: When it happened, by `time.monotonic`.
      size: Bytes of private data that it holds.
    """

    message_id: str
    action: Action
    happened_at: float
    size: int = 0


class DeferredChanges:
    """The state changes of a process that wait for the store."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        # Filled by any thread through atomic operations; emptied by the recorder's thread, as is the heap.
        self._ready: deque[DeferredChange] = deque()
        # Those of refused records, by when to try them again. The counter breaks ties.
        self._waiting: list[tuple[float, int, DeferredChange]] = []
        self._counter = count()
        # Those of records on a node that can't be reached, by its health.
        self._parked: dict[Health, deque[DeferredChange]] = {}
        # The sizes of all, changed by any thread.
        self._bytes = 0
        self._counting = threading.Lock()
        # The one that is being written: 0 or 1.
        self._writing = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._writing + len(self._ready) + len(self._waiting) + sum(map(len, list(self._parked.values())))

    def add(self, message_id: str, action: Action, error: Exception, size: int = 0) -> None:
        """Keep a state change that the store couldn't write, and that holds this many bytes of private data."""
        if len(self) >= DEFERRED_LIMIT:
            self._drop_oldest()
        while self._bytes + size > DEFERRED_BYTES and self._drop_oldest():
            pass
        if self._bytes + size > DEFERRED_BYTES:
            # Held by those of refused records and of nodes, which only the recorder's thread may change.
            self.dropped += 1
            return
        if isinstance(error, StoreRefused):
            self._refusals.add(message_id, error)
        self._count(size)
        self._ready.append(DeferredChange(message_id, action, time.monotonic(), size))

    def next_due_at(self) -> float:
        """Return when there is something to write, by `time.monotonic`; infinity if there isn't anything."""
        if self._ready or any(health.is_available for health in list(self._parked)):
            return 0.0
        return self._waiting[0][0] if self._waiting else math.inf

    def write(self, store: Store) -> None:
        """Write what is due, up to `BATCH_SIZE`.

        Raises:
          StoreUnreachable: The store gave no answer. What wasn't written is kept.
        """
        now = time.monotonic()
        self._unpark()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[2])
        for _ in range(min(len(self._ready), BATCH_SIZE)):
            self._writing = 1
            try:
                self._write_next(store, now)
            finally:
                self._writing = 0

    def _write_next(self, store: Store, now: float) -> None:
        change = self._ready.popleft()
        due_at = self._refusals.due_at(change.message_id)
        if due_at > now:
            self._wait(change, due_at)
            return
        try:
            change.action(store, max(time.monotonic() - change.happened_at, 1e-6))
        except StoreRefused as error:
            if self._refusals.add(change.message_id, error):
                self._wait(change, self._refusals.due_at(change.message_id))
            else:
                self._count(-change.size)
        except NodeUnreachable as error:
            self._park(change, error.health)
        except BaseException:
            self._ready.appendleft(change)
            raise
        else:
            self._count(-change.size)
            self._refusals.clear(change.message_id)

    def outages(self) -> list[Health]:
        """Return the health of each node whose recovery some changes wait for."""
        return list(self._parked)

    def _park(self, change: DeferredChange, health: Health) -> None:
        parked = self._parked.setdefault(health, deque())
        if len(parked) >= DEFERRED_LIMIT:
            self._drop(parked.popleft())
        parked.append(change)

    def _unpark(self) -> None:
        for health in [each for each in self._parked if each.is_available]:
            # Before later changes of the same messages.
            self._ready.extendleft(reversed(self._parked.pop(health)))

    def _wait(self, change: DeferredChange, due_at: float) -> None:
        entry = (due_at, next(self._counter), change)
        if len(self._waiting) < DEFERRED_LIMIT:
            heapq.heappush(self._waiting, entry)
        else:
            self._drop(heapq.heapreplace(self._waiting, entry)[2])

    def _drop_oldest(self) -> bool:
        # Those of refused records have a limit of their own: only the recorder's thread may change the heap.
        with suppress(IndexError):
            self._drop(self._ready.popleft())
            return True
        return False

    def _drop(self, change: DeferredChange) -> None:
        self._count(-change.size)
        self.dropped += 1

    def _count(self, size: int) -> None:
        if size:
            with self._counting:
                self._bytes += size

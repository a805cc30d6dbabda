"""What a process's streams share: one subscription to the store, one reader, and the newest event of each message.

It stands between the store, which says only *that* a message has changed, and `streams.py`, which sends. Everything but
`on_…` happens in the event loop's thread. Each message is read once, and encoded once for those who may cancel it and
once for the others, however many streams it goes to.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice
from typing import Any, Protocol

from .conf import configuration
from .errors import StoreUnavailable
from .progress import Progress
from .recorder import get_recorder
from .stores import Store, get_store

#: How many messages are read in one go: what one request of a bar may ask for.
READ_AT_ONCE = 100
#: Changes that come so close together are read together.
GATHER_SECONDS = 0.003
#: How often messages are looked at that may change without a write (`lost`, a place in the line), at the longest.
SWEEP_SECONDS = 5.0
#: How often all are, while changes are not told or the store does not answer.
DEAF_SWEEP_SECONDS = 1.0
#: A time that is left is told again after so long without a report.
CLOCK_SECONDS = 15.0
#: The subscription outlives the last stream by this, for the next page.
LINGER_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """One stream, as the hub sees it."""

    def tell(self, message_id: str | None) -> None:
        """There is news of a message; None: the store does not answer, or the hub has closed."""


class Topic:
    """One message that is being watched.

    Attributes:
      watchers: Who watches it.
      event: The newest event, ready to send to those who may not cancel; None before the first reading.
      reading: What that was made from.
      progress: What it says, without its clocks; None where there is no record.
    """

    __slots__ = ("_with_cancel", "event", "progress", "reading", "told_at", "watchers")

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self.event: bytes | None = None
        self.progress: Progress | None = None
        self.reading: Progress | None = None
        self.told_at = 0.0
        self._with_cancel: bytes | None = None

    def take(self, message_id: str, reading: Progress | None, now: float) -> None:
        """This is the newest."""
        self.reading, self.progress, self.told_at = reading, reading and reading.without_clocks(), now
        self.event, self._with_cancel = encode(message_id, reading), None

    def event_for(self, *, may_cancel: bool) -> bytes:
        """The newest event, for one who may or may not cancel; empty before the first reading."""
        if self.event is None or self.reading is None or not (may_cancel and self.reading.can_cancel):
            return self.event or b""
        self._with_cancel = self._with_cancel or encode(self.reading.id, self.reading, may_cancel=True)
        return self._with_cancel


class Hub:
    """Reads what has changed and is watched, and tells the watchers.

    Attributes:
      store: Where it reads.
      is_closed: Its streams are to end, since the server is about to.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_closed = False
        self.loop = asyncio.get_running_loop()
        self._topics: dict[str, Topic] = {}
        # Filled by the store's thread; its operations are atomic.
        self._heard: deque[str] = deque()
        self._changed: dict[str, None] = {}
        self._swept: dict[str, None] = {}
        self._is_deaf = True
        self._is_in_trouble = False
        self._is_roused = False
        self._work = asyncio.Event()
        self._idle_since = self._swept_at = self.loop.time()
        # Nothing is awaited before this: two streams that begin together would else begin two.
        self._subscription = store.subscribe(self)
        # Not in the context of the request that comes first: the task outlives it.
        self._task = self.loop.create_task(self._run(), context=Context())

    # ---- Called from other threads ----

    def on_change(self, message_id: str) -> None:
        if message_id in self._topics:
            self._heard.append(message_id)
            self._rouse()

    def on_begin(self) -> None:
        self._is_deaf = False
        # Pub/Sub forgets: what was published before is known to nobody here.
        self._heard.extend(list(self._topics))
        self._rouse()

    def on_break(self, error: Exception) -> None:
        if self._is_deaf:
            return  # one more vain try; the sweeps look meanwhile
        self._is_deaf = True
        # At once: whether the store is gone too, and what was said since the connection broke.
        self._heard.extend(list(self._topics))
        self._rouse()

    def close(self) -> None:
        """End the streams, the subscription and the reader. May be called from a signal handler, and twice."""
        self._call(self._close)

    def abandon(self) -> None:
        """Free what a hub holds whose loop has closed."""
        self._subscription.close()

    def _rouse(self) -> None:
        # One call for a burst of changes: each costs a system call.
        if not self._is_roused:
            self._is_roused = True
            self._call(self._wake)

    def _call(self, act: Any) -> None:
        with suppress(RuntimeError):  # the loop has closed, and its streams with it
            self.loop.call_soon_threadsafe(act)

    # ---- Called by streams ----

    def watch(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        """Tell this watcher of these messages from now on, first of their present state."""
        for message_id in message_ids:
            topic = self._topics.setdefault(message_id, Topic())
            topic.watchers.add(watcher)
            if topic.event is not None:
                watcher.tell(message_id)
            self._changed[message_id] = None
        self._work.set()

    def leave(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        """Tell this watcher nothing more. From any thread: Django closes a response in another than the loop's."""
        self._call(partial(self._leave, watcher, message_ids))

    def _leave(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            if topic := self._topics.get(message_id):
                topic.watchers.discard(watcher)
                if not topic.watchers:
                    del self._topics[message_id]
        self._idle_since = self.loop.time()

    def topic(self, message_id: str) -> Topic:
        """A message that is being watched."""
        return self._topics[message_id]

    # ---- The reader ----

    async def _run(self) -> None:
        try:
            while self._topics or self.loop.time() - self._idle_since < LINGER_SECONDS:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._next_sweep()):
                        await self._work.wait()
                        await asyncio.sleep(GATHER_SECONDS)
                self._work.clear()
                self._wake()
                if self.loop.time() >= self._next_sweep():
                    self._sweep()
                while batch := self._next_batch():
                    await self._read(batch)
        finally:
            if not self.is_closed:
                _hubs.pop(self.loop, None)
                self._close()

    def _wake(self) -> None:
        self._is_roused = False
        while self._heard:
            self._changed[self._heard.popleft()] = None
        if self._changed:
            self._work.set()

    def _next_sweep(self) -> float:
        longest = DEAF_SWEEP_SECONDS if self._is_deaf or self._is_in_trouble else SWEEP_SECONDS
        return self._swept_at + min(longest, configuration().lost_after / 3)

    def _sweep(self) -> None:
        self._swept_at = self.loop.time()
        everything = self._is_deaf or self._is_in_trouble
        for message_id, topic in self._topics.items():
            if everything or topic.progress is None or not topic.progress.complete:
                self._swept[message_id] = None

    def _next_batch(self) -> list[str]:
        """What has changed before what may have."""
        batch: list[str] = []
        for line in (self._changed, self._swept):
            for message_id in list(islice(line, READ_AT_ONCE - len(batch))):
                del line[message_id]
                self._swept.pop(message_id, None)
                if message_id in self._topics:
                    batch.append(message_id)
        return batch

    async def _read(self, message_ids: list[str]) -> None:
        try:
            found = await self.store.aread(message_ids)
        except StoreUnavailable as error:
            get_recorder().trouble(error)
            self._suffer(message_ids)
        except Exception:
            logger.exception("A mistake in dramatiq-progress keeps streams from being told of %s.", message_ids)
        else:
            if self._is_in_trouble:
                self._is_in_trouble = False
                self._tell_all_anew()
            for message_id, progress in zip(message_ids, found, strict=True):
                self._try_to_take(message_id, progress)

    def _suffer(self, message_ids: list[str]) -> None:
        # Tried again at the next sweep.
        self._changed.clear()
        self._swept.clear()
        if not self._is_in_trouble:
            self._is_in_trouble = True
            self._tell_everybody()

    def _tell_all_anew(self) -> None:
        for message_id, topic in self._topics.items():
            topic.event = None
            self._changed[message_id] = None

    def _try_to_take(self, message_id: str, progress: Progress | None) -> None:
        try:
            self._take(message_id, progress)
        except Exception:
            # One record that cannot be told must not silence the others.
            logger.exception("A mistake in dramatiq-progress keeps streams from being told of %s.", message_id)

    def _take(self, message_id: str, progress: Progress | None) -> None:
        topic = self._topics.get(message_id)
        if topic is None:
            return
        now = self.loop.time()
        still = progress and progress.without_clocks()
        is_late = progress is not None and progress.eta is not None and now - topic.told_at >= CLOCK_SECONDS
        if topic.event is not None and still == topic.progress and not is_late:
            return
        topic.take(message_id, progress, now)
        for watcher in topic.watchers:
            watcher.tell(message_id)

    def _tell_everybody(self) -> None:
        for watcher in {each for topic in self._topics.values() for each in topic.watchers}:
            watcher.tell(None)

    def _close(self) -> None:
        self.is_closed = True
        self._subscription.close()
        self._task.cancel()
        self._tell_everybody()


def encode(message_id: str, progress: Progress | None, *, may_cancel: bool = False) -> bytes:
    """An event of a stream: the JSON of one message, or that there is none, in the words of the list."""
    if progress is None:
        return b"event: unknown\ndata: " + json.dumps({"unknown": [message_id]}).encode() + b"\n\n"
    # In ASCII, as JsonResponse has it, and so without any character that ends a line of an event stream.
    return b"data: " + json.dumps(progress.as_dict(may_cancel=may_cancel)).encode() + b"\n\n"


#: One for each event loop, and a server has one loop in a process.
_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def get_hub() -> Hub:
    """The hub of the running event loop and of the store in the settings; it is made for the first stream."""
    loop, store = asyncio.get_running_loop(), get_store()
    for each in [each for each in _hubs if each.is_closed()]:
        _hubs.pop(each).abandon()
    hub = _hubs.get(loop)
    # One that was closed at a shutdown stays: what begins now is to end at once.
    if hub is None or hub.store is not store:
        if hub is not None:
            hub.close()
        hub = _hubs[loop] = Hub(store)
    return hub


def all_hubs() -> list[Hub]:
    """Those of all event loops."""
    return list(_hubs.values())

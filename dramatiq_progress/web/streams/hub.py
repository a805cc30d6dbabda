"""The hub: one subscription to the store, one reader, and the slots of all streams of a process.

The store notifies it *that* a message has changed, from threads of its own. The hub reads each changed message once,
and notifies the streams that watch it. Unless noted otherwise, everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import Progress
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.health import NodeUnreachable
from dramatiq_progress.stores.subscription import Subscription

from .limits import StreamSlots
from .topic import Topic, Watcher

#: Maximum number of messages in one read.
READ_AT_ONCE = 100
#: Changes within this time are read together.
GATHER_SECONDS = 0.003
#: Interval of reading all unfinished messages: ``lost`` and the queue position change without a write.
SWEEP_SECONDS = 5.0
#: Interval of reading all messages while there is no subscription, or the store is unavailable.
FALLBACK_SWEEP_SECONDS = 1.0
#: How long the subscription outlives the last stream, for the next page.
LINGER_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Hub:
    """Reads watched messages when they change, and notifies the streams that watch them.

    It subscribes at the first `watch`, and unsubscribes `LINGER_SECONDS` after the last stream.

    Attributes:
      store: The store that it reads.
      loop: The event loop that it belongs to.
      slots: The stream slots of this process.
      is_closed: Whether its streams must end, since the server is stopping.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.loop = asyncio.get_running_loop()
        self.slots = StreamSlots()
        self.is_closed = False
        self._topics: dict[str, Topic] = {}
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        # Appended to by the store's threads. Its operations are atomic.
        self._incoming: deque[str] = deque()
        self._is_drain_scheduled = False
        # The topics to read next: first those that have changed, then those of the current sweep.
        self._changed: dict[str, None] = {}
        self._sweep: Iterator[str] = iter(())
        self._has_work = asyncio.Event()
        self._is_subscribed = False
        self._is_available = True
        self._idle_since = self._swept_at = self.loop.time()

    # ---- Called from other threads ----

    def on_change(self, message_id: str) -> None:
        if message_id in self._topics:
            self._incoming.append(message_id)
            # One call for a burst of changes: each costs a system call.
            if not self._is_drain_scheduled:
                self._is_drain_scheduled = True
                self._call(self._drain)

    def on_begin(self) -> None:
        self._call(self._on_subscribed)

    def on_break(self, error: Exception) -> None:
        self._call(self._on_unsubscribed)

    def close(self) -> None:
        """End all streams. It can be called in any thread and in a signal handler, and more than once."""
        self._call(self._close)

    def discard(self) -> None:
        """Release what the hub of a closed event loop holds."""
        if self._subscription is not None:
            self._subscription.close()

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # The event loop was closed, and its streams with it.
            self.loop.call_soon_threadsafe(function)

    # ---- Called by streams ----

    def watch(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        """Notify a stream of these messages: first of their current state, then of each change."""
        for message_id in message_ids:
            topic = self._topics.setdefault(message_id, Topic(message_id))
            topic.watchers.add(watcher)
            if topic.event:
                watcher.notify(message_id)
            self._changed[message_id] = None
        self._has_work.set()
        if self._task is None and not self.is_closed:
            self._start()

    def leave(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        """Stop notifying a stream. It can be called in any thread: Django closes responses in another one."""
        self._call(partial(self._leave, watcher, message_ids))

    def _leave(self, watcher: Watcher, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            if topic := self._topics.get(message_id):
                topic.watchers.discard(watcher)
                if not topic.watchers:
                    del self._topics[message_id]
                    self._changed.pop(message_id, None)
        self._idle_since = self.loop.time()

    def topic(self, message_id: str) -> Topic:
        """Return the topic of a watched message."""
        return self._topics[message_id]

    # ---- The reader ----

    def _start(self) -> None:
        self._is_subscribed = False
        self._swept_at = self.loop.time()
        self._subscription = self.store.subscribe(self)
        # In an empty context: the task outlives the request that starts it.
        self._task = self.loop.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            while self._topics or self.loop.time() - self._idle_since < LINGER_SECONDS:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._next_sweep_at()):
                        await self._has_work.wait()
                        await asyncio.sleep(GATHER_SECONDS)
                self._has_work.clear()
                self._drain()
                if self.loop.time() >= self._next_sweep_at():
                    self._start_sweep()
                while batch := self._next_batch():
                    await self._read(batch)
        finally:
            self._task = None
            self._stop()
            if self._topics and not self.is_closed:
                # An unexpected error: clients reconnect, and get a new hub.
                self._close()

    def _drain(self) -> None:
        self._is_drain_scheduled = False
        while self._incoming:
            if (message_id := self._incoming.popleft()) in self._topics:
                self._changed[message_id] = None
        if self._changed:
            self._has_work.set()

    def _on_subscribed(self) -> None:
        self._is_subscribed = True
        # Changes before this moment may have been missed.
        self._read_all()

    def _on_unsubscribed(self) -> None:
        if self._is_subscribed:
            self._is_subscribed = False
            # Immediately: to notice whether the store is unavailable too, and what has changed since the last event.
            self._read_all()

    def _read_all(self) -> None:
        self._changed.update(dict.fromkeys(self._topics))
        self._has_work.set()

    def _next_sweep_at(self) -> float:
        longest = SWEEP_SECONDS if self._is_subscribed and self._is_available else FALLBACK_SWEEP_SECONDS
        return self._swept_at + min(longest, configuration().lost_after / 3)

    def _start_sweep(self) -> None:
        self._swept_at = self.loop.time()
        final_too = not (self._is_subscribed and self._is_available)
        self._sweep = iter([each for each, topic in self._topics.items() if final_too or not topic.is_final])

    def _next_batch(self) -> list[str]:
        batch = list(islice(self._changed, READ_AT_ONCE))
        for message_id in batch:
            del self._changed[message_id]
        swept = (message_id for message_id in self._sweep if message_id in self._topics)
        return batch + list(islice(swept, READ_AT_ONCE - len(batch)))

    async def _read(self, message_ids: list[str]) -> None:
        try:
            found = await asyncio.to_thread(self.store.read_each, message_ids)
        except StoreUnavailable:
            self._mark_unavailable()
        except Exception:
            logger.exception("Unexpected error while reading for streams; retrying soon. Please report this as a bug.")
        else:
            self._mark_available()
            for message_id, reading in zip(message_ids, found, strict=True):
                self._update(message_id, reading)

    def _update(self, message_id: str, reading: Progress | NodeUnreachable | None) -> None:
        topic = self._topics.get(message_id)
        if topic is None:
            return
        if isinstance(reading, NodeUnreachable):
            # The other messages of its streams are read as always. The next sweep tries this one again.
            if not topic.is_unreachable:
                topic.is_unreachable = True
                for watcher in topic.watchers:
                    watcher.notify(None)
            return
        if topic.is_unreachable:
            topic.is_unreachable = False
            topic.discard_event()
        try:
            is_news = topic.update(reading, self.loop.time())
        except Exception:
            # One message that can't be encoded must not keep the others from being sent.
            logger.exception(
                "Unexpected error while encoding message %s for streams; skipping this change. Please report this as a "
                "bug.",
                message_id,
            )
            return
        if is_news:
            for watcher in topic.watchers:
                watcher.notify(message_id)

    def _mark_unavailable(self) -> None:
        # The next sweep tries again.
        self._changed.clear()
        self._sweep = iter(())
        if self._is_available:
            self._is_available = False
            self._notify_all()

    def _mark_available(self) -> None:
        if not self._is_available:
            self._is_available = True
            for topic in self._topics.values():
                topic.discard_event()
            self._read_all()

    # ---- The end ----

    def _close(self) -> None:
        self.is_closed = True
        self._stop()
        self._notify_all()

    def _stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
        if self._task is not None:
            self._task.cancel()

    def _notify_all(self) -> None:
        for watcher in {each for topic in self._topics.values() for each in topic.watchers}:
            watcher.notify(None)


#: One hub per event loop; a server process has one event loop.
_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def get_hub() -> Hub:
    """Return the hub of the running event loop, for the store in the settings."""
    loop, store = asyncio.get_running_loop(), get_store()
    for each in [each for each in _hubs if each.is_closed()]:
        _hubs.pop(each).discard()
    hub = _hubs.get(loop)
    if hub is None or hub.is_closed or hub.store is not store:
        if hub is not None:
            hub.close()
        hub = _hubs[loop] = Hub(store)
    return hub


def all_hubs() -> list[Hub]:
    """Return the hubs of all event loops."""
    return list(_hubs.values())

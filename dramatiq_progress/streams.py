"""An event stream: what one page watches, from its hub to its connection, newest state first and never a queue.

`views.stream` makes one for each request. A stream ends by itself after some minutes, when its client leaves, and when
the server is told to stop; whoever is still interested comes again and is told the present state of everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections

from .errors import StoreUnavailable
from .hub import Hub, all_hubs, encode, get_hub
from .places import Place
from .progress import Progress

#: How often something is sent, so that nothing in between takes the connection for dead.
COMMENT_SECONDS = 15.0
#: How long a stream lives, more or less by a fifth: so a deployment behind a balancer spreads again.
LIFE_SECONDS = 300.0
#: How soon a client comes again after its stream has ended; by chance, so that thousands do not come at once.
RETRY_SECONDS = (0.5, 4.0)

#: How often a stream asks whether its client may still read what it is told; by chance, so that thousands do not ask
#: at once. With `requests.FRESH_SECONDS` a logout ends it within a minute.
ASK_AGAIN_SECONDS = (25.0, 35.0)

#: What tells a server to stop.
SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: The messages that a request may know of, and whether it may cancel each: `views._read_for_stream`, for this request.
Read = Callable[[Sequence[str]], Mapping[str, bool]]
#: Whether it still may: `views._goes_on`.
GoesOn = Callable[[Sequence[Progress]], Awaitable[bool]]

logger = logging.getLogger(__name__)


class EventStream(AsyncIterator[bytes]):
    """The events of one stream, as pieces of ``text/event-stream``.

    It watches from its first piece on. What it holds is freed when it ends, is closed, or is cancelled. When a client
    leaves, Django 5.2, 6.0 and 6.1 cancel the task that waits here, also while nothing is being sent; one that was
    cancelled while it sent a piece closes its response, and that closes this.

    Parameters:
      message_ids: What it watches.
      visible: Those of them that the client may know of, and whether it may cancel them, as `read` said.
      read: Says of a message that was not there before whether the client may know of it.
      goes_on: Says again and again whether the client may still know of what it is told. If not, the stream ends, and
        whoever comes again is asked anew.
      place: One of the limited number of streams; it is given back at the end.
    """

    # 10,000 of these are to fit into one process.
    __slots__ = (
        "_asks_at",
        "_denied",
        "_ends_at",
        "_goes_on",
        "_hidden",
        "_hub",
        "_is_closed",
        "_may_cancel",
        "_message_ids",
        "_news",
        "_place",
        "_read",
        "_waiter",
    )

    def __init__(
        self,
        message_ids: Sequence[str],
        visible: Mapping[str, bool],
        read: Read,
        goes_on: GoesOn | None = None,
        place: Place | None = None,
    ) -> None:
        self._message_ids = message_ids
        self._hidden = set(message_ids).difference(visible)
        self._denied: set[str] = set()
        self._may_cancel = _allowed(visible)
        self._read = read
        self._goes_on = goes_on
        self._place = place
        self._hub: Hub | None = None
        self._news: dict[str | None, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._ends_at = self._asks_at = 0.0

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except BaseException:
            self.close()
            raise

    def tell(self, message_id: str | None) -> None:
        """There is news; nothing is kept of it but which message it is of."""
        self._news[message_id] = None
        self._wake()

    def close(self) -> None:
        """Watch no longer. May be called from any thread, and twice."""
        self._is_closed = True
        if self._place is not None:
            self._place.give_back()
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.leave(self, self._message_ids)

    async def _next(self) -> bytes:
        if self._hub is None and not self._is_closed:
            return await self._begin()
        hub = self._hub
        if hub is None:
            raise StopAsyncIteration
        comment_at = hub.loop.time() + COMMENT_SECONDS
        while not (hub.is_closed or self._is_closed) and (now := hub.loop.time()) < self._ends_at:
            if now >= self._asks_at:
                if not await self._may_go_on(hub):
                    break
            elif self._news:
                if piece := await self._take_news(hub):
                    return piece
            elif now >= comment_at:
                return b":\n\n"
            else:
                await self._wait(hub, min(comment_at, self._ends_at, self._asks_at))
        raise StopAsyncIteration

    async def _begin(self) -> bytes:
        await _free_thread()
        end_streams_at_shutdown()
        if is_shutting_down():
            raise StopAsyncIteration
        self._hub = hub = get_hub()
        self._ends_at = hub.loop.time() + LIFE_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        self._ask_later(hub)
        hub.watch(self, self._message_ids)
        return f"retry: {random.uniform(*RETRY_SECONDS) * 1000:.0f}\n\n".encode()  # noqa: S311 - no secret

    def _ask_later(self, hub: Hub) -> None:
        self._asks_at = hub.loop.time() + random.uniform(*ASK_AGAIN_SECONDS)  # noqa: S311 - no secret

    async def _may_go_on(self, hub: Hub) -> bool:
        self._ask_later(hub)
        topics = [hub.topic(message_id) for message_id in self._message_ids if message_id not in self._hidden]
        told = [topic.progress for topic in topics if topic.progress is not None]
        if self._goes_on is None or not told:
            return True
        try:
            return await self._goes_on(told)
        except Exception:
            # Whoever comes again is told what it is.
            logger.exception("Whether a stream may go on cannot be found out; it ends.")
            return False
        finally:
            await _free_thread()

    async def _wait(self, hub: Hub, deadline: float) -> None:
        self._waiter = hub.loop.create_future()
        # Not asyncio.wait_for: in Python 3.11 it makes a task for each.
        timer = hub.loop.call_at(deadline, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _take_news(self, hub: Hub) -> bytes:
        news, self._news = self._news, {}
        piece = bytearray()
        if None in news:
            piece += b'event: store_unavailable\ndata: {"error": "store_unavailable"}\n\n'
            del news[None]
        topics = {each: hub.topic(each) for each in news if each is not None and each not in self._denied}
        try:
            await self._look_again([each for each in topics if each in self._hidden and topics[each].progress])
        except StoreUnavailable:
            # Whoever comes again is told so, or the present state.
            raise StopAsyncIteration from None
        for message_id, topic in topics.items():
            if message_id in self._hidden:
                # No such message, and one that this client may not know of, are the same answer.
                piece += encode(message_id, None)
            else:
                piece += topic.event_for(may_cancel=message_id in self._may_cancel)
        return bytes(piece)

    async def _look_again(self, message_ids: Sequence[str]) -> None:
        """Messages have come to be that were not there when the stream began: the client may know of them, or not."""
        if message_ids:
            visible = await sync_to_async(self._read)(message_ids)
            await _free_thread()
            self._hidden -= visible.keys()
            self._may_cancel |= _allowed(visible)
            self._denied.update(self._hidden.intersection(message_ids))


def _allowed(visible: Mapping[str, bool]) -> frozenset[str]:
    return frozenset(message_id for message_id, may_cancel in visible.items() if may_cancel)


async def _free_thread() -> None:
    """Give back the thread and the database connections that the request has used so far; it may have them again.

    asgiref keeps a thread for each request of Django's until it ends, if there is any synchronous code on its way, as
    in Django's own signals and middleware: 10,000 streams would be 10,000 threads, each perhaps with a connection.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or context not in SyncToAsync.context_to_thread_executor:
        return
    await sync_to_async(_close_connections)()
    executor = SyncToAsync.context_to_thread_executor.pop(context, None)
    if executor is not None:
        executor.shutdown(wait=False)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


class _EndStreams:
    """A signal handler that ends all streams, and then does what the one before it does."""

    def __init__(self, previous: Callable[[int, FrameType | None], Any]) -> None:
        self.previous = previous
        self.was_called = False

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self.was_called = True
        for hub in all_hubs():
            hub.close()
        return self.previous(number, frame)


def end_streams_at_shutdown() -> None:
    """See to it that streams end at SIGTERM and at Ctrl-C, before the server waits for its connections to close.

    uvicorn 0.54 else waits for an idle stream until its end. In the main thread only, where Python takes handlers, and
    only where the server has a handler of its own: without one, the process ends anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SHUTDOWN_SIGNALS:
        previous = signal.getsignal(number)
        if callable(previous) and not isinstance(previous, _EndStreams):
            signal.signal(number, _EndStreams(previous))


def is_shutting_down() -> bool:
    """Whether the server was told to stop: a stream that begins now would keep it from it, hub or no hub."""
    handlers = map(signal.getsignal, SHUTDOWN_SIGNALS)
    return any(isinstance(handler, _EndStreams) and handler.was_called for handler in handlers)

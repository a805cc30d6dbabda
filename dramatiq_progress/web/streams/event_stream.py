"""An event stream: the changes of up to 100 messages, from the hub to one connection.

A stream holds the ids of changed messages and no events, so that a slow client gets the latest state and not a backlog.
It ends after some minutes, when its client leaves, and when the server stops, whether its client reads or not. A client
that reconnects gets the current state of everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils.translation import get_language

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.jitter import generator
from dramatiq_progress.progress import Progress
from dramatiq_progress.web.reading import may_still_read, visible_to

from .deadline import Deadline
from .hub import Hub, get_hub
from .limits import client_of
from .request_thread import release_thread
from .shutdown import end_streams_at_shutdown, is_shutting_down
from .topic import encode

#: Interval of comments, which keep proxies from closing an idle connection.
COMMENT_SECONDS = 15.0
#: Lifetime of a stream, plus or minus 20 %: connections spread again over the servers behind a load balancer.
LIFETIME_SECONDS = 300.0
#: Range of the delay after which a client reconnects. Random, so that thousands don't reconnect at once.
RECONNECT_SECONDS = (0.5, 4.0)

#: Range of the interval at which a stream checks the permission again. Random, so that thousands don't check at once.
#: With `sessions.CACHE_SECONDS`, a logout ends a stream within a minute.
RECHECK_SECONDS = (25.0, 35.0)

STORE_UNAVAILABLE = b'event: store_unavailable\ndata: {"error": "store_unavailable"}\n\n'

#: Returns which of these messages the client may read, and whether it may cancel each. Raises `StoreUnavailable`.
Read = Callable[[Sequence[str]], Mapping[str, bool]]
#: Returns whether the client may still read these messages.
Recheck = Callable[[Sequence[Progress]], Awaitable[bool]]

logger = logging.getLogger(__name__)


class EventStream(AsyncIterator[bytes]):
    """The events of one stream, as chunks of ``text/event-stream``.

    It takes a stream slot when it is created, and watches its messages from the first chunk on. Both are released when
    the stream is exhausted, closed, cancelled, or dropped before its first chunk.

    When a client leaves, Django 5.2, 6.0 and 6.1 cancel the task that waits here, also while nothing is being sent. If
    it is cancelled while it sends a chunk, Django closes the response, and so the stream. Django 6.1 doesn't, if the
    server or the deadline has cancelled it: the deadline closes the stream.

    Parameters:
      message_ids: The messages to watch.
      read: Checks the permissions of messages that were not visible before.
      recheck: Checks the permission of the visible messages, every `RECHECK_SECONDS`. If it is denied, the stream ends.
      client: The client, for its limit of streams. Empty if unknown.

    Raises:
      TooManyStreams: The limit is reached.
    """

    # A process holds up to 10,000 streams.
    __slots__ = (
        "__weakref__",
        "_deadline",
        "_ends_at",
        "_hub",
        "_is_closed",
        "_language",
        "_message_ids",
        "_news",
        "_read",
        "_recheck",
        "_recheck_at",
        "_release_slot",
        "_unknown",
        "_visible",
        "_waiter",
    )

    def __init__(self, message_ids: Sequence[str], *, read: Read, recheck: Recheck, client: str = "") -> None:
        self._release_slot = get_hub().slots.take(self, client)
        self._message_ids = message_ids
        self._read = read
        self._recheck = recheck
        # Of the request: another task may send the chunks.
        self._language = get_language()
        # The ids of messages that the client may read, and whether it may cancel each.
        self._visible: dict[str, bool] = {}
        # The ids that were sent as unknown, and whether each is of a message that exists and that it may not read.
        self._unknown: dict[str, bool] = {}
        # The ids of messages that have changed; None if the store is unavailable.
        self._news: dict[str | None, None] = {}
        self._hub: Hub | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Of the task that sends the chunks.
        self._deadline: Deadline | None = None
        self._is_closed = False
        self._ends_at = self._recheck_at = 0.0

    @classmethod
    async def open(cls, request: HttpRequest, message_ids: Sequence[str]) -> EventStream:
        """Create the stream of a request.

        Raises:
          StoreUnavailable: The store is unavailable.
          TooManyStreams: The limit is reached. Nothing was read before.
        """
        made = cls(
            message_ids,
            read=partial(visible_to, request),
            recheck=partial(may_still_read, request),
            client=client_of(request),
        )
        try:
            await made._check(message_ids)
        except BaseException:
            # Not left to garbage collection: a log handler that keeps the exception keeps this frame.
            made.close()
            raise
        return made

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except StopAsyncIteration:
            self._leave()
            # The server has yet to send the rest, and then Django closes the response.
            self._must_end()
            raise
        except BaseException:
            self.close()
            raise

    def notify(self, message_id: str | None) -> None:
        self._news[message_id] = None
        self._wake()
        if self._hub is not None and self._hub.is_closed:
            self._must_end()

    def close(self) -> None:
        """Stop watching, and release the stream slot. It can be called in any thread, and more than once."""
        self._leave()
        if self._deadline is not None:
            self._deadline.clear()

    def _leave(self) -> None:
        self._is_closed = True
        self._release_slot()
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.leave(self, self._message_ids)

    def _must_end(self) -> None:
        if self._deadline is not None:
            self._deadline.set(asyncio.get_running_loop().time())

    async def _next(self) -> bytes:
        if self._hub is None and not self._is_closed:
            return await self._start()
        hub = self._hub
        if hub is None:
            raise StopAsyncIteration
        comment_at = hub.loop.time() + COMMENT_SECONDS
        while not (hub.is_closed or self._is_closed) and (now := hub.loop.time()) < self._ends_at:
            if now >= self._recheck_at:
                if not await self._may_continue(hub):
                    break
            elif self._news:
                if chunk := await self._take_news(hub):
                    return chunk
            elif now >= comment_at:
                return b":\n\n"
            else:
                await self._wait(hub, min(comment_at, self._ends_at, self._recheck_at))
        raise StopAsyncIteration

    async def _start(self) -> bytes:
        await release_thread()
        end_streams_at_shutdown()
        if is_shutting_down():
            raise StopAsyncIteration
        self._hub = hub = get_hub()
        self._ends_at = hub.loop.time() + LIFETIME_SECONDS * generator.uniform(0.8, 1.2)
        self._deadline = Deadline(on_cancel=self._leave)
        self._deadline.set(self._ends_at)
        self._schedule_recheck(hub)
        hub.watch(self, self._message_ids)
        return f"retry: {generator.uniform(*RECONNECT_SECONDS) * 1000:.0f}\n\n".encode()

    def _schedule_recheck(self, hub: Hub) -> None:
        self._recheck_at = hub.loop.time() + generator.uniform(*RECHECK_SECONDS)

    async def _may_continue(self, hub: Hub) -> bool:
        self._schedule_recheck(hub)
        readings = [hub.topic(message_id).reading for message_id in self._message_ids if message_id in self._visible]
        messages = [reading for reading in readings if reading is not None]
        if not messages:
            return True
        try:
            return await self._recheck(messages)
        except Exception:
            logger.exception(
                "Could not check again who may read a stream; closing it, and its client reconnects. Check the session "
                "backend and PERMISSION."
            )
            return False
        finally:
            await release_thread()

    async def _wait(self, hub: Hub, deadline: float) -> None:
        self._waiter = hub.loop.create_future()
        # Not asyncio.wait_for: in Python 3.11 it creates a task for each call.
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
        chunk = bytearray()
        if None in news:
            chunk += STORE_UNAVAILABLE
        topics = [hub.topic(each) for each in news if each is not None and not self._unknown.get(each)]
        created = [topic.message_id for topic in topics if topic.reading and topic.message_id not in self._visible]
        if created and not await self._check_created(created):
            raise StopAsyncIteration
        for topic in topics:
            may_cancel = self._visible.get(topic.message_id)
            if may_cancel is None:
                # A message that doesn't exist and one that the client may not read are the same event. It is sent once:
                # a second one would say that a message was created, or that it still doesn't exist after an outage.
                if topic.message_id not in self._unknown:
                    chunk += encode(topic.message_id, None)
                self._unknown[topic.message_id] = topic.message_id in created
            else:
                chunk += topic.event_for(may_cancel=may_cancel, language=self._language)
        return bytes(chunk)

    async def _check_created(self, message_ids: Sequence[str]) -> bool:
        """Check messages that didn't exist, or were not visible, before. Return whether the stream may continue."""
        try:
            await self._check(message_ids)
        except StoreUnavailable:
            return False
        except Exception:
            logger.exception(
                "Could not check who may read a new message of a stream; closing it, and its client reconnects. Check "
                "the session backend and PERMISSION."
            )
            return False
        finally:
            await release_thread()
        return True

    async def _check(self, message_ids: Sequence[str]) -> None:
        self._visible.update(await sync_to_async(self._read)(message_ids))

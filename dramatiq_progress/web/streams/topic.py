"""A topic: one watched message, its latest reading, and the events made from it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Protocol

from dramatiq_progress.progress import Progress
from dramatiq_progress.titles import title_in

#: An ``eta`` is sent again after this long without another change.
CLOCK_SECONDS = 15.0


class Watcher(Protocol):
    """A stream, as its hub sees it."""

    def notify(self, message_id: str | None) -> None:
        """Handle a change of a message. None: the store is unavailable, or the hub was closed."""


class Topic:
    """One watched message.

    An event is encoded once, and again for clients that may cancel the message, and for each language that the title
    is translated to.

    Attributes:
      message_id: The message's id.
      watchers: The streams that watch it.
      reading: The latest reading. None if there is no record, and before the first reading.
      is_unreachable: Whether the latest attempt to read it failed, since its node of a cluster can't be reached.
      event: The event in the site's language, for clients that may not cancel. Empty before the first reading.
    """

    __slots__ = ("_encoded_at", "_events", "event", "is_unreachable", "message_id", "reading", "watchers")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.watchers: set[Watcher] = set()
        self.reading: Progress | None = None
        self.is_unreachable = False
        self.event = b""
        # The other events, by title and whether the client may cancel.
        self._events: dict[tuple[str, bool], bytes] = {}
        self._encoded_at = 0.0

    @property
    def is_final(self) -> bool:
        """Whether the message has finished."""
        return self.reading is not None and self.reading.complete

    def update(self, reading: Progress | None, now: float) -> bool:
        """Store the latest reading, and return whether the watchers must be notified."""
        before, self.reading = self.reading, reading
        if self.event and _revision(before) == _revision(reading) and not self._is_outdated(now):
            return False
        self.event, self._events, self._encoded_at = encode(self.message_id, reading), {}, now
        return True

    def discard_event(self) -> None:
        """Make the next reading notify the watchers, even if nothing has changed."""
        self.event = b""

    def event_for(self, *, may_cancel: bool, language: str | None) -> bytes:
        """Return the latest event for a client. Empty before the first reading."""
        reading = self.reading
        if not self.event or reading is None:
            return self.event
        title = title_in(language, reading.actor, reading.title)
        may_cancel = may_cancel and reading.can_cancel
        if title == reading.title and not may_cancel:
            return self.event
        if (title, may_cancel) not in self._events:
            event = encode(self.message_id, replace(reading, title=title), may_cancel=may_cancel)
            self._events[title, may_cancel] = event
        return self._events[title, may_cancel]

    def _is_outdated(self, now: float) -> bool:
        return self.reading is not None and self.reading.eta is not None and now - self._encoded_at >= CLOCK_SECONDS


def encode(message_id: str, progress: Progress | None, *, may_cancel: bool = False) -> bytes:
    """Return the event of one message: its JSON object, or an ``unknown`` event if there is none."""
    if progress is None:
        return b"event: unknown\ndata: " + json.dumps({"unknown": [message_id]}).encode() + b"\n\n"
    # ASCII only, and so without any character that ends a line of an event stream.
    return b"data: " + json.dumps(progress.as_dict(may_cancel=may_cancel)).encode() + b"\n\n"


def _revision(reading: Progress | None) -> object:
    return reading and reading.revision

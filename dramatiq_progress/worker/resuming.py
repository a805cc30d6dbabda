"""The place that an attempt goes on from: the loops and calls that are done, and the cursor that says so.

The cursor is one field of the record, as JSON: ``[attempt, [names that are over], name, count, value]``. The attempt is
the one that got that far; the name is of the loop that is in progress, the count the number of its items that are done,
and the value finds the next one (null: the count does). The recorder writes it together with the values that the page
shows, so that they belong to one moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import connections
from dramatiq import Worker
from dramatiq.brokers.redis import _RedisConsumer
from dramatiq.common import q_name

from dramatiq_progress.stores.prelude import KEPT_FIELDS

from .reports import Checks
from .tracking import AnyMessage

#: The message option with the fields that an attempt goes on from: `KEPT_FIELDS` as they are stored.
CURSOR_OPTION = "progress_cursor"

#: The message option of a message that its own actor has sent again: the token of the attempt that did.
ROUND_OPTION = "progress_round"

#: Limit of a cursor, as JSON.
MAX_CURSOR_BYTES = 4 * 1024

#: The names of steps, beside those of loops and calls.
STEP_PREFIX = "step:"


class Cursor(NamedTuple):
    """The place that attempts have reached.

    Attributes:
      attempt: The number of the last attempt that got further than those before it.
      over: The names of the loops, calls and steps that are over.
      name: The loop that is in progress; None if none is.
      done: The number of its items that are done.
      value: JSON that finds the next item; None if the count does.
    """

    attempt: int = 0
    over: tuple[str, ...] = ()
    name: str | None = None
    done: int = 0
    value: Any = None

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor in a stored text; one at the start if there is none, or it can't be read."""
        try:
            attempt, over, name, count, value = json.loads(text)
            return cls(int(attempt), tuple(map(str, over)), name, int(count), value)
        except (TypeError, ValueError, RecursionError):
            return cls()


class Place:
    """The place of one loop.

    Attributes:
      name: The loop's name.
      reached: The number of items that are done; with a value that finds the next one, a tuple of both. Set by the
        loop alone, and in one piece.
      is_running: Whether the loop's generator has neither ended nor been closed.
    """

    __slots__ = ("is_running", "name", "reached")

    def __init__(self, name: str, reached: int | tuple[int, Any]) -> None:
        self.name = name
        self.reached = reached
        self.is_running = True

    @property
    def count_and_value(self) -> tuple[int, Any]:
        """The number of items that are done, and the value that finds the next one."""
        reached = self.reached
        return reached if isinstance(reached, tuple) else (reached, None)


class Resumption:
    """The loops, calls and steps of one message that earlier attempts and this one have done.

    Parameters:
      checks: The checks of the message's reports.
      text: The stored cursor of an earlier attempt; empty if there is none.

    Attributes:
      keeps_steps: Whether steps that are complete are noted.
    """

    __slots__ = ("_checks", "_inherited", "_names", "_over", "_pending", "_place", "_text", "keeps_steps")

    def __init__(self, checks: Checks, text: str = "") -> None:
        self._checks = checks
        self._inherited = Cursor.parse(text)
        # The last text that was, or can be, stored.
        self._text = text if self._inherited.attempt else ""
        self._over = self._inherited.over
        # The loop in which an earlier attempt ended, until this attempt begins it.
        self._pending = self._inherited if self._inherited.name is not None else None
        self._place: Place | None = None
        # The names that this attempt has begun.
        self._names: set[str] = set()
        self.keeps_steps = any(each.startswith(STEP_PREFIX) for each in self._over)

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt has done anything of it."""
        return bool(self._inherited.attempt)

    @property
    def has_moved(self) -> bool:
        """Whether this attempt got further than those before it."""
        return self._now() != self._inherited[1:]

    def text(self, attempt: int) -> str:
        """Return the cursor as it is to be stored; empty if nothing is done.

        Parameters:
          attempt: The number of this attempt.
        """
        now = self._now()
        if now != self._inherited[1:]:
            try:
                text = json.dumps([attempt, *now], allow_nan=False, ensure_ascii=False)
                _check_size(text)
                self._text = text
            except (TypeError, ValueError, RecursionError) as error:
                # The last place that could be stored stays: no item is left out.
                self._checks.warn(
                    "cursor", now, f"{error}; the next attempt goes on from the last one that could be kept"
                )
        return self._text

    def check_value(self, value: Any) -> None:
        """Raise `InvalidReport` for a value that can't be stored, if the checks are strict."""
        if self._checks.strict:
            try:
                _check_size(json.dumps(value, allow_nan=False, ensure_ascii=False))
            except (TypeError, ValueError, RecursionError) as error:
                self._checks.ignore("cursor", value, f"{error}; give a short one, as an id or a page token is")

    def begin_loop(self, name: str) -> Place | None:
        """Return the place that a loop begins at.

        Returns:
          None if an earlier attempt has done all of it. A place that nothing stores if the loop can't be gone on from,
          which is reported: its name was used before, it is inside another one, or a transaction is open, whose
          rollback would take back the items and leave the cursor.
        """
        if name in self._names:
            reason = (
                "an earlier loop of this attempt has that name, and True is a name too; give each loop its own: "
                'resume="a name"'
            )
        elif name in self._over:
            self._names.add(name)
            return None
        elif self._place is not None and self._place.is_running:
            outer = f'resume="{self._place.name}"' if self._place.name else "resume=True"
            reason = f"it is inside the loop with {outer}, and only one of the two can be resumed: leave out one"
        elif is_in_transaction():
            reason = "a database transaction is open around it; open one for each item or batch instead, in the loop"
        else:
            if self._place is not None:
                # It was left by `break`: a later loop means that it is over.
                self.end_loop(self._place)
            self._names.add(name)
            reached: int | tuple[int, Any] = 0
            if self._pending is not None and self._pending.name == name:
                value = self._pending.value
                reached = self._pending.done if value is None else (self._pending.done, value)
            self._place = Place(name, reached)
            if self._pending is not None and self._pending.name == name:
                self._pending = None
            return self._place
        self._checks.ignore("resume", name or True, reason)
        return Place(name, 0)

    def is_current(self, place: Place) -> bool:
        """Return whether a place is stored."""
        return self._place is place

    def end_loop(self, place: Place) -> None:
        """Note that all items of a loop are done."""
        # In this order: the recorder reads both at any moment.
        if self._place is place:
            self.note_over(place.name)
            self._place = None

    def begin_call(self, name: str) -> bool:
        """Return whether a call is to be made: unless an earlier attempt has."""
        if not isinstance(name, str):
            self._checks.ignore("once", name, 'it must be a name, as in once("mail", send_mail)')
            return True
        if name in self._names:
            reason = "an earlier loop or call of this attempt has that name; give each call its own"
            self._checks.ignore("once", name, reason)
            return True
        self._names.add(name)
        if name in self._over:
            return False
        if is_in_transaction():
            self._checks.ignore("once", name, "a database transaction is open around it")
        return True

    def is_over(self, name: str) -> bool:
        """Return whether an earlier attempt, or this one, has done this loop, call or step."""
        return name in self._over

    def note_over(self, name: str) -> None:
        """Note that a call or a step is done."""
        # A name that isn't one was reported by begin_call.
        if isinstance(name, str) and name not in self._over:
            self._over = (*self._over, name)

    def _now(self) -> tuple[tuple[str, ...], str | None, int, Any]:
        place, over, pending = self._place, self._over, self._pending
        if place is not None and place.name not in over:
            count, value = place.count_and_value
            if count:
                return over, place.name, count, value
        if pending is not None and pending.name not in over:
            return over, pending.name, pending.done, pending.value
        return over, None, 0, None


def _check_size(text: str) -> None:
    if len(text.encode()) > MAX_CURSOR_BYTES:
        raise ValueError(f"it has more than {MAX_CURSOR_BYTES:,} bytes as JSON")


def is_in_transaction() -> bool:
    """Return whether a transaction is open in this thread or task, except that of a Django test case."""
    return any(
        not getattr(block, "_from_testcase", False)
        for connection in connections.all(initialized_only=True)
        for block in connection.atomic_blocks
    )


def stop_fetching(worker: Worker) -> None:
    """Let a worker that shuts down fetch no more messages: it would hold those sent again until its last job ends.

    On Redis: after 1.2 s instead of 10.7 s another worker goes on, beside a job of 14 s (Dramatiq 2.2). The attribute
    isn't documented; the consumer of the delay queue goes on, and gives the heartbeats. RabbitMQ has no such way that
    is right for all queues: quorum queues refuse consumers with a global prefetch and close the connection (3.10).
    """
    for thread in worker.consumers.values():
        consumer = thread.consumer
        if isinstance(consumer, _RedisConsumer) and q_name(consumer.queue_name) == consumer.queue_name:
            consumer.prefetch = 0


def brought_by(message: AnyMessage) -> Mapping[str, str]:
    """Return the fields that a message brings of an earlier attempt, the cursor first; empty if it brings none."""
    given = message.options.get(CURSOR_OPTION)
    if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in KEPT_FIELDS):
        return {}
    if not Cursor.parse(given.get("cursor", "")).attempt:
        return {}
    return {name: given[name] for name in KEPT_FIELDS if name in given}

"""Loops, calls and steps that can be resumed: those that are done, and the place in the loop in progress."""

from __future__ import annotations

import copy
import json
from typing import Any

from django.db import connections

from dramatiq_progress.worker.observing.reports import Checks
from dramatiq_progress.worker.validation import MAX_NAME_CHARACTERS, check_size, is_name

from .cursor import MAX_CURSOR_BYTES, Cursor

#: Types of values that may change, also by what they contain.
CHANGING = (dict, list, tuple)

#: The errors of a value that isn't JSON or is too long.
UNSTORABLE = (TypeError, ValueError, RecursionError)

#: The names of steps, beside those of loops and calls.
STEP_PREFIX = "step:"


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

    __slots__ = (
        "_calls",
        "_checks",
        "_inherited",
        "_names",
        "_over",
        "_pending",
        "_place",
        "_steps",
        "_text",
        "keeps_steps",
    )

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
        # Those of calls that aren't to be made again.
        self._calls: set[str] = set()
        self._steps: dict[tuple[str, ...], object] = {}
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
        self._encode(attempt)
        return self._text

    def _encode(self, attempt: int) -> bool:
        """Encode what is done, and return whether it can be stored."""
        now = self._now()
        if now != self._inherited[1:]:
            try:
                self._text = _encoded(attempt, now)
            except UNSTORABLE as error:
                # The last place that could be stored stays: no item is left out.
                self._checks.warn(
                    "cursor", now, f"{error}; the next attempt goes on from the last one that could be kept"
                )
                return False
        return True

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is kept until it is encoded: by then a function may have changed the object it gave.

        Raises:
          InvalidReport: It can't be stored, and the checks are strict.
        """
        if self._checks.strict:
            try:
                check_size(json.dumps(value, allow_nan=False, ensure_ascii=False), MAX_CURSOR_BYTES)
            except UNSTORABLE as error:
                self._checks.ignore("cursor", value, f"{error}; give a short one, as an id or a page token is")
        if not isinstance(value, CHANGING):
            return value
        try:
            return copy.deepcopy(value)
        except Exception:
            # It contains what isn't JSON either, which is reported when it is encoded.
            return value

    def begin_loop(self, name: str) -> Place | None:
        """Return the place that a loop begins at.

        Returns:
          None if an earlier attempt has done all of it. A place that nothing stores if the loop can't be resumed,
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
            reason = (
                f"it is inside the loop with {outer}, and only one of the two can be resumed: leave out one (a loop "
                "that a variable still has isn't over after break: write track() into the for itself, or call close())"
            )
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

    def is_kept(self, place: Place, count: int, attempt: int) -> bool:
        """Return whether the next attempt goes on after this many items of a place's loop, and at none before.

        It doesn't after an item without a cursor, nor if what is done can't be stored.
        """
        return place.count_and_value[0] == count and self._encode(attempt)

    def end_loop(self, place: Place) -> None:
        """Note that all items of a loop are done."""
        # In this order: the recorder reads both at any moment.
        if self._place is place:
            self._note_over(place.name)
            self._place = None

    def begin_call(self, name: str) -> bool:
        """Return whether a call is to be made: unless an earlier attempt has."""
        if not is_name(name):
            reason = f'it must be a name of 1 to {MAX_NAME_CHARACTERS} characters, as in once("mail", send_mail)'
            self._checks.ignore("once", name, reason)
            return True
        if name in self._names:
            reason = "an earlier loop or call of this attempt has that name; give each call its own"
            self._checks.ignore("once", name, reason)
            return True
        self._names.add(name)
        self._calls.add(name)
        if name in self._over:
            return False
        if is_in_transaction():
            self._checks.ignore("once", name, "a database transaction is open around it")
        return True

    def is_first_step(self, path: tuple[str, ...], step: object) -> bool:
        """Return whether no other step of this attempt has the same name, and those of the same steps around it.

        Parameters:
          path: The step's name, after those of the steps around it.
          step: The step.
        """
        return self._steps.setdefault(path, step) is step

    def is_step_over(self, path: tuple[str, ...]) -> bool:
        """Return whether an earlier attempt, or this one, has completed a step."""
        return _name_of(path) in self._over

    def end_step(self, path: tuple[str, ...], step: object) -> None:
        """Note that a step is complete, unless another one has its name. Not in a transaction: see `end_call`."""
        if self.is_first_step(path, step) and not is_in_transaction():
            self._note_over(_name_of(path))

    def end_call(self, name: str) -> None:
        """Note that a call is done.

        Not in a transaction, whose rollback would take back the work and leave the name: the next attempt repeats it.
        """
        # Others were reported by begin_call, and may be the name of a loop: "" is that of a loop with True.
        if not is_name(name) or name not in self._calls:
            return
        if is_in_transaction():
            # Without autocommit, the call itself may have begun it.
            self._checks.warn("once", name, "a database transaction is open after it, so the next attempt repeats it")
        else:
            self._note_over(name)

    def _note_over(self, name: str) -> None:
        if name in self._over:
            return
        self._over = (*self._over, name)
        if self._checks.strict:
            try:
                _encoded(0, self._now())
            except UNSTORABLE as error:
                reason = f"what is done can't be stored: {error}; there are too many names: use `resume` of one loop"
                self._checks.ignore("resume", name, reason)

    def _now(self) -> tuple[tuple[str, ...], str | None, int, Any]:
        place, over, pending = self._place, self._over, self._pending
        if place is not None and place.name not in over:
            count, value = place.count_and_value
            if count:
                return over, place.name, count, value
        if pending is not None and pending.name not in over:
            return over, pending.name, pending.done, pending.value
        return over, None, 0, None


def _encoded(attempt: int, now: tuple[Any, ...]) -> str:
    """Return what is done as it is stored.

    Raises:
      One of `UNSTORABLE`: It isn't JSON, or is too long.
    """
    text = json.dumps([attempt, *now], allow_nan=False, ensure_ascii=False)
    check_size(text, MAX_CURSOR_BYTES)
    return text


def _name_of(path: tuple[str, ...]) -> str:
    return STEP_PREFIX + json.dumps(path, ensure_ascii=False)


def is_in_transaction() -> bool:
    """Return whether a transaction is open in this thread or task, except that of a Django test case."""
    return any(
        not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
        # Without autocommit, a transaction begins with the first query and ends with commit() or rollback().
        or (connection.connection is not None and not connection.autocommit and not connection.in_atomic_block)
        for connection in connections.all(initialized_only=True)
    )

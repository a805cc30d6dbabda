"""Interruptions of an actor: a report raises `Cancelled`, and a loop that yields ends with `Interrupted`."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dramatiq_progress.errors import Cancelled, Interrupted, UserFacingError


class Interruption:
    """The requests to cancel the actor of one message and to make it yield, and whether each has happened.

    A cancel interrupts the actor itself, which is a thread or for async actors a task, once, so that it can clean up or
    continue. All other threads and tasks are interrupted at each report, since an exception may be swallowed there.

    Attributes:
      cancel_requested: Whether a cancel was requested, as far as this process knows.
      yields: Whether the next loop that can be resumed is to end between two items.
      has_yielded: Whether one has: the message is sent again, also if the actor catches the exception.
    """

    __slots__ = ("_has_cancelled_actor", "_own_task", "_own_thread", "cancel_requested", "has_yielded", "yields")

    def __init__(self) -> None:
        self.cancel_requested = False
        self.yields = self.has_yielded = False
        self._own_thread = threading.get_ident()
        self._own_task: asyncio.Task[Any] | None = None
        self._has_cancelled_actor = False

    def set_own_task(self) -> None:
        """Note that the actor is the current task, and not a thread."""
        self._own_task = asyncio.current_task()

    @contextmanager
    def lent_to_task(self) -> Iterator[None]:
        """Let `set_own_task` be called for the length of a block."""
        before = self._own_task
        try:
            yield
        finally:
            self._own_task = before

    def check_cancel(self, message_id: str | None) -> None:
        """Interrupt the caller.

        Raises:
          Cancelled: Unless the caller is the actor and was interrupted before, or is handling `Cancelled`.
        """
        if _is_handling_cancel():
            return
        if self._is_actor():
            if self._has_cancelled_actor:
                return
            self._has_cancelled_actor = True
        raise Cancelled(f"A cancel of message {message_id} was requested.")

    def check_yield(self, message_id: str | None) -> None:
        """End a loop between two items, if it is to end.

        Raises:
          Interrupted: It is.
        """
        if self.yields:
            self.has_yielded = True
            raise Interrupted(f"Message {message_id} makes room, and goes on later.")

    def _is_actor(self) -> bool:
        if self._own_task is None:
            return threading.get_ident() == self._own_thread
        try:
            return asyncio.current_task() is self._own_task
        except RuntimeError:  # This thread runs no event loop.
            return False


def is_cancel(error: BaseException | None) -> bool:
    """Return whether an exception is `Cancelled`, or a group of nothing else (as `asyncio.TaskGroup` raises)."""
    return _is_only(error, Cancelled)


def is_yield(error: BaseException | None) -> bool:
    """Return whether an exception is `Interrupted`, or a group of nothing else."""
    return _is_only(error, Interrupted)


def user_facing(error: BaseException) -> UserFacingError | None:
    """Return a `UserFacingError`, also the first of a group of nothing else."""
    while isinstance(error, BaseExceptionGroup) and _is_only(error, UserFacingError):
        error = error.exceptions[0]
    return error if isinstance(error, UserFacingError) else None


def _is_only(error: BaseException | None, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)


def _is_handling_cancel() -> bool:
    """Return whether this thread or coroutine is in an ``except`` or ``finally`` block that `Cancelled` has led to."""
    error = sys.exc_info()[1]
    while error is not None and not is_cancel(error):
        error = error.__context__
    return error is not None

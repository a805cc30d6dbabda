"""The observer: what an actor receives and reports to. It keeps the newest values; the recorder carries them off."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeVar

from dramatiq.asyncio import get_event_loop_thread

from .errors import Cancelled, InvalidReport
from .progress import Number, number_text
from .rate import RateEstimator
from .recorder import get_recorder
from .stores import Store
from .stores.base import Attempt, Start
from .values import (
    EXACT_WHOLE_NUMBERS,
    MAX_DESCRIPTION_CHARACTERS,
    encode,
    is_finite,
    length_of,
    printable,
    show,
    to_number,
)

MAX_METADATA_BYTES = 16 * 1024
MAX_RESULT_BYTES = 64 * 1024

#: What a reader sees of fields that were never written.
UNWRITTEN = {"current": "0", "total": "null", "description": "", "rate": "null"}

#: In the place of a value that was sent, and may or may not have arrived. No field has this text.
UNKNOWN = "\0?"

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Keep(Enum):
    KEEP = "keep"


#: An argument that was left out, and keeps its last value. (None would say "unknown".)
KEEP: Final = _Keep.KEEP
Keep = Literal[_Keep.KEEP]


class ProgressObserver:
    """Takes what an actor reports. A report costs a few attribute writes, and no input or output.

    ``ProgressObserver()`` makes a detached one, which keeps what was reported and writes nowhere: for tests of an
    actor. The worker gives an actor one that is bound to its message. All methods may be called from several threads.

    Values that cannot be shown never fail a job that would else have worked: they are left out, with one warning per
    message. A detached observer, and every one while ``settings.DEBUG`` is on, raises `InvalidReport` instead.

    When the message is to be cancelled, reports raise `Cancelled`: once in the actor's own thread (the event loop's, of
    an async one), so that it may clean up and even go on; in every other thread at each report, since it may get lost
    there. Never while `Cancelled` is being handled, in an ``except`` or ``finally`` block.
    """

    __slots__ = (
        "__weakref__",
        "_actor_name",
        "_attempt",
        "_attempt_number",
        "_cancel_requested",
        "_clean",
        "_current",
        "_description",
        "_estimator",
        "_lock",
        "_message_id",
        "_metadata",
        "_metadata_before",
        "_own_thread",
        "_raised",
        "_result",
        "_saved",
        "_start",
        "_starting",
        "_strict",
        "_total",
        "_warned",
    )

    def __init__(
        self,
        *,
        actor_name: str = "",
        attempt: Attempt | None = None,
        start: Callable[[Store, float], Start] | None = None,
        strict: bool = True,
    ) -> None:
        self._message_id = attempt.message_id if attempt is not None else None
        self._actor_name = attempt.actor if attempt is not None else actor_name
        self._attempt = attempt
        # What Dramatiq knows, until the store has counted.
        self._attempt_number = attempt.least if attempt is not None else 1
        # How to tell a store, so many seconds late, that the attempt has begun.
        self._start = start
        self._strict = strict
        self._warned = False
        self._lock = threading.RLock()
        self._current: Number = 0
        self._total: Number | None = None
        self._description = ""
        self._metadata = self._metadata_before = "{}"
        self._result: str | None = None
        self._estimator = RateEstimator(time.monotonic())
        # The fields as the store has them, by its own word.
        self._saved: dict[str, str] = {}
        # Whether the next report has more to do than to be noted: it tells the recorder, or learns of a cancel. Never,
        # when there is nowhere to write.
        self._clean = attempt is not None
        self._cancel_requested = False
        # The actor's, and whether `Cancelled` was raised there.
        self._own_thread = threading.get_ident()
        self._raised = False
        # Held while a late start is on its way, so that the attempt does not end at the same time.
        self._starting = threading.Lock()

    @property
    def message_id(self) -> str | None:
        """The id of the message that is being processed; None when detached."""
        return self._message_id

    @property
    def attempt(self) -> int:
        """Which delivery of the message this is, from 1."""
        return self._attempt_number

    @property
    def current(self) -> Number:
        """How much is done, as last reported."""
        return self._current

    @property
    def total(self) -> Number | None:
        """How much there is to do, as last reported; None while unknown."""
        return self._total

    @property
    def description(self) -> str:
        """What the actor is busy with, as last reported."""
        return self._description

    @property
    def cancel_requested(self) -> bool:
        """Whether the message is to be cancelled, as far as this process knows; always False when detached."""
        return self._cancel_requested

    @property
    def metadata(self) -> dict[str, Any]:
        """What was attached by `set_metadata`, as the page will get it."""
        return dict(json.loads(self._metadata))

    @property
    def result(self) -> Any:
        """What was made public by `set_result`, as the page will get it; None before."""
        return None if self._result is None else json.loads(self._result)

    def set_progress(
        self,
        current: Number | Decimal,
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
    ) -> None:
        """Report how far the actor is. What is left out keeps its last value.

        Parameters:
          current: How much is done, 0 or more.
          total: How much there is to do; None means unknown. `current` may exceed it.
          description: What the actor is busy with, as plain text, cut at 1,000 characters.

        Raises:
          InvalidReport: A value that is no number, negative or not finite; see the class for when.
        """
        # Plain whole numbers, and what is the same as last time, is what nearly every report carries: no call for it.
        if type(current) is not int or not 0 <= current <= EXACT_WHOLE_NUMBERS:
            current = self._number("current", current, self._current)
        if total is not self._total and total is not KEEP and total is not None:
            total = self._number("total", total, KEEP)
        if description is not self._description and description is not KEEP:
            description = self._text(description)
        # No lock, which would be two thirds of the time: nothing here is read before it is written, and CPython runs no
        # other thread between these lines. Where one does run, it is told again below, and a flush later all is right.
        if total is not KEEP:
            self._total = total  # type: ignore[assignment]  # a Decimal has become an int or float above
        if description is not KEEP:
            self._description = description
        self._current = current
        if self._clean:
            self._tell()

    def increment_progress(self, by: Number | Decimal = 1, description: str | Keep = KEEP) -> None:
        """Report that more is done.

        Parameters:
          by: How much more, 0 or more.
          description: What the actor is busy with; left out, it keeps its last value.

        Raises:
          InvalidReport: As for `set_progress`.
        """
        if type(by) is not int or not 0 <= by <= EXACT_WHOLE_NUMBERS:
            by = self._number("by", by, 0)
            if not is_finite(self._current, by):
                by = self._number("by", math.inf, 0)
        if description is not KEEP:
            description = self._text(description)
        with self._lock:
            self._current += by
            if description is not KEEP:
                self._description = description
        if self._clean:
            self._tell()

    def track(
        self,
        iterable: Iterable[T],
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
    ) -> Iterator[T]:
        """Hand out the items of an iterable, and report each one when the loop has come back from it.

        It counts from 0, and one loop at a time: from several threads use `increment_progress`.

        Parameters:
          iterable: Any iterable, generators and querysets too. A queryset's length is that of its rows, which are
            then all loaded; pass ``queryset.iterator()`` and a total when they are many.
          total: How many items there are; left out, the length of the iterable where it has one, and else unknown.
          description: What the actor is busy with; left out, it keeps its last value.

        Raises:
          InvalidReport: As for `set_progress`.
        """
        self.set_progress(0, length_of(iterable) if total is KEEP else total, description)
        return self._count(iterable)

    def _count(self, iterable: Iterable[T]) -> Iterator[T]:
        # The hot loop of this package: no lock (one attribute write is atomic) and no call while the recorder knows.
        for count, item in enumerate(iterable, 1):
            yield item
            self._current = count
            if self._clean:
                self._tell()

    def set_metadata(self, **values: Any) -> None:
        """Attach small JSON values that the page may show; they are added to those attached before.

        Metadata outlives an attempt: a retry starts with what the attempt before had attached.

        Raises:
          InvalidReport: Values that are no JSON (as Django's encoder sees it), or over 16 KiB in all; see the class
            for when.
        """
        try:
            with self._lock:
                self._metadata = encode(json.loads(self._metadata) | values, MAX_METADATA_BYTES)
        except Exception as error:  # whatever a value does while it is encoded
            self._refuse("metadata", values, f"cannot be attached: {error}")
            return
        if self._clean:
            self._tell()

    def set_result(self, value: Any) -> None:
        """Make a result public: the page gets it when the actor has succeeded.

        What is no JSON (as Django's encoder sees it: dates, decimals and UUIDs are) or over 64 KiB is left out, with
        a logged warning; that never fails the job.
        """
        try:
            self._result = encode(value, MAX_RESULT_BYTES)
        except Exception as error:  # whatever a value does while it is encoded
            logger.warning("The result of %s is left out: %s", self._named(), error)

    # What follows is the recorder's and the middleware's side.

    @property
    def open_attempt(self) -> Attempt | None:
        """What each write must show; None when detached, released or superseded."""
        return self._attempt

    def started(self, start: Start) -> None:
        """The store has counted the attempt."""
        if start.verdict == "cancelled":
            self.request_cancel()
        if start.verdict != "run" or self._attempt is None:
            self.release()
            return
        self._attempt_number = self._attempt.number
        with self._lock:
            self._metadata_before = start.metadata
            if self._metadata == "{}":
                self._metadata = start.metadata
                return
            # A late start: what this attempt has attached meanwhile is added.
            with suppress(ValueError):  # Too large together: the newer stays.
                self._metadata = encode(json.loads(start.metadata) | json.loads(self._metadata), MAX_METADATA_BYTES)

    def start_late(self, store: Store) -> None:
        """Tell a store that did not answer then that the attempt has begun."""
        with self._starting:
            attempt = self._attempt
            if attempt is not None and attempt.number == 0 and self._start is not None:
                self.started(self._start(store, time.monotonic() - attempt.began_at))

    def collect(self) -> dict[str, str]:
        """The fields that differ from what is stored. A report that comes later tells the recorder again."""
        # Before the values are read: a report in between is then written twice rather than never.
        self._attend()
        self._estimator.sample(self._current, time.monotonic())
        changed = {
            name: text for name, text in self._fields().items() if text != self._saved.get(name, self._initial(name))
        }
        # Until the store has answered, nobody knows which value it has.
        self._saved.update(dict.fromkeys(changed, UNKNOWN))
        return changed

    def collect_all(self, *, with_result: bool) -> dict[str, str]:
        """Every field that was ever reported, for the last write of an attempt."""
        fields = {
            name: text for name, text in self._fields().items() if name in self._saved or text != self._initial(name)
        }
        if with_result and self._result is not None:
            fields["result"] = self._result
        return fields

    def saved(self, fields: Mapping[str, str]) -> None:
        """The store now has these fields."""
        self._saved.update(fields)

    def forget_saved(self) -> None:
        """The store may have lost everything."""
        self._saved.clear()
        self._metadata_before = "{}"

    def release(self) -> None:
        """Write nothing more."""
        self._attempt = None
        # A thread that goes on all the same still hears of a cancel.
        self._attend()

    def end(self) -> None:
        """Write nothing more, and wait for a late start that is on its way."""
        with self._starting:
            self.release()

    def renew(self) -> None:
        """Forget what threads of the parent process held when it forked."""
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self._attend()

    def request_cancel(self) -> None:
        """The message is to be cancelled: reports raise `Cancelled` from now on."""
        self._cancel_requested = True
        # After the wish: a report that turns it off in between sees the wish.
        self._clean = True

    def _attend(self) -> None:
        self._clean = self._attempt is not None or self._cancel_requested

    def _tell(self) -> None:
        self._clean = False
        if self._cancel_requested:
            self._clean = True
            self._heed_cancel()
        get_recorder().changed(self)

    def _heed_cancel(self) -> None:
        if _is_handling_cancel():
            return
        loop_thread = get_event_loop_thread()
        if threading.get_ident() in (self._own_thread, loop_thread and loop_thread.ident):
            if self._raised:
                return
            self._raised = True
        raise Cancelled(f"Message {self._message_id} is to be cancelled.")

    def _initial(self, name: str) -> str:
        return self._metadata_before if name == "metadata" else UNWRITTEN[name]

    def _fields(self) -> dict[str, str]:
        with self._lock:
            current, total, description = self._current, self._total, self._description
            metadata = self._metadata
        rate = self._estimator.rate
        return {
            "current": number_text(current),
            "rate": "null" if rate is None else f"{rate:.4g}",
            "total": number_text(total),
            "description": printable(description),
            "metadata": metadata,
        }

    def _number(self, name: str, value: object, otherwise: T) -> Number | T:
        try:
            return to_number(value)
        except Exception as error:  # whatever a number of somebody's own does
            self._refuse(name, value, f"is left out: {error}")
            return otherwise

    def _text(self, value: object) -> str | Keep:
        try:
            # str() for texts that are translated when they are shown.
            return "" if value is None else str(value)[:MAX_DESCRIPTION_CHARACTERS]
        except Exception as error:
            self._refuse("description", type(value), f"is left out: {error}")
            return KEEP

    def _refuse(self, name: str, value: object, why: str) -> None:
        message = f"{self._named()} reported {name}={show(value)}, which {why}."
        if self._strict:
            raise InvalidReport(message)
        if not self._warned:
            self._warned = True
            logger.warning("%s Further ones are not logged.", message)

    def _named(self) -> str:
        name = self._actor_name or "an actor"
        return name if self._message_id is None else f"{name} (message {self._message_id})"


def is_cancel(error: BaseException | None) -> bool:
    """Whether an exception is `Cancelled`, or a group of nothing else (as `asyncio.TaskGroup` makes)."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Cancelled)[1] is None
    return isinstance(error, Cancelled)


def _is_handling_cancel() -> bool:
    """Whether this thread or coroutine is in an ``except`` or ``finally`` block that `Cancelled` has led to."""
    error = sys.exc_info()[1]
    while error is not None and not is_cancel(error):
        error = error.__context__
    return error is not None


_observer: ContextVar[ProgressObserver | None] = ContextVar("dramatiq_progress_observer", default=None)


def current_observer() -> ProgressObserver | None:
    """The observer of the actor that is running in this thread or coroutine; None outside any.

    A thread that an actor starts does not see it: hand it the observer.
    """
    return _observer.get()


@contextmanager
def observing(observer: ProgressObserver) -> Iterator[ProgressObserver]:
    """Make an observer the current one for the length of a with block."""
    before = _observer.set(observer)
    try:
        yield observer
    finally:
        _observer.reset(before)

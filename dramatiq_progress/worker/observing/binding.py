"""`Binding`: the values that one attempt reports, and which of them the store has."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.fields import KEPT_FIELDS
from dramatiq_progress.stores.outcomes import Start
from dramatiq_progress.worker.recording.recorder import get_recorder
from dramatiq_progress.worker.resuming.resumption import Place, Resumption

from .changes import Changes
from .interruption import Interruption
from .labels import Labels
from .levels import Levels
from .reports import Checks

logger = logging.getLogger(__name__)


class Binding:
    """The values that an observer reports for one attempt. The recorder and the delivery write them to the store.

    It is apart from `ProgressObserver`, so that actors see nothing of it.

    Parameters:
      actor_name: The actor, for error messages; with an attempt, the attempt's.
      attempt: The attempt to bind to; None if it is detached.
      start: Records the attempt's start, this many seconds late, in a store that was unavailable at the start.
      strict: Whether invalid reports raise.

    Attributes:
      attempt_number: The number of this attempt, from 1.
      levels: The values that were reported, of the whole and of the steps and loops in it.
      labels: The title, the metadata and the public result.
      checks: The checks of what the actor reports.
      interruption: The requests to cancel the actor, and to make it yield.
      must_notify: Whether the next report calls `notify`. All others only set attributes.
      delivery: A reference to the delivery that it is bound to, for code that runs in the actor's context.
      yields_at: When it is to make room, by `time.monotonic`.
    """

    __slots__ = (
        "_bound_attempt",
        "_changes",
        "_lock",
        "_process",
        "_resumption",
        "_start",
        "_starting",
        "attempt_number",
        "checks",
        "delivery",
        "interruption",
        "labels",
        "levels",
        "must_notify",
        "yields_at",
    )

    def __init__(
        self,
        *,
        actor_name: str = "",
        attempt: Attempt | None = None,
        start: Callable[[Store, float], Start] | None = None,
        strict: bool = True,
    ) -> None:
        self._process = os.getpid()
        self._bound_attempt = attempt
        # Dramatiq's count, until the store has counted.
        self.attempt_number = attempt.min_attempt if attempt is not None else 1
        self._start = start
        self._lock = threading.RLock()
        # Where this attempt goes on from, if an earlier one left a place, or the actor has asked for one.
        self._resumption: Resumption | None = None
        self._changes = Changes()
        self.interruption = Interruption()
        self.must_notify = attempt is not None
        if attempt is not None:
            self.checks = Checks(attempt.actor, attempt.message_id, strict=strict)
        else:
            self.checks = Checks(actor_name, None, strict=strict)
        self.levels = Levels()
        self.labels = Labels(attempt)
        self.delivery: weakref.ref[Any] | None = None
        self.yields_at = math.inf
        # Held during a late start, so that the attempt doesn't finish at the same time.
        self._starting = threading.Lock()

    @property
    def message_id(self) -> str | None:
        """The id of the message that is being processed; None when detached."""
        return self.checks.message_id

    @property
    def awaits_place(self) -> bool:
        """Whether the store hasn't recorded the start yet, and the job hasn't resumed without its answer."""
        attempt = self._bound_attempt
        return attempt is not None and not attempt.number and self._resumption is None

    @property
    def bound_attempt(self) -> Attempt | None:
        """The attempt whose record is written; None when detached, released or superseded."""
        return self._bound_attempt

    def apply_start(self, start: Start) -> None:
        """Take over what the store answered to the start of the attempt."""
        if start.verdict == "cancelled":
            self.note_cancel_request()
        given = self._bound_attempt
        if start.verdict != "run" or given is None:
            self.release()
            return
        self.attempt_number = given.number
        self._changes.inherit(title=start.title, metadata=start.metadata, estimate_key=given.estimate_key, **start.kept)
        self._go_on(start.kept)
        self.labels.inherit(given, start)

    def _go_on(self, kept: Mapping[str, str]) -> None:
        """Go on from what an earlier attempt left, unless this one has begun."""
        with self._lock:
            if kept and self._resumption is None and not self.levels.is_begun:
                self.levels.restore(kept)
                self._resumption = self._resume(kept["cursor"])

    def _resume(self, cursor: str) -> Resumption:
        self.note_resumable()
        return Resumption(self.checks, cursor)

    def note_resumable(self) -> None:
        """Note that the job can be paused from now on."""
        if (attempt := self._bound_attempt) is not None:
            attempt.resumable = True

    def resumption(self) -> Resumption:
        """Return what is done of the loops and calls that can be resumed."""
        with self._lock:
            if self._resumption is None:
                attempt = self._bound_attempt
                # The store hasn't answered, or knows nothing: the message may bring a place.
                brought: Mapping[str, str] = {} if attempt is None else attempt.brought
                self._go_on(brought)
                if self._resumption is None:
                    self._resumption = self._resume(brought.get("cursor", ""))
                if self.interruption.yields:
                    self.must_notify = True
            return self._resumption

    def can_end(self, place: Place, count: int) -> bool:
        """Return whether a loop can end after this many of its items, and nothing is done twice."""
        resumption = self._resumption
        if resumption is None or not resumption.is_current(place):
            return False
        # Without an attempt, another one does the work already.
        return self._bound_attempt is None or resumption.is_kept(place, count, self.attempt_number)

    def note_step(self, name: str, step: object) -> None:
        """Note that a step is complete, if the actor asks for that."""
        resumption = self._resumption
        if resumption is not None and resumption.keeps_steps and (path := self.levels.path()) is not None:
            resumption.end_step((*path, name), step)

    def carried(self) -> dict[str, str]:
        """Return the fields that the message carries to its next attempt, the cursor first; empty without a place."""
        if self._resumption is None or not (text := self._resumption.text(self.attempt_number)):
            return {}
        values = self.levels.fields()
        return {"cursor": text, **{name: values[name] for name in KEPT_FIELDS if name in values}}

    def start_late(self, store: Store) -> None:
        """Record the start in a store that was unavailable when the attempt started.

        Raises:
          StoreUnavailable: It is still unavailable, or refuses the start.
        """
        with self._starting:
            attempt, start = self._bound_attempt, self._start
            if attempt is not None and attempt.number == 0 and start is not None:
                self.apply_start(start(store, time.monotonic() - attempt.started_at))

    def take_changes(self) -> dict[str, str]:
        """Return the fields that differ from the stored record, and note that they are being written."""
        # Before reading: a concurrent report is then written twice instead of never.
        self._update_must_notify()
        self.levels.sample(time.monotonic())
        return self._changes.take(self._values())

    def final_fields(self, *, with_result: bool) -> dict[str, str]:
        """Return every field that was ever reported, for the last write of an attempt."""
        fields = self._changes.ever_reported(self._values())
        if with_result and self.labels.result is not None:
            fields["result"] = self.labels.result
        return fields

    def confirm(self, fields: Mapping[str, str]) -> None:
        """Note that the store has these fields."""
        self._changes.confirm(fields)

    def forget_stored(self) -> None:
        """Note that the store may have lost everything."""
        self._changes.forget()

    def release(self) -> None:
        """Unbind from the message: later reports aren't written."""
        self._bound_attempt = None
        # A bound method of the delivery, which holds this binding: without this, a cycle.
        self._start = None
        # Threads that keep reporting must still receive Cancelled.
        self._update_must_notify()

    def end(self) -> None:
        """Unbind from the message, after waiting for a pending late start."""
        with self._starting:
            self.release()

    def renew_locks(self) -> None:
        """Replace the locks, which threads of the parent process may have held at a fork."""
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self.levels.renew_lock()
        self.labels.renew_lock()
        self._update_must_notify()

    def note_cancel_request(self) -> None:
        """Raise `Cancelled` in reports from now on."""
        self.interruption.cancel_requested = True
        # In this order: a report that turns it off in between sees the request.
        self.must_notify = True

    def request_yield(self) -> None:
        """End a resumable loop between two items, so that the job continues in another worker or later."""
        self.interruption.yields = True
        # In this order: as above. A job without such loops reports as cheaply as before.
        self.must_notify = self.must_notify or self._resumption is not None

    def note_change(self, *, may_cancel: bool = True) -> None:
        """Note that the values have changed without a report. Raises `Cancelled` as a report does, if it may."""
        if self.must_notify and (may_cancel or not self.interruption.cancel_requested):
            self.notify()

    def notify(self) -> None:
        """Note that the values have changed. Called by reports, if `must_notify`.

        Raises:
          Cancelled: See `ProgressObserver`.
        """
        if self._process != os.getpid():
            self._ignore_child()
            return
        if self.interruption.cancel_requested:
            self.interruption.check_cancel(self.message_id)
            get_recorder().notify(self)
            return
        if self.interruption.yields and self._resumption is not None:
            # The next item of a loop must see it.
            get_recorder().notify(self)
            return
        try:
            self.must_notify = False
            if not get_recorder().notify(self):
                self.must_notify = True
        except BaseException:
            # Interrupted (by a time limit, for instance) before the recorder knows: the next report tries again.
            self.must_notify = True
            raise

    def _ignore_child(self) -> None:
        # Each process has a copy of the values: their reports would overwrite each other.
        self.must_notify = False
        logger.warning(
            "Ignoring progress that a child process reports for %s: only the process of the worker can. Report in the "
            "parent instead, for instance: for result in observer.track(pool.imap_unordered(work, items)): ...",
            self.checks.source,
        )

    def _update_must_notify(self) -> None:
        asked = self.interruption
        yields = asked.yields and self._resumption is not None
        self.must_notify = self._bound_attempt is not None or asked.cancel_requested or yields

    def _values(self) -> dict[str, str]:
        if self._resumption is None:
            return {**self.levels.fields(), **self.labels.fields()}
        # First: report.lua looks for it there. Before the first item is done it is empty: the message can be paused.
        text = self._resumption.text(self.attempt_number)
        return {"cursor": text, **self.levels.fields(), **self.labels.fields()}

    def __reduce__(self) -> Any:
        return _received, (self.checks.actor_name, self.message_id)


def _received(actor_name: str, message_id: str | None) -> Binding:
    """Return the binding that a process receives from another: it keeps values, and ignores reports with a warning."""
    binding = Binding(actor_name=actor_name, strict=message_id is None)
    if message_id is not None:
        binding.checks.message_id = message_id
        binding._process, binding.must_notify = 0, True
    return binding

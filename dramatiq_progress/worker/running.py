"""The running messages of this process: at each flush, the recorder writes their reports and heartbeats."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from dramatiq_progress.errors import StoreRefused, StoreUnreachable
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.health import Health, NodeUnreachable
from dramatiq_progress.stores.outcomes import ReportOutcome

from .deferred import Refusals
from .parts import Parts

if TYPE_CHECKING:
    from .binding import Binding

logger = logging.getLogger(__name__)


class RunningMessages:
    """The observers of running messages.

    `write` and `rewrite_lost` are called by the recorder's thread, everything else by any. No report waits for a lock:
    what several threads change is only used through operations that are atomic in CPython.

    Parameters:
      refusals: The records that the store refuses.
      parts: The composites that the messages are members of.
      wake: Wakes the recorder's thread.
    """

    def __init__(self, refusals: Refusals, parts: Parts, wake: Callable[[], None]) -> None:
        self._refusals = refusals
        self._parts = parts
        self._wake = wake
        self._observers: dict[Binding, None] = {}
        self._changed: deque[Binding] = deque()
        # Those whose record can't be written now, with a function that returns when to try again, by `time.monotonic`.
        self._held: dict[Binding, Callable[[], float]] = {}
        self._next_heartbeat = 0.0
        # The health of the store that all records were written to, and its generation then.
        self._written_to: tuple[Health, int] | None = None

    def __bool__(self) -> bool:
        return bool(self._observers or self._changed)

    @property
    def has_changes(self) -> bool:
        """Whether there are reports to write."""
        return bool(self._changed)

    def observers(self) -> list[Binding]:
        """Return the observers."""
        return list(self._observers)

    def add(self, observer: Binding) -> None:
        """Send heartbeats for this observer's message from now on."""
        self._observers[observer] = None

    def remove(self, observer: Binding) -> None:
        """Stop the heartbeats of this observer's message. The caller writes what it still holds."""
        self._observers.pop(observer, None)
        self._held.pop(observer, None)
        observer.release()

    def note_change(self, observer: Binding) -> None:
        """Note that an observer has new values."""
        self._changed.append(observer)

    def make_due(self) -> None:
        """Send all heartbeats at the next flush, with the values of which nothing was noted."""
        self._next_heartbeat = 0.0

    def are_heartbeats_due(self) -> bool:
        """Return whether the next `write` sends all heartbeats."""
        return time.monotonic() >= self._next_heartbeat

    def next_due_at(self) -> float:
        """Return when there is something to write, by `time.monotonic`."""
        if self._changed or self._parts.is_due:
            return 0.0
        return min([self._next_heartbeat, *(due_at() for due_at in list(self._held.values()))])

    def rewrite_lost(self, health: Health, *, always: bool) -> None:
        """Write all values again if the store may have lost some: its generation has changed.

        Parameters:
          health: That of the store.
          always: Do so in any case.
        """
        written_to = (health, health.generation)
        if always or self._written_to not in (None, written_to):
            # The store may have come back empty, or as it was some time ago; or its master was replaced.
            for observer in self.observers():
                self._rewrite(observer)
            self._parts.doubt()
        self._written_to = written_to

    def write(self, store: Store, heartbeat_interval: float) -> None:
        """Write what is due: late starts, reports and heartbeats.

        Raises:
          StoreUnreachable: The store gave no answer. What wasn't written is kept.
        """
        self._make_room()
        self._retry_held()
        self._start_late(store)
        self._report(store, heartbeat_interval)
        self._parts.repair(store)

    def _make_room(self) -> None:
        """Interrupt the messages that have run for as long as they may at once."""
        now = time.monotonic()
        for observer in self.observers():
            if observer.yields_at <= now:
                observer.request_yield()

    def _start_late(self, store: Store) -> None:
        for observer in self.observers():
            # Read once, here and below: the worker's thread may release the observer at any moment.
            attempt = observer.bound_attempt
            if attempt is None or attempt.number or not self._is_writable(observer, attempt):
                continue
            try:
                observer.start_late(store)
            except NodeUnreachable as error:
                self._hold_for_node(observer, error)
            except StoreRefused as error:
                self._hold_refused(observer, attempt, error)
            else:
                self._refusals.clear(attempt.message_id)
                self._changed.append(observer)

    def _report(self, store: Store, heartbeat_interval: float) -> None:
        changed = self._take_changed()
        reports: dict[Binding, tuple[Attempt, Mapping[str, str]]] = {}
        for observer in changed:
            attempt = observer.bound_attempt
            # A late start collects the changes of an attempt without a number.
            if attempt is None or not attempt.number or not self._is_writable(observer, attempt):
                continue
            if fields := observer.take_changes():
                reports[observer] = (attempt, fields)
        is_beating = self._take_heartbeat(heartbeat_interval)
        beating = self.observers() if is_beating else []
        for observer in beating:
            attempt = observer.bound_attempt
            if observer in reports or attempt is None or not attempt.number:
                continue
            if self._is_writable(observer, attempt):
                # Also the fields of an observer that was interrupted before it could notify us.
                reports[observer] = (attempt, observer.take_changes())
        contributions = self._parts.collect(self._members((*changed, *beating)), beating=is_beating)
        if not reports and not contributions:
            return
        try:
            outcomes, told = store.flush(list(reports.values()), contributions)
        except BaseException:
            self._changed.extend(changed)
            raise
        unreachable: StoreUnreachable | None = None
        for (observer, (attempt, written)), outcome in zip(reports.items(), outcomes, strict=True):
            if isinstance(outcome, NodeUnreachable):
                self._hold_for_node(observer, outcome)
            elif isinstance(outcome, StoreUnreachable):
                unreachable = outcome
                self._changed.append(observer)
            elif isinstance(outcome, StoreRefused):
                self._hold_refused(observer, attempt, outcome)
            else:
                self._settle(observer, attempt, written, outcome)
        if unreachable is not None:
            raise unreachable
        self._cancel_members(self._parts.settle_reports(store, contributions, told))

    def _cancel_members(self, cancelled: Mapping[str, bool]) -> None:
        """Interrupt the members of composites that are to be cancelled: see `Parts.settle_reports`."""
        for observer in self.observers() if cancelled else []:
            attempt = observer.bound_attempt
            if attempt is None:
                continue
            forced = [cancelled[place.id] for place in attempt.path if place.id in cancelled]
            if any(forced) or (forced and attempt.cancellable):
                observer.note_cancel_request()

    def _members(self, observers: Iterable[Binding]) -> Iterator[tuple[Binding, Attempt]]:
        """Yield the observers of members of composites, and their attempts."""
        for observer in dict.fromkeys(observers):
            attempt = observer.bound_attempt
            if attempt is not None and attempt.path and attempt.number and self._is_writable(observer, attempt):
                yield observer, attempt

    def _take_changed(self) -> list[Binding]:
        taken: dict[Binding, None] = {}
        while self._changed:
            taken[self._changed.popleft()] = None
        return list(taken)

    def _take_heartbeat(self, interval: float) -> bool:
        """Return whether heartbeats are due, and note that they are sent."""
        now = time.monotonic()
        if now < self._next_heartbeat:
            return False
        self._next_heartbeat = now + interval
        return True

    def _settle(self, observer: Binding, attempt: Attempt, fields: Mapping[str, str], outcome: ReportOutcome) -> None:
        self._refusals.clear(attempt.message_id)
        if attempt.cancel_requested:
            observer.note_cancel_request()
        if attempt.pause_requested:
            observer.request_yield()
        if outcome == "waiting":
            # Not confirmed: sent with each heartbeat until this attempt is the one that is shown.
            return
        if outcome == "superseded":
            # Another attempt does the work now.
            observer.request_yield()
            if observer.bound_attempt is not None:
                logger.info(
                    "Message %s was redelivered to another worker; this worker's progress reports for it are ignored "
                    "from now on.",
                    attempt.message_id,
                )
            self.remove(observer)
            return
        if outcome == "incomplete":
            self._rewrite(observer)
            return
        if outcome == "rebuilt":
            # Its composites may have to be told again.
            attempt.slot = ""
            self._changed.append(observer)
        observer.confirm(fields)

    def _rewrite(self, observer: Binding) -> None:
        observer.forget_stored()
        if (attempt := observer.bound_attempt) is not None:
            attempt.slot = ""
            attempt.sends_all = True
        self._changed.append(observer)

    def _is_writable(self, observer: Binding, attempt: Attempt) -> bool:
        """Return whether a record can be reached, and wasn't refused lately."""
        # Another write to the same record may have been refused.
        return observer not in self._held and self._refusals.due_at(attempt.message_id) <= time.monotonic()

    def _hold_for_node(self, observer: Binding, error: NodeUnreachable) -> None:
        self._hold(observer, lambda: 0.0 if error.health.is_available else math.inf)
        error.health.call_when_available(self._wake)

    def _hold_refused(self, observer: Binding, attempt: Attempt, error: StoreRefused) -> None:
        if self._refusals.add(attempt.message_id, error):
            self._hold(observer, partial(self._refusals.due_at, attempt.message_id))
        else:
            self.remove(observer)

    def _hold(self, observer: Binding, due_at: Callable[[], float]) -> None:
        self._held[observer] = due_at
        if observer not in self._observers:
            # Removed in the meantime, in the worker's thread.
            self._held.pop(observer, None)

    def _retry_held(self) -> None:
        now = time.monotonic()
        for observer in [each for each, due_at in list(self._held.items()) if due_at() <= now]:
            self._held.pop(observer, None)
            # The node may have lost the record.
            self._rewrite(observer)

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

from .contributing import Contributor
from .deferred import Refusals

if TYPE_CHECKING:
    from dramatiq_progress.worker.observing.binding import Binding

logger = logging.getLogger(__name__)


class RunningMessages:
    """The bindings of running messages.

    `write` and `rewrite_lost` are called by the recorder's thread, everything else by any. No report waits for a lock:
    what several threads change is only used through operations that are atomic in CPython.

    Parameters:
      refusals: The records that the store refuses.
      composites: The contributor to the composites that the messages are members of.
      wake: Wakes the recorder's thread.
    """

    def __init__(self, refusals: Refusals, composites: Contributor, wake: Callable[[], None]) -> None:
        self._refusals = refusals
        self._composites = composites
        self._wake = wake
        self._bindings: dict[Binding, None] = {}
        self._changed: deque[Binding] = deque()
        # Those whose record can't be written now, with a function that returns when to try again, by `time.monotonic`.
        self._held: dict[Binding, Callable[[], float]] = {}
        self._next_heartbeat = 0.0
        # The health of the store that all records were written to, and its generation then.
        self._written_to: tuple[Health, int] | None = None

    def __bool__(self) -> bool:
        return bool(self._bindings or self._changed)

    @property
    def has_changes(self) -> bool:
        """Whether there are reports to write."""
        return bool(self._changed)

    def bindings(self) -> list[Binding]:
        """Return the bindings."""
        return list(self._bindings)

    def add(self, binding: Binding) -> None:
        """Send heartbeats for this binding's message from now on."""
        self._bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        """Stop the heartbeats of this binding's message. The caller writes what it still holds."""
        self._bindings.pop(binding, None)
        self._held.pop(binding, None)
        binding.release()

    def note_change(self, binding: Binding) -> None:
        """Note that a binding has new values."""
        self._changed.append(binding)

    def make_due(self) -> None:
        """Send all heartbeats at the next flush, with the values of which nothing was noted."""
        self._next_heartbeat = 0.0

    @property
    def next_heartbeat_at(self) -> float:
        """When all heartbeats are due, by `time.monotonic`."""
        return self._next_heartbeat

    def are_heartbeats_due(self) -> bool:
        """Return whether the next `write` sends all heartbeats."""
        return time.monotonic() >= self._next_heartbeat

    def next_due_at(self) -> float:
        """Return when there is something to write, by `time.monotonic`."""
        if self._changed or self._composites.is_due:
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
            for binding in self.bindings():
                self._rewrite(binding)
            self._composites.doubt()
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
        self._composites.repair(store)

    def _make_room(self) -> None:
        """Interrupt the messages that have run for as long as they may at once."""
        now = time.monotonic()
        for binding in self.bindings():
            if binding.yields_at <= now:
                binding.request_yield()

    def _start_late(self, store: Store) -> None:
        for binding in self.bindings():
            # Read once, here and below: the worker's thread may release the binding at any moment.
            attempt = binding.bound_attempt
            if attempt is None or attempt.number or not self._is_writable(binding, attempt):
                continue
            try:
                binding.start_late(store)
            except NodeUnreachable as error:
                self._hold_for_node(binding, error)
            except StoreRefused as error:
                self._hold_refused(binding, attempt, error)
            else:
                self._refusals.clear(attempt.message_id)
                self._changed.append(binding)

    def _report(self, store: Store, heartbeat_interval: float) -> None:
        changed = self._take_changed()
        reports: dict[Binding, tuple[Attempt, Mapping[str, str]]] = {}
        for binding in changed:
            attempt = binding.bound_attempt
            # A late start collects the changes of an attempt without a number.
            if attempt is None or not attempt.number or not self._is_writable(binding, attempt):
                continue
            if fields := binding.take_changes():
                reports[binding] = (attempt, fields)
        is_beating = self._take_heartbeat(heartbeat_interval)
        beating = self.bindings() if is_beating else []
        for binding in beating:
            attempt = binding.bound_attempt
            if binding in reports or attempt is None or not attempt.number:
                continue
            if self._is_writable(binding, attempt):
                # Also the fields of a binding that was interrupted before it could notify us.
                reports[binding] = (attempt, binding.take_changes())
        contributions = self._composites.collect(self._members((*changed, *beating)), beating=is_beating)
        if not reports and not contributions:
            return
        try:
            outcomes, answers = store.flush(list(reports.values()), contributions)
        except BaseException:
            self._changed.extend(changed)
            raise
        unreachable: StoreUnreachable | None = None
        for (binding, (attempt, written)), outcome in zip(reports.items(), outcomes, strict=True):
            if isinstance(outcome, NodeUnreachable):
                self._hold_for_node(binding, outcome)
            elif isinstance(outcome, StoreUnreachable):
                unreachable = outcome
                self._changed.append(binding)
            elif isinstance(outcome, StoreRefused):
                self._hold_refused(binding, attempt, outcome)
            else:
                self._settle(binding, attempt, written, outcome)
        if unreachable is not None:
            raise unreachable
        self._cancel_members(self._composites.settle_reports(store, contributions, answers))

    def _cancel_members(self, cancelled: Mapping[str, bool]) -> None:
        """Interrupt the members of composites that are to be cancelled: see `Contributor.settle_reports`."""
        for binding in self.bindings() if cancelled else []:
            attempt = binding.bound_attempt
            if attempt is None:
                continue
            forced = [cancelled[membership.id] for membership in attempt.path if membership.id in cancelled]
            if any(forced) or (forced and attempt.cancellable):
                binding.note_cancel_request()

    def _members(self, bindings: Iterable[Binding]) -> Iterator[tuple[Binding, Attempt]]:
        """Yield the bindings of members of composites, and their attempts."""
        for binding in dict.fromkeys(bindings):
            attempt = binding.bound_attempt
            if attempt is not None and attempt.path and attempt.number and self._is_writable(binding, attempt):
                yield binding, attempt

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

    def _settle(self, binding: Binding, attempt: Attempt, fields: Mapping[str, str], outcome: ReportOutcome) -> None:
        self._refusals.clear(attempt.message_id)
        if attempt.cancel_requested:
            binding.note_cancel_request()
        if attempt.pause_requested:
            binding.request_yield()
        if outcome == "waiting":
            # Not confirmed: sent with each heartbeat until this attempt is the one that is shown.
            return
        if outcome == "superseded":
            # Another attempt does the work now.
            binding.request_yield()
            if binding.bound_attempt is not None:
                logger.info(
                    "Message %s was redelivered to another worker; this worker's progress reports for it are ignored "
                    "from now on.",
                    attempt.message_id,
                )
            self.remove(binding)
            return
        if outcome == "incomplete":
            self._rewrite(binding)
            return
        if outcome == "rebuilt":
            # Its composites may have lost its slot too.
            attempt.slot = ""
            self._changed.append(binding)
        binding.confirm(fields)

    def _rewrite(self, binding: Binding) -> None:
        binding.forget_stored()
        if (attempt := binding.bound_attempt) is not None:
            attempt.slot = ""
            attempt.sends_all = True
        self._changed.append(binding)

    def _is_writable(self, binding: Binding, attempt: Attempt) -> bool:
        """Return whether a record can be reached, and wasn't refused lately."""
        # Another write to the same record may have been refused.
        return binding not in self._held and self._refusals.due_at(attempt.message_id) <= time.monotonic()

    def _hold_for_node(self, binding: Binding, error: NodeUnreachable) -> None:
        self._hold(binding, lambda: 0.0 if error.health.is_available else math.inf)
        error.health.call_when_available(self._wake)

    def _hold_refused(self, binding: Binding, attempt: Attempt, error: StoreRefused) -> None:
        if self._refusals.add(attempt.message_id, error):
            self._hold(binding, partial(self._refusals.due_at, attempt.message_id))
        else:
            self.remove(binding)

    def _hold(self, binding: Binding, due_at: Callable[[], float]) -> None:
        self._held[binding] = due_at
        if binding not in self._bindings:
            # Removed in the meantime, in the worker's thread.
            self._held.pop(binding, None)

    def _retry_held(self) -> None:
        now = time.monotonic()
        for binding in [each for each, due_at in list(self._held.items()) if due_at() <= now]:
            self._held.pop(binding, None)
            # The node may have lost the record.
            self._rewrite(binding)

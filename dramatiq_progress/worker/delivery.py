"""One delivery of a message to a worker: its start and its outcome in the store, and the observer bound to it."""

from __future__ import annotations

import json
import math
import time
import weakref

from django.conf import settings
from dramatiq import Broker
from dramatiq.common import q_name
from dramatiq.middleware import SkipMessage

from dramatiq_progress.errors import UserFacingError
from dramatiq_progress.owners import carried_by, sent_for
from dramatiq_progress.progress import GIVEN_UP, State
from dramatiq_progress.signals import send_state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.companion import Companion
from dramatiq_progress.stores.outcomes import Change, Start

from .current import this_thread
from .observing.binding import Binding
from .observing.observer import ProgressObserver
from .recording.best_effort import with_store
from .recording.recorder import get_recorder
from .resuming.cursor import Cursor, brought_by
from .sending.again import PAUSED_OPTION, ROUND_OPTION, Again
from .sending.children import Children
from .sending.membership import MemberEnd, path_of
from .sending.options import metadata_of, title_of
from .starting import check_start, hold, is_paused
from .tracking import AnyMessage, count_retries
from .validation import shown_text


class Delivery:
    """One delivery of a tracked message, and what has happened in it so far. Used by the worker's thread only.

    Parameters:
      message: The message.
      retries_left: How often Dramatiq will retry it.
      cancellable: Whether it can be cancelled.
      estimate_key: The kind of runs that its duration is compared with.
      companion: Private data of the message, if it has any.
      yield_after: Seconds after which it makes room for other messages.

    Attributes:
      attempt: The attempt as the store knows it.
      outer: The delivery that this thread was working on before: some brokers process messages inside ``enqueue``.
      binding: The values that are bound to this delivery; None before the actor is called.
      is_ignored: Whether nothing is written, since the message was final when the actor started.
      is_given_up: Whether the message has exceeded ``MAX_DELIVERIES``.
      is_skipped: Whether the message was skipped.
      is_cancelled: Whether the actor was interrupted by a cancel.
      is_retried: Whether a retry was enqueued.
      is_running: Whether the actor is running. If its message is sent before or afterwards, that is a retry.
      is_processed: Whether the worker is done with the actor, and is about to acknowledge the message.
      next_round: The delay in seconds, or 0, if the actor has enqueued its own message again.
      exception: The exception that the actor raised.
      again: The message as it is sent again, if its actor was interrupted, or isn't called, to go on later.
      children: The messages that it sends, if they are members of its composite.
    """

    def __init__(
        self,
        message: AnyMessage,
        retries_left: int | None,
        *,
        cancellable: bool = False,
        estimate_key: str = "",
        companion: Companion | None = None,
        yield_after: float = math.inf,
    ) -> None:
        self.message = message
        self._yield_after = yield_after
        self.attempt = Attempt(
            message.message_id,
            message.actor_name if companion is None else companion.name,
            q_name(message.queue_name),
            retries_left,
            cancellable,
            # Dramatiq counts retries, not redeliveries; the store's count replaces this one.
            min_attempt=1 + count_retries(message),
            owner=carried_by(message),
            title=title_of(message),
            metadata=metadata_of(message),
            estimate_key=estimate_key,
            path=path_of(message),
            companion=companion,
            brought=brought_by(message),
            follows=str(message.options.get(ROUND_OPTION, "")),
        )
        if self.attempt.brought:
            # Also in a store that has lost its count.
            least = 1 + Cursor.parse(self.attempt.brought["cursor"]).attempt
            self.attempt.min_attempt = max(self.attempt.min_attempt, least)
        self.outer = this_thread.delivery
        self.binding: Binding | None = None
        self.is_ignored = False
        self.is_given_up = False
        self.is_skipped = False
        self.is_cancelled = False
        self.is_retried = False
        self.is_running = False
        self.is_processed = False
        self.next_round: float | None = None
        self.exception: BaseException | None = None
        self.again: Again | None = None
        self.children = Children(self.attempt.path, self.attempt.owner)

    def open(self) -> ProgressObserver:
        """Record the start of the attempt, and return an observer bound to this delivery.

        Raises:
          SkipMessage: The message was cancelled, is paused, or has exceeded ``MAX_DELIVERIES``.
        """
        start = with_store(self.attempt.message_id, self._start)
        if start is None and self.message.options.get(PAUSED_OPTION) and is_paused(self.attempt):
            hold(self)
        if start is not None:
            if start.verdict != "run" and self.attempt.path:
                # An earlier delivery may have been killed before its composite knew of its end, or instead of a pause.
                with_store(self.attempt.message_id, self._contribute_recorded, defer=True)
            try:
                check_start(self, start)
            except SkipMessage:
                self._send_running(start)
                raise
            self.message.options.pop(PAUSED_OPTION, None)
        self.binding = Binding(attempt=self.attempt, start=self._start, strict=settings.DEBUG)
        self.binding.delivery = weakref.ref(self)
        if start is not None:
            self.binding.apply_start(start)
        if not self.is_ignored:
            self.binding.yields_at = self.attempt.started_at + self._yield_after
            get_recorder().open(self.binding)
        if start is not None:
            # Not before there are heartbeats: the message would be lost while a slow receiver works.
            self._send_running(start)
        return ProgressObserver(self.binding)

    def finish_acked(self, broker: Broker) -> None:
        """Record the outcome of a message that is acknowledged.

        Raises:
          SendAgainFailed: The message is to go on later, and the broker doesn't take it.
        """
        if self.again is not None and not self.is_cancelled:
            self._send_again(broker, self.again)
        elif self.is_skipped:
            self.finish(State.CANCELLED if self.is_cancelled else State.SKIPPED)
        elif self.is_retried:
            return
        elif self.exception is not None:
            # Without a retry: there is no `Retries` middleware.
            self.finish(State.FAILED)
        elif self.next_round is not None:
            self.finish(State.DELAYED if self.next_round else State.ENQUEUED, retry_in=self.next_round)
        else:
            self.finish(State.DONE)

    def finish_nacked(self) -> None:
        """Record the outcome of a message that is rejected: it failed, or was skipped because it was too old."""
        self.finish(State.SKIPPED if self.is_skipped and not self.is_given_up else State.FAILED)

    def _send_again(self, broker: Broker, again: Again) -> None:
        # The record first, so that it waits before another worker has it. Only once, also if the broker fails then.
        if not again.is_recorded:
            change = self.finish(State.ENQUEUED, yields=True)
            again.is_recorded = True
            again.is_paused = self.attempt.pause_requested if change is None else change.state is State.PAUSED
            if change is not None and not (change.written and (again.is_paused or change.state is State.ENQUEUED)):
                # Another attempt does it, or it was cancelled in the meantime.
                self.again = None
                return
        again.send(broker)

    def note_yield(self) -> None:
        """Note that the actor has made room, and that the message is to be sent again."""
        self.again = Again(self.message)

    def finish(self, state: State, *, retry_in: float | None = None, yields: bool = False) -> Change | None:
        """Record the outcome of the attempt, with the values that it reported last.

        Parameters:
          state: A final state, or ``retrying``; ``enqueued`` or ``delayed`` if the actor enqueued its message again.
          retry_in: Seconds until the next attempt, or round, if there is one.
          yields: Whether the attempt makes room.

        Returns:
          The store's answer; None if it is unavailable, and the outcome is written later.
        """
        if self.is_ignored:
            return Change(written=False)
        fields: dict[str, str] = {}
        if self.binding is not None:
            self.binding.end()
            get_recorder().close(self.binding)
            fields = self.binding.final_fields(with_result=state is State.DONE)
            if state is State.DONE:
                given = self.attempt
                get_recorder().note_run(given.actor, given.estimate_key, time.monotonic() - given.started_at)
        if self.next_round is not None and state in (State.ENQUEUED, State.DELAYED):
            # The next round begins at the start.
            fields["cursor"] = ""
        if state is State.FAILED and (text := self._text_for_user()):
            fields["result"] = text
        # A delivery without a binding may have been given up, which happens after its start.
        has_started = self.binding is not None or self.is_given_up
        # Not `self`: a deferred write must not keep the arguments and the exception of the job alive.
        attempt = self.attempt
        given_up = self.is_given_up
        fraction = None if self.binding is None else self.binding.levels.fraction
        end = MemberEnd(attempt, state, fraction, retry_in, self.children)
        companion = attempt.companion
        beside = {} if companion is None else companion.outcome(state, self.exception)

        def write(store: Store, age: float) -> Change:
            # One round trip where the outcome is certain.
            contribution = None if age else end.expected()
            change = store.finish(
                attempt,
                state=state,
                fields=fields,
                retry_in=retry_in,
                started=has_started,
                given_up=given_up,
                yields=yields,
                beside=beside,
                age=age,
                contribution=contribution,
            )
            if change.written:
                send_state_changed(store, attempt.message_id, change.previous, late=bool(age))
            if attempt.path:
                get_recorder().composites.contribute_end(store, end, change, contribution, age=age)
            return change

        size = 0 if companion is None else companion.size + sum(map(len, beside.values()))
        # The job may be over for `end_job`, or have had no `begin_job`: receivers of the signals may send messages.
        with sent_for(attempt.owner):
            change = with_store(attempt.message_id, write, defer=True, size=size)
            if companion is not None:
                companion.note_end(state, change)
        return change

    def _start(self, store: Store, age: float) -> Start:
        start = store.start(self.attempt, age=age)
        # `open` sends the signal of an attempt that runs, unless its start is late.
        has_signal = bool(age) if start.verdict == "run" else start.previous is not None
        if has_signal:
            send_state_changed(store, self.attempt.message_id, start.previous, late=bool(age))
        return start

    def _send_running(self, start: Start) -> None:
        """Send the signal that the attempt runs, if it does."""
        if start.verdict == "run":
            message_id = self.attempt.message_id
            with_store(message_id, lambda store, age: send_state_changed(store, message_id, start.previous))

    def _contribute_recorded(self, store: Store, age: float) -> None:
        get_recorder().composites.contribute_recorded(store, self.attempt, age=age)

    def _text_for_user(self) -> str | None:
        """Return the message for the user about a failure, as JSON."""
        if self.is_given_up:
            return json.dumps(GIVEN_UP)
        if not isinstance(self.exception, UserFacingError):
            return None
        text = shown_text(self.exception).strip()
        return json.dumps(text) if text else None

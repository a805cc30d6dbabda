"""State and Progress: the noun that travels from the store to the page. No input or output, no Django."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from . import polling

Number = int | float


class State(StrEnum):
    """Where a message is in its life. All but `lost` are stored; `lost` is what a reader concludes."""

    ENQUEUED = "enqueued"
    DELAYED = "delayed"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether the message has come to its end."""
        return self in FINAL_STATES

    @property
    def is_pending(self) -> bool:
        """Whether no worker has begun with the message."""
        return self in (State.ENQUEUED, State.DELAYED)


STATES = {state.value: state for state in State}

FINAL_STATES = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED})

#: What a user is told about a message that ended without success, unless the actor said something better.
DEFAULT_RESULTS = {
    State.FAILED: "The task failed.",
    State.CANCELLED: "The task was cancelled.",
    State.SKIPPED: "The task was skipped.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One reading of one message: a snapshot, which never changes afterwards.

    Attributes:
      id: The message's id.
      actor: The actor's name.
      queue: The queue's name.
      state: Where the message is in its life.
      current: How much is done, as last reported; 0 before the first report.
      total: How much there is to do; None while unknown.
      description: What the actor is busy with.
      attempt: Deliveries to a worker so far; 0 before the first.
      retries_left: How many more attempts may follow a failure; None where Dramatiq has no limit.
      retry_in: Seconds until the next attempt, while `retrying`.
      rate: How much is done in a second, smoothed; None while unknown, and when it is not `running`.
      eta: Seconds that are left at this rate; None while unknown.
      queue_position: About where it stands in its queue among tracked messages, while `enqueued`; 1 is next.
      queue_length: How many tracked messages wait in that queue.
      elapsed: Seconds that the attempt has run, or ran; None before the first.
      cancel_requested: Somebody wishes it to be cancelled, or it is.
      cancellable: Whether its actor can be cancelled. Not part of the JSON.
      metadata: What the actor attached for the page.
      result: The public result of a message that is `done`, or what the user is told of one that ended otherwise.
      version: Increases with each change of the record.
      silence: Seconds since the last report, or before the first since the attempt began, or since it went to its
        queue; while `retrying`, since the next attempt was due. Not part of the JSON.
      owner: Whose it is, as a keyed hash (see `dramatiq_progress.permissions`); empty: nobody's. Not part of the JSON.
    """

    id: str
    actor: str
    queue: str
    state: State
    current: Number = 0
    total: Number | None = None
    description: str = ""
    attempt: int = 0
    retries_left: int | None = None
    retry_in: float | None = None
    queue_position: int | None = None
    queue_length: int | None = None
    elapsed: float | None = None
    rate: float | None = None
    eta: float | None = None
    cancel_requested: bool = False
    cancellable: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    version: int = 0
    silence: float = field(default=0.0, compare=False)
    owner: str = field(default="", repr=False)

    @property
    def complete(self) -> bool:
        """Whether the message has come to its end."""
        return self.state.is_final

    @property
    def success(self) -> bool | None:
        """Whether it ended well; None while it has not ended."""
        return self.state is State.DONE if self.complete else None

    @property
    def can_cancel(self) -> bool:
        """Whether a cancel would change anything: it has not ended, nobody asked before, and its actor allows it."""
        return self.cancellable and not self.cancel_requested and not self.complete

    @property
    def percent(self) -> float | None:
        """How far it is, floored to 0.1 and at most 100; None while the total is unknown or 0."""
        if not self.total:
            return None
        if self.current >= self.total:
            return 100.0
        # Whole numbers stay whole: 29 / 100 in floats would floor to 28.9.
        if isinstance(self.current, int) and isinstance(self.total, int):
            return (self.current * 1000 // self.total) / 10
        return math.floor(self.current / self.total * 1000) / 10

    @property
    def poll_after(self) -> float:
        """Seconds until it is worth asking again: see `polling.poll_after`."""
        return polling.poll_after(
            state=self.state,
            silence=self.silence,
            current=self.current,
            total=self.total,
            rate=self.rate,
            elapsed=self.elapsed,
            retry_in=self.retry_in,
            queue_position=self.queue_position,
        )

    def without_clocks(self) -> Progress:
        """What of it is news: two readings between which only time has passed are equal then."""
        return replace(self, retry_in=None, elapsed=None, rate=None, eta=None, silence=0.0)

    def as_dict(self, *, may_cancel: bool = False) -> dict[str, Any]:
        """The JSON object of the wire, as plain Python values.

        Parameters:
          may_cancel: Whether its reader may cancel the message.

        `complete`, `success`, `progress` and `result` are the keys of celery-progress 0.5, with its meaning.
        """
        return self.news(may_cancel=may_cancel) | self.clocks()

    def news(self, *, may_cancel: bool = False) -> dict[str, Any]:
        """What of `as_dict` does not pass by itself."""
        complete = self.complete
        news: dict[str, Any] = {
            "id": self.id,
            "actor": self.actor,
            "queue": self.queue,
            "state": self.state.value,
            "complete": complete,
            "success": self.success,
            "progress": {
                "pending": self.state.is_pending,
                "current": self.current,
                "total": self.total,
                "percent": self.percent,
                "description": self.description,
            },
            "attempt": self.attempt,
            "retries_left": self.retries_left,
            "queue_position": self.queue_position,
            "queue_length": self.queue_length,
            "cancel_requested": self.cancel_requested,
            "can_cancel": may_cancel and self.can_cancel,
            "metadata": self.metadata,
            "version": self.version,
        }
        if complete:
            news["result"] = self.result
        return news

    def clocks(self) -> dict[str, float | None]:
        """What of `as_dict` passes by itself, and so is no news to a reader."""
        return {
            "retry_in": self.retry_in,
            "elapsed": self.elapsed,
            "rate": self.rate,
            "eta": self.eta,
            "poll_after": self.poll_after,
        }

    @classmethod
    def from_record(
        cls,
        message_id: str,
        record: Mapping[str, str],
        *,
        now: float,
        lost_after: float,
        place: tuple[int, int] | None = None,
    ) -> Progress:
        """Read a stored record.

        Parameters:
          message_id: The message's id.
          record: Field to text, as the store keeps it.
          now: The store's clock at the reading, in seconds.
          lost_after: Seconds without a heartbeat after which a running message counts as `lost`.
          place: Position and length of the line in which it waits.
        """
        state = STATES[record["state"]]
        if state is State.RUNNING and now - float(record["heartbeat"]) > lost_after:
            state = State.LOST
        current, total = _decoded(record, "current", 0), _decoded(record, "total", None)
        rate = _decoded(record, "rate", None) if state is State.RUNNING else None
        return cls(
            id=message_id,
            actor=record["actor"],
            queue=record["queue"],
            state=state,
            current=current,
            total=total,
            description=record.get("description", ""),
            attempt=int(record.get("attempt", "0")),
            retries_left=0 if state.is_final else _decoded(record, "retries_left", None),
            retry_in=_seconds_until(record.get("retry_at"), now) if state is State.RETRYING else None,
            queue_position=place[0] if place else None,
            queue_length=place[1] if place else None,
            elapsed=_elapsed(state, record, now),
            rate=rate,
            eta=_time_left(current, total, rate, now - float(record.get("reported_at", now))),
            cancel_requested="cancel_requested" in record,
            cancellable=record.get("cancellable") != "0",
            metadata=_decoded(record, "metadata", {}),
            result=_result(state, record.get("result")),
            version=int(record["version"]),
            silence=_silence(state, record, now),
            owner=record.get("owner", ""),
        )


def number_text(number: Number | None) -> str:
    """A finite number, or None, as the JSON that a record keeps."""
    return "null" if number is None else repr(number)


def _seconds_until(moment: str | None, now: float) -> float | None:
    return None if moment is None else max(0.0, round(float(moment) - now, 1))


def _silence(state: State, record: Mapping[str, str], now: float) -> float:
    if state.is_pending:
        since = record.get("enqueued_at")
    elif state is State.RETRYING:
        since = record.get("retry_at")
    else:
        since = record.get("reported_at", record.get("started_at"))
    return 0.0 if since is None else max(0.0, now - float(since))


def _elapsed(state: State, record: Mapping[str, str], now: float) -> float | None:
    started = record.get("started_at")
    if started is None:
        return None
    # Nobody knows for how long a lost attempt ran after its last sign of life.
    ended = record["heartbeat"] if state is State.LOST else record.get("ended_at", now)
    return max(0.0, round(float(ended) - float(started), 1))


def _time_left(current: Number, total: Number | None, rate: float | None, age: float) -> float | None:
    # It counts down between two reports: what was left at the last one, less its age.
    if rate is None or total is None:
        return None
    left = (total - current) / rate - age
    # What is overdue is not "0 s left": nobody knows.
    is_overdue = left < 0 and current < total
    return round(max(0.0, left), 1) if math.isfinite(left) and not is_overdue else None


def _decoded(record: Mapping[str, str], name: str, otherwise: Any) -> Any:
    text = record.get(name)
    if text is None:
        return otherwise
    # Most are whole numbers, and those are quicker so (5 % of a poll).
    return int(text) if text.isdecimal() else json.loads(text)


def _result(state: State, stored: str | None) -> Any:
    if not state.is_final:
        return None
    return DEFAULT_RESULTS.get(state) if stored is None else json.loads(stored)

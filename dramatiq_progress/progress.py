"""`State` and `Progress`, the snapshot that travels from the store to the page. Pure: no I/O, no Django."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from . import polling
from .progress_values import Number, Parts, StepProgress, UsualTimes, percent_of, percent_of_whole

#: The names that projects import from here.
__all__ = ["Parts", "Progress", "State", "StepProgress", "UsualTimes"]


class State(StrEnum):
    """The state of a message. All states but ``lost`` are stored; ``lost`` is derived by readers."""

    ENQUEUED = "enqueued"
    DELAYED = "delayed"
    RUNNING = "running"
    RETRYING = "retrying"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether the message has finished, with any outcome."""
        return self in FINAL_STATES

    @property
    def is_pending(self) -> bool:
        """Whether the message waits, for its first attempt or for another one, and not for a retry."""
        return self in (State.ENQUEUED, State.DELAYED, State.PAUSED)


STATES = {state.value: state for state in State}

FINAL_STATES = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED})

#: The text for the user about a message that finished without success, unless the actor set a better one.
DEFAULT_RESULTS = {
    State.FAILED: "The task failed.",
    State.CANCELLED: "The task was cancelled.",
    State.SKIPPED: "The task was skipped.",
}

#: The text for the user about a message that was rejected after ``MAX_DELIVERIES``.
GIVEN_UP = "This didn't work after several attempts. Please contact support if it happens again."

#: The names of the numbers of `Parts`, in order.
_PARTS = [each.name for each in fields(Parts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An immutable snapshot of one message's progress.

    Attributes:
      id: The message's id.
      actor: The actor's name.
      queue: The queue's name.
      state: The state of the message.
      title: The name of the job for users: the message's own, or otherwise its actor's, in the active language.
      current: The amount of work done, as last reported. 0 before the first report.
      total: The amount of work in total. None while unknown.
      description: Plain text that says what the actor is doing.
      has_steps: Whether the actor has steps, or loops inside loops. Then `current`, `total` and `description` are those
        of the innermost, and `overall` is the whole's. Also true for a group or a pipeline. Not part of the JSON.
      overall: The fraction of the whole that is done, from 0 to 1. None without steps, and while unknown. Not part of
        the JSON, except as the percentage.
      overall_rate: The fraction of the whole that is done per second, smoothed, instead of `rate`. Not part of the
        JSON.
      step: The step that the actor is in, or was in last. None without steps, and before the first. Of a pipeline,
        its stage, which has no name.
      parts: The members of a group or a pipeline, which has a record like a message. None for a message. `current` and
        `total` are then the number of members that have ended, and of all.
      attempt: Number of the attempt that is described. 0 before the first.
      continues: Whether it has run, and waits to go on where it was, or is paused before a retry. `current`, `total`,
        `description` and the percentage are then those that it got to. Not part of the JSON, except that ``pending`` is
        false.
      retries_left: Number of attempts that may follow a failure. None if Dramatiq has no limit.
      retry_in: Seconds until the next attempt, while ``retrying``.
      rate: Work done per second, smoothed. None while unknown, and in every state but ``running``.
      eta: Seconds left at this rate. None while unknown.
      queue_position: Approximate position among the tracked messages of its queue, while ``enqueued``. 1 is next.
      queue_length: Number of tracked messages in that queue.
      usual: How long it usually takes and waits, unless it has finished or is ``lost``. None while unknown.
      elapsed: Seconds that the attempt has been running, or ran. None before the first.
      cancel_requested: Whether a cancel was requested. Also true after it was cancelled.
      pause_requested: Whether a pause was requested. Also true while it is paused.
      cancellable: Whether the message was sent as one that can be cancelled. Not part of the JSON.
      metadata: The values that the actor attached for the page.
      result: The public result if the message is ``done``, or the text for the user after any other outcome.
      version: A number that increases with each change of the record.
      silence: Seconds since the last report; before the first one, since the attempt started or the message was
        enqueued; while ``retrying``, since the next attempt was due; of one that has finished, since its end. Not part
        of the JSON.
      owner: Keyed hash of the message's owner (see owners.py). Empty if it has none. Not part of
        the JSON.
    """

    id: str
    actor: str
    queue: str
    state: State
    title: str = ""
    current: Number = 0
    total: Number | None = None
    description: str = ""
    has_steps: bool = False
    overall: float | None = None
    overall_rate: float | None = None
    step: StepProgress | None = None
    parts: Parts | None = None
    attempt: int = 0
    continues: bool = False
    retries_left: int | None = None
    retry_in: float | None = None
    queue_position: int | None = None
    queue_length: int | None = None
    usual: UsualTimes | None = None
    elapsed: float | None = None
    rate: float | None = None
    eta: float | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    cancellable: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    version: int = 0
    silence: float = field(default=0.0, compare=False)
    owner: str = field(default="", repr=False)

    @property
    def complete(self) -> bool:
        """Whether the message has finished, with any outcome."""
        return self.state.is_final

    @property
    def success(self) -> bool | None:
        """Whether the message succeeded. None while it hasn't finished."""
        return self.state is State.DONE if self.complete else None

    @property
    def can_cancel(self) -> bool:
        """Whether a cancel would have an effect: the actor allows it, none was requested, and the state isn't final."""
        return self.cancellable and not self.cancel_requested and not self.complete

    @property
    def percent(self) -> float | None:
        """The percentage done, floored to 0.1 and at most 100. None while unknown: without a total, or one of 0."""
        return percent_of_whole(self.overall) if self.has_steps else percent_of(self.current, self.total)

    @property
    def poll_after(self) -> float:
        """Seconds until the next poll is worthwhile: see `polling.poll_after`."""
        current, total, rate = self.current, self.total, self.rate
        if self.has_steps:
            current, total, rate = self.overall or 0.0, None if self.overall is None else 1, self.overall_rate
        return polling.poll_after(
            state=self.state,
            silence=self.silence,
            current=current,
            total=total,
            rate=rate,
            elapsed=self.elapsed,
            retry_in=self.retry_in,
            queue_position=self.queue_position,
        )

    @property
    def revision(self) -> tuple[object, ...]:
        """The values that differ between two readings if a reader would see a difference, apart from running clocks.

        The version alone isn't enough: ``lost``, the queue position, the usual times and whether there is an `eta`
        change without a write of the record, and the title differs by language.
        """
        return (
            *(self.id, self.version, self.attempt, self.state, self.title),
            *(self.queue_position, self.queue_length, self.usual, self.eta is None),
        )

    def as_dict(self, *, may_cancel: bool = False) -> dict[str, Any]:
        """Return the JSON object of the HTTP API, as plain Python values.

        ``complete``, ``success``, ``progress`` and ``result`` are keys of celery-progress 0.5, with the same meaning.

        Parameters:
          may_cancel: Whether the reader may cancel the message.
        """
        complete = self.complete
        fields: dict[str, Any] = {
            "id": self.id,
            "actor": self.actor,
            "queue": self.queue,
            "state": self.state.value,
            "complete": complete,
            "success": self.success,
            "progress": {
                "pending": self.state.is_pending and not self.continues,
                "current": self.current,
                "total": self.total,
                "percent": self.percent,
                "description": self.description,
            },
            "attempt": self.attempt,
            "retries_left": self.retries_left,
            "retry_in": self.retry_in,
            "queue_position": self.queue_position,
            "queue_length": self.queue_length,
            "elapsed": self.elapsed,
            "rate": self.rate,
            "eta": self.eta,
            "cancel_requested": self.cancel_requested,
            "pause_requested": self.pause_requested,
            "can_cancel": may_cancel and self.can_cancel,
            "title": self.title,
            "step": None if self.step is None else asdict(self.step),
            # Not asdict(), which takes ten times as long.
            "parts": None if self.parts is None else {name: getattr(self.parts, name) for name in _PARTS},
            "usual": None if self.usual is None else self.usual._asdict(),
            "metadata": self.metadata,
            "version": self.version,
            "poll_after": self.poll_after,
        }
        if complete:
            fields["result"] = self.result
        return fields

"""The answers of a store to its writers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, NamedTuple

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import State

from .composites import CompositeAnswer

#: The outcome of a report: written; rebuilt, where the record was gone or showed another attempt; incomplete, where it
#: has to be rebuilt and the report has only what changed; waiting, since an earlier attempt is alive and shown; or
#: superseded, since a later attempt is shown or the message is final.
ReportOutcome = Literal["written", "rebuilt", "incomplete", "waiting", "superseded"]


class Start(NamedTuple):
    """The outcome of a start.

    Attributes:
      verdict: ``run`` (the message is now ``running``), ``paused`` (the worker skips it, and sends it again),
        ``ignored`` (the message was final: the actor runs, and the record stays as it is), ``finished`` (a
        resumable attempt has done all of it) or ``cancelled``; in both cases the worker skips the message.
      deliveries: Number of starts since an attempt finished, including this one, without those that began while the
        attempt before was alive.
      title: The title that was given with the message, or that an earlier attempt set.
      metadata: The metadata that was given with the message, with that of earlier attempts, as JSON.
      previous: The state before. None if there was no record, or if the start has changed nothing.
      is_shown: Whether the record shows this attempt now. It doesn't while the attempt before is alive.
      is_unwanted: Whether a composite that the message is a member of is to be cancelled.
      kept: The cursor of an earlier attempt and the values that belong to it, as stored. Empty if there is none.
      is_forced: Whether an operator cancels it.
    """

    verdict: Literal["run", "paused", "ignored", "finished", "cancelled"]
    deliveries: int = 0
    title: str = ""
    metadata: str = "{}"
    previous: State | None = None
    is_shown: bool = False
    is_unwanted: bool = False
    kept: Mapping[str, str] = MappingProxyType({})
    is_forced: bool = False


class Change(NamedTuple):
    """The outcome of a change of state; true if it was written.

    Attributes:
      written: Whether the record has changed.
      previous: The state before, None if there was no record.
      version: The record's new version, where it is known.
      state: After the end of an attempt, the state now, also if another attempt's.
      attempt: The number of the attempt that the record then shows.
      composite: The answer of the composite, if a contribution was sent with the change.
      moment: When the attempt ended, by the store's clock.
    """

    written: bool
    previous: State | None = None
    version: int = 0
    state: State | None = None
    attempt: int = 0
    moment: float | None = None
    composite: CompositeAnswer | StoreUnavailable | None = None

    def __bool__(self) -> bool:
        return self.written


class Peek(NamedTuple):
    """The identity of a composite's record: see `CompositeAnswer`. An empty `born` if there is none.

    Attributes:
      slot: The slot of the member that asks; empty if it has none.
    """

    cancel_requested: bool
    is_forced: bool
    born: str
    version: int
    slot: str = ""


class CancelOutcome(StrEnum):
    """The outcome of a cancel request."""

    CANCELLED = "cancelled"  #: The message won't run, or won't run again. Also if it was cancelled before.
    REQUESTED = (
        "requested"  #: The message is running: its actor is interrupted at the next report, if it doesn't finish.
    )
    FINISHED = "finished"  #: The message was final; nothing has changed.
    NOT_CANCELLABLE = "not_cancellable"  #: The message isn't cancellable; nothing has changed.
    NOT_FOUND = "not_found"  #: The message has no record.


class Cancellation(NamedTuple):
    """The answer to `cancel`; true if the message is cancelled or its actor will be interrupted.

    Attributes:
      outcome: The outcome.
      previous: The state before, None if there is no record.
    """

    outcome: CancelOutcome
    previous: State | None = None

    def __bool__(self) -> bool:
        return self.outcome in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)


class PauseOutcome(StrEnum):
    """The outcome of a request to pause a message, or to resume it."""

    PAUSED = "paused"  #: The message waits until it is resumed. Also if it was paused before.
    REQUESTED = (
        "requested"  #: The message is running: it is paused after its current item, if it doesn't finish before.
    )
    RESUMED = "resumed"  #: The message isn't paused, and no pause is requested. Also if none was before.
    FINISHED = "finished"  #: The message was final; nothing has changed.
    NOT_RESUMABLE = (
        "not_resumable"  #: The message is running, and isn't in a loop that can be resumed; nothing has changed.
    )
    COMPOSITE = "composite"  #: It is a group or a pipeline, whose members are paused one by one; nothing has changed.
    NOT_FOUND = "not_found"  #: The message has no record.


class Pausing(NamedTuple):
    """The answer to `pause` and `resume`; true if what was requested is so, or will be.

    Attributes:
      outcome: The outcome.
      previous: The state before, None if there is no record.
    """

    outcome: PauseOutcome
    previous: State | None = None

    def __bool__(self) -> bool:
        return self.outcome in (PauseOutcome.PAUSED, PauseOutcome.REQUESTED, PauseOutcome.RESUMED)

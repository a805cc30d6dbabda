"""`Attempt`: one delivery of a message to a worker, as the store's writes refer to it."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from .companion import Companion
from .composites import Path


@dataclass(slots=True, eq=False)
class Attempt:
    """One delivery of a message to a worker, with everything a store needs to accept its writes.

    ``number`` and ``token`` form the fencing token: the store refuses a write if a later attempt is shown. The other
    fields let the store rebuild a record that it has lost. After such a loss numbers start again, and heartbeats decide
    which of two attempts is shown (see report.lua).

    Attributes:
      message_id: The message's id.
      actor: The actor's name.
      queue: The queue's name.
      retries_left: Number of attempts that may follow a failure. None if Dramatiq has no limit.
      cancellable: Whether the actor's messages can be cancelled.
      min_attempt: Lower bound for the attempt number: 1 + Dramatiq's ``retries``. Used when the store lost its count.
      token: Random text that tells apart two attempts with the same number.
      number: The attempt's number, from 1. 0 until the store has counted it.
      version: The record's version, as of the store's last answer.
      started_at: Start of the attempt, by `time.monotonic`.
      owner: Keyed hash of the message's owner; empty if it has none.
      title: The title that was given with the message, or its actor's; empty if it has none.
      metadata: The metadata that was given with the message, as JSON.
      estimate_key: The kind of runs that its duration is compared with; empty if its actor has one kind only.
      cancel_requested: Whether a cancel was requested, as of the store's last answer.
      resumable: Whether the job can be resumed: its actor has begun such a loop or call, or an earlier attempt left a
        cursor.
      pause_requested: Whether a pause was requested, as of the store's last answer.
      path: The composites that the message is a member of.
      shown_at: When the store was last asked and answered that the record shows this attempt, by `time.monotonic`.
      sends_all: Whether the next report has all values, and not only those that changed: the store may have lost some.
      slot: The slot that its composite has, as of the store's last answer.
      has_new_record: Whether the record was made for this attempt, and its composites may know a higher number.
      companion: Private data of the message, if it has any.
      brought: What the message brings of an earlier attempt: its cursor, and the values that belong to it.
      follows: The token of the attempt whose actor has sent this message, its own, for another round.
    """

    message_id: str
    actor: str
    queue: str
    retries_left: int | None = None
    cancellable: bool = False
    min_attempt: int = 1
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 0
    version: int = 0
    started_at: float = field(default_factory=time.monotonic)
    owner: str = field(default="", repr=False)
    title: str = ""
    metadata: str = "{}"
    estimate_key: str = ""
    cancel_requested: bool = False
    resumable: bool = False
    pause_requested: bool = False
    path: Path = ()
    shown_at: float = -math.inf
    has_new_record: bool = False
    sends_all: bool = False
    slot: str = ""
    companion: Companion | None = field(default=None, repr=False)
    brought: Mapping[str, str] = field(default_factory=dict)
    follows: str = ""

    @property
    def is_shown(self) -> bool:
        """Whether the record shows this attempt, as of the store's last answer."""
        return self.shown_at > -math.inf

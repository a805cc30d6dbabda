"""`Companion`: the private data of one message, in a second key beside its record. Pages never read it.

The key is in the record's cluster slot, and lives as long as the record. It is written by keep.lua and finish.lua,
behind the record's fencing token: the values of a worker that was declared dead are refused, as its reports are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dramatiq_progress.progress import State

from .outcomes import Change


@dataclass(slots=True, eq=False)
class Companion:
    """The private data of one message. Subclasses say what to store when an attempt ends.

    Attributes:
      name: Replaces the actor's name in the record.
      about: Text about the message that is stored when it is sent, and again when the store has lost it.
      worker: Text about this worker, stored once for each attempt that runs.
      finished_ttl: Seconds to keep the record and this key after the message has finished. None: ``FINISHED_TTL``.
      metadata: Text that is stored with the message, if it isn't empty.
      stored: The stored fields, except `about`, as of the store's last answer. Numbers in their names are attempts.
      attempted_at: Start of the attempt by the store's clock, as of the store's last answer.
    """

    name: str
    about: str
    worker: str = ""
    finished_ttl: float | None = None
    metadata: str = ""
    stored: dict[str, str] = field(default_factory=dict)
    attempted_at: float | None = None

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self.about) + sum(map(len, self.stored.values()))

    @property
    def sent_fields(self) -> dict[str, str]:
        """The fields to store when the message is sent."""
        return {"about": self.about} | ({"metadata": self.metadata} if self.metadata else {})

    @property
    def started_fields(self) -> dict[str, str]:
        """The fields to store when an attempt starts. The script appends the attempt's number to ``worker:``."""
        return {"about": self.about, "worker:": self.worker}

    def outcome(self, state: State, exception: BaseException | None) -> dict[str, str]:
        """Return the fields to store when the attempt ends in this state, and with this exception if it is known."""
        return {}

    def note_end(self, state: State, change: Change | None) -> None:
        """Note that the attempt has ended.

        Parameters:
          state: The outcome.
          change: The store's answer; None if it is unavailable, and the outcome is written later.
        """


class Kept(NamedTuple):
    """The fields of a message's two keys, as stored.

    Attributes:
      record: The record.
      beside: What is stored beside it.
    """

    record: Mapping[str, str]
    beside: Mapping[str, str]

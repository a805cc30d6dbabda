"""The reading methods of a store: one round trip for all messages, which waits for the end of a short outage."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreRefused, StoreUnavailable, StoreUnreachable
from dramatiq_progress.progress import Progress, State

from . import encoding
from .calls import OWNED_LIMIT, StoreCalls
from .companion import Kept
from .composites import Membership
from .decoding import log_unreadable, read_record
from .durations import Durations, run_of
from .encoding import Call
from .health import Health, NodeUnreachable
from .pace import QueuePosition, position_of

#: How long a read waits for a store that gives no answer, from the start of the outage. A pause of the store (a fork
#: for a snapshot takes up to 300 ms) then costs its readers time and no error.
READ_PATIENCE_SECONDS = 1.0

#: After how many intervals a heartbeat is overdue. It is sent with the next flush after its time.
OVERDUE_HEARTBEATS = 1.5

#: A record, or the reason why it can't be read.
Stored = dict[str, str] | StoreRefused | NodeUnreachable


class ReadableStore(StoreCalls):
    """The methods of a store that read messages.

    Attributes:
      durations: The durations of past runs.
    """

    health: Health

    def __init__(self, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.durations = Durations(self._call, self.durations_key)

    @abstractmethod
    def _read_answers(self, answers: Sequence[Any]) -> list[tuple[float, Stored]]:
        """Return the clock of the record's server, in seconds, and the record, from the answers to `_read_calls`.

        Raises:
          StoreUnavailable: A call failed, other than by a node of a cluster that can't be reached.
        """

    def read(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """Return the progress of each message; None if it has no record, or one that can't be read.

        Takes one round trip, a second one for messages that wait in a queue, and another one for the usual times of
        their actors, which are kept for a while (durations.py). It raises if any of the messages is on a node of a
        cluster that can't be reached, since whether that message exists is unknown.
        """
        found: list[Progress | None] = []
        for progress in self.read_each(message_ids):
            if isinstance(progress, NodeUnreachable):
                raise progress
            found.append(progress)
        return found

    def read_each(self, message_ids: Sequence[str]) -> list[Progress | NodeUnreachable | None]:
        """`read`, with the error in place of each message on a node of a cluster that can't be reached."""
        if not message_ids:
            return []
        found = self._read_answers(self._query(self._read_calls([self.key(each) for each in message_ids])))
        current = configuration()
        records = [stored if isinstance(stored, dict) else {} for _, stored in found]
        queued = self._queue_positions(message_ids, records, with_wait=current.estimates)
        estimates = self.durations.estimates(records) if current.estimates else {}
        known = {"lost_after": current.lost_after, "overdue_after": OVERDUE_HEARTBEATS * current.heartbeat_interval}
        progresses: list[Progress | NodeUnreachable | None] = []
        for message_id, (now, stored) in zip(message_ids, found, strict=True):
            if isinstance(stored, dict):
                # A composite has the actor of its members, and no queue: their times aren't its own.
                usual = estimates.get(run_of(stored)) if stored.get("queue") else None
                progresses.append(
                    read_record(message_id, stored, now=now, queued=queued.get(message_id), usual=usual, **known)
                )
            elif isinstance(stored, NodeUnreachable):
                progresses.append(stored)
            else:
                log_unreadable(message_id, stored)
                progresses.append(None)
        return progresses

    def read_kept(self, message_id: str) -> Kept:
        """Return what is stored of a message, and beside it; each is empty if it isn't stored.

        Raises:
          StoreRefused: One of the keys isn't ours.
        """
        (_, record), (_, beside) = self._read_answers(self._query([Call("read", self._keys(message_id))]))
        for stored in (record, beside):
            if isinstance(stored, StoreUnavailable):
                raise stored
        return Kept(record, beside)  # type: ignore[arg-type]  # the errors were raised above

    def read_membership(self, composite: str) -> Membership | None:
        """Return a composite, as messages that are added to it carry it. None if it has no record.

        A message has one too, without flags.
        """
        [(_, stored)] = self._read_answers(self._call([Call("read", (self.key(composite),))]))
        if isinstance(stored, StoreUnavailable):
            raise stored
        if not stored:
            return None
        flags = stored.get("parts", "").rpartition(" ")[2]
        membership = Membership(composite, 0, stored.get("actor", ""), flags, owner=stored.get("owner", ""))
        return membership._replace(description=stored.get("description", ""), title=stored.get("title", ""))

    async def aread(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """`read`, for async code."""
        return await asyncio.to_thread(self.read, message_ids)

    def owned(self, owners: Collection[str]) -> list[str]:
        """Return the ids of these owners' messages, newest first, at most `OWNED_LIMIT`; some may have expired."""
        if not owners:
            return []
        sent: dict[str, float] = {}
        for answer in self._query([Call("owned", (self.owner_key(owner),)) for owner in owners]):
            if isinstance(answer, StoreUnavailable):
                raise answer
            sent |= {message_id: float(moment) for message_id, moment in zip(answer[::2], answer[1::2], strict=True)}
        return sorted(sent, key=lambda message_id: sent[message_id], reverse=True)[:OWNED_LIMIT]

    def _read_calls(self, keys: Sequence[str]) -> list[Call]:
        return [Call("read", keys)]

    def _query(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls that only read: during a short outage, they wait for its end."""
        deadline = time.monotonic() + READ_PATIENCE_SECONDS
        while True:
            answers = self._call(calls)
            unreachable = [answer for answer in answers if isinstance(answer, StoreUnreachable)]
            # Not endlessly: a store may answer probes, and be too slow for this command.
            if not unreachable or time.monotonic() >= deadline:
                return answers
            healths = {each.health if isinstance(each, NodeUnreachable) else self.health for each in unreachable}
            if not any(health.wait(READ_PATIENCE_SECONDS) for health in healths):
                return answers

    def _queue_positions(
        self, message_ids: Sequence[str], records: Sequence[Mapping[str, str]], *, with_wait: bool
    ) -> dict[str, QueuePosition]:
        waiting = [
            (message_id, record["queue"])
            for message_id, record in zip(message_ids, records, strict=True)
            # A composite is in no queue.
            if record.get("state") == State.ENQUEUED and record.get("queue")
        ]
        if not waiting:
            return {}
        answers = self._query(
            [Call("position", self._line_keys(queue, with_wait), encoding.Position(each)) for each, queue in waiting]
        )
        return {
            message_id: position_of(*answer)
            for (message_id, _), answer in zip(waiting, answers, strict=True)
            if not isinstance(answer, StoreUnavailable) and answer[0] is not None
        }

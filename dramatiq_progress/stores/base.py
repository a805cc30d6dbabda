"""The interface of a store, and the one place in which values become text; a subclass carries calls to its records."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dramatiq_progress.conf import configuration
from dramatiq_progress.progress import Progress, State

#: What each operation is called: a Lua script in redis/, a method in memory.py.
OPERATIONS = ("enqueue", "start", "report", "finish")


class Fence(NamedTuple):
    """What a delivery must show with each write: its number, and the token that tells two of one number apart."""

    attempt: int
    token: str


class Start(NamedTuple):
    """The answer to `Store.start`.

    `verdict` is ``run`` (the message is now `running`, under `fence`), ``unseen`` (the message had ended: the actor
    runs, and the record stays as it is) or ``cancelled`` (the worker skips the message).
    """

    verdict: Literal["run", "unseen", "cancelled"]
    fence: Fence | None = None
    metadata: str = "{}"


class Call(NamedTuple):
    """One operation on one record, with its arguments as text."""

    operation: str
    message_id: str
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What one running message has to say: `fields` as text; none of them is a bare sign of life."""

    message_id: str
    fence: Fence
    fields: Mapping[str, str] = field(default_factory=dict)


#: What became of a `Report`: written; refused by the fence; or there is no such record.
ReportAnswer = Literal["written", "refused", "missing"]


class Store(ABC):
    """Where progress lives. Each method is atomic for a record and renews its time to live.

    Every method raises `StoreUnavailable` when the store cannot be reached or refuses.

    Parameters:
      prefix: What every key begins with.
    """

    def __init__(self, *, prefix: str) -> None:
        self.prefix = prefix

    @abstractmethod
    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Carry out the calls, in order, in one round trip, and return the answer of each."""

    @abstractmethod
    def _read(self, message_ids: Sequence[str]) -> tuple[float, list[Mapping[str, str]]]:
        """The store's clock in seconds and the record of each message, empty where there is none."""

    @abstractmethod
    def ping(self) -> None:
        """Raise `StoreUnavailable` unless the store answers."""

    def close(self) -> None:  # noqa: B027 - a store that holds nothing open has nothing to close
        """Free what the store holds open."""

    def key(self, message_id: str) -> str:
        """The key of a message's record."""
        return f"{self.prefix}{message_id}"

    def enqueue(
        self,
        message_id: str,
        *,
        actor: str,
        queue: str,
        retries_left: int | None,
        delay: float | None = None,
        due: bool = False,
    ) -> None:
        """A message goes to its queue, or with a `delay` in seconds to its delay queue.

        `due` says that a delayed message has come from its delay queue; that is refused by a record that has ended.
        A message that is not due is new: it resets a record that has ended, and leaves one that lives alone.
        """
        state = State.ENQUEUED if delay is None else State.DELAYED
        ttl = configuration().unfinished_ttl + (delay or 0)
        origin = "due" if due else "new"
        arguments = (origin, state, actor, queue, json.dumps(retries_left), _milliseconds(ttl))
        self._call([Call("enqueue", message_id, arguments)])

    def start(self, message_id: str, *, token: str, actor: str, queue: str, retries_left: int | None) -> Start:
        """A worker begins with a message: the attempt is counted, and its `token` becomes the fence."""
        ttl = _milliseconds(configuration().unfinished_ttl)
        arguments = (token, actor, queue, json.dumps(retries_left), ttl)
        [(verdict, attempt, metadata)] = self._call([Call("start", message_id, arguments)])
        if verdict != "run":
            return Start(verdict)
        return Start("run", Fence(int(attempt), token), metadata)

    def report(self, reports: Sequence[Report]) -> list[ReportAnswer]:
        """Write what running messages reported, and that they live, in one round trip."""
        ttl = _milliseconds(configuration().unfinished_ttl)
        return self._call(
            [Call("report", each.message_id, (*_fence(each.fence), ttl, *_flat(each.fields))) for each in reports]
        )

    def finish(
        self,
        message_id: str,
        *,
        fence: Fence | None,
        actor: str,
        queue: str,
        state: State,
        fields: Mapping[str, str],
        retry_in: float | None = None,
    ) -> bool:
        """An attempt ends, in a final state, or in `retrying` with the seconds until the next one.

        Without a fence (the attempt never began, as when a middleware skipped the message) the write is refused by a
        record that has ended, and by one that does not exist.

        Returns:
          Whether it was written.
        """
        own_ttl = configuration().finished_ttl if state.is_final else configuration().unfinished_ttl
        ttl = _milliseconds(own_ttl + (retry_in or 0))
        delay = "" if retry_in is None else f"{retry_in:.3f}"
        arguments = (*_fence(fence), state, actor, queue, delay, ttl, *_flat(fields))
        [answer] = self._call([Call("finish", message_id, arguments)])
        return bool(answer == "written")

    def read(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """The progress of each message, None where there is no record, in one round trip."""
        now, records = self._read(message_ids)
        lost_after = configuration().lost_after
        return [
            Progress.from_record(message_id, record, now=now, lost_after=lost_after) if record else None
            for message_id, record in zip(message_ids, records, strict=True)
        ]

    async def aread(self, message_ids: Sequence[str]) -> list[Progress | None]:
        """`read`, for async code."""
        return await asyncio.to_thread(self.read, message_ids)


def _fence(fence: Fence | None) -> tuple[str, str]:
    return ("", "") if fence is None else (str(fence.attempt), fence.token)


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))

"""The keys of a store, and the calls that several of its methods make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import STATES, State

from . import encoding
from .companion import Companion
from .encoding import Call, flag, flat, milliseconds, number_text, seconds
from .pace import MEMORY_SECONDS, TTL_SECONDS

#: Messages that were enqueued this long before the one that has just started, and haven't had their turn, were purged
#: from the broker.
PURGED_AFTER_SECONDS = 600
#: For a message that leaves its queue without its turn, which says nothing about those before it.
NO_PURGE_SECONDS = 1e9

#: The private data that a round trip may have: number of messages, and bytes.
KEPT_AT_ONCE = 250
KEPT_AT_ONCE_BYTES = 256 * 1024

#: Number of messages that an owner's index keeps; the oldest are removed first.
OWNED_LIMIT = 200


class NewMessage(NamedTuple):
    """A message that is about to be sent.

    Attributes:
      id: The message's id.
      actor: The actor's name.
      queue: The queue's name.
      retries_left: Number of attempts that may follow a failure. None if Dramatiq has no limit.
      cancellable: Whether it can be cancelled.
      owner: Keyed hash of its owner; empty if it has none.
      delay: Seconds until it is due; None if it goes to its queue directly.
      title: Its title; empty for that of its actor.
      metadata: JSON.
      estimate_key: The kind of runs that its duration is compared with.
      companion: Its private data, if it has any.
    """

    id: str
    actor: str
    queue: str
    retries_left: int | None
    cancellable: bool
    owner: str
    delay: float | None
    title: str = ""
    metadata: str = "{}"
    estimate_key: str = ""
    companion: Companion | None = None


class StoreCalls(ABC):
    """The keys of a store and the calls of scripts, without their order and their answers.

    Parameters:
      prefix: Prefix of every key.
    """

    def __init__(self, *, prefix: str) -> None:
        self.prefix = prefix

    @abstractmethod
    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Run the calls, in order, in one round trip per server.

        Returns:
          The answer of each call; for one that failed, a `StoreUnavailable`.
        """

    def key(self, message_id: str) -> str:
        """Return the key of a message's record."""
        return f"{self.prefix}{message_id}"

    def members_key(self, message_id: str) -> str:
        """Return the key of a composite's members, which is in the same slot of a cluster as the record."""
        return self._beside("members", message_id)

    def companion_key(self, message_id: str) -> str:
        """Return the key of a message's companion, which is in the same slot of a cluster as the record."""
        return self._beside("companion", message_id)

    def _beside(self, kind: str, message_id: str) -> str:
        # Its hash tag is the whole key of the record. If the prefix has a hash tag, all keys are in one slot.
        tag = message_id if _has_hash_tag(self.prefix) else f"{{{self.key(message_id)}}}"
        return f"{self.prefix}{kind}:{tag}"

    def queue_key(self, queue: str) -> str:
        """Return the key of a queue's index: its waiting messages. (A message id has no colon: see message_ids.py.)"""
        return f"{self.prefix}queue:{queue}"

    def pace_key(self, queue: str) -> str:
        """Return the key of a queue's pace, in the slot of its index in a cluster: the braces contain that key."""
        return f"{self.prefix}pace:{{{self.queue_key(queue)}}}"

    def durations_key(self, actor: str) -> str:
        """Return the key of the durations of an actor's runs."""
        return f"{self.prefix}durations:{actor}"

    def owner_key(self, owner: str) -> str:
        """Return the key of an owner's index: the messages that the owner sent."""
        return f"{self.prefix}owner:{owner}"

    def _enqueue_call(self, message: NewMessage, *, due: bool = False, age: float = 0.0) -> Call:
        arguments = encoding.Enqueue(
            origin="late" if age else "due" if due else "new",
            state=State.ENQUEUED if message.delay is None else State.DELAYED,
            actor=message.actor,
            queue=message.queue,
            retries_left=number_text(message.retries_left),
            cancellable=flag(message.cancellable),
            ttl=_unfinished_ttl(message.delay),
            age=seconds(age),
            owner=message.owner,
            title=message.title,
            metadata=message.metadata,
            estimate_key=message.estimate_key,
        )
        return Call("enqueue", (self.key(message.id),), arguments)

    def _join_call(self, message_ids: Sequence[str], queue: str, *, age: float) -> Call:
        # A call of its own: the record and the index may be on two nodes of a cluster.
        return Call("join", (self.queue_key(queue),), (*encoding.Join(_unfinished_ttl(), seconds(age)), *message_ids))

    def _leave_call(self, message_id: str, queue: str, *, purged_after: float, is_paced: bool = False) -> Call:
        arguments = encoding.Leave(
            message_id, seconds(purged_after), seconds(MEMORY_SECONDS), milliseconds(TTL_SECONDS)
        )
        return Call("leave", self._line_keys(queue, is_paced), arguments)

    def _line_keys(self, queue: str, with_pace: bool) -> tuple[str, ...]:
        index = self.queue_key(queue)
        return (index, self.pace_key(queue)) if with_pace else (index,)

    def _keep_call(self, message_id: str, token: str, fields: Mapping[str, str]) -> Call:
        arguments = encoding.Keep(token, str(configuration().max_deliveries))
        return Call("keep", self._keys(message_id), (*arguments, *flat(fields)))

    def _note_kept(self, companion: Companion, call: Call, answer: Any, *, must_be_kept: bool) -> None:
        if must_be_kept and not isinstance(answer, StoreUnavailable) and answer[0] == "refused":
            # A server that was restarted had to learn the script of the record first, and has run this one before it.
            [answer] = self._call([call])
        if not isinstance(answer, StoreUnavailable) and answer[0] == "written":
            _, moment, stored = answer
            companion.attempted_at = float(moment) if moment else None
            companion.stored = dict(zip(stored[::2], stored[1::2], strict=True))

    def _keep_sent(self, messages: Sequence[NewMessage]) -> None:
        """Store the private data of messages that are recorded, and are about to be sent.

        Raises:
          StoreUnavailable: Some of it wasn't stored.
        """
        kept = [(each.id, each.companion) for each in messages if each.companion is not None]
        while kept:
            sizes = accumulate(companion.size for _, companion in kept[:KEPT_AT_ONCE])
            count = max(1, sum(size <= KEPT_AT_ONCE_BYTES for size in sizes))
            batch, kept = kept[:count], kept[count:]
            calls = [self._keep_call(message_id, "", companion.sent_fields) for message_id, companion in batch]
            for (_, companion), call, answer in zip(batch, calls, self._call(calls), strict=True):
                if isinstance(answer, StoreUnavailable):
                    raise answer
                self._note_kept(companion, call, answer, must_be_kept=False)

    def _keys(self, message_id: str) -> tuple[str, str]:
        return self.key(message_id), self.companion_key(message_id)

    def _own_call(self, message_id: str, owner: str, *, delay: float | None = None, age: float) -> Call:
        arguments = encoding.Own(message_id, _unfinished_ttl(delay), seconds(age), str(OWNED_LIMIT))
        return Call("own", (self.owner_key(owner),), arguments)

    def _disown_call(self, message_id: str, owner: str) -> Call:
        return Call("disown", (self.owner_key(owner),), encoding.Disown(message_id))

    def _own_again(self, messages: Iterable[tuple[str, str, float, float]]) -> None:
        """Add messages to their owners' indexes: each an id, its owner, the seconds since its send, and its delay."""
        calls = [
            self._own_call(message_id, owner, delay=delay, age=age)
            for message_id, owner, age, delay in messages
            if owner
        ]
        if calls:
            # Only the index of "my jobs": without an answer, the message is missing there.
            self._call(calls)

    def _first(self, calls: Sequence[Call]) -> Any:
        """Return the answer of the first call. The others may fail: a later call makes up for each."""
        return self._answers(calls)[0]

    def _answers(self, calls: Sequence[Call]) -> list[Any]:
        """Return the answers of the calls, of which all but the first may be errors."""
        answers = self._call(calls)
        if isinstance(answers[0], StoreUnavailable):
            raise answers[0]
        return answers


def state_of(text: str) -> State | None:
    """Return a stored state; None if there is none, or one of a later version of this package."""
    return STATES.get(text)


def _unfinished_ttl(delay: float | None = None) -> str:
    return milliseconds(configuration().unfinished_ttl, delay)


def _has_hash_tag(prefix: str) -> bool:
    tag, closed, _ = prefix.partition("{")[2].partition("}")
    return bool(tag and closed)

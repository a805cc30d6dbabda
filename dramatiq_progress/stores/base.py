"""The interface of a store: what happens to a message becomes calls of scripts, and a record becomes a `Progress`.

`Store` inherits its methods for attempts (reporting.py), composites (gathering.py), reads (querying.py) and requests
from outside of a job (steering.py). A subclass runs the calls: in Redis (redis/store.py), or in this process's memory
(memory/).
"""

from __future__ import annotations

from abc import abstractmethod

from . import encoding
from .calls import NO_PURGE_SECONDS, NewMessage, state_of
from .companion import Companion
from .composites import Contribution
from .encoding import Call
from .health import Health
from .outcomes import Change
from .querying import ReadableStore
from .reporting import AttemptStore
from .steering import SteeredStore
from .subscription import Listener, Subscription


class Store(AttemptStore, ReadableStore, SteeredStore):
    """Abstract base class of the stores. Each method is atomic per record; each write renews the record's TTL.

    All methods raise `StoreUnavailable`: its subclass `StoreUnreachable` if there was no answer, `StoreRefused` if the
    answer was an error. For a deferred write, ``age`` is the number of seconds since the event.

    Parameters:
      prefix: Prefix of every key.

    Attributes:
      health: Whether the store can be reached.
    """

    def __init__(self, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.health = Health(self.ping)

    @abstractmethod
    def ping(self) -> None:
        """Raise `StoreUnavailable` unless the store, and each node of a cluster, accepts writes.

        Asks it even during an outage.
        """

    @abstractmethod
    def subscribe(self, listener: Listener) -> Subscription:
        """Notify the listener of changes made by any process, until the subscription is closed. Doesn't block.

        It never raises: if the store can't be reached, `Listener.on_break` is called, and the store is tried again. A
        change is notified after it can be read. Changes that a reader derives (``lost``, a queue position) aren't
        notified.
        """

    def close(self) -> None:
        """Release what the store holds open."""
        self.health.close()

    def enqueue(
        self,
        message_id: str,
        *,
        actor: str,
        queue: str,
        retries_left: int | None,
        cancellable: bool = False,
        delay: float | None = None,
        due: bool = False,
        owner: str = "",
        title: str = "",
        metadata: str = "{}",
        estimate_key: str = "",
        is_listed: bool = True,
        companion: Companion | None = None,
        contribution: Contribution | None = None,
        age: float = 0.0,
    ) -> Change:
        """Record that a message is enqueued.

        A new message resets a final record, and leaves any other alone. A deferred one (``age``) creates a record if
        there is none, and otherwise only adds the ``owner``.

        Parameters:
          delay: Seconds until the message is due, if it goes to its delay queue.
          due: Whether a delayed message has come from its delay queue. Refused by a final record.
          metadata: JSON.
          is_listed: Whether it is one of its owner's jobs. A member of a composite isn't.
          estimate_key: The kind of runs that its duration is compared with.
          companion: Private data of the message, if it has any.
          contribution: The contribution to its composite, sent in the same round trip, whatever the outcome is.
        """
        message = NewMessage(
            message_id, actor, queue, retries_left, cancellable, owner, delay, title, metadata, estimate_key, companion
        )
        calls = [self._enqueue_call(message, due=due, age=age)]
        if companion is not None and not due:
            calls.append(keep := self._keep_call(message_id, "", companion.sent_fields))
        join = self._join_call([message_id], queue, age=age)
        if delay is None and not age:
            calls.append(join)
        if owner and is_listed and not due:
            calls.append(self._own_call(message_id, owner, delay=delay, age=age))
        if contribution is not None:
            calls.append(self._part_call(contribution, script="gather", age=age))
        (outcome, before, version), *others = self._answers(calls)
        if companion is not None and not due:
            self._note_kept(companion, keep, others[0], must_be_kept=outcome == "written")
        composite = None if contribution is None else self._composite_answers([contribution], others[-1:])[0]
        change = Change(outcome == "written", state_of(before), int(version), composite=composite)
        if delay is None and age and change.written:
            # Only now is it known that the message hasn't had its turn in the meantime.
            self._call([join])
        return change

    def withdraw(self, message_id: str, change: Change, *, queue: str, owner: str = "") -> None:
        """Remove the record of a message that could not be sent, unless it has changed since it was enqueued.

        Parameters:
          change: The outcome of `enqueue`.
          queue: The queue that it was enqueued in.
          owner: The message's owner.
        """
        calls = [Call("withdraw", self._keys(message_id), encoding.Withdraw(str(change.version)))]
        if self._first(calls) != "written":
            return
        calls = [self._leave_call(message_id, queue, purged_after=NO_PURGE_SECONDS)]
        if owner:
            calls.append(self._disown_call(message_id, owner))
        self._first(calls)

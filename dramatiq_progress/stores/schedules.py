"""The part of a store that schedulers use: who sends which tick, and what was sent last.

Any number of schedulers compute each tick, and each claims it: the store gives it to one of them. A tick that was
claimed is open until its message was sent. See claim.lua for the rules. Times are those of the store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import STATES, State

from . import encoding
from .base import Store
from .encoding import Call, flag, milliseconds, seconds

#: How long a claim is its scheduler's, until another one may send the message of a tick.
LEASE_SECONDS = 10.0
#: How much earlier than by the store's clock a tick may be claimed: a host's clock may be a little ahead.
EARLY_SECONDS = 2.0

#: How long claims of a schedule are held after the store has lost its record: two looks of each scheduler (`Runner`),
#: which declares what it knows.
HOLD_SECONDS = 10.0

#: How long a scheduler counts as running after its last heartbeat.
ALIVE_SECONDS = 30.0
#: Number of schedulers that are listed.
SCHEDULERS_LIMIT = 100

#: How long the record of a schedule is kept after its last tick, if that is longer than two of its intervals.
RECORD_SECONDS = 40 * 24 * 3600.0

#: Prefix of the fields of open ticks.
_OPEN = "open:"

Verdict = Literal["claimed", "taken", "early", "late", "held", "unknown"]


class Claim(NamedTuple):
    """The answer to a claim.

    Attributes:
      verdict: ``claimed`` (its message is to be sent by this scheduler), ``taken`` (another one has it, or it was
        skipped), ``early`` (it isn't due by the store's clock), ``late`` (it is later than the claim allows),
        ``held`` (no claim is granted now, see `ScheduleRecord.is_held`) or ``unknown`` (the store has no record
        of the schedule).
      message_id: The id with which to send it: that of the first claim, if that came to nothing.
      last: The latest tick that was claimed. None if it is unknown.
      now: The store's clock.
    """

    verdict: Verdict
    message_id: str
    last: datetime | None
    now: datetime


class Open(NamedTuple):
    """A tick that was claimed, and isn't known to have been sent.

    Attributes:
      tick: The tick.
      message_id: The id of its message.
      age: Seconds since it was claimed.
    """

    tick: datetime
    message_id: str
    age: float


class ScheduleRecord(NamedTuple):
    """The state of a schedule, as it is stored.

    Attributes:
      now: The store's clock.
      last: The latest tick that was claimed, or the moment from which on ticks are due. None if the store has no
        record.
      open: Ticks that aren't known to have been sent.
      sent_id: The id of the message that was sent last. Empty before the first.
      sent_tick: The tick of that message.
      outcome: The final state of that message, once it is known.
      sent: Number of messages that were sent.
      skipped: Number of ticks that were skipped because the last message hadn't finished.
      is_held: Whether the store has lost the record less than `HOLD_SECONDS` ago. Nothing is claimed, while schedulers
        declare what they know.
    """

    now: datetime
    last: datetime | None = None
    open: tuple[Open, ...] = ()
    sent_id: str = ""
    sent_tick: datetime | None = None
    outcome: State | None = None
    sent: int = 0
    skipped: int = 0
    is_held: bool = False


class Declared(NamedTuple):
    """A schedule as a scheduler declares it to the store.

    Attributes:
      name: Its name.
      fingerprint: A text that changes with its times.
      ttl: Seconds to keep its record.
      known: The latest tick that this scheduler knows to be claimed: the store may have lost it.
      unsent: The ticks that this scheduler has claimed and not sent, with their message ids.
    """

    name: str
    fingerprint: str
    ttl: float
    known: datetime | None
    unsent: Mapping[datetime, str] = MappingProxyType({})


class Schedules:
    """The schedules in a store.

    All methods raise `StoreUnavailable`, as those of `Store` do.

    Parameters:
      store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def declare(self, schedules: Sequence[Declared]) -> list[StoreUnavailable | None]:
        """Create the records of schedules that have none. Those that are new, or have other times, are due from now.

        One that the store has lost is due from the latest tick that is known to a scheduler, and is held first.

        Returns:
          The error of each that could not be declared.
        """
        answers = self.store._call([self._declaration(each) for each in schedules])
        return [answer if isinstance(answer, StoreUnavailable) else None for answer in answers]

    def read(self, names: Sequence[str]) -> list[ScheduleRecord]:
        """Return the record of each schedule. Without one it is empty.

        It raises if any of them is on a node of a cluster that can't be reached.
        """
        records = []
        for record in self.read_each(names):
            if isinstance(record, StoreUnavailable):
                raise record
            records.append(record)
        return records

    def read_each(self, names: Sequence[str]) -> list[ScheduleRecord | StoreUnavailable]:
        """`read`, with the error in place of each schedule that can't be read."""
        if not names:
            return []
        calls = self.store._read_calls([self._key(name) for name in names])
        return [
            stored if isinstance(stored, StoreUnavailable) else _record(clock, stored)
            for clock, stored in self.store._read_answers(self.store._query(calls))
        ]

    def claim(self, name: str, tick: datetime, message_id: str, *, ttl: float, late: float | None = None) -> Claim:
        """Claim a tick, in order to send its message. Idempotent for the same message id.

        Parameters:
          message_id: The id with which to send it, if it is this scheduler's.
          ttl: Seconds to keep the record.
          late: Seconds after which the claim is refused. None: it may be late.
        """
        return self._claim(name, tick, message_id, "" if late is None else seconds(late), count=False, ttl=ttl)

    def skip(self, name: str, tick: datetime, *, count: bool, ttl: float) -> Claim:
        """Claim a tick, and all before it, in order not to send them.

        Parameters:
          count: Whether it counts as skipped.
          ttl: Seconds to keep the record.
        """
        return self._claim(name, tick, "", "", count=count, ttl=ttl)

    def confirm(self, name: str, tick: datetime | None, message_id: str, *, ttl: float) -> None:
        """Record that the message of a tick was sent.

        Parameters:
          tick: The tick. None: the message was sent by hand, now.
          message_id: The id with which it was sent. Empty: it can't be sent, and no scheduler is to try again.
          ttl: Seconds to keep the record, if it isn't kept longer already.
        """
        self._run([self._call("confirm", name, encoding.Confirm(_text(tick), message_id, _ttl(ttl)))])

    def conclude(self, outcomes: Mapping[str, tuple[str, State]]) -> None:
        """Record the final state of the messages that were sent last, which outlives their own records.

        Parameters:
          outcomes: The id of the message, and its state, by the schedule's name.
        """
        self._run(
            [
                self._call("conclude", name, encoding.Conclude(message_id, state))
                for name, (message_id, state) in outcomes.items()
            ]
        )

    def keep_alive(self, scheduler: str) -> None:
        """Record that a scheduler is running; it counts as such for `ALIVE_SECONDS`."""
        arguments = encoding.Own(scheduler, milliseconds(ALIVE_SECONDS), seconds(0), str(SCHEDULERS_LIMIT))
        self._run([Call("own", (self._live_key,), arguments)])

    def leave(self, scheduler: str) -> None:
        """Record that a scheduler has ended."""
        self._run([Call("disown", (self._live_key,), encoding.Disown(scheduler))])

    def live(self) -> list[str]:
        """Return the running schedulers."""
        # A record that doesn't exist is answered with the clock too.
        now = self.read([""])[0].now
        [answer] = self.store._query([Call("owned", (self._live_key,))])
        if isinstance(answer, StoreUnavailable):
            raise answer
        seen = zip(answer[::2], answer[1::2], strict=True)
        return sorted(name for name, moment in seen if now.timestamp() - float(moment) < ALIVE_SECONDS)

    @property
    def _live_key(self) -> str:
        # A message id has no colon.
        return f"{self.store.prefix}scheduler:live"

    def _key(self, name: str) -> str:
        return f"{self.store.prefix}schedule:{name}"

    def _declaration(self, given: Declared) -> Call:
        arguments = encoding.Declare(given.fingerprint, _text(given.known), seconds(HOLD_SECONDS), _ttl(given.ttl))
        unsent = {_text(tick): message_id for tick, message_id in given.unsent.items()}
        return self._call("declare", given.name, (*arguments, *encoding.flat(unsent)))

    def _claim(self, name: str, tick: datetime, message_id: str, late: str, *, count: bool, ttl: float) -> Claim:
        arguments = encoding.Claim(
            _text(tick),
            message_id,
            seconds(LEASE_SECONDS),
            seconds(EARLY_SECONDS),
            seconds(HOLD_SECONDS),
            late,
            flag(count),
            _ttl(ttl),
        )
        [answer] = self._run([self._call("claim", name, arguments)])
        verdict, message_id, last, clock = answer
        return Claim(verdict, message_id, _moment(last), datetime.fromtimestamp(float(clock), UTC))

    def _call(self, script: str, name: str, arguments: Sequence[str]) -> Call:
        return Call(script, (self._key(name),), arguments)

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        answers = self.store._call(calls)
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                raise answer
        return answers


def _record(clock: float, stored: Mapping[str, str]) -> ScheduleRecord:
    opened = ((name.removeprefix(_OPEN), *value.split(" ")) for name, value in stored.items() if name.startswith(_OPEN))
    return ScheduleRecord(
        now=datetime.fromtimestamp(clock, UTC),
        last=_moment(stored.get("last", "")),
        open=tuple(
            sorted(Open(datetime.fromtimestamp(float(tick), UTC), id_, clock - float(at)) for tick, at, id_ in opened)
        ),
        sent_id=stored.get("sent_id", ""),
        sent_tick=_moment(stored.get("sent_tick", "")),
        outcome=STATES.get(stored.get("outcome", "")),
        sent=int(stored.get("sent", 0)),
        skipped=int(stored.get("skipped", 0)),
        is_held=abs(clock - float(stored.get("lost_at", 0))) < HOLD_SECONDS,
    )


def _text(moment: datetime | None) -> str:
    return "" if moment is None else seconds(moment.timestamp())


def _moment(text: str) -> datetime | None:
    return datetime.fromtimestamp(float(text), UTC) if text else None


def _ttl(value: float) -> str:
    return milliseconds(value)

"""Composites: one record for many messages. What a member's message carries of them, and what a store answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dramatiq_progress.error_texts import show
from dramatiq_progress.message_ids import MESSAGE_ID
from dramatiq_progress.progress import State

#: The letter of each state in a slot (see composite.lua). A message that is enqueued again by its own actor waits.
SLOT_STATES = {
    State.ENQUEUED: "w",
    State.DELAYED: "w",
    State.PAUSED: "w",
    State.RUNNING: "r",
    State.RETRYING: "t",
    State.DONE: "d",
    State.FAILED: "f",
    State.CANCELLED: "c",
    State.SKIPPED: "s",
}
#: The whole of a member's work, or of a composite's.
THOUSANDTHS = 1000

#: The message option that holds the path.
PATH_OPTION = "progress_part"

#: The letters of `Membership.flags`.
IS_PIPELINE = "p"
IS_FAIL_FAST = "f"
IS_CANCELLABLE = "c"
WITH_CHILDREN = "w"  #: the messages that its members send are members too
IS_OPEN = "o"  #: members are added until it is closed
IS_CLOSED = "x"
IS_CHILD = "+"  #: another member has sent this one
FLAGS = frozenset(IS_PIPELINE + IS_FAIL_FAST + IS_CANCELLABLE + WITH_CHILDREN + IS_OPEN + IS_CLOSED + IS_CHILD)

#: In place of a slot: the message could not be sent.
UNSENT = "-"

#: The most composites inside each other that a message is a member of, and the largest number in a membership.
MAX_LEVELS = 16
MAX_NUMBER = 2**40


class Membership(NamedTuple):
    """A composite, as one of its members carries it: all that is needed to make its record again after a loss.

    Attributes:
      id: The composite's id.
      planned: Number of members at the time of the send.
      name: The composite's name, in place of an actor's.
      flags: See `IS_PIPELINE` and others.
      weight: The weight of the member.
      planned_weight: The sum of the weights of all planned members.
      callbacks: Number of members that are sent only after all others have succeeded.
      description: Plain text that says what the members do.
      title: Its title; empty for its name in words.
      owner: Keyed hash of the composite's owner; empty if it has none. None: that of the member.
    """

    id: str
    planned: int
    name: str
    flags: str = ""
    weight: int = 1
    planned_weight: int = 0
    callbacks: int = 0
    description: str = ""
    title: str = ""
    owner: str | None = None

    def slot(self, state: State, attempt: int, thousandths: int, *, has_new_record: bool = False) -> str:
        """Return the member's slot: see `slot`."""
        return slot(
            state, attempt, thousandths, self.weight, is_child=IS_CHILD in self.flags, has_new_record=has_new_record
        )

    def waiting_slot(self) -> str:
        """Return the member's slot when it is about to be sent."""
        return self.slot(State.ENQUEUED, 0, 0)

    def option(self) -> list[Any]:
        """Return the membership as a message carries it, without trailing defaults."""
        values: list[Any] = list(self)
        for name in reversed(self._fields):
            if values[-1] != self._field_defaults.get(name):
                break
            del values[-1]
        return values

    @classmethod
    def parse(cls, option: Any) -> Membership:
        """Return the membership that a message carries.

        Raises:
          TypeError, ValueError: It isn't one that this version of the package writes.
        """
        membership = cls(*option)
        texts = membership.name, membership.flags, membership.description, membership.title, membership.owner or ""
        numbers = membership.planned, membership.weight, membership.planned_weight, membership.callbacks
        if not isinstance(membership.id, str) or MESSAGE_ID.fullmatch(membership.id) is None:
            raise ValueError(f"{show(membership.id)} is not an id")
        if not all(isinstance(text, str) for text in texts) or not FLAGS.issuperset(membership.flags):
            raise ValueError(f"{show(option)} isn't a membership of a composite")
        if not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in numbers):
            raise ValueError(f"{show(option)} isn't a membership of a composite")
        return membership


#: The composites that a message is a member of: the first directly, each other one through the one before it.
Path = tuple[Membership, ...]


class Contribution(NamedTuple):
    """The slots of some members, for a composite.

    Attributes:
      path: The composite, and those that it is a member of.
      member_owner: Keyed hash of the members' owner; empty if they have none.
      slots: A slot for each member (see composite.lua), by the member's id.
      delay: Seconds until the last of them is due, by which the record is kept longer.
      is_delayed: Whether all members that have been sent are delayed.
    """

    path: Path
    member_owner: str
    slots: Mapping[str, str]
    delay: float = 0.0
    is_delayed: bool = False

    @property
    def membership(self) -> Membership:
        """The composite."""
        return self.path[0]

    @property
    def owner(self) -> str:
        """Keyed hash of the composite's owner; empty if it has none."""
        return self.member_owner if self.membership.owner is None else self.membership.owner

    @property
    def is_listed(self) -> bool:
        """Whether the composite is one of its owner's jobs: it isn't a member of another one."""
        return len(self.path) == 1

    def outward(self, answer: CompositeAnswer) -> Contribution | None:
        """Return what the composite itself then contributes to the one that it is a member of, if there is one."""
        if self.is_listed or answer.state is None:
            return None
        # Its attempt is its version. It waits while none of its members runs.
        state = answer.state if answer.state.is_final else State.RUNNING if answer.running else State.ENQUEUED
        text = self.path[1].slot(state, answer.version, answer.thousandths)
        is_delayed = answer.state is State.DELAYED
        return Contribution(self.path[1:], self.member_owner, {self.membership.id: text}, self.delay, is_delayed)


class CompositeAnswer(NamedTuple):
    """The answer of a composite to a contribution.

    Attributes:
      previous: The state before; None if it had no record.
      state: The state now; None if another version of this package has written it.
      version: The record's version.
      cancel_requested: Whether its members are to be cancelled.
      is_forced: Whether also those whose actors aren't cancellable.
      born: Text that changes when the record was made again, and lacks what was contributed before.
      running: Number of members that run.
      thousandths: What is done of the whole, rounded down.
    """

    previous: State | None
    state: State | None
    version: int
    cancel_requested: bool
    is_forced: bool
    born: str
    running: int
    thousandths: int


def slot(
    state: State, attempt: int, thousandths: int, weight: int, *, is_child: bool = False, has_new_record: bool = False
) -> str:
    """Return a member's slot.

    Parameters:
      state: The state of its record.
      attempt: The number of its attempt; 0 before the first.
      thousandths: What is done of its work. A success and a failure count as all of it.
      weight: Its weight.
      is_child: Whether another member has sent it.
      has_new_record: Whether its record has just been made for this attempt.
    """
    marks = "+" * is_child + "!" * has_new_record
    return f"{SLOT_STATES[state]} {attempt}:{thousandths}:{weight}{marks}"


def waiting_slot(weight: int) -> str:
    """Return the slot of a member that is about to be sent."""
    return slot(State.ENQUEUED, 0, 0, weight)


def as_unsent(text: str) -> str:
    """Return the slot of a member that was about to be sent, and probably wasn't."""
    return text.replace(SLOT_STATES[State.ENQUEUED], SLOT_STATES[State.CANCELLED], 1)


def path_of_children(path: Path, owner: str) -> Path:
    """Return the composites of the messages that a member sends. None unless one of its own is `WITH_CHILDREN`.

    Parameters:
      path: The member's own.
      owner: Keyed hash of the member's owner; empty if it has none.
    """
    for index, membership in enumerate(path):
        if WITH_CHILDREN in membership.flags:
            first = (
                membership if IS_CHILD in membership.flags else membership._replace(flags=membership.flags + IS_CHILD)
            )
            # The messages may have another owner.
            return tuple(
                each if each.owner is not None else each._replace(owner=owner) for each in (first, *path[index + 1 :])
            )
    return ()


def not_cancellable(path: Path) -> Path:
    """Return the same composites with the note that they can't be cancelled."""
    return tuple(membership._replace(flags=membership.flags.replace(IS_CANCELLABLE, "")) for membership in path)


def is_child(path: Path) -> bool:
    """Return whether another member has sent a member, or one that it is a part of."""
    return any(IS_CHILD in membership.flags for membership in path)


def read_path(option: Any) -> Path:
    """Return the path that a message carries.

    Raises:
      TypeError, ValueError: It isn't one that this version of the package writes.
    """
    if not isinstance(option, list | tuple) or not 0 < len(option) <= MAX_LEVELS:
        raise ValueError(f"{show(option)} isn't a list of composites")
    return tuple(Membership.parse(each) for each in option)

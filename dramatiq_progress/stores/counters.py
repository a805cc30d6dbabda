"""The slots of a composite's members, and the counters in the field ``parts`` of its record: see composite.lua."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

from dramatiq_progress.error_texts import show

from .composites import IS_CLOSED, IS_OPEN, THOUSANDTHS, WITH_CHILDREN

_RANK = {"r": 1, "w": 2, "t": 2, "d": 3, "f": 3, "c": 3, "s": 3}
_IS_WHOLE = frozenset("df")
_SLOT = re.compile(r"([rwtdfcs]) (\d+):(\d+):(\d+)(\+?)(!?)")


class Slot(NamedTuple):
    """The state of a member: its letter, its attempt, how much of it is done, and its weight."""

    state: str
    attempt: int
    thousandths: int
    weight: int
    is_child: bool = False
    has_new_record: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Slot | None:
        found = _SLOT.fullmatch(text or "")
        if found is None:
            return None
        state, attempt, thousandths, weight, is_child, has_new_record = found.groups()
        done = THOUSANDTHS if state in _IS_WHOLE else int(thousandths)
        return cls(state, int(attempt), done, int(weight), bool(is_child), bool(has_new_record))

    def text(self) -> str:
        return f"{self.state} {self.attempt}:{self.thousandths}:{self.weight}{'+' if self.is_child else ''}"

    @property
    def has_ended(self) -> bool:
        return _RANK[self.state] == 3

    def may_follow(self, known: Slot) -> bool:
        if known.has_ended and known.state != "f" and known.attempt:
            return False
        if self.has_new_record or self.attempt > known.attempt:
            return True
        return self.attempt == known.attempt and not known.has_ended and _RANK[self.state] >= _RANK[known.state]


def text_after(known: str | None, text: str) -> str:
    """Return the slot of a member that had another one: an end before any report has what was reported before."""
    slot, before = Slot.parse(text), Slot.parse(known)
    if slot is None or before is None or slot.thousandths or not slot.has_ended:
        return text
    return slot._replace(thousandths=before.thousandths).text() + ("!" if slot.has_new_record else "")


@dataclass(slots=True)
class Counters:
    """The numbers in the field ``parts`` of a composite, in their order, and its flags: see composite.lua."""

    born: int = 0
    planned: int = 0
    planned_weight: int = 0
    callbacks: int = 0
    w: int = 0
    r: int = 0
    t: int = 0
    d: int = 0
    f: int = 0
    c: int = 0
    s: int = 0
    weighted_thousandths: int = 0
    known_weight: int = 0
    children: int = 0
    children_weight: int = 0
    over: int = 0
    bad: int = 0
    moved: float = 0.0
    spent: float = 0.0
    samples: int = 0
    moved_at: float = 0.0
    flags: str = ""

    @classmethod
    def parse(cls, text: str) -> Counters:
        """Return the counters in the field ``parts``.

        Raises:
          ValueError: It isn't what composite.lua writes.
        """
        *numbers, flags = text.split(" ")
        values = [convert(number) for convert, number in zip(_KINDS, numbers, strict=True)]
        if not all(0 <= value < math.inf for value in values):
            raise ValueError(f"{show(text)} are no counters")
        # Read at each poll: not by name.
        return cls(*values, flags)  # type: ignore[call-arg, arg-type]

    def text(self) -> str:
        *numbers, flags = asdict(self).values()
        return " ".join([*(f"{number:.14g}" for number in numbers), flags])

    @property
    def ended(self) -> int:
        """Number of members that have ended."""
        return self.d + self.f + self.c + self.s

    @property
    def known(self) -> int:
        """Number of slots."""
        return self.w + self.r + self.t + self.ended

    @property
    def others(self) -> int:
        """Number of members that weren't sent by other members."""
        return max(self.planned, self.known - self.children)

    @property
    def total(self) -> int:
        """Number of members."""
        return self.others + self.children

    @property
    def is_open(self) -> bool:
        """Whether members are to be added."""
        return IS_OPEN in self.flags and IS_CLOSED not in self.flags

    @property
    def is_growing(self) -> bool:
        """Whether more members are expected: it is open, or a member that may send others hasn't ended."""
        return self.is_open or (WITH_CHILDREN in self.flags and self.over < self.others)

    @property
    def total_weight(self) -> int:
        """The sum of the weights of all members."""
        return max(self.planned_weight, self.known_weight - self.children_weight) + self.children_weight

    def count(self, slot: Slot, sign: int) -> None:
        setattr(self, slot.state, getattr(self, slot.state) + sign)
        self.weighted_thousandths += sign * slot.weight * slot.thousandths
        self.known_weight += sign * slot.weight
        if slot.is_child:
            self.children += sign
            self.children_weight += sign * slot.weight
        elif slot.has_ended:
            self.over += sign
            self.bad += sign * (slot.state != "d")


#: The kind of each number of `Counters`.
_KINDS = [float if each.type == "float" else int for each in fields(Counters)[:-1]]

"""The ends that this process has contributed to composites, to contribute them again if the store has lost them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from dramatiq_progress.stores.composites import CompositeAnswer, Contribution, Path
from dramatiq_progress.stores.counters import text_after
from dramatiq_progress.stores.outcomes import Peek

#: How many composites are remembered: first those that aren't over, then those that contributed last.
COMPOSITES_LIMIT = 64
#: How many members are remembered, in all composites; one takes about 100 bytes.
MEMBERS_LIMIT = 100_000


@dataclass(slots=True)
class _Known:
    """A composite.

    Attributes:
      path: The composite, and those that it is a member of.
      member_owner: See `Contribution`.
      born: See `CompositeAnswer`.
      version: The highest version of its record.
      is_over: Whether its state is final.
      is_incomplete: Whether its record lacks something that was contributed.
      slots: The slots of members that don't run in this process, by their ids.
    """

    path: Path
    member_owner: str
    born: str = ""
    version: int = 0
    is_over: bool = False
    is_incomplete: bool = False
    slots: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The composites whose members this process has run. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._members = 0

    @property
    def has_incomplete(self) -> bool:
        """Whether a composite lacks something that was contributed."""
        with self._lock:
            return any(each.is_incomplete for each in self._known.values())

    def note(self, contribution: Contribution, answer: CompositeAnswer, *, keeps: bool) -> None:
        """Note the answer of a composite.

        Parameters:
          keeps: Whether to remember the slots: no running member will contribute them again.
        """
        with self._lock:
            composite = contribution.membership.id
            known = self._known.pop(composite, None) or _Known(contribution.path, contribution.member_owner)
            # The order is that of the last use.
            self._known[composite] = known
            known.is_incomplete = known.is_incomplete or known.born not in ("", answer.born)
            known.born, known.version = answer.born, max(known.version, answer.version)
            known.is_over = answer.state is not None and answer.state.is_final
            if keeps:
                self._members -= len(known.slots)
                for member, text in contribution.slots.items():
                    known.slots[member] = text_after(known.slots.get(member), text)
                self._members += len(known.slots)
            self._forget_some()

    def check(self, composite: str, peek: Peek) -> None:
        """Note whether the record of a composite was lost, or is an older one."""
        with self._lock:
            known = self._known.get(composite)
            if known is not None and (peek.born != known.born or peek.version < known.version):
                known.is_incomplete = True

    def mark_incomplete(self, composite: str) -> None:
        """Note that a composite doesn't know everything that was contributed."""
        with self._lock:
            if composite in self._known:
                self._known[composite].is_incomplete = True

    def unfinished(self, without: Collection[str]) -> list[str]:
        """Return the ids of composites that have no final state and are complete, as far as this process knows."""
        with self._lock:
            return [
                each
                for each, known in self._known.items()
                if not (known.is_over or known.is_incomplete or each in without)
            ]

    def take_incomplete(self) -> Iterator[Contribution]:
        """Yield all that is remembered of incomplete composites, and note that they are complete again."""
        with self._lock:
            found = [each for each in self._known.values() if each.is_incomplete]
            for known in found:
                known.is_incomplete = False
                known.version = 0
                known.born = ""
            taken = [Contribution(known.path, known.member_owner, dict(known.slots)) for known in found]
        yield from taken

    def _forget_some(self) -> None:
        while len(self._known) > COMPOSITES_LIMIT or (len(self._known) > 1 and self._members > MEMBERS_LIMIT):
            over = (each for each, known in self._known.items() if known.is_over and not known.is_incomplete)
            self._members -= len(self._known.pop(next(over, next(iter(self._known)))).slots)

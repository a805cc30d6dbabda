"""The messages that a member of a composite sends: members too, if the group was sent with ``with_children``.

Each is added to the composite together with its record, before its sender can end: the number of members can't be
complete too early. What the store didn't take is contributed before the end of the sender.
"""

from __future__ import annotations

from collections.abc import Iterable

from dramatiq_progress.stores.composites import (
    PATH_OPTION,
    Contribution,
    Path,
    not_cancellable,
    path_of_children,
)
from dramatiq_progress.stores.gathering import pieces_of
from dramatiq_progress.worker.tracking import AnyMessage


class Children:
    """The messages, groups and pipelines that a delivery sends.

    Parameters:
      path: The composites that its message is a member of.
      owner: Keyed hash of its owner; empty if it has none.

    Attributes:
      path: The composites that they are members of; none if its own aren't ``with_children``.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path_of_children(path, owner)
        self._owner = owner
        # The slots that the store hasn't confirmed, by their ids. Used by any thread through atomic operations.
        self._unconfirmed: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._unconfirmed)

    def adopt(self, message: AnyMessage, owner: str, *, cancellable: bool, delay: float | None) -> Contribution:
        """Make a message that is about to be sent a member. Return the contribution that adds it."""
        path = self.path if cancellable else not_cancellable(self.path)
        message.options[PATH_OPTION] = [membership.option() for membership in path]
        return self.expect(message.message_id, path, owner, delay=delay)

    def expect(self, child: str, path: Path, owner: str, *, delay: float | None) -> Contribution:
        """Note a message or a composite that is about to be sent. Return the contribution that adds it."""
        slots = {child: path[0].waiting_slot()}
        self._unconfirmed |= slots
        return Contribution(path, owner, slots, delay or 0.0, is_delayed=delay is not None)

    def confirm(self, child: str) -> None:
        """Note that the store has one, or that it couldn't be sent."""
        self._unconfirmed.pop(child, None)

    def contributions(self) -> Iterable[Contribution]:
        """Return what the store hasn't confirmed."""
        return pieces_of(Contribution(self.path, self._owner, dict(self._unconfirmed)))

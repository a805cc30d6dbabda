"""The requests about messages that come from outside of their jobs: to cancel, to pause and to resume them."""

from __future__ import annotations

from contextlib import suppress

from dramatiq_progress.conf import configuration
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import State

from . import encoding
from .calls import NO_PURGE_SECONDS, StoreCalls, state_of
from .encoding import Call, flag, milliseconds, seconds
from .outcomes import Cancellation, CancelOutcome, PauseOutcome, Pausing


class SteeredStore(StoreCalls):
    """The methods of a store for such requests. None is ever deferred: if one raises, nothing has changed."""

    def cancel(self, message_id: str, *, force: bool = False, is_inherited: bool = False) -> Cancellation:
        """Cancel a message that waits, and request the cancel of one that runs.

        Refused by a message that isn't cancellable, unless `force` is true.

        A ``lost`` one is cancelled too: its next delivery is skipped, and if its worker turns out to be alive, it is
        interrupted.

        Parameters:
          force: Whether an operator cancels it. Of a composite, all members are then interrupted.
          is_inherited: Whether it is a composite that is cancelled since it is a member of another one. Never refused.
        """
        current = configuration()
        reason = "forced" if force else "composite" if is_inherited else "1"
        arguments = encoding.Cancel(milliseconds(current.unfinished_ttl), seconds(current.lost_after), reason)
        outcome, before, queue = self._first([Call("cancel", self._keys(message_id), arguments)])
        previous = state_of(before)
        if outcome == CancelOutcome.CANCELLED and previous is State.ENQUEUED:
            with suppress(StoreUnavailable):  # Otherwise it leaves its queue when it is delivered.
                self._call([self._leave_call(message_id, queue, purged_after=NO_PURGE_SECONDS)])
        return Cancellation(CancelOutcome(outcome), previous)

    def pause(self, message_id: str, *, wanted: bool = True) -> Pausing:
        """Pause a message that waits, and request the pause of one that runs and can be resumed; or resume it.

        A ``lost`` one is like one that runs: its next delivery is paused.

        Parameters:
          wanted: Whether it is to be paused. Otherwise it is resumed.
        """
        current = configuration()
        arguments = encoding.Pause(milliseconds(current.unfinished_ttl), seconds(current.lost_after), flag(wanted))
        outcome, before = self._first([Call("pause", self._keys(message_id), arguments)])
        return Pausing(PauseOutcome(outcome), state_of(before))

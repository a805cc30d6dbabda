"""The memberships of a message: the path that it carries, and what the end of its attempt contributes to composites."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from dramatiq_progress.conf import configuration
from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.progress import State
from dramatiq_progress.progress_values import thousandths_of
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.composites import PATH_OPTION, Contribution, Path, read_path
from dramatiq_progress.stores.outcomes import Change
from dramatiq_progress.worker.tracking import AnyMessage

from .children import Children

logger = logging.getLogger(__name__)


def path_of(message: AnyMessage) -> Path:
    """Return the composites that a message is a member of; none if it carries something else."""
    option = message.options.get(PATH_OPTION)
    if option is None:
        return ()
    try:
        return read_path(option)
    except (TypeError, ValueError) as error:
        logger.warning(
            "Message %s of %s doesn't contribute to its group or pipeline: %s. Check that its sender has the same "
            "version of dramatiq-progress.",
            message.message_id,
            message.actor_name,
            reason_of(error),
        )
        return ()


@dataclass(frozen=True, slots=True)
class MemberEnd:
    """The end of an attempt of a message, which may be a member of composites.

    Attributes:
      attempt: The attempt.
      state: Its outcome, as the worker knows it.
      fraction: The fraction of its work that was done. None if unknown.
      retry_in: Seconds until the next attempt, or round, if there is one.
      children: The messages that it has sent.
    """

    attempt: Attempt
    state: State
    fraction: float | None
    retry_in: float | None = None
    children: Children | None = None

    def expected(self) -> Contribution | None:
        """Return the contribution that can be sent together with the outcome; None if the answer must be awaited.

        A success of the attempt that the record shows is never refused: while its heartbeats are recent, no other one
        is shown. For any other outcome, the record may get another state.
        """
        age = time.monotonic() - self.attempt.shown_at
        if not self.attempt.path or self.state is not State.DONE or age >= configuration().lost_after:
            return None
        if self.children:
            return None
        return self._contribution(self.state, self.attempt.number)

    def recorded(self, change: Change) -> Contribution | None:
        """Return the contribution that follows from the answer; None if another delivery makes it."""
        if change.written and change.state is not None:
            return self._contribution(change.state, change.attempt)
        if change.state is None:
            # The record is lost, and the message has never started.
            return self._contribution(self.state, self.attempt.number or self.attempt.min_attempt)
        return self._contribution(change.state, change.attempt) if change.state.is_final else None

    def _contribution(self, state: State, number: int) -> Contribution:
        attempt = self.attempt
        has_new_record = attempt.has_new_record or not attempt.number
        text = attempt.path[0].slot(state, number, thousandths_of(self.fraction or 0.0), has_new_record=has_new_record)
        return Contribution(attempt.path, attempt.owner, {attempt.message_id: text}, self.retry_in or 0.0)

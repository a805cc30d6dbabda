"""The errors of this package: one root, and each class says in its docstring what went wrong."""

from __future__ import annotations

from dramatiq.middleware import Interrupt


class DramatiqProgressError(Exception):
    """Something went wrong in dramatiq-progress."""


class StoreUnavailable(DramatiqProgressError):
    """The progress store could not be reached, or refused the command."""


class InvalidReport(DramatiqProgressError, ValueError):
    """An actor reported a value that cannot be shown."""


class UserFacingError(DramatiqProgressError):
    """Raised by an actor to fail with a message that is meant for the user.

    The text of every other exception stays in the logs, and the user reads "The task failed.". Dramatiq retries this
    error like any other; an actor that should not be retried for it is declared with ``throws=UserFacingError``.

    Parameters:
      message: What to tell the user, as plain text. It is cut at 1,000 characters.
    """


class Cancelled(Interrupt):
    """Raised in an actor, at its next report, when its message is to be cancelled.

    No `Exception`, so that ``except Exception`` in an actor does not swallow it. An actor that lets it pass, or raises
    it itself, is cancelled: its message is acknowledged, and not tried again.
    """

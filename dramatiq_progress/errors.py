"""The errors of this package: one root, and each class says in its docstring what went wrong."""

from __future__ import annotations


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

"""The errors of this package; catch the level that you can handle.

::

    DramatiqProgressError
    ├── StoreUnavailable         the progress store did not do what was asked
    │   ├── StoreUnreachable     it gave no answer
    │   └── StoreRefused         it answered with an error for this one record or command
    ├── InvalidReport            an actor reported a value that can't be shown
    ├── UserFacingError          an actor failed with a message for the user
    ├── GivenUp                  a task was given up: each of its workers was killed
    └── TooManyStreams           a process or a client has as many streams as it may have (web/streams/limits.py)

`Cancelled` and `Interrupted` are Dramatiq's interrupts, and therefore no `Exception`.
"""

from __future__ import annotations

from dramatiq.middleware import Interrupt


class DramatiqProgressError(Exception):
    """Base class of this package's errors."""


class StoreUnavailable(DramatiqProgressError):
    """The progress store could not be reached, or refused the command."""


class StoreUnreachable(StoreUnavailable):
    """The progress store gave no answer: a timeout, a refused connection, a server that is loading, no master.

    It concerns every record, or those on one node of a cluster: the process stops sending commands for them, and probes
    the store in the background.
    """


class StoreRefused(StoreUnavailable):
    """The progress store answered with an error: out of memory, wrong type, no permission, read-only.

    It concerns one record: only that record's writes are retried later.
    """


class InvalidReport(DramatiqProgressError, ValueError):
    """An actor reported a value that can't be shown."""


class UserFacingError(DramatiqProgressError):
    """Raised by an actor to fail with a message for the user.

    It is final: the actor isn't retried. An actor that may succeed at its next attempt raises another exception, whose
    message stays in the logs; the user reads that it is retried, and after the last attempt "The task failed.".

    Parameters:
      message: Plain text for the user, cut at 1,000 characters.
    """


class GivenUp(DramatiqProgressError):
    """The last error of a task that was given up after ``MAX_DELIVERIES``. Nothing raises it, as its workers died."""


class Interrupted(Interrupt):
    """Raised by a loop of ``track(resume=…)`` between two items, so that its job goes on in another worker or later.

    When the worker shuts down, after ``yield_after`` seconds, or when the message was delivered to another worker. Not
    an `Exception`, so that ``except Exception`` in an actor doesn't swallow it. The message is sent again, without
    counting a retry.
    """


class Cancelled(Interrupt):
    """Raised in an actor, by its next report, after a cancel was requested.

    Not an `Exception`, so that ``except Exception`` in an actor doesn't swallow it. An actor that lets it pass, or
    raises it on its own, is cancelled: its message is acknowledged and not retried.
    """

"""The checks of what an actor reports: an invalid report is an error in tests and with DEBUG, and logged in a job."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final, Literal, TypeVar

from dramatiq_progress.error_texts import reason_of, show
from dramatiq_progress.errors import InvalidReport
from dramatiq_progress.progress_values import Number
from dramatiq_progress.worker.validation import MAX_DESCRIPTION_CHARACTERS, to_number

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Keep(Enum):
    KEEP = "keep"


#: An omitted argument, which keeps its last value. (None would mean "unknown".)
KEEP: Final = _Keep.KEEP
Keep = Literal[_Keep.KEEP]


class Checks:
    """The checks of one message's reports.

    Parameters:
      actor_name: The actor that reports, for error messages.
      message_id: Its message; None when detached.
      strict: Whether an invalid report raises `InvalidReport`. Otherwise it is ignored, and the first one is logged.
    """

    __slots__ = ("_has_warned", "actor_name", "message_id", "strict")

    def __init__(self, actor_name: str, message_id: str | None, *, strict: bool) -> None:
        self.actor_name = actor_name
        self.message_id = message_id
        self.strict = strict
        self._has_warned = False

    def number(self, name: str, value: object, default: T) -> Number | T:
        """Return a reported number as one that a browser can read; the default if it is invalid."""
        try:
            return to_number(value)
        except Exception as error:  # any error of a number type of the project's
            self.ignore(name, value, reason_of(error))
            return default

    def text(self, value: object, name: str = "description") -> str | Keep:
        """Return a reported text, cut; `KEEP` if it is invalid."""
        if isinstance(value, list | tuple | set | frozenset | dict):
            self.ignore(name, value, "it must be a text")
            return KEEP
        try:
            # str() evaluates lazy translations.
            return "" if value is None else str(value)[:MAX_DESCRIPTION_CHARACTERS]
        except Exception as error:
            self.ignore(name, type(value), reason_of(error))
            return KEEP

    def ignore(self, name: str, value: object, reason: str) -> None:
        """Note an invalid report.

        Raises:
          InvalidReport: The checks are strict.
        """
        if self.strict:
            raise InvalidReport(f"{self.source} reported {name}={show(value)}: {reason}.")
        self.warn(name, value, reason)

    def warn(self, name: str, value: object, reason: str) -> None:
        """Log an invalid report, the first of the message only. Never raises: the recorder's thread calls it too."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Ignoring an invalid report from %s: %s=%s (%s). Further invalid reports of this message are ignored "
                "silently.",
                self.source,
                name,
                show(value),
                reason,
            )

    @property
    def source(self) -> str:
        """The actor and its message, for error messages."""
        name = self.actor_name or "an actor"
        return name if self.message_id is None else f"{name} (message {self.message_id})"

"""The ids of messages, and everything that names a message by its id."""

from __future__ import annotations

import re
from typing import Any, Protocol
from uuid import UUID

from .error_texts import show
from .progress import Progress

#: The message ids that URLs accept; Dramatiq's own are UUIDs.
MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class HasMessageId(Protocol):
    """A Dramatiq message, or another object with the id of one: an observer, a row of a project's model."""

    @property
    def message_id(self) -> Any:
        """The id."""


#: Everything that names a message.
MessageLike = str | UUID | Progress | HasMessageId


def message_id_of(message: MessageLike) -> str:
    """Return the id of a message.

    Raises:
      ValueError: The value is no message, or its id isn't one that a tracked message can have.
    """
    found = message
    if not isinstance(message, str):
        found = message.id if isinstance(message, Progress) else getattr(message, "message_id", message)
    # A tuple, since `str | UUID` would be built at each call: 1 % of a read.
    if not isinstance(found, (str, UUID)):
        raise ValueError(
            f"{show(message)} is not a message: pass the one that an actor's send() returned, its id, or its Progress."
        )
    message_id = str(found)
    if MESSAGE_ID.fullmatch(message_id) is None:
        raise ValueError(f"{show(message_id)} is not a message id: those have 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    return message_id

"""The cursor: the place that an attempt goes on from, as its record and its message have it.

It is one field of the record, as JSON: ``[attempt, [names that are over], name, count, value]``: the last attempt that
did something, the loop in progress, the number of its items that are done, and the key of the next item (null if the
count is enough). The recorder writes it with the values that the page shows, so that they belong to one moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dramatiq_progress.stores.fields import KEPT_FIELDS
from dramatiq_progress.worker.tracking import AnyMessage

#: The message option with the fields that an attempt goes on from: `KEPT_FIELDS` as they are stored.
CURSOR_OPTION = "progress_cursor"

#: Limit of a cursor, as JSON.
MAX_CURSOR_BYTES = 4 * 1024


class Cursor(NamedTuple):
    """The place that attempts have reached.

    Attributes:
      attempt: The number of the last attempt that got further than those before it.
      over: The names of the loops, calls and steps that are over.
      name: The loop that is in progress; None if none is.
      done: The number of its items that are done.
      value: JSON that finds the next item; None if the count does.
    """

    attempt: int = 0
    over: tuple[str, ...] = ()
    name: str | None = None
    done: int = 0
    value: Any = None

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor in a stored text; one at the start if there is none, or it can't be read."""
        try:
            attempt, over, name, count, value = json.loads(text)
            return cls(int(attempt), tuple(map(str, over)), name, int(count), value)
        except (TypeError, ValueError, RecursionError):
            return cls()


def brought_by(message: AnyMessage) -> Mapping[str, str]:
    """Return the fields that a message brings of an earlier attempt, the cursor first; empty if it brings none."""
    given = message.options.get(CURSOR_OPTION)
    if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in KEPT_FIELDS):
        return {}
    if not Cursor.parse(given.get("cursor", "")).attempt:
        return {}
    return {name: given[name] for name in KEPT_FIELDS if name in given}

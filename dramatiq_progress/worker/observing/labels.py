"""`Labels`: the title, the metadata and the public result, which a message shows beside its numbers."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any

from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.outcomes import Start
from dramatiq_progress.worker.validation import merged


class Labels:
    """The title, the metadata and the public result of one attempt.

    Parameters:
      attempt: The attempt, with what its message brings; None if it is detached.

    Attributes:
      title: The title, as it was given; may be empty.
      metadata: The metadata, as JSON.
      result: The result, as JSON; None before there is one.
    """

    __slots__ = ("_estimate_key", "_lock", "metadata", "result", "title")

    def __init__(self, attempt: Attempt | None) -> None:
        self.title, self.metadata = ("", "{}") if attempt is None else (attempt.title, attempt.metadata)
        self._estimate_key = "" if attempt is None else attempt.estimate_key
        self.result: str | None = None
        self._lock = threading.RLock()

    def add_metadata(self, values: dict[str, Any]) -> None:
        """Add values to the metadata.

        Raises:
          ValueError: They are too large together.
        """
        with self._lock:
            self.metadata = merged(json.loads(self.metadata), values)

    def inherit(self, given: Attempt, start: Start) -> None:
        """Take over what the store has kept of earlier attempts, beside what this one has set in the meantime.

        Parameters:
          given: The attempt, with what its message brought.
          start: The store's answer to its start.
        """
        with self._lock:
            if self.title == given.title:
                self.title = start.title
            if self.metadata == given.metadata:
                self.metadata = start.metadata
                return
            # A late start: what this attempt has attached in the meantime is added.
            before, now = json.loads(given.metadata), json.loads(self.metadata)
            own = {name: value for name, value in now.items() if name not in before or before[name] != value}
            with suppress(ValueError):  # If they are too large together, the newer stays.
                self.metadata = merged(json.loads(start.metadata), own)

    def fields(self) -> dict[str, str]:
        """Return the stored fields, but for the result."""
        return {"title": self.title, "metadata": self.metadata, "estimate_key": self._estimate_key}

    def renew_lock(self) -> None:
        """Replace the lock, which a thread of the parent process may have held at a fork."""
        self._lock = threading.RLock()

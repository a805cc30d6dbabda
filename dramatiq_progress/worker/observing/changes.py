"""The difference between the values of a binding and the stored record."""

from __future__ import annotations

from collections.abc import Mapping

#: The values that a reader sees of fields that were never written. A cursor is written always, if there is one.
INITIAL = {
    **{"current": "0", "total": "null", "description": "", "rate": "null"},
    **{"title": "", "metadata": "{}", "estimate_key": ""},
    # Without steps they are never among the values; with steps they are written.
    **{"overall": "", "step": ""},
}


class Changes:
    """Knows which values of one attempt the store has.

    Used by one thread at a time: the recorder's, and after the attempt has been unbound from it the worker's.
    """

    __slots__ = ("_in_doubt", "_initial", "_stored")

    def __init__(self) -> None:
        self._initial = dict(INITIAL)
        # Values by the store's last answer.
        self._stored: dict[str, str] = {}
        # Fields that were sent without an answer so far: the store may have the old value or the new one.
        self._in_doubt: set[str] = set()

    def take(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the values that differ from the stored record, and note that they are being sent."""
        changed = {
            name: text
            for name, text in values.items()
            if name in self._in_doubt or text != self._stored.get(name, self._initial.get(name))
        }
        self._in_doubt.update(changed)
        return changed

    def ever_reported(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the values that were reported at any time in this attempt, and those that it began with.

        They are for its last write, which may have to rebuild the record.
        """
        return {
            name: text
            for name, text in values.items()
            if name in self._stored or name in self._in_doubt or text != INITIAL.get(name)
        }

    def confirm(self, fields: Mapping[str, str]) -> None:
        """Note that the store has these values."""
        self._stored.update(fields)
        self._in_doubt.difference_update(fields)

    def forget(self) -> None:
        """Note that the store may have lost everything."""
        self._in_doubt.update(self._stored)
        self._stored.clear()
        self._initial = dict(INITIAL)

    def inherit(self, **values: str) -> None:
        """Note the values that the record has from its message or from earlier attempts."""
        self._initial |= values

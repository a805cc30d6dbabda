"""The ``OPTIONS`` of a backend in Django's ``TASKS``, and those options of a task that replace them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.tasks.exceptions import InvalidTaskBackend

from dramatiq_progress.conf import LONGEST_SECONDS, SHORTEST_SECONDS
from dramatiq_progress.error_texts import show

#: How long a finished task's result and its bar are kept: longer than `FINISHED_TTL`, since results are read later.
RESULT_TTL_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a backend.

    Parameters:
      max_retries: How often a task that fails is retried. 0, as in Django: a task that fails is FAILED.
      time_limit: Milliseconds after which an attempt is interrupted. None: Dramatiq's middleware decides.
      result_ttl: Seconds to keep the result and the bar of a finished task.
      on_commit: Whether tasks are sent when the transaction commits: True for that of the default database, or a
        database alias.
    """

    max_retries: int = 0
    time_limit: int | None = None
    result_ttl: float = RESULT_TTL_SECONDS
    on_commit: bool | str = False


def read_options(alias: str, given: Mapping[str, Any]) -> Options:
    """Return the options of a backend.

    Raises:
      InvalidTaskBackend: An unknown option, or an invalid value.
    """
    known = [each.name for each in fields(Options)]
    if unknown := [name for name in given if name not in known]:
        raise InvalidTaskBackend(
            f'TASKS["{alias}"]["OPTIONS"] has no {", ".join(map(repr, unknown))}. Its keys are {", ".join(known)}.'
        )
    found = Options(**given)
    for name, wanted, is_valid in (
        ("max_retries", "a whole number, 0 for none", is_count(found.max_retries)),
        ("time_limit", "milliseconds, or None", found.time_limit is None or is_limit(found.time_limit)),
        ("result_ttl", f"from {SHORTEST_SECONDS} to {LONGEST_SECONDS:,} seconds", _is_ttl(found.result_ttl)),
        ("on_commit", "True, False or a database alias", isinstance(found.on_commit, bool | str)),
    ):
        if not is_valid:
            value = show(getattr(found, name))
            raise InvalidTaskBackend(f'TASKS["{alias}"]["OPTIONS"]["{name}"] is {value}; it must be {wanted}.')
    return found


def is_count(value: object) -> bool:
    """Return whether a value is a number of retries."""
    return type(value) is int and value >= 0


def is_limit(value: object) -> bool:
    """Return whether a value is a number of milliseconds."""
    return type(value) is int and value > 0


def _is_ttl(value: object) -> bool:
    return type(value) in (int, float) and SHORTEST_SECONDS <= value <= LONGEST_SECONDS  # type: ignore[operator]

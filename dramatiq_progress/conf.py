"""The settings, ``settings.DRAMATIQ_PROGRESS``, as one typed object that is read anew at each use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

SETTING_NAME = "DRAMATIQ_PROGRESS"

#: Redis counts in milliseconds, and refuses a time to live that ends too far away.
SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings of this package; the field names in upper case are the keys of ``DRAMATIQ_PROGRESS``.

    Parameters:
      store: Dotted path of the `Store` class. None: chosen by the broker (see `dramatiq_progress.stores`).
      options: Keyword arguments for the store.
      prefix: What every key in the store begins with.
      flush_interval: Seconds between two writes of reports by one process.
      heartbeat_interval: Seconds between two signs of life of a running message.
      lost_after: Seconds without a sign of life after which a running message is shown as `lost`.
      finished_ttl: Seconds for which a finished record is kept.
      unfinished_ttl: Seconds for which an unfinished record is kept after its last write; 7 days is the longest delay
        that Dramatiq's brokers take.
      max_deliveries: How often a message is started before it is failed, when no attempt comes to an end (its
        worker is killed each time). 0: as often as the broker delivers it.
      max_streams: How many streams a process has at the most; one more is refused, and its bars poll. 0: any number.
      max_streams_per_client: How many of them are one client's, by the address that the server says. 0: any number.
      permission: Who may read a message: a function of request and `Progress`, its dotted path, or a tuple of one of
        these and a third argument for it. None: `dramatiq_progress.permissions.owner_or_staff`.
      cancel_permission: Who may cancel one, likewise. None: see `dramatiq_progress.permissions.may_cancel`.
    """

    store: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = "dramatiq-progress:"
    flush_interval: float = 0.1
    heartbeat_interval: float = 5.0
    lost_after: float = 15.0
    finished_ttl: float = 3600.0
    unfinished_ttl: float = 7 * 24 * 3600.0
    max_deliveries: int = 5
    max_streams: int = 10_000
    max_streams_per_client: int = 100
    permission: Any = None
    cancel_permission: Any = None

    def __post_init__(self) -> None:
        if self.store is not None and not isinstance(self.store, str):
            raise _improper("STORE", self.store, "the dotted path of a Store class, as a string")
        if not isinstance(self.options, dict):
            raise _improper("OPTIONS", self.options, "a dict of keyword arguments for the store")
        if not isinstance(self.prefix, str) or not self.prefix:
            raise _improper("PREFIX", self.prefix, "a string of at least one character")
        for name in ("flush_interval", "heartbeat_interval", "lost_after", "finished_ttl", "unfinished_ttl"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _improper(name.upper(), value, "a number of seconds")
            if not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
                raise _improper(name.upper(), value, f"from {SHORTEST_SECONDS} to {LONGEST_SECONDS:,} seconds")
        for name in ("max_deliveries", "max_streams", "max_streams_per_client"):
            if type(value := getattr(self, name)) is not int or value < 0:
                raise _improper(name.upper(), value, "a whole number, 0 for no limit")
        for name in ("permission", "cancel_permission"):
            if not _is_permission(given := getattr(self, name)):
                raise _improper(
                    name.upper(), given, "a function, a dotted path, or a tuple of one of these and an argument"
                )
        if self.lost_after <= self.heartbeat_interval:
            raise _improper(
                "LOST_AFTER",
                self.lost_after,
                f"more than HEARTBEAT_INTERVAL ({self.heartbeat_interval} s); three times as many is sensible",
            )


KEYS = {each.name.upper(): each.name for each in fields(Configuration)}

#: The settings that were read last, a copy of what they held, and what that meant: a message asks some nine times, and
#: each reading takes 3 us. One tuple, so that no thread sees a part of it.
_last: tuple[dict[str, Any], dict[str, Any], Configuration] | None = None
_NOTHING: dict[str, Any] = {}


def configuration() -> Configuration:
    """The settings as they are now, so that ``override_settings`` works.

    Raises:
      ImproperlyConfigured: ``DRAMATIQ_PROGRESS`` is no dict, has an unknown key, or a value of the wrong kind.
    """
    global _last
    given = getattr(settings, SETTING_NAME, _NOTHING)
    last = _last
    if last is not None and last[0] is given and last[1] == given:
        return last[2]
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"{SETTING_NAME} must be a dict, not {shown(given)}.")
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise ImproperlyConfigured(
            f"{SETTING_NAME} has no key {', '.join(map(repr, unknown))}. Its keys are {', '.join(KEYS)}."
        )
    found = Configuration(**{KEYS[key]: value for key, value in given.items()})
    _last = (given, dict(given), found)
    return found


def _is_permission(given: object) -> bool:
    if isinstance(given, tuple | list):
        return len(given) == 2 and given[0] is not None and _is_permission(given[0])
    return given is None or callable(given) or (isinstance(given, str) and bool(given))


def shown(value: object) -> str:
    """A value of the settings as an error may say it."""
    if isinstance(value, list | dict | set):
        return f"a {type(value).__name__}"
    return masked(repr(value))


def masked(text: str) -> str:
    """A text of an error, without the password of an address that somebody put into the wrong place."""
    return re.sub(r"(?<=://)\S*@", "…@", text)


def _improper(key: str, value: object, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'{SETTING_NAME}["{key}"] is {shown(value)}; it must be {wanted}.')

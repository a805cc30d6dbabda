"""The settings, ``settings.DRAMATIQ_PROGRESS``, as one typed object that is read at each use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .error_texts import show

SETTING_NAME = "DRAMATIQ_PROGRESS"
DEFAULT_PREFIX = "dramatiq-progress:"

#: Redis counts in milliseconds, and refuses a TTL that ends too far in the future.
SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 10 * 365 * 24 * 3600


#: Settings that are a number of seconds.
SECONDS = ("flush_interval", "heartbeat_interval", "lost_after", "finished_ttl", "unfinished_ttl", "resume_wait")

#: No braces, or a part in braces that a cluster chooses the slot by.
_HASH_TAG = re.compile(r"[^{}]*(?:\{[^{}]+\}.*)?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings of this package; the field names in upper case are the keys of ``DRAMATIQ_PROGRESS``.

    Parameters:
      store: Dotted path of the `Store` class. None: derived from the broker (see `dramatiq_progress.stores`).
      options: Keyword arguments for the store.
      prefix: Prefix of every key in the store.
      flush_interval: Seconds between two writes of reports by one process.
      heartbeat_interval: Seconds between two heartbeats of a running message.
      lost_after: Seconds without a heartbeat after which a running message is shown as ``lost``.
      finished_ttl: Seconds to keep a record after the message has finished. That of a group or a pipeline with a failed
        member is kept for ``unfinished_ttl``, since the member may be sent again.
      unfinished_ttl: Seconds to keep the record of an unfinished message after its last write. 7 days is the longest
        delay that Dramatiq's brokers accept.
      max_deliveries: Number of times that a message is started without finishing (its worker is killed each time)
        before it fails. A delivery while the attempt before it is alive doesn't count. 0: no limit.
      resume_wait: Seconds that a loop of ``track(resume=…)`` waits for a store that gave no answer at the start of the
        attempt, and may know where an earlier one got to.
      max_streams: Maximum number of streams per process; the bars of a refused one poll. 0: no limit.
      max_streams_per_client: Maximum number of streams of one client per process, by its address. 0: no limit.
      trusted_proxies: Number of proxies between clients and the server that each append an address to the header
        ``X-Forwarded-For``. 0: the header isn't used, and a client's address is the one that the server reports.
      permission: The permission to read a message: a function of request and `Progress`, its dotted path, or a tuple
        of one of these and a third argument for it. None: `dramatiq_progress.permissions.owner_or_staff`.
      cancel_permission: The permission to cancel a message, in the same form. None: see
        `dramatiq_progress.permissions.may_cancel`.
      pause_permission: The permission to pause and to resume a message, in the same form, for views of a project.
        None: see `dramatiq_progress.permissions.may_pause`.
      cancellable: Whether messages of actors that don't say so themselves can be cancelled.
      estimates: Whether the durations of runs are kept, and pages show how long a message usually takes and waits.
      schedules: Options of schedules by name (see docs/schedules.md). `schedules.declaring` validates them.
    """

    store: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = DEFAULT_PREFIX
    flush_interval: float = 0.1
    heartbeat_interval: float = 5.0
    lost_after: float = 15.0
    finished_ttl: float = 3600.0
    unfinished_ttl: float = 7 * 24 * 3600.0
    max_deliveries: int = 5
    resume_wait: float = 10.0
    max_streams: int = 10_000
    max_streams_per_client: int = 100
    trusted_proxies: int = 0
    permission: Any = None
    cancel_permission: Any = None
    pause_permission: Any = None
    cancellable: bool = False
    estimates: bool = True
    schedules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.store is not None and not isinstance(self.store, str):
            raise _improper("STORE", self.store, "the dotted path of a Store class, as a string")
        if not isinstance(self.options, dict):
            raise _improper("OPTIONS", self.options, "a dict of keyword arguments for the store")
        for key in self.options:
            if not isinstance(key, str):
                raise _improper("OPTIONS", key, "a dict of the store's options by name")
        if not isinstance(self.schedules, dict):
            raise _improper("SCHEDULES", self.schedules, "a dict of options by the schedule's name")
        if not isinstance(self.prefix, str) or not self.prefix or not _is_encodable(self.prefix):
            raise _improper("PREFIX", self.prefix, "a string of at least one character, all of which UTF-8 can encode")
        # The key beside a record has the record's key in braces, so that a cluster keeps both in one slot.
        if not _HASH_TAG.match(self.prefix):
            raise _improper("PREFIX", self.prefix, "a string without braces, or with a hash tag first: {name}")
        for name in SECONDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _improper(name.upper(), value, "a number of seconds")
            if not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
                raise _improper(name.upper(), value, f"from {SHORTEST_SECONDS} to {LONGEST_SECONDS:,} seconds")
        for name in ("max_deliveries", "max_streams", "max_streams_per_client"):
            if type(value := getattr(self, name)) is not int or value < 0:
                raise _improper(name.upper(), value, "a whole number, 0 for no limit")
        if type(self.trusted_proxies) is not int or self.trusted_proxies < 0:
            raise _improper("TRUSTED_PROXIES", self.trusted_proxies, "the number of proxies, 0 for none")
        for name in ("cancellable", "estimates"):
            if not isinstance(value := getattr(self, name), bool):
                raise _improper(name.upper(), value, "True or False")
        for name in ("permission", "cancel_permission", "pause_permission"):
            if not _is_permission(given := getattr(self, name)):
                raise _improper(
                    name.upper(), given, "a function, a dotted path, or a tuple of one of these and an argument"
                )
        if self.lost_after <= self.heartbeat_interval:
            raise _improper(
                "LOST_AFTER",
                self.lost_after,
                f"more than HEARTBEAT_INTERVAL ({self.heartbeat_interval} s), for instance three times as much",
            )


KEYS = {each.name.upper(): each.name for each in fields(Configuration)}

#: The settings that were read last, a copy of their content, and the result. One message reads them some nine times,
#: and each reading takes 3 µs. One tuple, so that no thread sees a part of it.
_last: tuple[dict[str, Any], dict[str, Any], Configuration] | None = None
_NOTHING: dict[str, Any] = {}


def configuration() -> Configuration:
    """Return the settings as they are now, so that ``override_settings`` works.

    Raises:
      ImproperlyConfigured: ``DRAMATIQ_PROGRESS`` isn't a dict, has an unknown key, or an invalid value.
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


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_permission(given: object) -> bool:
    if isinstance(given, tuple | list):
        return len(given) == 2 and given[0] is not None and _is_permission(given[0])
    return given is None or callable(given) or (isinstance(given, str) and bool(given))


def shown(value: object) -> str:
    """Return a value of the settings as an error may show it."""
    if isinstance(value, list | dict | set):
        return f"a {type(value).__name__}"
    return show(value)


def _improper(key: str, value: object, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'{SETTING_NAME}["{key}"] is {shown(value)}; it must be {wanted}.')

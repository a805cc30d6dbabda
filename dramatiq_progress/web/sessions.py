"""Sessions and users of long-lived requests, read again from the database and cached for some seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from django.contrib.auth import SESSION_KEY, get_user
from django.http import HttpRequest

#: How long a session lookup is cached.
CACHE_SECONDS = 20.0


class _Found(NamedTuple):
    """A session, and the user who is logged in with it, if any."""

    session: Any
    user: Any
    found_at: float


class _Cache:
    """Recent session lookups. The streams of one session, which are the tabs of a browser, share a lookup."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Oldest first.
        self._entries: dict[tuple[type, str], _Found] = {}

    def get(self, key: tuple[type, str], look_up: Callable[[], tuple[Any, Any]]) -> _Found:
        """Return the cached entry, or look it up. Lookups run without the lock."""
        now = time.monotonic()
        expired: list[_Found] = []
        with self._lock:
            while self._entries and now - next(iter(self._entries.values())).found_at >= CACHE_SECONDS:
                # Kept until after the lock is released: destructors of a session or a user can run any code.
                expired.append(self._entries.pop(next(iter(self._entries))))
            if found := self._entries.get(key):
                return found
        found = _Found(*look_up(), now)
        with self._lock:
            expired.append(self._entries.pop(key, found))
            self._entries[key] = found
        return found


_cache = _Cache()


def _renew_cache() -> None:
    global _cache
    _cache = _Cache()


# A child must not wait for a lock that a thread of its parent holds.
os.register_at_fork(after_in_child=_renew_cache)


def refreshed(request: HttpRequest) -> HttpRequest:
    """Return a copy of a request with its session and its user as they are now, or were `CACHE_SECONDS` ago.

    A user who was logged in by the session is read from it again: after a logout, a change of password or the end of
    the session, the copy has an anonymous user. Any other user, such as one from a header, is read by primary key.
    """
    copy = _copied(request)
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    is_of_session = session is not None and SESSION_KEY in session
    found = None
    if session is not None and session.session_key:
        found = _cache.get((type(session), session.session_key), lambda: _look_up(request))
        session = found.session
    if user is not None and user.is_authenticated:
        # Another request with this session may have another user: its cached user counts for a session login only.
        current = found and found.user if is_of_session else _same_user(user)
        user = current or _anonymous_user()
    _set_identity(copy, session, user)
    return copy


def _look_up(request: HttpRequest) -> tuple[Any, Any]:
    copy = _copied(request)
    before = cast(Any, request).session
    session = cast(Any, copy).session = type(before)(before.session_key)
    return session, get_user(copy) if SESSION_KEY in session else None


def _copied(request: HttpRequest) -> HttpRequest:
    # Not copy.copy(): a request omits attributes when it is pickled, and so would the copy.
    made: HttpRequest = object.__new__(type(request))
    made.__dict__.update(request.__dict__)
    return made


def _same_user(user: Any) -> Any:
    if not hasattr(user, "_meta"):
        return user
    # Not type(user): Django may have wrapped the user.
    found = user._meta.model._default_manager.filter(pk=user.pk).first()
    return found if found is not None and found.is_active else None


def _anonymous_user() -> Any:
    # Imported here: models can't be imported before Django is set up.
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def _set_identity(request: HttpRequest, session: Any, user: Any) -> None:
    async def auser() -> Any:
        return user

    values = {"session": session, "user": user, "auser": user and auser}
    request.__dict__.update({name: value for name, value in values.items() if value is not None})

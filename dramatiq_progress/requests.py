"""Requests: the Django middleware by which they own what they send, and whoever asks, looked at again in a long one."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.auth import SESSION_KEY, get_user
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .owners import sent_by

#: For so long nobody looks at the same session again.
FRESH_SECONDS = 20.0


class OwnerMiddleware:
    """``"dramatiq_progress.requests.OwnerMiddleware"`` in Django's ``MIDDLEWARE``, anywhere in the list.

    A request that sends no message touches no session and no user. What is sent after the view has returned, as by a
    streaming response, needs an `owned_by` of its own.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self.__acall__(request)
        with sent_by(request):
            return cast(HttpResponseBase, self.get_response(request))

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        with sent_by(request):
            return cast(HttpResponseBase, await self.get_response(request))


class _Asker(NamedTuple):
    """A session and the user who is logged in with it, if any, as they were found."""

    session: Any
    user: Any
    found_at: float


class _Askers:
    """What is known of sessions, so that the streams of one, which are many tabs, ask the database once for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # In the order in which they were found.
        self._known: dict[tuple[type, str], _Asker] = {}

    def find(self, key: tuple[type, str], look: Callable[[], tuple[Any, Any]]) -> _Asker:
        now = time.monotonic()
        with self._lock:
            while self._known and now - next(iter(self._known.values())).found_at >= FRESH_SECONDS:
                del self._known[next(iter(self._known))]
            if found := self._known.get(key):
                return found
        asker = _Asker(*look(), now)
        with self._lock:
            self._known.pop(key, None)
            self._known[key] = asker
        return asker


_askers = _Askers()


def refreshed(request: HttpRequest) -> HttpRequest:
    """A copy of a request that knows of its session and its user what is true now, or was `FRESH_SECONDS` ago.

    A user who came with the session is found in it again, and is anonymous after a logout, a change of password or in
    a session that has ended. One who came otherwise, as by a header, is read again by primary key.
    """
    again = _copied(request)
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    came_with_session = session is not None and SESSION_KEY in session
    asker = None
    if session is not None and session.session_key:
        asker = _askers.find((type(session), session.session_key), lambda: _look_again(request))
        session = asker.session
    if user is not None and user.is_authenticated:
        # Never the one of a session that another request has looked at, unless this one's came with it too.
        found = asker and asker.user if came_with_session else _same_user(user)
        user = found or _nobody()
    _set_asker(again, session, user)
    return again


def _look_again(request: HttpRequest) -> tuple[Any, Any]:
    again = _copied(request)
    before = cast(Any, request).session
    session = cast(Any, again).session = type(before)(before.session_key)
    return session, get_user(again) if SESSION_KEY in session else None


def _copied(request: HttpRequest) -> HttpRequest:
    # Not copy.copy: what a request leaves out when it is pickled, the copy would lack.
    made: HttpRequest = object.__new__(type(request))
    made.__dict__.update(request.__dict__)
    return made


def _same_user(user: Any) -> Any:
    if not hasattr(user, "_meta"):
        return user
    # Not type(user): that may be what Django wraps a user in.
    found = user._meta.model._default_manager.filter(pk=user.pk).first()
    return found if found is not None and found.is_active else None


def _nobody() -> Any:
    # Here, since models cannot be imported before Django is set up.
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def _set_asker(request: HttpRequest, session: Any, user: Any) -> None:
    async def auser() -> Any:
        return user

    given = {"session": session, "user": user, "auser": user and auser}
    request.__dict__.update({name: value for name, value in given.items() if value is not None})

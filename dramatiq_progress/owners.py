"""Whose a message is: a keyed hash of a user, or of a visitor, made where it is sent and compared where it is read.

The hash travels in the message's options, so that retries, pipelines, groups and whatever the job sends itself have it
without asking anybody; ``middleware.py`` puts it there and into the record. It is no part of any answer, event or log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from django.conf import settings
from django.db import connections
from django.http import HttpRequest
from django.utils.crypto import salted_hmac
from dramatiq import Message, MessageProxy

#: The option of a message that says whose it is.
OWNER_OPTION = "progress_owner"

#: Where a session keeps the token of its visitor. A session's own key changes at login, and this does not.
VISITOR_KEY = "dramatiq_progress_visitor"

#: 128 bits; 22 characters as text.
HASH_BYTES = 16

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Sender(Protocol):
    """On whose behalf messages are sent here."""

    @property
    def is_asked_for_all(self) -> bool:
        """Whether to note it in messages too that are not tracked, for those that they send."""

    def owner(self) -> str:
        """The hash; empty for nobody's. It may read a session and a user."""


class _Known:
    """Somebody who is known: a user, nobody, or in a worker the owner of the message that it works on."""

    is_asked_for_all = True

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def owner(self) -> str:
        return self._owner


class _Handed(_Known):
    """The owner of the message that this thread works on."""

    def __init__(self, message: MessageProxy, outer: _Sender | None) -> None:
        super().__init__(carried_by(message))
        self.message_id = message.message_id
        self.outer = outer


class _Request:
    """Whoever a request comes from; found out when it sends something."""

    def __init__(self, request: HttpRequest, *, is_asked_for_all: bool) -> None:
        self._request = request
        self.is_asked_for_all = is_asked_for_all

    def owner(self) -> str:
        return beside_event_loop(lambda: _hashed(_identity_of_request(self._request)))


_sender: ContextVar[_Sender | None] = ContextVar("dramatiq_progress_sender", default=None)


@contextmanager
def owned_by(whom: Any) -> Iterator[None]:
    """``with owned_by(request): import_rows.send(path)``: what is sent inside belongs to whoever asks.

    It holds in async code and through ``sync_to_async`` too, but not in threads that the block starts: they begin with
    a context of their own, unless they are run in a copy of this one (``contextvars.copy_context().run``).

    Parameters:
      whom: A request (its user, or for a visitor its session, which gets a token at the first send), a user, or None:
        what is sent belongs to nobody, also inside a job that belongs to somebody.

    Raises:
      TypeError: It is none of these.
      ValueError: A user who is anonymous or not saved.
    """
    with _sending_for(_sender_for(whom)):
        yield


@contextmanager
def sent_by(request: HttpRequest) -> Iterator[None]:
    """`owned_by`, for a whole site: messages that nobody watches do not make a session for every visitor."""
    with _sending_for(_Request(request, is_asked_for_all=False)):
        yield


@contextmanager
def _sending_for(sender: _Sender) -> Iterator[None]:
    token = _sender.set(sender)
    try:
        yield
    finally:
        _sender.reset(token)


def note_owner(message: Message[Any] | MessageProxy, *, is_tracked: bool) -> str:
    """Write into a message that is about to be sent whose it is, unless it says so itself; the hash, or nothing."""
    if owner := carried_by(message):
        return owner
    sender = _sender.get()
    if sender is None or not (is_tracked or sender.is_asked_for_all or _has_followers(message)):
        return ""
    try:
        owner = sender.owner()
    except Exception:
        # The job goes on, and nobody but staff may watch it: better than everybody.
        logger.exception("Whose message %s is cannot be found out.", message.message_id)
        owner = secrets.token_urlsafe(HASH_BYTES)
    if owner:
        message.options[OWNER_OPTION] = owner
    return owner


def carried_by(message: Message[Any] | MessageProxy) -> str:
    """Whose a message says it is; empty: nobody's."""
    owner = message.options.get(OWNER_OPTION)
    return owner if isinstance(owner, str) else ""


def begin_job(message: MessageProxy) -> None:
    """What this thread sends from now on, and its async actors, belongs to the owner of this message."""
    _sender.set(_Handed(message, _sender.get()))


def end_job(message: MessageProxy) -> None:
    """The message is done with."""
    current = _sender.get()
    if isinstance(current, _Handed) and current.message_id == message.message_id:
        _sender.set(current.outer)


def owners_of(request: HttpRequest) -> frozenset[str]:
    """All hashes by which messages of whoever asks may be known. It reads user and session, and makes neither.

    A visitor who logs in has both; a secret key that was replaced is asked for as long as it is in
    ``SECRET_KEY_FALLBACKS``.
    """
    identities = (_identity_of_user(getattr(request, "user", None)), _identity_of_visitor(request))
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return frozenset(_hash(identity, key) for identity in identities if identity for key in keys)


def _sender_for(whom: Any) -> _Sender:
    if whom is None:
        return _Known("")
    # By its own type: ``request.user`` reads the database when it is first looked at, be it by isinstance().
    if issubclass(type(whom), HttpRequest):
        return _Request(whom, is_asked_for_all=True)
    return beside_event_loop(lambda: _sender_like(whom))


def _sender_like(whom: Any) -> _Sender:
    # What wraps a request, as Django REST framework does.
    if hasattr(whom, "META"):
        return _Request(whom, is_asked_for_all=True)
    if not hasattr(whom, "is_authenticated"):
        raise TypeError(f"owned_by() takes a request, a user or None, not {type(whom).__name__}.")
    identity = _identity_of_user(whom)
    if identity is None:
        raise ValueError(
            "owned_by() was given a user who is anonymous or not saved. Give it the request: its session tells "
            "visitors apart."
        )
    return _Known(_hashed(identity))


def _identity_of_request(request: HttpRequest) -> str | None:
    if identity := _identity_of_user(getattr(request, "user", None)):
        return identity
    session = getattr(request, "session", None)
    if session is not None and not isinstance(session.get(VISITOR_KEY), str):
        session[VISITOR_KEY] = secrets.token_urlsafe(HASH_BYTES)
    return _identity_of_visitor(request)


def _identity_of_user(user: Any) -> str | None:
    if user is None or not user.is_authenticated or user.pk is None:
        return None
    # A proxy model is the same user.
    model = getattr(user, "_meta", None)
    kind = model.concrete_model._meta.label_lower if model is not None else type(user).__qualname__
    return f"user:{kind}:{user.pk}"


def _identity_of_visitor(request: HttpRequest) -> str | None:
    session = getattr(request, "session", None)
    token = None if session is None else session.get(VISITOR_KEY)
    return f"visitor:{token}" if isinstance(token, str) else None


def _hashed(identity: str | None) -> str:
    return "" if identity is None else _hash(identity, settings.SECRET_KEY)


# Asked for every message of a list.
@lru_cache(maxsize=1024)
def _hash(identity: str, key: str | bytes) -> str:
    digest = salted_hmac("dramatiq_progress.owner", identity, secret=key, algorithm="sha256").digest()
    return urlsafe_b64encode(digest[:HASH_BYTES]).decode().rstrip("=")


def _has_followers(message: Message[Any] | MessageProxy) -> bool:
    # The next message of a pipeline, and those at the end of a group, are sent by the worker.
    return bool(message.options.get("pipe_target") or message.options.get("group_completion_callbacks"))


def beside_event_loop(find_out: Callable[[], T]) -> T:
    """Ask sessions and users, which are in the database; Django forbids that in a thread that runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return find_out()

    def ask() -> T:
        try:
            return find_out()
        finally:
            connections.close_all()

    # It keeps the loop waiting, as `send` itself does.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(ask).result()

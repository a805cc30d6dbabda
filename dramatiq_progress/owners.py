"""The owner of a message: a keyed hash of a user or of a visitor, made when it is sent and compared when it is read.

The hash is stored in the message's options, so that retries, pipelines, groups and messages sent by the job inherit it
without a query, and in its record. Responses, signals and logs never contain it.
"""

from __future__ import annotations

import logging
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol

from django.conf import settings
from django.http import HttpRequest
from django.utils.crypto import salted_hmac
from dramatiq import Message, MessageProxy

from .event_loop import run_outside_event_loop

#: The message option that holds the owner.
OWNER_OPTION = "progress_owner"

#: The session key for the visitor's token. The session's own id changes at login; the token doesn't.
VISITOR_KEY = "dramatiq_progress_visitor"

#: Length of an owner's hash: 128 bits, which are 22 characters as text.
HASH_BYTES = 16

logger = logging.getLogger(__name__)


class _Sender(Protocol):
    """The sender of messages in the current context."""

    @property
    def owns_untracked(self) -> bool:
        """Whether it also becomes the owner of untracked messages, for the messages that those send."""

    def owner(self) -> str:
        """Return the owner's hash, empty for no owner. It may read a session and a user."""


class _KnownSender:
    """A sender whose hash is known: a user, or no owner."""

    owns_untracked = True

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def owner(self) -> str:
        return self._owner


class _JobSender(_KnownSender):
    """The owner of the message that this thread is processing."""

    def __init__(self, message: MessageProxy, outer: _Sender | None) -> None:
        super().__init__(carried_by(message))
        self.message_id = message.message_id
        self.outer = outer


class _RequestSender:
    """The user or visitor of a request, determined when it sends a message."""

    def __init__(self, request: HttpRequest, *, owns_untracked: bool) -> None:
        self._request = request
        self.owns_untracked = owns_untracked

    def owner(self) -> str:
        return run_outside_event_loop(lambda: _hashed(_identity_of_request(self._request)))


_sender: ContextVar[_Sender | None] = ContextVar("dramatiq_progress_sender", default=None)


@contextmanager
def owned_by(whom: Any) -> Iterator[None]:
    """Set the owner of all messages that are sent in a block: ``with owned_by(request): import_rows.send(path)``.

    It applies to async code and across ``sync_to_async``, but not to threads that the block starts: those have a new
    context, unless they run in a copy of this one (``contextvars.copy_context().run``).

    Parameters:
      whom: A request, a user, or None. The owner of a request is its user or, for a visitor, a token in the session
        that is created at the first send. None sends messages without an owner, also inside a job that has one.

    Raises:
      TypeError: The argument is none of these.
      ValueError: The user is anonymous or not saved.
    """
    with _sending_for(_sender_of(whom)):
        yield


@contextmanager
def sent_by(request: HttpRequest) -> Iterator[None]:
    """Set the owner like `owned_by`, but of tracked messages only: untracked ones must not create a session."""
    with _sending_for(_RequestSender(request, owns_untracked=False)):
        yield


def sent_for(owner: str) -> AbstractContextManager[None]:
    """Set the owner of all messages that are sent in a block, by its hash; empty for no owner."""
    return _sending_for(_KnownSender(owner))


@contextmanager
def _sending_for(sender: _Sender) -> Iterator[None]:
    token = _sender.set(sender)
    try:
        yield
    finally:
        _sender.reset(token)


def note_owner(message: Message[Any] | MessageProxy, *, is_tracked: bool) -> str:
    """Store the current owner in a message that is about to be sent, unless it has one. Return its owner, or ""."""
    if owner := carried_by(message):
        return owner
    sender = _sender.get()
    if sender is None or not (is_tracked or sender.owns_untracked or _has_followers(message)):
        return ""
    owner = _owner_by(sender, message.message_id)
    if owner:
        message.options[OWNER_OPTION] = owner
    return owner


def current_owner(message_id: str) -> str:
    """Return the owner of a tracked message that is about to be sent, or ""."""
    sender = _sender.get()
    return "" if sender is None else _owner_by(sender, message_id)


def _owner_by(sender: _Sender, message_id: str) -> str:
    try:
        return sender.owner()
    except Exception:
        # Not without an owner: every client that knows the id could read it.
        logger.exception(
            "Could not determine the owner of message %s; sending it with a random owner, so that only staff may read "
            "its progress. Check the session backend.",
            message_id,
        )
        return secrets.token_urlsafe(HASH_BYTES)


def carried_by(message: Message[Any] | MessageProxy) -> str:
    """Return the owner that is stored in a message. Empty if it has none."""
    owner = message.options.get(OWNER_OPTION)
    return owner if isinstance(owner, str) else ""


def begin_job(message: MessageProxy) -> None:
    """Set the owner of the messages that this thread sends, also from async actors, to the owner of this message."""
    _sender.set(_JobSender(message, _sender.get()))


def end_job(message: Message[Any] | MessageProxy) -> None:
    """Undo `begin_job`, after the message was processed."""
    current = _sender.get()
    if isinstance(current, _JobSender) and current.message_id == message.message_id:
        _sender.set(current.outer)


def owners_of(request: HttpRequest) -> frozenset[str]:
    """Return all hashes that identify the owner of a request's messages. It reads the user and the session.

    A visitor who has logged in has two identities. Each identity has a hash per key in ``SECRET_KEY`` and
    ``SECRET_KEY_FALLBACKS``. No session is created.
    """
    identities = (_identity_of_user(getattr(request, "user", None)), _identity_of_visitor(request))
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return frozenset(_hash(identity, key) for identity in identities if identity for key in keys)


def _sender_of(whom: Any) -> _Sender:
    if whom is None:
        return _KnownSender("")
    # Not isinstance(): it evaluates a lazy ``request.user``, and that queries the database.
    if issubclass(type(whom), HttpRequest):
        return _RequestSender(whom, owns_untracked=True)
    return run_outside_event_loop(lambda: _sender_of_other(whom))


def _sender_of_other(whom: Any) -> _Sender:
    # An object that wraps a request, such as Django REST framework's.
    if hasattr(whom, "META"):
        return _RequestSender(whom, owns_untracked=True)
    if not hasattr(whom, "is_authenticated"):
        raise TypeError(f"owned_by() accepts a request, a user or None, not {type(whom).__name__}.")
    identity = _identity_of_user(whom)
    if identity is None:
        raise ValueError(
            "owned_by() got a user who is anonymous or not saved. Pass the request instead: its session identifies a "
            "visitor."
        )
    return _KnownSender(_hashed(identity))


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
    # A user of a proxy model is the same user.
    model = getattr(user, "_meta", None)
    kind = model.concrete_model._meta.label_lower if model is not None else type(user).__qualname__
    return f"user:{kind}:{user.pk}"


def _identity_of_visitor(request: HttpRequest) -> str | None:
    session = getattr(request, "session", None)
    token = None if session is None else session.get(VISITOR_KEY)
    return f"visitor:{token}" if isinstance(token, str) else None


def _hashed(identity: str | None) -> str:
    return "" if identity is None else _hash(identity, settings.SECRET_KEY)


# Cached: called for every message of a list.
@lru_cache(maxsize=1024)
def _hash(identity: str, key: str | bytes) -> str:
    digest = salted_hmac("dramatiq_progress.owner", identity, secret=key, algorithm="sha256").digest()
    return urlsafe_b64encode(digest[:HASH_BYTES]).decode().rstrip("=")


def _has_followers(message: Message[Any] | MessageProxy) -> bool:
    # The worker sends the next message of a pipeline, and the completion messages of a group.
    return bool(message.options.get("pipe_target") or message.options.get("group_completion_callbacks"))

"""Addresses of a message's progress, and links by which somebody without a login may read it until they expire."""

from __future__ import annotations

import math
import re
import time
from datetime import timedelta
from typing import Any

from django.core.exceptions import TooManyFieldsSent
from django.core.signing import BadSignature, Signer, b62_decode, b62_encode
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode
from dramatiq import Message

#: What a message id in a URL may be; Dramatiq's own are UUIDs.
MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: How many messages one request may ask for, and how many characters that takes at the most ("id=…&" and some more).
MOST_IDS = 100
LONGEST_QUERY = 8_000

#: The parameter of a URL that has a token; a list and a stream take several.
PARAMETER = "token"


def progress_url(message: str | Message[Any], *, signed_for: float | timedelta | None = None) -> str:
    """The path at which the progress of a message is answered, as ``/progress/<id>/``.

    Parameters:
      message: A message's id, or the message that an actor's ``send`` returned.
      signed_for: Seconds for which whoever has the link may read this message, and nothing else, without a login. They
        may not cancel it. No permission is asked here: before you show a link, ask `permissions.is_owner`.

    Raises:
      ValueError: It is no message id, or no time.
      NoReverseMatch: The package's URLs are not included in the project's.
    """
    message_id = message.message_id if isinstance(message, Message) else message
    check_message_id(message_id)
    address = reverse("dramatiq_progress:detail", args=[message_id])
    if signed_for is None:
        return address
    return with_token(address, _token(message_id, signed_for))


def check_message_id(message_id: object) -> None:
    """Raise `ValueError` unless this can be a message's id."""
    if not isinstance(message_id, str) or MESSAGE_ID.fullmatch(message_id) is None:
        raise ValueError(f"{message_id!r:.80} is no message id: those are 1 to 64 of A-Z, a-z, 0-9, _ and -.")


def with_token(address: str, token: str) -> str:
    """The address of a message's progress, with what lets it be read."""
    return f"{address}?{urlencode({PARAMETER: token})}"


def linked_ids(request: HttpRequest) -> frozenset[str]:
    """The messages for which a request has links that have not expired."""
    return frozenset(_tokens_of(request))


def token_for(request: HttpRequest, message_id: str) -> str | None:
    """The token by which a request may read a message, or None."""
    return _tokens_of(request).get(message_id)


def _tokens_of(request: HttpRequest) -> dict[str, str]:
    # Before it is parsed: a query may be as long as the web server lets it.
    query = request.META.get("QUERY_STRING", "")
    if f"{PARAMETER}=" not in query or len(query) > LONGEST_QUERY:
        return {}
    try:
        tokens = request.GET.getlist(PARAMETER)[:MOST_IDS]
    except TooManyFieldsSent:
        return {}
    return {message_id: token for token in tokens if (message_id := _message_id_of(token))}


def _token(message_id: str, signed_for: float | timedelta) -> str:
    seconds = signed_for.total_seconds() if isinstance(signed_for, timedelta) else signed_for
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"signed_for is {signed_for!r}; it must be a number of seconds above 0, or a timedelta.")
    return _signer().sign(f"{message_id}:{b62_encode(math.ceil(time.time() + seconds))}")


def _message_id_of(token: str) -> str | None:
    try:
        message_id, expires_at = _signer().unsign(token).split(":")
    except BadSignature:
        return None
    return message_id if time.time() < b62_decode(expires_at) else None


def _signer() -> Signer:
    return Signer(salt="dramatiq_progress.link")

"""URLs of a message's progress, and signed links: URLs that grant read access until they expire, without a login."""

from __future__ import annotations

import math
import time
from datetime import timedelta

from django.core.exceptions import TooManyFieldsSent
from django.core.signing import BadSignature, Signer, b62_decode, b62_encode
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from .error_texts import show
from .message_ids import MessageLike, message_id_of

#: Maximum number of ids in one request, and of characters in its query: 100 ids of 64 characters, and some more.
MOST_IDS = 100
LONGEST_QUERY = 8_000

#: The query parameter for tokens. A list and a stream accept several.
PARAMETER = "token"


def progress_url(message: MessageLike, *, signed_for: float | timedelta | None = None) -> str:
    """Return the path of a message's progress, such as ``/progress/<id>/``.

    Parameters:
      message: A message, its id, or its `Progress`.
      signed_for: Seconds until a signed link expires. Until then, every client that has the link may read this message
        without a login; it may neither cancel it nor read others. No permission is checked here: check
        `permissions.is_owner` before you show a link.

    Raises:
      ValueError: The value is no message and no id that a message can have, or the number of seconds is invalid.
      NoReverseMatch: The project's URLs don't include those of the package.
    """
    message_id = message_id_of(message)
    url = reverse("dramatiq_progress:detail", args=[message_id])
    return url if signed_for is None else with_token(url, _sign(message_id, signed_for))


def with_token(url: str, token: str) -> str:
    """Return the URL of a message's progress with a token."""
    return f"{url}?{urlencode({PARAMETER: token})}"


def linked_ids(request: HttpRequest) -> frozenset[str]:
    """Return the ids of the messages for which a request has valid tokens."""
    return frozenset(_tokens_of(request))


def token_for(request: HttpRequest, message_id: str) -> str | None:
    """Return the request's valid token for a message, or None."""
    return _tokens_of(request).get(message_id)


def _tokens_of(request: HttpRequest) -> dict[str, str]:
    # Checked before parsing: many web servers don't limit the length of a query.
    query = request.META.get("QUERY_STRING", "")
    if f"{PARAMETER}=" not in query or len(query) > LONGEST_QUERY:
        return {}
    try:
        tokens = request.GET.getlist(PARAMETER)[:MOST_IDS]
    except TooManyFieldsSent:
        return {}
    return {message_id: token for token in tokens if (message_id := _message_id_of(token))}


def _sign(message_id: str, signed_for: float | timedelta) -> str:
    seconds = signed_for.total_seconds() if isinstance(signed_for, timedelta) else signed_for
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(
            f"signed_for is {show(signed_for)}; it must be a positive number of seconds, or a timedelta, such as "
            "signed_for=timedelta(days=7)."
        )
    return _signer().sign(f"{message_id}:{b62_encode(math.ceil(time.time() + seconds))}")


def _message_id_of(token: str) -> str | None:
    try:
        message_id, expires_at = _signer().unsign(token).split(":")
    except BadSignature:
        return None
    return message_id if time.time() < b62_decode(expires_at) else None


def _signer() -> Signer:
    return Signer(salt="dramatiq_progress.link")

"""HTTP responses: JSON that no cache keeps, an ETag that ignores running clocks, and one response for each error."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response

from dramatiq_progress import jitter
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.polling import SHORTEST_RETRY_SECONDS, retry_after
from dramatiq_progress.progress import Progress
from dramatiq_progress.stores import get_store

from .streams.limits import TooManyStreams

#: ``Retry-After`` for a stream that was refused by a limit.
RETRY_STREAM_AFTER_SECONDS = 30

#: The errors that `error_response` turns into a response.
RefusedRequest = BadRequest | StoreUnavailable | TooManyStreams
REFUSED_REQUEST = (BadRequest, StoreUnavailable, TooManyStreams)


def message_response(request: HttpRequest, message: Progress, cancellable: Collection[str]) -> HttpResponse:
    """Return one message as a JSON object, or 304 if the client has it.

    Parameters:
      cancellable: The ids of the messages that the client may cancel.
    """
    return _conditional(request, [message], cancellable, unknown=None)


def list_response(
    request: HttpRequest, messages: Sequence[Progress], cancellable: Collection[str], *, unknown: Sequence[str] = ()
) -> HttpResponse:
    """Return messages as a JSON list, or 304 if the client has it.

    Parameters:
      cancellable: The ids of the messages that the client may cancel.
      unknown: The requested ids that don't exist, or that the client may not read.
    """
    return _conditional(request, messages, cancellable, unknown=unknown)


def json_response(content: Any, *, status: int = HTTPStatus.OK) -> HttpResponse:
    """Return a private response with a JSON body."""
    # ASCII only: no character can end a line, or change the direction of text, in whatever shows the body.
    response = HttpResponse(json.dumps(content).encode(), content_type="application/json", status=status)
    make_private(response)
    return response


def why_not_cancellable(progress: Progress) -> str:
    """Return why a message can't be cancelled, and what to change."""
    return (
        f'This message of the actor "{progress.actor}" isn\'t cancellable. Declare the actor with cancellable=True, '
        "and don't send the message with cancellable=False."
    )


def not_found_response() -> HttpResponse:
    """Return the response for a message that doesn't exist, or that the client may not read."""
    return json_response({"error": "not_found"}, status=HTTPStatus.NOT_FOUND)


def error_response(error: RefusedRequest) -> HttpResponse:
    """Return the response for an error that the client can correct, or can retry after."""
    if isinstance(error, BadRequest):
        return json_response({"error": "bad_request", "detail": str(error)}, status=HTTPStatus.BAD_REQUEST)
    if isinstance(error, TooManyStreams):
        status = HTTPStatus.TOO_MANY_REQUESTS if error.is_of_client else HTTPStatus.SERVICE_UNAVAILABLE
        response = json_response({"error": "too_many_streams"}, status=status)
        response["Retry-After"] = str(RETRY_STREAM_AFTER_SECONDS)
        return response
    response = json_response({"error": "store_unavailable"}, status=HTTPStatus.SERVICE_UNAVAILABLE)
    response["Retry-After"] = str(_retry_after())
    return response


def _retry_after() -> int:
    # Random, so that pages whose streams broke at the same moment don't all return at the same one.
    seconds = jitter.shortened(retry_after(get_store().health.outage_seconds))
    return math.ceil(max(seconds, SHORTEST_RETRY_SECONDS))


def make_private(response: HttpResponseBase) -> None:
    """Add the headers that keep a response from caches and from other sites."""
    # A cache would serve outdated progress, or one visitor's progress to another. The bar keeps ETags itself.
    response["Cache-Control"] = "private, no-store"
    response["X-Content-Type-Options"] = "nosniff"
    # Other sites must not load it as an image or a script.
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    # Nor in an <object>, whose events differ for a message that the visitor may read: a subdomain sends their cookies.
    response["X-Frame-Options"] = "DENY"
    # The URL of a signed link is a secret.
    response["Referrer-Policy"] = "no-referrer"


def _conditional(
    request: HttpRequest, messages: Sequence[Progress], cancellable: Collection[str], *, unknown: Sequence[str] | None
) -> HttpResponse:
    etag = _etag(messages, cancellable, unknown)
    response: HttpResponse | None = None
    if "HTTP_IF_NONE_MATCH" in request.META:
        response = get_conditional_response(request, etag=etag)
    if response is None:
        objects = [message.as_dict(may_cancel=message.id in cancellable) for message in messages]
        response = json_response(objects[0] if unknown is None else {"messages": objects, "unknown": unknown})
    else:
        make_private(response)
        if messages and response.status_code == HTTPStatus.NOT_MODIFIED:
            # A 304 has no body, and poll_after increases while nothing changes.
            response["Poll-After"] = str(min(message.poll_after for message in messages))
    response["ETag"] = etag
    return response


def _etag(messages: Sequence[Progress], cancellable: Collection[str], unknown: Sequence[str] | None) -> str:
    """Return a hash of everything in a response except the clocks.

    It is weak (``W/"…"``): responses that differ in their clocks share it, and proxies that compress keep a weak one.
    """
    revisions = [(*message.revision, message.id in cancellable) for message in messages]
    digest = hashlib.blake2b(json.dumps((revisions, unknown)).encode(), digest_size=12).hexdigest()
    return f'W/"{digest}"'

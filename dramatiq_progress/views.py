"""The views that bars poll or stream: one message, a list, a user's own messages, a stream, and cancelling.

All views but `cancel` are read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from http import HTTPStatus
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_POST, require_safe

from .cancellation import CancelOutcome
from .cancellation import cancel as cancel_message
from .permissions import cancellable_ids, may_cancel
from .web.reading import cancellable_of, query_of, read_message, read_messages, read_mine, requested_ids
from .web.responses import (
    REFUSED_REQUEST,
    error_response,
    json_response,
    list_response,
    make_private,
    message_response,
    not_found_response,
    why_not_cancellable,
)
from .web.streams.event_stream import EventStream

__all__ = ["cancel", "detail", "listing", "mine", "read_mine", "stream"]

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def _reading_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    # Exempt, so that a POST gets 405 and not 403: the view changes nothing.
    return csrf_exempt(require_safe(_with_errors(view)))


def _writing_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    # Protected even if the project has no CsrfViewMiddleware.
    return csrf_protect(require_POST(_with_errors(view)))


def _with_errors(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def respond(request: HttpRequest, **captured: str) -> HttpResponse:
        try:
            if request.META.get("QUERY_STRING"):
                query_of(request)
            return view(request, **captured)
        except REFUSED_REQUEST as error:
            return error_response(error)

    return respond


def _stream_view(view: AsyncView) -> AsyncView:
    @csrf_exempt
    @require_GET
    @wraps(view)
    async def respond(request: HttpRequest) -> HttpResponseBase:
        try:
            return await view(request)
        except REFUSED_REQUEST as error:
            return error_response(error)

    # With ATOMIC_REQUESTS of any database, Django rejects every other async view. As `non_atomic_requests` does, which
    # needs the names of the databases.
    respond._non_atomic_requests = _EveryDatabase()  # type: ignore[attr-defined]
    return respond


class _EveryDatabase(set[str]):
    """The names of all databases, which may not be known yet: URLs can be imported before there are settings."""

    def __contains__(self, alias: object) -> bool:
        return True


@_reading_view
def detail(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the progress of one message as JSON (see docs/json.md), 404 if not found, 503 without a store."""
    progress = read_message(request, message_id)
    if progress is None:
        return not_found_response()
    return message_response(request, progress, cancellable_of(request, [progress]))


@_writing_view
def cancel(request: HttpRequest, message_id: str) -> HttpResponse:
    """Cancel a message, and return its progress.

    404 if there is no message that the request may cancel, 409 if it isn't cancellable.
    """
    progress = read_message(request, message_id)
    if progress is None or not may_cancel(request, progress):
        return not_found_response()
    outcome = cancel_message(message_id).outcome
    if outcome is CancelOutcome.NOT_CANCELLABLE:
        detail = why_not_cancellable(progress)
        return json_response({"error": "not_cancellable", "detail": detail}, status=HTTPStatus.CONFLICT)
    progress = read_message(request, message_id)
    if progress is None:
        return not_found_response()
    return json_response(progress.as_dict(may_cancel=bool(cancellable_ids(request, [progress]))))


@_reading_view
def listing(request: HttpRequest) -> HttpResponse:
    """Return the progress of each message named by an ``id`` in the query, 400 if the ids are invalid."""
    message_ids = requested_ids(request)
    messages = read_messages(request, message_ids)
    known = {progress.id for progress in messages}
    unknown = [message_id for message_id in message_ids if message_id not in known]
    return list_response(request, messages, cancellable_of(request, messages), unknown=unknown)


@_reading_view
def mine(request: HttpRequest) -> HttpResponse:
    """Return the unfinished and recently finished messages of this user or visitor, newest first."""
    messages = read_mine(request)
    return list_response(request, messages, cancellable_of(request, messages))


@_stream_view
async def stream(request: HttpRequest) -> HttpResponseBase:
    """Stream the progress of each message named by an ``id``: its current state, then each change.

    The format is Server-Sent Events. Requires ASGI: under WSGI each stream would occupy a thread, and the response is
    501. Other errors are those of `listing`.
    """
    if not isinstance(request, ASGIRequest):
        reason = "A stream requires an ASGI server, and this server speaks WSGI. Poll the list instead."
        return json_response({"error": "not_implemented", "detail": reason}, status=HTTPStatus.NOT_IMPLEMENTED)
    events = await EventStream.open(request, requested_ids(request))
    response = StreamingHttpResponse(events, content_type="text/event-stream")
    make_private(response)
    response["Cache-Control"] += ", no-transform"
    # nginx buffers responses without it, and GZipMiddleware compresses those without an encoding.
    response["X-Accel-Buffering"] = "no"
    response["Content-Encoding"] = "identity"
    return response

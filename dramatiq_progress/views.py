"""The JSON that bars poll or are told of: one message, all of a page in one answer, or a stream of them.

All but `cancel` read records and write nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from functools import partial, wraps
from http import HTTPStatus
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest, TooManyFieldsSent
from django.core.handlers.asgi import ASGIRequest
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_POST, require_safe

from .cancellation import CancelOutcome
from .cancellation import cancel as cancel_message
from .errors import StoreUnavailable
from .links import LONGEST_QUERY, MESSAGE_ID, MOST_IDS, check_message_id
from .owners import owners_of
from .permissions import cancellable, depending_on_who_asks, may_cancel, readable
from .places import Place, TooManyStreams, client_of
from .progress import Progress
from .recorder import get_recorder
from .requests import refreshed
from .stores import get_store
from .streams import EventStream

#: What stands in the query of one who wishes to know whether they may cancel a message that has no owner.
CAN_CANCEL = "can_cancel"

#: When to ask again after the store could not be reached, and for a stream after there were too many.
RETRY_AFTER_SECONDS = 2
STREAM_AGAIN_SECONDS = 30

Refusal = BadRequest | StoreUnavailable | TooManyStreams
REFUSALS = (BadRequest, StoreUnavailable, TooManyStreams)

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def _progress_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    # Exempt, so that a POST is told 405 and not that it lacks a token: nothing here changes anything.
    return csrf_exempt(require_safe(_answering(view)))


def _cancel_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    # Also where the project has no CsrfViewMiddleware.
    return csrf_protect(require_POST(_answering(view)))


def _answering(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def answer(request: HttpRequest, **captured: str) -> HttpResponse:
        try:
            _query_of(request)
            return view(request, **captured)
        except REFUSALS as error:
            return _answer_error(error)

    return answer


def _stream_view(view: AsyncView) -> AsyncView:
    # Django refuses an async view under ATOMIC_REQUESTS, unless it is said to need no transaction.
    @non_atomic_requests
    @csrf_exempt
    @require_GET
    @wraps(view)
    async def answer(request: HttpRequest) -> HttpResponseBase:
        try:
            return await view(request)
        except REFUSALS as error:
            return _answer_error(error)

    return answer


def _answer_error(error: Refusal) -> HttpResponse:
    if isinstance(error, BadRequest):
        return _answer({"error": "bad_request", "detail": str(error)}, status=400)
    if isinstance(error, TooManyStreams):
        response = _answer({"error": "too_many_streams"}, status=429 if error.is_of_client else 503)
        response["Retry-After"] = str(STREAM_AGAIN_SECONDS)
        return response
    # Logged once, however many browsers ask.
    get_recorder().trouble(error)
    response = _answer({"error": "store_unavailable"}, status=503)
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


@_progress_view
def detail(request: HttpRequest, message_id: str) -> HttpResponse:
    """The progress of one message as JSON (see docs/json.md); 404 when there is none, 503 without a store."""
    found = _read_one(request, message_id)
    return _answer_progress(request, found, _the_only) if found else _answer_not_found()


@_cancel_view
def cancel(request: HttpRequest, message_id: str) -> HttpResponse:
    """Cancel a message, and answer its progress; 404 where there is none that this request may cancel, 409 for an actor
    that is declared with ``cancellable=False``."""
    found = _read_one(request, message_id)
    if not found or not may_cancel(request, found[0]):
        return _answer_not_found()
    outcome = cancel_message(message_id).outcome
    if outcome is CancelOutcome.NOT_CANCELLABLE:
        reason = f'The actor "{found[0].actor}" is declared with cancellable=False.'
        return _answer({"error": "not_cancellable", "detail": reason}, status=409)
    found = _read_one(request, message_id)
    if not found:
        return _answer_not_found()
    return _answer(found[0].as_dict(may_cancel=bool(cancellable(request, found))))


@_progress_view
def listing(request: HttpRequest) -> HttpResponse:
    """The progress of each message named by an ``id`` in the query, in one object; 400 when the ids make no sense."""
    message_ids = _asked_for(request)
    found = _read(request, message_ids)
    known = {progress.id for progress in found}
    unknown = [message_id for message_id in message_ids if message_id not in known]
    return _answer_progress(request, found, partial(_list, unknown=unknown))


@_progress_view
def mine(request: HttpRequest) -> HttpResponse:
    """The messages of this user or visitor that have not ended, or not long ago, newest first: a list without ids."""
    return _answer_progress(request, read_mine(request), partial(_list, unknown=[]))


@_stream_view
async def stream(request: HttpRequest) -> HttpResponseBase:
    """The progress of each message named by an ``id``, now and whenever it changes, as Server-Sent Events.

    Under ASGI only, and 501 under WSGI, where each stream would hold a thread. Else it errs as the list does.
    """
    if not isinstance(request, ASGIRequest):
        reason = "A stream needs an ASGI server, and this one speaks WSGI: ask the list instead."
        return _answer({"error": "not_implemented", "detail": reason}, status=501)
    message_ids = _asked_for(request)
    # Before anything is read: what a flood of requests costs.
    place = Place(client_of(request.META.get("REMOTE_ADDR") or ""))
    read = partial(_read_for_stream, request)
    # What a client may know is found out once for all; what it is told is read after the stream has begun to watch.
    try:
        visible = await sync_to_async(read)(message_ids)
    except BaseException:
        # Whoever keeps the exception, as a log may, keeps all that is named here.
        place.give_back()
        raise
    events = EventStream(message_ids, visible, read, partial(_goes_on, request), place)
    response = StreamingHttpResponse(events, content_type="text/event-stream")
    _keep_private(response)
    response["Cache-Control"] += ", no-transform"
    # nginx else collects an answer before it hands it on, and GZipMiddleware packs what has no encoding yet.
    response["X-Accel-Buffering"] = "no"
    response["Content-Encoding"] = "identity"
    return response


def _read_one(request: HttpRequest, message_id: str) -> list[Progress]:
    return _read(request, [message_id]) if MESSAGE_ID.fullmatch(message_id) else []


def _read_for_stream(request: HttpRequest, message_ids: Sequence[str]) -> dict[str, bool]:
    """The ids of the messages that this request may know of, and whether it may cancel each."""
    found = _read(request, message_ids)
    may_be_cancelled = _cancellable(request, found)
    return {progress.id: progress.id in may_be_cancelled for progress in found}


def _cancellable(request: HttpRequest, found: Sequence[Progress]) -> set[str]:
    # A poll that need not know who asks reads no session for this.
    asked = found if CAN_CANCEL in _query_of(request) else depending_on_who_asks(request, found)
    return cancellable(request, asked) if asked else set()


def _read(request: HttpRequest, message_ids: Sequence[str]) -> list[Progress]:
    """What this request may know of these messages, without those that are not there."""
    return readable(request, get_store().read(message_ids))


def read_mine(request: HttpRequest) -> list[Progress]:
    """The messages of whoever asks, newest first, without those whose record has expired.

    Not in an event loop's thread.

    Raises:
      StoreUnavailable: The store cannot be reached.
    """
    owners = owners_of(request)
    return [progress for progress in _read(request, get_store().owned(owners)) if progress.owner in owners]


async def _goes_on(request: HttpRequest, messages: Sequence[Progress]) -> bool:
    """Whether a stream's client may still read these messages. Where that depends on nobody, nobody is asked."""
    asked = depending_on_who_asks(request, messages)
    return not asked or await sync_to_async(_may_still_read)(request, asked)


def _may_still_read(request: HttpRequest, messages: Sequence[Progress]) -> bool:
    return len(readable(refreshed(request), messages)) == len(messages)


def _query_of(request: HttpRequest) -> QueryDict:
    # Before it is parsed: a query may be as long as the web server lets it.
    if (length := len(request.META.get("QUERY_STRING", ""))) > LONGEST_QUERY:
        raise BadRequest(
            f"The query has {length:,} characters, at most {LONGEST_QUERY:,} are read: ask for up to {MOST_IDS} ids."
        )
    try:
        return request.GET
    except TooManyFieldsSent as error:
        raise BadRequest(f"The query has too many fields: ask for up to {MOST_IDS} ids.") from error


def _asked_for(request: HttpRequest) -> list[str]:
    message_ids = list(dict.fromkeys(_query_of(request).getlist("id")))
    if not message_ids:
        raise BadRequest("There is no id: ask as in ?id=ONE&id=ANOTHER.")
    if len(message_ids) > MOST_IDS:
        raise BadRequest(f"There are {len(message_ids):,} ids, at most {MOST_IDS} are answered: ask several times.")
    for message_id in message_ids:
        try:
            check_message_id(message_id)
        except ValueError as error:
            raise BadRequest(str(error)) from error
    return message_ids


def _answer_progress(
    request: HttpRequest, found: Sequence[Progress], framed: Callable[[list[str]], str]
) -> HttpResponse:
    """Messages as this request is to see them, each an object of JSON, in a frame."""
    may_be_cancelled = _cancellable(request, found)
    # Encoded once, for the ETag and for the answer.
    news = [json.dumps(progress.news(may_cancel=progress.id in may_be_cancelled)) for progress in found]
    clocks = [json.dumps(progress.clocks()) for progress in found]
    whole = [f"{text[:-1]}, {passing[1:]}" for text, passing in zip(news, clocks, strict=True)]
    response: HttpResponse = _answer_text(framed(whole))
    # Of the answer, since a place in the line and `lost` change without a write. Weak, because answers that differ by
    # their clocks share it; and a proxy that compresses leaves a weak one as it is.
    digest = hashlib.blake2b(framed(news).encode(), digest_size=12).hexdigest()
    etag = response["ETag"] = f'W/"{digest}"'
    if "HTTP_IF_NONE_MATCH" in request.META:
        response = get_conditional_response(request, etag=etag, response=response)  # type: ignore[assignment]
    if found and response.status_code == HTTPStatus.NOT_MODIFIED:
        # It has no body to say it in, and it becomes longer while nothing happens.
        response["Poll-After"] = str(min(progress.poll_after for progress in found))
    return response


def _the_only(texts: list[str]) -> str:
    return texts[0]


def _list(texts: list[str], *, unknown: list[str]) -> str:
    return f'{{"messages": [{", ".join(texts)}], "unknown": {json.dumps(unknown)}}}'


def _answer_not_found() -> HttpResponse:
    return _answer({"error": "not_found"}, status=404)


def _answer(content: dict[str, Any], *, status: int = 200) -> HttpResponse:
    return _answer_text(json.dumps(content), status=status)


def _answer_text(text: str, *, status: int = 200) -> HttpResponse:
    response = HttpResponse(text, content_type="application/json", status=status)
    _keep_private(response)
    return response


def _keep_private(response: HttpResponseBase) -> None:
    # No cache in between may answer in our place, nor keep what only this visitor may see. The bar keeps ETags itself.
    response["Cache-Control"] = "private, no-store"
    response["X-Content-Type-Options"] = "nosniff"
    # Nor does another site get it as if it were an image or a script of its own.
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    # The address of a signed link is all that it takes.
    response["Referrer-Policy"] = "no-referrer"

"""The JSON view that a bar polls. It reads one record and writes nothing."""

from __future__ import annotations

import re

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from .errors import StoreUnavailable
from .recorder import get_recorder
from .stores import get_progress

#: What a message id in a URL may be; Dramatiq's own are UUIDs.
MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: When to ask again after the store could not be reached.
RETRY_AFTER_SECONDS = 2


# Exempt, so that a POST is told 405 and not that it lacks a token: nothing here changes anything.
@csrf_exempt
@require_safe
def detail(request: HttpRequest, message_id: str) -> HttpResponse:
    """The progress of one message as JSON (see docs/json.md); 404 when there is none, 503 without a store."""
    if MESSAGE_ID.fullmatch(message_id) is None:
        return _answer({"error": "not_found"}, status=404)
    try:
        progress = get_progress(message_id)
    except StoreUnavailable as error:
        # Logged once, however many browsers ask.
        get_recorder().trouble(error)
        response = _answer({"error": "store_unavailable"}, status=503)
        response["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response
    if progress is None:
        return _answer({"error": "not_found"}, status=404)
    return _answer(progress.as_dict())


def _answer(content: dict[str, object], *, status: int = 200) -> JsonResponse:
    response = JsonResponse(content, status=status)
    # No cache in between may answer in our place, nor keep what only this visitor may see.
    response["Cache-Control"] = "private, no-store"
    response["X-Content-Type-Options"] = "nosniff"
    return response

"""The minimum that any use of a store costs: the round trips alone."""

from __future__ import annotations

import threading
from typing import Any

import redis
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from dramatiq.middleware import Middleware

from dramatiq_progress.stores import get_store


class RoundTripsOnly(Middleware):
    """Sends a PING wherever `ProgressMiddleware` waits for the store, over the same connections."""

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        """Instead of recording a message."""
        get_store().ping()

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Instead of recording its start."""
        get_store().ping()

    def before_ack(self, broker: Any, message: Any) -> None:
        """Instead of recording its outcome."""
        get_store().ping()


_pool = redis.ConnectionPool.from_url(settings.STORE_URL, decode_responses=True)
_of_thread = threading.local()


def one_hash(request: HttpRequest, message_id: str, answer: bytes) -> HttpResponse:
    """Read the hash of a message, and ignore it."""
    if not hasattr(_of_thread, "connection"):
        _of_thread.connection = _pool.get_connection()
    connection = _of_thread.connection
    connection.send_command("HGETALL", get_store().key(message_id))
    connection.read_response()
    return HttpResponse(answer, content_type="application/json")

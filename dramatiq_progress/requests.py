"""`OwnerMiddleware`: the Django middleware that makes each request's user the owner of the messages it sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .owners import sent_by


class OwnerMiddleware:
    """Django middleware that sets the owner of messages. It can be anywhere in ``MIDDLEWARE``.

    A request that sends no message accesses neither its session nor its user. Messages that are sent after the view has
    returned, for example by a streaming response, need an `owned_by` block.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any] | None = None) -> None:
        if get_response is None:
            raise ImproperlyConfigured(
                "OwnerMiddleware is Django middleware, and was created without a request handler. Move "
                '"dramatiq_progress.requests.OwnerMiddleware" from the MIDDLEWARE of DRAMATIQ_BROKER to Django\'s own '
                'MIDDLEWARE. The broker needs "dramatiq_progress.middleware.ProgressMiddleware".'
            )
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

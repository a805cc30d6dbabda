"""Django middleware: one line that makes every tracked message of a site belong to whoever's request sent it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .owners import sent_by


class OwnerMiddleware:
    """``"dramatiq_progress.requests.OwnerMiddleware"`` in Django's ``MIDDLEWARE``, anywhere in the list.

    A request that sends no message touches no session and no user. What is sent after the view has returned, as by a
    streaming response, needs an `owned_by` of its own.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
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

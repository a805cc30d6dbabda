"""The tests' site as an ASGI application; `/counts/` says what its process holds."""

import asyncio
import threading

import django
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

django.setup()

from dramatiq_progress.hub import all_hubs  # noqa: E402 - Django first
from tests import urls  # noqa: E402


async def counts(request: HttpRequest) -> JsonResponse:
    """Streams, watched messages, tasks and threads of this process."""
    topics = [topic for hub in all_hubs() for topic in hub._topics.values()]
    return JsonResponse(
        {
            "streams": len({watcher for topic in topics for watcher in topic.watchers}),
            "watched": len(topics),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
        }
    )


urls.urlpatterns.insert(0, path("counts/", counts))
application = ASGIStaticFilesHandler(get_asgi_application())

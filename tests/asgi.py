"""The tests' site as an ASGI application; `/counts/` says what its process holds.

``TEST_STREAM_LIFETIME`` is the lifetime of a stream in seconds.
"""

import asyncio
import os
import threading

import django
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

django.setup()

from dramatiq_progress.web.streams import event_stream  # noqa: E402 - Django first
from dramatiq_progress.web.streams.hub import all_hubs  # noqa: E402
from tests import urls  # noqa: E402


async def counts(request: HttpRequest) -> JsonResponse:
    """Slots, streams, watched messages, tasks and threads of this process."""
    topics = [topic for hub in all_hubs() for topic in hub._topics.values()]
    return JsonResponse(
        {
            "slots": sum(hub.slots.taken for hub in all_hubs()),
            "streams": len({watcher for topic in topics for watcher in topic.watchers}),
            "watched": len(topics),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
        }
    )


if "TEST_STREAM_LIFETIME" in os.environ:
    event_stream.LIFETIME_SECONDS = float(os.environ["TEST_STREAM_LIFETIME"])

urls.urlpatterns.insert(0, path("counts/", counts))
application = ASGIStaticFilesHandler(get_asgi_application())

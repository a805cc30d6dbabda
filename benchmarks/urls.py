"""The URLs of the benchmarks' servers: ours, celery-progress's, and one that does nothing."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from benchmarks.least import one_hash

#: About as long as a response of ours.
CONSTANT = b"{" + b"x" * 600 + b"}"


def constant(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the same bytes each time, to measure Django and the server alone."""
    return HttpResponse(CONSTANT, content_type="application/json")


urlpatterns = [
    path("progress/", include("dramatiq_progress.urls")),
    path("celery-progress/", include("celery_progress.urls")),
    path("constant/<str:message_id>/", constant),
    path("least/<str:message_id>/", one_hash, {"answer": CONSTANT}),
]

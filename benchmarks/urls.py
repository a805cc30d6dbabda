"""The URLs that the servers of the benchmarks answer: ours, celery-progress's, and one that does nothing."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from benchmarks.least import one_hash

#: What an answer of ours is about as long as.
CONSTANT = b"{" + b"x" * 600 + b"}"


def constant(request: HttpRequest, message_id: str) -> HttpResponse:
    """The same bytes for everybody: what Django and the server cost by themselves."""
    return HttpResponse(CONSTANT, content_type="application/json")


urlpatterns = [
    path("progress/", include("dramatiq_progress.urls")),
    path("celery-progress/", include("celery_progress.urls")),
    path("constant/<str:message_id>/", constant),
    path("least/<str:message_id>/", one_hash, {"answer": CONSTANT}),
]

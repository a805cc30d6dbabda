"""The site of the tests: the package's URLs where the README puts them, and a page that uploads a file."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import include, path

from tests import tasks


def upload(request: HttpRequest) -> HttpResponse:
    """Save the uploaded file and send it to be imported."""
    if request.method == "POST":
        storage = FileSystemStorage(settings.UPLOADS)
        name = storage.save("upload.csv", request.FILES["file"])
        message = tasks.import_rows.send(str(Path(storage.path(name))))
        return redirect("import", message.message_id)
    return render(request, "tests/upload.html")


def follow(request: HttpRequest, message_id: str) -> HttpResponse:
    """Show how far the import is."""
    context = {"message_id": message_id, "with_button": "button" in request.GET}
    return render(request, "tests/import.html", context)


def follow_many(request: HttpRequest) -> HttpResponse:
    """Show how far many messages are."""
    return render(request, "tests/bars.html", {"message_ids": request.GET.getlist("id")})


def follow_to_all_ends(request: HttpRequest) -> HttpResponse:
    """Show messages m1, m2 … whose ends are text, a link, HTML of this page's own, and a link after a failure."""
    return render(request, "tests/ends.html")


def summary(request: HttpRequest) -> HttpResponse:
    """HTML to swap in."""
    return HttpResponse("<p id=summary>All <b>there</b></p>")


def follow_with_celery_progress(request: HttpRequest, message_id: str) -> HttpResponse:
    """Show how far a message is, with the JavaScript of celery-progress."""
    return render(request, "tests/celery.html", {"message_id": message_id, "with_result": "result" in request.GET})


urlpatterns = [
    path("progress/", include("dramatiq_progress.urls")),
    path("", upload),
    path("import/<str:message_id>/", follow, name="import"),
    path("bars/", follow_many),
    path("ends/", follow_to_all_ends),
    path("summary/", summary),
    path("celery/<str:message_id>/", follow_with_celery_progress),
]

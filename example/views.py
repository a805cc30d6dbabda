"""The pages of the example. Each takes a form, sends a message, and shows the bar of that message.

After a message is sent, the browser is redirected to a URL that carries the message's id, so that a refresh
shows the same bar.
"""

import inspect
from importlib import resources
from urllib.parse import urlencode

from django.core.files import File
from django.http import FileResponse, Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dramatiq_progress.links import MESSAGE_ID

from . import tasks
from .forms import ImportForm, PaceForm, QueueForm, TroubleForm
from .models import Export, Import, Row

SHOWN_IMPORTS = 5
SHOWN_JOBS = 10


@require_GET
def home(request):
    return render(request, "example/home.html")


@require_http_methods(["GET", "HEAD", "POST"])
def import_page(request, message_id=None):
    form = ImportForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        return send_import(form.cleaned_data["file"], form.pause_seconds)
    context = {
        "form": form,
        "sample_form": PaceForm(prefix="sample"),
        "message_id": message_id,
        "imports": Import.finished.all()[:SHOWN_IMPORTS],
        "code": source_of(tasks.import_rows),
    }
    return render(request, "example/import.html", context)


@require_POST
def import_sample(request):
    form = PaceForm(request.POST, prefix="sample")
    form.full_clean()
    with resources.files("airportsdata").joinpath("airports.csv").open("rb") as file:
        return send_import(File(file, name="airports.csv"), form.pause_seconds)


def send_import(file, pause_seconds):
    # A worker may begin before `send` returns, so the row and the file it needs are saved first.
    source = Import.objects.create(name=file.name, file=file)
    message = tasks.import_rows.send(str(source.pk), pause_seconds)
    return redirect("import", message_id=message.message_id)


@require_http_methods(["GET", "HEAD", "POST"])
def export_page(request, message_id=None):
    form = PaceForm(request.POST if request.method == "POST" else None)
    row_count = Row.objects.filter(source__in=Import.finished.all()).count()
    if form.is_valid() and row_count:
        export = Export.objects.create()
        message = tasks.export_rows.send(str(export.pk), form.pause_seconds)
        return redirect("export", message_id=message.message_id)
    context = {
        "form": form,
        "message_id": message_id,
        "row_count": row_count,
        "code": source_of(tasks.export_rows),
    }
    return render(request, "example/export.html", context)


@require_GET
def download(request, export_id):
    export = get_object_or_404(Export, pk=export_id)
    try:
        file = export.path.open("rb")
    except FileNotFoundError:
        raise Http404("This export is not ready.") from None
    return FileResponse(file, as_attachment=True, filename="imported-rows.zip")


@require_http_methods(["GET", "HEAD", "POST"])
def queue_page(request):
    form = QueueForm(request.POST or None)
    if form.is_valid():
        sent = [tasks.small_job.send(form.cleaned_data["seconds"]) for _ in range(form.cleaned_data["jobs"])]
        ids = urlencode([("message", message.message_id) for message in sent])
        return redirect(f"{reverse('queue')}?{ids}")
    message_ids = filter(MESSAGE_ID.fullmatch, request.GET.getlist("message")[:SHOWN_JOBS])
    jobs = [(f"Job {number}", message_id) for number, message_id in enumerate(message_ids, start=1)]
    context = {"form": form, "jobs": jobs, "code": source_of(tasks.small_job)}
    return render(request, "example/queue.html", context)


@require_GET
def jobs_page(request):
    return render(request, "example/jobs.html")


@require_http_methods(["GET", "HEAD", "POST"])
def trouble_page(request, message_id=None):
    actors = {
        "retry": tasks.fail_twice,
        "message": tasks.fail_with_a_message,
        "exception": tasks.fail_for_good,
    }
    form = TroubleForm(request.POST or None)
    if form.is_valid():
        message = actors[form.cleaned_data["kind"]].send()
        return redirect("trouble", message_id=message.message_id)
    context = {"message_id": message_id, "code": "\n\n".join(map(source_of, actors.values()))}
    return render(request, "example/trouble.html", context)


def source_of(actor):
    """The code of an actor, for the page that shows it at work."""
    return inspect.getsource(inspect.unwrap(actor.fn))

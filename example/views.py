"""The pages of the example. Each has a form that sends a message, and shows the bar of that message.

After a message is sent, the browser is redirected to a URL with the message's id, so that a refresh shows the same bar.
"""

import inspect
from importlib import resources
from urllib.parse import urlencode

from django.core.files import File
from django.core.files.base import ContentFile
from django.http import FileResponse, Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dramatiq_progress import StoreUnavailable, progress_group
from dramatiq_progress.message_ids import MESSAGE_ID
from dramatiq_progress.views import read_mine

from . import tasks
from .forms import ImportForm, PaceForm, PhotosForm, QueueForm, TroubleForm
from .models import Export, Import, Photo, Row
from .pictures import draw
from .processes import can_restart_worker, restart_worker

SHOWN_IMPORTS = 5
SHOWN_JOBS = 10
PHOTO_COUNT = 60
# For the import that is interrupted by a restart: about 20 seconds.
RESTART_PAUSE_SECONDS = 0.3
DAMAGED_PHOTO = 9


@require_GET
def home(request):
    # The newest import of this visitor.
    imports = (job for job in jobs_of(request) or () if job.actor == tasks.import_rows.actor_name)
    return render(request, "example/home.html", {"job": next(imports, None)})


@require_http_methods(["GET", "HEAD", "POST"])
def import_page(request, message_id=None):
    form = ImportForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        message = send_import(form.cleaned_data["file"], form.pause_seconds)
        return redirect("import", message_id=message.message_id)
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
    message = send_sample(form.pause_seconds)
    if request.POST.get("from") == "home":
        return redirect("home")
    return redirect("import", message_id=message.message_id)


def send_sample(pause_seconds):
    with resources.files("airportsdata").joinpath("airports.csv").open("rb") as file:
        return send_import(File(file, name="airports.csv"), pause_seconds)


def send_import(file, pause_seconds):
    # A worker may start before `send` returns, so its row and file are saved first.
    source = Import.objects.create(name=file.name, file=file)
    return tasks.import_rows.send_with_options(args=(str(source.pk), pause_seconds), title=f"Import {file.name}")


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
        raise Http404("This export isn't ready.") from None
    return FileResponse(file, as_attachment=True, filename="imported-rows.zip")


@require_http_methods(["GET", "HEAD", "POST"])
def photos_page(request, message_id=None):
    form = PhotosForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        return send_photos(form.pause_seconds)
    context = {
        "form": form,
        "message_id": message_id,
        "photos": Photo.objects.filter(job=message_id) if message_id else (),
        "photo_count": PHOTO_COUNT,
        "code": f"{inspect.getsource(send_photos)}\n\n{source_of(tasks.resize_photo)}",
    }
    return render(request, "example/photos.html", context)


def send_photos(pause_seconds):
    photos = [Photo(number=number, file=photo_file(number)) for number in range(1, PHOTO_COUNT + 1)]
    messages = [tasks.resize_photo.message(str(photo.pk), pause_seconds) for photo in photos]
    job = progress_group(messages, title=f"Resize {len(photos)} photos", description="Resizing")
    for photo in photos:
        photo.job = job.message_id
    # Workers may start before `run` returns, so the photos are saved first.
    Photo.objects.bulk_create(photos)
    job.run()
    return redirect("photos", message_id=job.message_id)


def photo_file(number):
    content = draw(number)
    return ContentFile(content[100:] if number == DAMAGED_PHOTO else content, name=f"{number}.jpg")


@require_http_methods(["GET", "HEAD", "POST"])
def queue_page(request):
    form = QueueForm(request.POST or None)
    if form.is_valid():
        args = (form.cleaned_data["seconds"],)
        numbers = range(1, form.cleaned_data["jobs"] + 1)
        sent = [tasks.small_job.send_with_options(args=args, title=f"Job {number}") for number in numbers]
        ids = urlencode([("message", message.message_id) for message in sent])
        return redirect(f"{reverse('queue')}?{ids}")
    message_ids = list(filter(MESSAGE_ID.fullmatch, request.GET.getlist("message")[:SHOWN_JOBS]))
    context = {"form": form, "message_ids": message_ids, "code": source_of(tasks.small_job)}
    return render(request, "example/queue.html", context)


@require_GET
def jobs_page(request):
    jobs = jobs_of(request)
    context = {
        "is_unavailable": jobs is None,
        "running": [job for job in jobs or () if not job.complete],
        "ended": [job for job in jobs or () if job.complete],
    }
    return render(request, "example/jobs.html", context)


@require_GET
def schedules_page(request):
    code = "\n\n".join(source_of(actor) for actor in (tasks.count_rows, tasks.remove_leftovers))
    return render(request, "example/schedules.html", {"code": code})


@require_http_methods(["GET", "HEAD", "POST"])
def trouble_page(request, message_id=None):
    actors = {
        "retry": tasks.fail_twice,
        "message": tasks.fail_with_a_message,
        "exception": tasks.fail_with_an_exception,
    }
    form = TroubleForm(request.POST or None)
    if form.is_valid():
        kind = form.cleaned_data["kind"]
        if kind == "restart":
            restart_worker()
            return redirect(request.path)
        message = send_sample(RESTART_PAUSE_SECONDS) if kind == "import" else actors[kind].send()
        return redirect("trouble", message_id=message.message_id)
    context = {
        "message_id": message_id,
        "can_restart": can_restart_worker(),
        "code": "\n\n".join(map(source_of, (*actors.values(), tasks.import_rows))),
    }
    return render(request, "example/trouble.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def task_page(request, message_id=None):
    # Here, since Django has tasks from version 6.0 on only.
    from .django_tasks import count_countries

    if request.method == "POST":
        result = count_countries.enqueue()
        return redirect("task", message_id=result.id)
    context = {
        "message_id": message_id,
        "result": own_result(request, count_countries, message_id),
        "code": inspect.getsource(count_countries.func),
    }
    return render(request, "example/task.html", context)


def own_result(request, task, message_id):
    """Return the result of a task that this visitor has enqueued, None for others: its return value is private."""
    from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch

    if message_id not in {job.id for job in jobs_of(request) or ()}:
        return None
    try:
        return task.get_result(message_id)
    except (StoreUnavailable, TaskResultDoesNotExist, TaskResultMismatch):
        return None


def jobs_of(request):
    """Return the jobs of this visitor, newest first. None while the store is unavailable."""
    if not hasattr(request, "jobs"):
        try:
            request.jobs = read_mine(request)
        except StoreUnavailable:
            request.jobs = None
    return request.jobs


def running_count(request):
    """Return the number of this visitor's running and waiting jobs, for the header of every page."""
    return {"running_count": sum(not job.complete for job in jobs_of(request) or ())}


def source_of(actor):
    """Return the code of an actor, for the page that uses it."""
    return inspect.getsource(inspect.unwrap(actor.fn))

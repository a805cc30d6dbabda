"""The pages of the example, and the progress of its jobs at /progress/."""

import django
from django.conf import settings
from django.conf.urls.static import static
from django.urls import include, path, register_converter

from dramatiq_progress.message_ids import MESSAGE_ID

from . import views


class MessageIdConverter:
    """The id of a Dramatiq message in a URL."""

    regex = MESSAGE_ID.pattern

    def to_python(self, value):
        return value

    def to_url(self, value):
        return value


register_converter(MessageIdConverter, "message")

TASK_PAGES = (
    path("task/", views.task_page, name="task"),
    path("task/<message:message_id>/", views.task_page, name="task"),
)

urlpatterns = [
    path("progress/", include("dramatiq_progress.urls")),
    path("", views.home, name="home"),
    path("import/", views.import_page, name="import"),
    path("import/sample/", views.import_sample, name="import-sample"),
    path("import/<message:message_id>/", views.import_page, name="import"),
    path("export/", views.export_page, name="export"),
    path("export/<uuid:export_id>.zip", views.download, name="download"),
    path("export/<message:message_id>/", views.export_page, name="export"),
    path("photos/", views.photos_page, name="photos"),
    path("photos/<message:message_id>/", views.photos_page, name="photos"),
    path("queue/", views.queue_page, name="queue"),
    path("jobs/", views.jobs_page, name="jobs"),
    path("schedules/", views.schedules_page, name="schedules"),
    path("trouble/", views.trouble_page, name="trouble"),
    path("trouble/<message:message_id>/", views.trouble_page, name="trouble"),
    *(TASK_PAGES if django.VERSION >= (6, 0) else ()),
    *static(f"{settings.MEDIA_URL}thumbnails/", document_root=settings.MEDIA_ROOT / "thumbnails"),
]

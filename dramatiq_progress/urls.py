"""URLs of the views. A project includes them: ``path("progress/", include("dramatiq_progress.urls"))``."""

from django.urls import path

from . import views

app_name = "dramatiq_progress"
urlpatterns = [
    path("", views.listing, name="list"),
    path("stream/", views.stream, name="stream"),
    path("mine/", views.mine, name="mine"),
    path("<str:message_id>/", views.detail, name="detail"),
    path("<str:message_id>/cancel/", views.cancel, name="cancel"),
]

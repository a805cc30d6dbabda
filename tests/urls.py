"""The URLs of the tests: the package's own, where the README puts them."""

from django.urls import include, path

urlpatterns = [path("progress/", include("dramatiq_progress.urls"))]

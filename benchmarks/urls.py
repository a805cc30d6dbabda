"""The URLs that the servers of the benchmarks answer."""

from django.urls import include, path

urlpatterns = [path("progress/", include("dramatiq_progress.urls"))]

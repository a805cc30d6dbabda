"""The backend on a Django that has no tasks."""

from __future__ import annotations

import importlib

import pytest
from django.core.exceptions import ImproperlyConfigured


def test_an_older_django_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"requires Django 6\.0 or newer.*; this is Django 5\."):
        importlib.import_module("dramatiq_progress.backends")

"""System checks: what is wrong with the settings, told by ``manage.py check`` before a message is lost to sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string
from dramatiq import broker as dramatiq_broker
from dramatiq.middleware import AsyncIO, Pipelines, Retries

from .actors import is_asynchronous
from .errors import StoreUnavailable
from .middleware import ProgressMiddleware
from .permissions import cancel_permission, read_permission
from .requests import OwnerMiddleware
from .stores import get_store

Messages = list[checks.CheckMessage]
Apps = Sequence[AppConfig] | None


@checks.register("dramatiq_progress")
def check_broker(app_configs: Apps, **kwargs: Any) -> Messages:
    """The broker has the middleware that progress needs."""
    broker = dramatiq_broker.global_broker
    if broker is None:
        return [
            checks.Error(
                "There is no Dramatiq broker.",
                hint='Add "django_dramatiq" to INSTALLED_APPS and DRAMATIQ_BROKER to the settings.',
                id="dramatiq_progress.E001",
            )
        ]
    present = [type(each) for each in broker.middleware]
    found: Messages = []
    if not any(issubclass(each, ProgressMiddleware) for each in present):
        found.append(
            checks.Error(
                "The broker lacks ProgressMiddleware: no progress is recorded.",
                hint="Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "
                '"dramatiq_progress.middleware.ProgressMiddleware"',
                id="dramatiq_progress.E002",
            )
        )
    if not any(issubclass(each, Retries) for each in present):
        found.append(
            checks.Warning(
                "The broker lacks Retries: a message that fails is not tried again.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.Retries"',
                id="dramatiq_progress.W001",
            )
        )
    if not any(issubclass(each, Pipelines) for each in present):
        found.append(
            checks.Warning(
                "The broker lacks Pipelines: in a pipeline only the first message runs.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.Pipelines"',
                id="dramatiq_progress.W002",
            )
        )
    asynchronous = [name for name, actor in broker.actors.items() if is_asynchronous(actor)]
    if asynchronous and not any(issubclass(each, AsyncIO) for each in present):
        found.append(
            checks.Error(
                f"The broker lacks AsyncIO, which async actors need: {', '.join(sorted(asynchronous))}.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.AsyncIO"',
                id="dramatiq_progress.E005",
            )
        )
    return found


@checks.register("dramatiq_progress")
def check_urls(app_configs: Apps, **kwargs: Any) -> Messages:
    """The pages of the project can ask for progress."""
    try:
        reverse("dramatiq_progress:detail", args=["id"])
    except NoReverseMatch:
        return [
            checks.Warning(
                "The URLs of dramatiq_progress are not included: bars have nowhere to ask.",
                hint='Add to the project\'s urls.py: path("progress/", include("dramatiq_progress.urls"))',
                id="dramatiq_progress.W003",
            )
        ]
    except ImproperlyConfigured:
        return []  # raised by a module that the URLs import, such as one with actors; Django's check of URLs says so
    return []


@checks.register("dramatiq_progress")
def check_settings(app_configs: Apps, **kwargs: Any) -> Messages:
    """``DRAMATIQ_PROGRESS`` can be read, its store can be made, and its permissions can be asked."""
    try:
        get_store()
        read_permission()
        cancel_permission()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="dramatiq_progress.E003")]
    return []


@checks.register("dramatiq_progress", deploy=True)
def check_owners(app_configs: Apps, **kwargs: Any) -> Messages:
    """Whether requests can send messages that belong to nobody; a hint, since a site may want that."""
    if any(_is_owner_middleware(path) for path in settings.MIDDLEWARE):
        return []
    return [
        checks.Info(
            "Messages may be sent without an owner: whoever knows the id of one may read its progress.",
            hint='Add "dramatiq_progress.requests.OwnerMiddleware" to MIDDLEWARE, or see that all is sent inside '
            "owned_by(request), or set PERMISSION; then silence this.",
            id="dramatiq_progress.I001",
        )
    ]


def _is_owner_middleware(path: str) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False  # the server says so when it starts
    return isinstance(found, type) and issubclass(found, OwnerMiddleware)


@checks.register("dramatiq_progress", deploy=True)
def check_store(app_configs: Apps, **kwargs: Any) -> Messages:
    """The store answers. Asked only with ``--deploy``, since other checks reach for no network."""
    try:
        get_store().ping()
    except ImproperlyConfigured:
        return []  # check_settings says so
    except StoreUnavailable as error:
        return [
            checks.Error(
                f"The progress store does not answer. {error}",
                hint="See that it runs, and that its address, names and passwords are right: in "
                'DRAMATIQ_PROGRESS["OPTIONS"] (in its "sentinel_kwargs" for Sentinels), or else in the broker\'s.',
                id="dramatiq_progress.E004",
            )
        ]
    return []

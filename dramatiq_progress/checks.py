"""System checks: ``manage.py check`` reports mistakes in the configuration before messages run without progress."""

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
from dramatiq.middleware import AsyncIO, Middleware, Pipelines, Retries

from .actors import is_asynchronous
from .error_texts import show
from .errors import StoreUnavailable
from .middleware import ProgressMiddleware
from .permissions import uncallable_permissions
from .requests import OwnerMiddleware
from .scheduler.targets import is_tracked, misfit
from .schedules import live_schedulers
from .schedules.declaring import find_schedules, module_to_import, name_of
from .stores import get_store

Messages = list[checks.CheckMessage]
Apps = Sequence[AppConfig] | None


@checks.register("dramatiq_progress")
def check_broker(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that the broker has the middleware that progress requires."""
    broker = dramatiq_broker.global_broker
    if broker is None:
        return [
            checks.Error(
                "No Dramatiq broker is configured.",
                hint='Add "django_dramatiq" to INSTALLED_APPS and DRAMATIQ_BROKER to the settings.',
                id="dramatiq_progress.E001",
            )
        ]
    present = [type(each) for each in broker.middleware]
    found: Messages = []
    if not any(issubclass(each, ProgressMiddleware) for each in present):
        found.append(
            checks.Error(
                "The broker doesn't have ProgressMiddleware, so no progress is recorded.",
                hint="Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "
                '"dramatiq_progress.middleware.ProgressMiddleware"',
                id="dramatiq_progress.E002",
            )
        )
    if not any(issubclass(each, Retries) for each in present):
        found.append(
            checks.Warning(
                "The broker doesn't have the Retries middleware, so failed messages are not retried.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.Retries"',
                id="dramatiq_progress.W001",
            )
        )
    if not any(issubclass(each, Pipelines) for each in present):
        found.append(
            checks.Warning(
                "The broker doesn't have the Pipelines middleware, so only the first message of a pipeline runs.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.Pipelines"',
                id="dramatiq_progress.W002",
            )
        )
    asynchronous = [name for name, actor in broker.actors.items() if is_asynchronous(actor)]
    if asynchronous and not any(issubclass(each, AsyncIO) for each in present):
        found.append(
            checks.Error(
                f"The broker doesn't have the AsyncIO middleware, which async actors require: "
                f"{', '.join(sorted(asynchronous))}.",
                hint='Add this line to the MIDDLEWARE of DRAMATIQ_BROKER: "dramatiq.middleware.AsyncIO"',
                id="dramatiq_progress.E005",
            )
        )
    return found


@checks.register("dramatiq_progress")
def check_urls(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that the project's URLs include those of the package."""
    try:
        reverse("dramatiq_progress:detail", args=["id"])
    except NoReverseMatch:
        return [
            checks.Warning(
                "The URLs of dramatiq_progress are not included, so bars can't poll.",
                hint='Add to the project\'s urls.py: path("progress/", include("dramatiq_progress.urls"))',
                id="dramatiq_progress.W003",
            )
        ]
    except ImproperlyConfigured:
        return []  # A module that the URLs import raises it, such as one with actors; Django's URL check reports it.
    return []


@checks.register("dramatiq_progress")
def check_settings(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that ``DRAMATIQ_PROGRESS`` is valid: its values, its store and its permissions."""
    try:
        get_store()
        uncallable = uncallable_permissions()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="dramatiq_progress.E003")]
    return [
        checks.Error(
            f'DRAMATIQ_PROGRESS["{key}"] can\'t be called with a request and a Progress, and the argument of a tuple: '
            f"{show(function)}.",
            hint="Declare it as def permission(request, progress), or in a tuple as "
            "def permission(request, progress, argument).",
            id="dramatiq_progress.E003",
        )
        for key, function in uncallable.items()
    ]


@checks.register("dramatiq_progress", deploy=True)
def check_owners(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that messages have owners. Only a hint: a project may want messages without one."""
    if any(_is_class(path, OwnerMiddleware) for path in settings.MIDDLEWARE):
        return []
    return [
        checks.Info(
            "Requests can send messages without an owner, whose progress every client that knows the id may read.",
            hint='Add "dramatiq_progress.requests.OwnerMiddleware" to MIDDLEWARE. Or send all messages inside '
            "owned_by(request), or set PERMISSION, and silence this check.",
            id="dramatiq_progress.I001",
        )
    ]


@checks.register("dramatiq_progress")
def check_middleware(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that Django's ``MIDDLEWARE`` has none of Dramatiq's."""
    return [
        checks.Error(
            f"MIDDLEWARE has {path!r}, which is Dramatiq middleware, so no request can be served.",
            hint=f'Move this line to the MIDDLEWARE of DRAMATIQ_BROKER: "{path}"',
            id="dramatiq_progress.E006",
        )
        for path in settings.MIDDLEWARE
        if _is_class(path, Middleware)
    ]


def _is_class(path: str, wanted: type) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False  # The server reports it when it starts.
    return isinstance(found, type) and issubclass(found, wanted)


@checks.register("dramatiq_progress", deploy=True)
def check_store(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that the store answers. Only with ``--deploy``, since other checks use no network."""
    try:
        get_store().ping()
    except ImproperlyConfigured:
        return []  # check_settings reports it.
    except Exception as error:  # redis-py accepts some options of the wrong type until it connects
        reason = str(error) if isinstance(error, StoreUnavailable) else f"{type(error).__name__}: {error}"
        return [
            checks.Error(
                f"The progress store is unavailable: {reason}",
                hint="Check that it is running, and that its address, username and password are correct: in "
                'DRAMATIQ_PROGRESS["OPTIONS"] ("sentinel_kwargs" for Sentinels), or in the broker\'s options.',
                id="dramatiq_progress.E004",
            )
        ]
    return []


@checks.register("dramatiq_progress")
def check_schedules(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that the schedules which code and settings declare are valid. It imports the modules with actors."""
    try:
        schedules, problems = find_schedules()
    except ImproperlyConfigured:
        return []  # check_broker or check_settings reports it.
    except Exception as error:  # whatever the project's modules raise
        return [
            checks.Warning(
                f"The schedules can't be checked, since a module with actors can't be imported: "
                f"{type(error).__name__}: {error}",
                hint="Run manage.py runscheduler, which shows where it is raised.",
                id="dramatiq_progress.W007",
            )
        ]
    found: Messages = [checks.Error(each.text, hint=each.hint, id=f"dramatiq_progress.{each.id}") for each in problems]
    found += [
        checks.Error(
            f'The schedule {each.name!r} has overlap="skip", but nothing says whether its last message has finished.',
            hint="Declare its actor with @progress_actor. A task needs a backend that has results.",
            id="dramatiq_progress.E011",
        )
        for each in schedules
        if each.overlap == "skip" and not is_tracked(each.target)
    ]
    found += [
        checks.Warning(
            f"Each message of the schedule {each.name!r} will fail: its args={show(each.args)} and "
            f"kwargs={show(each.kwargs)} don't fit {name_of(each.target)}: {reason}.",
            hint="Give the schedule other args or kwargs. If a decorator of the function adds some, silence this "
            "check.",
            id="dramatiq_progress.W008",
        )
        for each in schedules
        if (reason := misfit(each.target, each.args, each.kwargs))
    ]
    found += [
        checks.Warning(
            f"Workers will reject each message of the schedule {each.name!r}: they don't import {module}, so they "
            f"don't know the actor {name_of(each.target)}.",
            hint=f'Add "import {module}" to a module that rundramatiq imports, such as a tasks.py. If workers import '
            "it in another way, silence this check.",
            id="dramatiq_progress.W009",
        )
        for each in schedules
        if (module := module_to_import(each.target))
    ]
    return found


@checks.register("dramatiq_progress", deploy=True)
def check_schedulers(app_configs: Apps, **kwargs: Any) -> Messages:
    """Check that a scheduler is running, if there are schedules."""
    try:
        schedules, _ = find_schedules()
        if not any(each.enabled for each in schedules) or live_schedulers():
            return []
    except Exception:  # check_schedules and check_store report it.
        return []
    return [
        checks.Warning(
            "There are schedules, but no scheduler is running, so nothing is sent.",
            hint="Run manage.py runscheduler as a service, as you do with rundramatiq. Any number of them may run.",
            id="dramatiq_progress.W006",
        )
    ]

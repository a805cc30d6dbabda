"""`scheduled` and the setting ``SCHEDULES``: what code and settings declare, merged by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from io import StringIO
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from dramatiq import Actor
from dramatiq import broker as dramatiq_broker

from dramatiq_progress.conf import SETTING_NAME, configuration
from dramatiq_progress.error_texts import show

from .options import DEFAULT_GRACE, OPTIONS, WHEN, Missed, Overlap, Schedule, build_schedule, is_name

T = TypeVar("T")

#: The options of a schedule in the settings.
_ALLOWED = ("send", "enabled", *OPTIONS)


class Problem(NamedTuple):
    """A mistake in the declarations.

    Attributes:
      id: The id of its system check.
      text: What is wrong.
      hint: The repair.
    """

    id: str
    text: str
    hint: str


class _Declaration(NamedTuple):
    target: Any
    name: str
    options: dict[str, Any]


#: What code has declared.
_declared: list[_Declaration] = []

#: The actors that the settings name and workers don't have, with the modules that workers don't import. They are kept,
#: since this process imports such a module, and then has its actors too.
_unknown_to_workers: dict[str, str] = {}


def scheduled(
    *positional: object,
    cron: str | None = None,
    every: float | timedelta | None = None,
    at: datetime | None = None,
    trigger: Any = None,
    timezone: str | None = None,
    name: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    missed: Missed = "once",
    grace: float | timedelta = DEFAULT_GRACE,
    overlap: Overlap = "allow",
) -> Callable[[T], T]:
    """Send an actor or a task again and again: ``@scheduled(cron="0 3 * * *")``, above ``@progress_actor``.

    It needs at least one ``manage.py runscheduler``. Exactly one of `cron`, `every`, `at` and `trigger` is given.

    Parameters:
      cron: Five fields, by the rules of Debian's cron, or ``@daily`` and the like.
      every: An interval, as whole seconds or a timedelta. It is counted from the epoch.
      at: One moment.
      trigger: A trigger of APScheduler 3.
      timezone: The time zone's IANA name. Defaults to ``TIME_ZONE``. A trigger has a time zone of its own.
      name: The schedule's name. Defaults to the actor's name, or the task's path.
      args: Positional arguments of each message.
      kwargs: Keyword arguments of each message.
      missed: What is sent after an outage: ``"once"`` (the latest tick that was missed), ``"all"`` (at most 100) or
        ``"skip"`` (none that is more than 60 s late).
      grace: Seconds, or a timedelta, after which a tick is too late to be sent.
      overlap: ``"skip"`` skips a tick while the last message hasn't finished, for at most a day. That needs an actor
        that is declared with `progress_actor`, or a task whose backend has results.

    Returns:
      A decorator that returns what it decorates. It may be repeated, with a name for each.

    Raises:
      ValueError: An option is invalid.
      TypeError: Something other than an actor or a task is decorated, or the options aren't named.
    """
    if positional:
        raise TypeError(
            f'scheduled({show(positional[0])}): name its options, as in @scheduled(cron="0 3 * * *") or '
            "@scheduled(every=60)."
        )
    given = {"cron": cron, "every": every, "at": at, "trigger": trigger}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options |= {"timezone": timezone, "args": args, "kwargs": kwargs or {}, "missed": missed}
    options |= {"grace": grace, "overlap": overlap}
    # TIME_ZONE isn't known while Django isn't set up; whether an expression is valid doesn't depend on it.
    build_schedule("", None, options, default_zone="UTC")

    def declare(target: T) -> T:
        if not is_target(target):
            raise TypeError(
                f"scheduled() decorates an actor or a task, not {show(target)}. Put @scheduled(…) above "
                "@progress_actor, @dramatiq.actor or @task."
            )
        chosen = name_of(target) if name is None else name
        if not is_name(chosen):
            raise ValueError(
                f"name={show(chosen)} has white space, is empty, or has more than 200 characters. Use one such as "
                'name="nightly-report".'
            )
        _declared.append(_Declaration(target, chosen, options))
        return target

    return declare


def is_target(target: object) -> bool:
    """Return whether a schedule can send this: an actor of Dramatiq's, or a task of Django's."""
    return isinstance(target, Actor) or (hasattr(target, "module_path") and hasattr(target, "get_backend"))


def name_of(target: Any) -> str:
    """Return the name of an actor, or the path of a task."""
    return str(target.actor_name if isinstance(target, Actor) else target.module_path)


def find_schedules() -> tuple[list[Schedule], list[Problem]]:
    """Return the schedules that code and settings declare, by name, and the mistakes in their declarations.

    It imports the modules that workers import. An error in one of them is raised.

    Raises:
      ImproperlyConfigured: No Dramatiq broker is configured, or `configuration` raises it.
    """
    known = _import_tasks()
    problems: list[Problem] = []
    declared: dict[str, _Declaration] = {}
    for each in _declared:
        if each.name in declared:
            problems.append(_duplicate(declared[each.name], each))
        declared.setdefault(each.name, each)
    overrides: dict[str, Any] = configuration().schedules
    found: list[Schedule] = []
    for name in sorted({*declared, *overrides}, key=str):
        made = _make(name, declared.get(name), overrides.get(name, {}))
        if isinstance(made, Problem):
            problems.append(made)
        else:
            found.append(made)
            if "send" in overrides.get(name, {}):
                _note_unknown(made.target, overrides[name]["send"], known)
    return found, problems


def module_to_import(target: Any) -> str:
    """Return the module with an actor that workers don't import, for a schedule of `find_schedules`. Empty without one.

    A worker imports the module of a task of Django's when it runs the task.
    """
    return _unknown_to_workers.get(target.actor_name, "") if isinstance(target, Actor) else ""


def valid_schedules() -> list[Schedule]:
    """Return the schedules that code and settings declare, by name.

    Raises:
      ImproperlyConfigured: A declaration is wrong.
    """
    found, problems = find_schedules()
    if problems:
        raise ImproperlyConfigured(" ".join(f"{each.text} {each.hint}" for each in problems))
    return found


def _import_tasks() -> frozenset[str]:
    """Import the modules that workers import. Return the names of the actors that workers then have."""
    broker = dramatiq_broker.global_broker
    if broker is None:
        # The first actor would set Dramatiq's default broker, which the project hasn't configured.
        raise ImproperlyConfigured(
            "No Dramatiq broker is configured. "
            'Add "django_dramatiq" to INSTALLED_APPS and DRAMATIQ_BROKER to the settings.'
        )
    # As workers do, with the settings of django-dramatiq that name modules. Its first one only sets up Django.
    from django_dramatiq.management.commands.rundramatiq import Command

    for module in Command(stdout=StringIO()).discover_tasks_modules()[1:]:
        import_module(module)
    return frozenset(broker.actors)


def _note_unknown(target: Any, path: object, known: frozenset[str]) -> None:
    """Note an actor that a schedule in the settings sends, if workers don't have it."""
    is_theirs = isinstance(target, Actor) and target.broker is dramatiq_broker.global_broker
    if is_theirs and isinstance(path, str) and target.actor_name not in known:
        _unknown_to_workers[target.actor_name] = path.rpartition(".")[0]


def _duplicate(first: _Declaration, second: _Declaration) -> Problem:
    return Problem(
        "E008",
        f"Two schedules have the name {first.name!r}: one sends {name_of(first.target)}, the other "
        f"{name_of(second.target)}.",
        'Give one of them another name: @scheduled(…, name="…").',
    )


def _make(name: Any, declaration: _Declaration | None, override: Any) -> Schedule | Problem:
    where = f'{SETTING_NAME}["SCHEDULES"][{show(name)}]'
    if not isinstance(override, dict):
        return Problem("E010", f"{where} is not a dict.", f"Its keys are {', '.join(_ALLOWED)}.")
    unknown = set(override) - set(_ALLOWED)
    if unknown or not is_name(name):
        if unknown:
            what = f"has no option {', '.join(sorted(map(repr, unknown)))}"
            return Problem("E010", f"{where} {what}.", f"The options are {', '.join(_ALLOWED)}.")
        repair = "A name is a string of 1 to 200 characters without white space: use - or _ instead."
        return Problem("E010", f"{where}: {show(name)} is not a name.", repair)
    given = {key: value for key, value in override.items() if key in OPTIONS}
    options = dict(declaration.options) if declaration else {}
    if any(key in given for key in WHEN):
        # It replaces the declared one, whichever that is.
        options = {key: value for key, value in options.items() if key not in WHEN}
        if "trigger" in given:
            # The declared zone was that of the declared times. A trigger has its own.
            options.pop("timezone", None)
    target, reason = declaration.target if declaration else None, 'has no "send", and no @scheduled(…) has that name'
    if "send" in override:
        target, reason = _import_target(override["send"])
    if target is None:
        repair = 'Set "send" to the dotted path of an actor or a task, such as "shop.tasks.clear_sessions".'
        return Problem("E009", f"{where} {reason}.", repair)
    try:
        return build_schedule(
            name, target, {**options, **given}, default_zone=settings.TIME_ZONE, enabled=override.get("enabled", True)
        )
    except ValueError as error:
        return Problem("E010", f"{where}: {error}", f"The options are {', '.join(_ALLOWED)}.")


def _import_target(path: object) -> tuple[Any, str]:
    """Return the actor or task with this dotted path, or None and the reason why there is none."""
    try:
        target = import_string(path) if isinstance(path, str) else path
    except ImportError as error:
        return None, f"sends {show(path)}, which can't be imported: {error}"
    return (target, "") if is_target(target) else (None, f"sends {show(path)}, which is neither an actor nor a task")

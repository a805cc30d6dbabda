"""Who may read a message, and who may cancel it: the permissions of the settings, and those that come ready-made.

A permission is a function, or an async one, that takes a request and a `Progress` and says yes or no; one that raises
`PermissionDenied` says no. `dramatiq_progress.views` asks for each message before it says anything of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest
from django.utils.module_loading import import_string

from .conf import SETTING_NAME, configuration, masked
from .links import linked_ids
from .owners import owners_of
from .progress import Progress

Permission = Callable[[HttpRequest, Progress], bool | Awaitable[bool]]


def anyone_with_link(request: HttpRequest, progress: Progress) -> bool:
    """Whoever knows the message's id, which has 122 random bits."""
    return True


def owner(request: HttpRequest, progress: Progress) -> bool:
    """The owner of the message; one without owner may be read by whoever knows its id."""
    return not progress.owner or is_owner(request, progress)


def owner_or_staff(request: HttpRequest, progress: Progress) -> bool:
    """The owner of the message and staff; one without owner may be read by whoever knows its id. The default."""
    return owner(request, progress) or is_staff(request)


def staff(request: HttpRequest, progress: Progress) -> bool:
    """Active users with ``is_staff``."""
    return is_staff(request)


def django_permission(request: HttpRequest, progress: Progress, name: str) -> bool:
    """Users with a permission of Django's: ``("dramatiq_progress.permissions.django_permission", "shop.view_job")``."""
    user = getattr(request, "user", None)
    return user is not None and bool(user.has_perm(name))


def is_owner(request: HttpRequest, progress: Progress) -> bool:
    """Whether the message belongs to whoever asks: to the user, or to the visitor they were before they logged in."""
    return progress.owner in owners_of(request)


def is_staff(request: HttpRequest) -> bool:
    """Whether an active user with ``is_staff`` asks."""
    user = getattr(request, "user", None)
    return user is not None and bool(user.is_active and user.is_staff)


def may_read(request: HttpRequest, progress: Progress) -> bool:
    """Whether this request may read a message: by ``DRAMATIQ_PROGRESS["PERMISSION"]``, or by a signed link.

    Not in an event loop's thread.
    """
    return bool(readable(request, [progress]))


def may_cancel(request: HttpRequest, progress: Progress) -> bool:
    """Whether ``DRAMATIQ_PROGRESS["CANCEL_PERMISSION"]`` lets this request cancel a message that it may read.

    By default whoever may read a message that has an owner, and staff only where there is none. That anyone may read
    it who has the link lets nobody cancel it: then its owner and staff may. A signed link never counts. Not in an event
    loop's thread.
    """
    return _may_cancel(request, [progress]) == [True]


def cancellable(request: HttpRequest, messages: Sequence[Progress]) -> set[str]:
    """The ids of those of some messages that this request may cancel, as they are now."""
    asked = [progress for progress in messages if progress.can_cancel]
    return {progress.id for progress, is_allowed in zip(asked, _may_cancel(request, asked), strict=True) if is_allowed}


def readable(request: HttpRequest, found: Sequence[Progress | None]) -> list[Progress]:
    """Those of some messages that this request may read. Not in an event loop's thread."""
    there = [progress for progress in found if progress is not None]
    permission = read_permission()
    if permission is anyone_with_link:
        return there
    linked = linked_ids(request)
    asked = [progress for progress in there if progress.id not in linked]
    allowed = dict(zip([progress.id for progress in asked], _ask(permission, request, asked), strict=True))
    shown = [progress for progress in there if allowed.get(progress.id, True)]
    if len(shown) < max(1, len(found)):
        # Not there and not allowed are to be one answer, down to its headers: a session that was looked at leaves
        # `Vary: Cookie`, and one that has expired has its cookie taken away.
        owners_of(request)
    return shown


def depending_on_who_asks(request: HttpRequest, messages: Sequence[Progress]) -> list[Progress]:
    """Those of some messages of which it takes a session or a user to say if they may be read. It asks for neither."""
    permission = read_permission()
    if permission is anyone_with_link:
        return []
    linked = linked_ids(request)
    is_for_owners = permission in (owner, owner_or_staff)
    return [each for each in messages if each.id not in linked and (each.owner or not is_for_owners)]


def read_permission() -> Permission:
    """What the setting ``PERMISSION`` names.

    Raises:
      ImproperlyConfigured: It cannot be imported, or is no function.
    """
    return _resolve("PERMISSION", configuration().permission) or owner_or_staff


def cancel_permission() -> Permission | None:
    """What the setting ``CANCEL_PERMISSION`` names; None: the default.

    Raises:
      ImproperlyConfigured: It cannot be imported, or is no function.
    """
    return _resolve("CANCEL_PERMISSION", configuration().cancel_permission)


def _may_cancel(request: HttpRequest, messages: Sequence[Progress]) -> list[bool]:
    permissions = (cancel_permission() or _cancel_by_default, read_permission())
    answers = (_ask(permission, request, messages) for permission in permissions)
    return [all(each) for each in zip(*answers, strict=True)]


def _cancel_by_default(request: HttpRequest, progress: Progress) -> bool:
    if not progress.owner:
        return is_staff(request)
    return read_permission() is not anyone_with_link or owner_or_staff(request, progress)


def _resolve(key: str, given: Any) -> Permission | None:
    path, *arguments = given if isinstance(given, tuple | list) else (given,)
    if path is None:
        return None
    try:
        found = import_string(path) if isinstance(path, str) else path
    except ImportError as error:
        said = f'{SETTING_NAME}["{key}"] is {path!r}, which cannot be imported: {error}'
        raise ImproperlyConfigured(masked(said)) from None
    if not callable(found):
        raise ImproperlyConfigured(f'{SETTING_NAME}["{key}"] is {path!r:.80}, which is no function.')
    return _with_argument(found, arguments[0]) if arguments else found


def _with_argument(function: Callable[..., Any], argument: Any) -> Permission:
    return lambda request, progress: function(request, progress, argument)


def _ask(permission: Permission, request: HttpRequest, messages: Sequence[Progress]) -> list[bool]:
    answers = [_answer(partial(permission, request, progress)) for progress in messages]
    if any(inspect.isawaitable(answer) for answer in answers):
        # One event loop for all of them.
        return async_to_sync(_settle)(answers)
    return [bool(answer) for answer in answers]


def _answer(ask: Callable[[], bool | Awaitable[bool]]) -> bool | Awaitable[bool]:
    try:
        return ask()
    except PermissionDenied:
        return False


async def _settle(answers: Sequence[bool | Awaitable[bool]]) -> list[bool]:
    return [await _settled(answer) for answer in answers]


async def _settled(answer: bool | Awaitable[bool]) -> bool:
    try:
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except PermissionDenied:
        return False

"""The permissions to read, to cancel and to pause messages: those of the settings, and ready-made ones.

A permission is a function, sync or async, that takes a request and a `Progress`, and returns whether access is allowed.
Raising `PermissionDenied`, or any other exception, denies it. Permissions are checked per message, and never while a
lock of this package is held.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest
from django.utils.module_loading import import_string

from .conf import SETTING_NAME, configuration
from .error_texts import masked, show
from .links import linked_ids
from .owners import owners_of
from .progress import Progress

Permission = Callable[[HttpRequest, Progress], bool | Awaitable[bool]]

logger = logging.getLogger(__name__)


def anyone_with_link(request: HttpRequest, progress: Progress) -> bool:
    """Allow every client that knows the message's id, which has 122 random bits."""
    return True


def owner(request: HttpRequest, progress: Progress) -> bool:
    """Allow the owner of the message. Without an owner, allow every client that knows its id."""
    return not progress.owner or is_owner(request, progress)


def owner_or_staff(request: HttpRequest, progress: Progress) -> bool:
    """Allow the owner of the message, and staff. Without one, allow every client that knows its id."""
    return owner(request, progress) or is_staff(request)


def staff(request: HttpRequest, progress: Progress) -> bool:
    """Allow active users with ``is_staff``."""
    return is_staff(request)


def django_permission(request: HttpRequest, progress: Progress, name: str) -> bool:
    """Allow users with a Django permission.

    The setting is ``("dramatiq_progress.permissions.django_permission", "shop.view_job")``.
    """
    user = getattr(request, "user", None)
    return user is not None and bool(user.has_perm(name))


def is_owner(request: HttpRequest, progress: Progress) -> bool:
    """Whether the request's user owns the message, or sent it as a visitor before logging in."""
    return progress.owner in owners_of(request)


def is_staff(request: HttpRequest) -> bool:
    """Whether the request's user is active and has ``is_staff``."""
    user = getattr(request, "user", None)
    # A user model without the admin may lack `is_staff`.
    return user is not None and bool(user.is_active and getattr(user, "is_staff", False))


def may_read(request: HttpRequest, progress: Progress) -> bool:
    """Whether the request may read a message: by ``DRAMATIQ_PROGRESS["PERMISSION"]``, or by a signed link.

    Don't call it in an event loop's thread.
    """
    return bool(readable(request, [progress]))


def may_cancel(request: HttpRequest, progress: Progress) -> bool:
    """Whether the request may cancel a message: by ``DRAMATIQ_PROGRESS["CANCEL_PERMISSION"]`` and ``["PERMISSION"]``.

    By default, every user who may read a message with an owner may cancel it. If `anyone_with_link` may read it, only
    its owner and staff may. Without an owner, only staff may. A signed link doesn't count. Don't call it in an event
    loop's thread.
    """
    return _may_cancel(request, [progress]) == [True]


def may_pause(request: HttpRequest, progress: Progress) -> bool:
    """Whether the request may pause and resume a message: by ``["PAUSE_PERMISSION"]`` and ``["PERMISSION"]``.

    For views of a project: no view of this package pauses messages. The default is that of `may_cancel`, without its
    setting. Don't call it in an event loop's thread.
    """
    permission = _resolve("PAUSE_PERMISSION", configuration().pause_permission)
    return _may_change(permission, request, [progress]) == [True]


def cancellable_ids(request: HttpRequest, messages: Sequence[Progress]) -> set[str]:
    """Return the ids of the messages that can be cancelled now, and that the request may cancel.

    Parameters:
      messages: Messages that `readable` has returned for this request; only those that were readable by a signed link
        are checked for ``PERMISSION`` again.
    """
    checked = [progress for progress in messages if progress.can_cancel]
    linked = linked_ids(request)
    by_link = [progress for progress in checked if progress.id in linked]
    others = [progress for progress in checked if progress.id not in linked]
    allowed = [
        *zip(by_link, _may_cancel(request, by_link), strict=True),
        *zip(others, _check(cancel_permission() or _change_by_default, request, others), strict=True),
    ]
    return {progress.id for progress, is_allowed in allowed if is_allowed}


def readable(request: HttpRequest, messages: Sequence[Progress | None]) -> list[Progress]:
    """Return the messages that exist and that the request may read. Don't call it in an event loop's thread."""
    existing = [progress for progress in messages if progress is not None]
    permission = read_permission()
    if permission is anyone_with_link:
        return existing
    linked = linked_ids(request)
    checked = [progress for progress in existing if progress.id not in linked]
    allowed = dict(zip([progress.id for progress in checked], _check(permission, request, checked), strict=True))
    found = [progress for progress in existing if allowed.get(progress.id, True)]
    if len(found) < max(1, len(messages)):
        # "Doesn't exist" and "not allowed" must be the same response, including headers: reading the session adds
        # `Vary: Cookie`, and an expired one deletes its cookie.
        owners_of(request)
    return found


def identity_dependent(request: HttpRequest, messages: Sequence[Progress]) -> list[Progress]:
    """Return the messages whose read permission depends on the session or the user. Neither is accessed for this."""
    permission = read_permission()
    if permission is anyone_with_link:
        return []
    linked = linked_ids(request)
    needs_owner = permission in (owner, owner_or_staff)
    return [each for each in messages if each.id not in linked and (each.owner or not needs_owner)]


def read_permission() -> Permission:
    """Return the permission that the setting ``PERMISSION`` names.

    Raises:
      ImproperlyConfigured: It can't be imported, or isn't a function.
    """
    return _resolve("PERMISSION", configuration().permission) or owner_or_staff


def cancel_permission() -> Permission | None:
    """Return the permission that the setting ``CANCEL_PERMISSION`` names. None: the default.

    Raises:
      ImproperlyConfigured: It can't be imported, or isn't a function.
    """
    return _resolve("CANCEL_PERMISSION", configuration().cancel_permission)


def uncallable_permissions() -> dict[str, Callable[..., Any]]:
    """Return the functions in the settings that don't accept a request, a `Progress` and the argument of a tuple.

    Returns:
      Functions by the key of their setting.

    Raises:
      ImproperlyConfigured: One can't be imported, or isn't a function.
    """
    settings = configuration()
    given = {
        "PERMISSION": settings.permission,
        "CANCEL_PERMISSION": settings.cancel_permission,
        "PAUSE_PERMISSION": settings.pause_permission,
    }
    found = {key: _function_of(key, value) for key, value in given.items() if value is not None}
    return {key: function for key, (function, arguments) in found.items() if not _accepts(function, arguments)}


def _may_cancel(request: HttpRequest, messages: Sequence[Progress]) -> list[bool]:
    return _may_change(cancel_permission(), request, messages)


def _may_change(permission: Permission | None, request: HttpRequest, messages: Sequence[Progress]) -> list[bool]:
    permissions = (permission or _change_by_default, read_permission())
    answers = (_check(permission, request, messages) for permission in permissions)
    return [all(each) for each in zip(*answers, strict=True)]


def _change_by_default(request: HttpRequest, progress: Progress) -> bool:
    if not progress.owner:
        return is_staff(request)
    return read_permission() is not anyone_with_link or owner_or_staff(request, progress)


def _resolve(key: str, value: Any) -> Permission | None:
    if value is None:
        return None
    function, arguments = _function_of(key, value)
    return (lambda request, progress: function(request, progress, *arguments)) if arguments else function


def _function_of(key: str, value: Any) -> tuple[Callable[..., Any], list[Any]]:
    path, *arguments = value if isinstance(value, tuple | list) else (value,)
    try:
        found = import_string(path) if isinstance(path, str) else path
    except ImportError as error:
        text = f'{SETTING_NAME}["{key}"] is {show(path)}, which can\'t be imported: {error}'
        raise ImproperlyConfigured(masked(text)) from None
    # An instance of a class would allow everything, since it is true.
    if not callable(found) or isinstance(found, type):
        raise ImproperlyConfigured(f'{SETTING_NAME}["{key}"] is {show(path)}, which isn\'t a function.')
    return found, arguments


def _accepts(function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    try:
        # Of a decorated function, the decorator's: that is what is called.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # a function in C has no signature
        return True
    try:
        signature.bind(None, None, *arguments)
    except TypeError:
        return False
    return True


def _check(permission: Permission, request: HttpRequest, messages: Sequence[Progress]) -> list[bool]:
    answers = [_call(permission, request, progress) for progress in messages]
    if any(inspect.isawaitable(answer) for answer in answers):
        # One event loop for all messages.
        return async_to_sync(_await_all)(messages, answers)
    return [bool(answer) for answer in answers]


def _call(permission: Permission, request: HttpRequest, progress: Progress) -> bool | Awaitable[bool]:
    try:
        answer = permission(request, progress)
        return answer if inspect.isawaitable(answer) else bool(answer)
    except Exception as error:
        return _denied(progress, error)


async def _await_all(messages: Sequence[Progress], answers: Sequence[bool | Awaitable[bool]]) -> list[bool]:
    pairs = zip(messages, answers, strict=True)
    return await asyncio.gather(*[_await(progress, answer) for progress, answer in pairs])


async def _await(progress: Progress, answer: bool | Awaitable[bool]) -> bool:
    try:
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except Exception as error:
        return _denied(progress, error)


def _denied(progress: Progress, error: Exception) -> bool:
    if not isinstance(error, PermissionDenied):
        # Not raised: one message must not keep the others of a list from being shown, and an error for a message that
        # exists would tell it apart from one that doesn't.
        logger.error(
            "A permission failed for message %s; denying access to it. Check the functions in PERMISSION, "
            "CANCEL_PERMISSION and PAUSE_PERMISSION.",
            progress.id,
            exc_info=error,
        )
    return False

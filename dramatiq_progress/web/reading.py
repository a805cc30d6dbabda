"""From a request to the messages that it names and may read: the one place where views read the store.

A stream's later readings are those of `streams.hub`, one for all its visitors.
"""

from __future__ import annotations

from collections.abc import Sequence

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest, TooManyFieldsSent
from django.http import HttpRequest, QueryDict

from dramatiq_progress.conf import configuration
from dramatiq_progress.links import LONGEST_QUERY, MOST_IDS
from dramatiq_progress.message_ids import MESSAGE_ID, message_id_of
from dramatiq_progress.owners import owners_of
from dramatiq_progress.permissions import cancellable_ids, identity_dependent, readable
from dramatiq_progress.progress import Progress
from dramatiq_progress.stores import get_store

from .sessions import refreshed

#: The query parameter that requests `can_cancel` for messages without an owner.
CAN_CANCEL = "can_cancel"


def query_of(request: HttpRequest) -> QueryDict:
    """Return the parsed query of a request.

    Raises:
      BadRequest: The query is too long, or has too many fields.
    """
    # Checked before parsing: many web servers don't limit the length of a query.
    if (length := len(request.META.get("QUERY_STRING", ""))) > LONGEST_QUERY:
        raise BadRequest(
            f"The query has {length:,} characters; the limit is {LONGEST_QUERY:,}. Request up to {MOST_IDS} ids."
        )
    try:
        return request.GET
    except TooManyFieldsSent as error:
        raise BadRequest(f"The query has too many fields. Request up to {MOST_IDS} ids.") from error


def requested_ids(request: HttpRequest) -> list[str]:
    """Return the message ids in the query of a request, without duplicates.

    Raises:
      BadRequest: There are none or too many, or one isn't a message id.
    """
    message_ids = list(dict.fromkeys(query_of(request).getlist("id")))
    if not message_ids:
        raise BadRequest("The query has no id. Request messages as in ?id=ONE&id=ANOTHER.")
    if len(message_ids) > MOST_IDS:
        raise BadRequest(f"The query has {len(message_ids):,} ids; the limit is {MOST_IDS}. Use several requests.")
    for message_id in message_ids:
        try:
            message_id_of(message_id)
        except ValueError as error:
            raise BadRequest(str(error)) from error
    return message_ids


def read_message(request: HttpRequest, message_id: str) -> Progress | None:
    """Read one message. None if it doesn't exist, or if the request may not read it.

    Raises:
      StoreUnavailable: The store is unavailable.
    """
    return next(iter(read_messages(request, [message_id])), None) if MESSAGE_ID.fullmatch(message_id) else None


def read_messages(request: HttpRequest, message_ids: Sequence[str]) -> list[Progress]:
    """Read the messages that exist and that the request may read.

    Raises:
      StoreUnavailable: The store is unavailable.
    """
    return readable(request, get_store().read(message_ids))


def read_mine(request: HttpRequest) -> list[Progress]:
    """Read the messages of the request's user or visitor, newest first, without expired ones.

    Don't call it in an event loop's thread.

    Raises:
      StoreUnavailable: The store is unavailable.
    """
    owners = owners_of(request)
    return [
        progress
        for progress in read_messages(request, get_store().owned(owners))
        if progress.owner in owners and not _ended_long_ago(progress)
    ]


def _ended_long_ago(progress: Progress) -> bool:
    """Whether the record of a group is only kept since failed members may be sent again: see composite.lua."""
    has_failed = progress.parts is not None and progress.parts.failed > 0
    return has_failed and progress.complete and progress.silence > configuration().finished_ttl


def cancellable_of(request: HttpRequest, messages: Sequence[Progress]) -> set[str]:
    """Return the ids of the messages that the client may cancel, as far as the request wants to know.

    A poll of messages without an owner reads no session for this, unless its query has ``can_cancel``.
    """
    checked = [progress for progress in messages if progress.can_cancel]
    if checked and CAN_CANCEL not in query_of(request):
        checked = identity_dependent(request, checked)
    return cancellable_ids(request, checked) if checked else set()


def visible_to(request: HttpRequest, message_ids: Sequence[str]) -> dict[str, bool]:
    """Return the ids of the messages that the request may read, and whether it may cancel each.

    Raises:
      StoreUnavailable: The store is unavailable.
    """
    messages = read_messages(request, message_ids)
    cancellable = cancellable_of(request, messages)
    return {progress.id: progress.id in cancellable for progress in messages}


async def may_still_read(request: HttpRequest, messages: Sequence[Progress]) -> bool:
    """Whether the request may still read all of these messages, after its session and its user were read again.

    Messages that any user may read are skipped. Permissions are checked in a thread.
    """
    checked = identity_dependent(request, messages)
    return not checked or await sync_to_async(_are_readable)(request, checked)


def _are_readable(request: HttpRequest, messages: Sequence[Progress]) -> bool:
    return len(readable(refreshed(request), messages)) == len(messages)

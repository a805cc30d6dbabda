"""Tracked actors: the options that `progress_actor` sets, and those of Dramatiq that their messages have."""

from __future__ import annotations

import math
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from dramatiq import Actor, Broker, Message, MessageProxy
from dramatiq.middleware import Retries

from dramatiq_progress.conf import configuration
from dramatiq_progress.message_ids import MESSAGE_ID
from dramatiq_progress.stores.companion import Companion

#: The option that marks actors declared with `progress_actor`.
TRACKED_OPTION = "progress_actor"

#: The option of a message, and of an actor for its messages, that says whether they can be cancelled. None: the setting
#: ``CANCELLABLE`` says.
CANCELLABLE_OPTION = "cancellable"

#: The option that makes the private data of an actor's messages: a function from a message to its `Companion`.
COMPANION_OPTION = "progress_companion"

#: The option that says after how many seconds a loop that can be resumed makes room for other messages.
YIELD_OPTION = "yield_after"

AnyMessage = Message[Any] | MessageProxy


def tracked_actor(broker: Broker, message: AnyMessage) -> Actor[..., Any] | None:
    """Return the message's actor if it was declared with `progress_actor` on this broker.

    None also if the message has an id that a project chose, and that URLs and keys can't carry.
    """
    actor = broker.actors.get(message.actor_name)
    if actor is None or not actor.options.get(TRACKED_OPTION) or not has_valid_id(message):
        return None
    return actor


def has_valid_id(message: AnyMessage) -> bool:
    """Return whether a message can be tracked under its id."""
    return MESSAGE_ID.fullmatch(message.message_id) is not None


def is_cancellable(actor: Actor[..., Any], message: AnyMessage | None = None) -> bool:
    """Return whether a message can be cancelled: by its own option, its actor's, or the setting."""
    declared = None if message is None else message.options.get(CANCELLABLE_OPTION)
    if declared is None:
        declared = actor.options.get(CANCELLABLE_OPTION)
    if declared is not None:
        return bool(declared)
    try:
        return configuration().cancellable
    except ImproperlyConfigured:
        return False  # The message is sent and runs; recording it logs the error.


def yield_after(actor: Actor[..., Any]) -> float:
    """Return after how many seconds an actor's loops make room; infinity if they don't."""
    declared = actor.options.get(YIELD_OPTION)
    return math.inf if declared is None else float(declared)


def companion_of(actor: Actor[..., Any], message: AnyMessage) -> Companion | None:
    """Return the private data of a message of this actor, if it has any."""
    make = actor.options.get(COMPANION_OPTION)
    companion: Companion | None = None if make is None else make(message)
    return companion


def name_of(actor: Actor[..., Any], message: AnyMessage) -> str:
    """Return the name that a message's record has: its actor's, or that of its private data."""
    companion = companion_of(actor, message)
    return message.actor_name if companion is None else companion.name


def count_retries(message: AnyMessage) -> int:
    """Return how often Dramatiq has retried a message."""
    return _whole(message.options.get("retries"))


def count_retries_left(broker: Broker, message: AnyMessage, actor: Actor[..., Any]) -> int | None:
    """Return how often Dramatiq will retry the message; None if it has no limit, or a function decides.

    The options are looked up as `Retries` does: on the message, then on the actor, then the default.
    """
    retries = next((each for each in broker.middleware if isinstance(each, Retries)), None)
    if retries is None:
        return 0
    if actor.options.get("retry_when", retries.retry_when) is not None:
        return None
    limit = message.options.get("max_retries", actor.options.get("max_retries", retries.max_retries))
    return None if limit is None else max(0, _whole(limit) - count_retries(message))


def keep_result(message: AnyMessage) -> None:
    """Let Dramatiq's `Results` keep what it has stored for a message: of one that is skipped it would store None."""
    message.options["store_results"] = False


def _whole(value: object) -> int:
    # Dramatiq reports invalid options of a message.
    return value if isinstance(value, int) else 0

"""The title, metadata and estimate key that a sender gives with a message: its options, which retries carry too.

A value that can't be shown raises an error where the message is made. In the hooks of a send or a delivery it is
ignored and logged, since an error there would lose the message.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

from django.utils.functional import Promise
from dramatiq import Actor, Message

from dramatiq_progress.error_texts import reason_of, show
from dramatiq_progress.titles import MAX_TITLE_CHARACTERS, declared_title
from dramatiq_progress.worker.tracking import CANCELLABLE_OPTION, AnyMessage
from dramatiq_progress.worker.validation import MAX_METADATA_BYTES, encode, printable

TITLE_OPTION = "title"
METADATA_OPTION = "metadata"
#: Also an option of an actor, for those of its messages that have none.
ESTIMATE_KEY_OPTION = "estimate_key"

#: An estimate key is part of what a store keeps for each actor.
MAX_ESTIMATE_KEY_CHARACTERS = 50

logger = logging.getLogger(__name__)


def check_options(actor: Actor[..., Any]) -> None:
    """Make an actor check the options of each message that it makes.

    Its ``message_with_options`` and ``send_with_options`` then raise `TypeError` for a title or an estimate key that
    isn't a text, for metadata that isn't a dict and for a ``cancellable`` that isn't a bool, and `ValueError` for
    metadata that a page can't receive and for an estimate key that is empty or too long.
    """
    make = actor.message_with_options

    @functools.wraps(make)
    def message_with_options(
        *, title: Any = None, metadata: Any = None, estimate_key: Any = None, cancellable: Any = None, **options: Any
    ) -> Message[Any]:
        if title is not None:
            options[TITLE_OPTION] = _title(title)
        if metadata is not None:
            # As plain JSON: Dramatiq's encoder knows neither dates nor lazy translations.
            options[METADATA_OPTION] = json.loads(_metadata(metadata))
        if estimate_key is not None:
            options[ESTIMATE_KEY_OPTION] = checked_estimate_key(estimate_key)
        if cancellable is not None:
            options[CANCELLABLE_OPTION] = checked_cancellable(cancellable)
        return make(**options)

    actor.message_with_options = message_with_options  # type: ignore[method-assign]


def title_of(message: AnyMessage) -> str:
    """Return the title for a message's record: its own, or its actor's. It may be empty."""
    title = message.options.get(TITLE_OPTION)
    if title is not None:
        try:
            title = _title(title)
        except TypeError as error:
            _log_ignored(message, error)
            title = ""
    return title or declared_title(message.actor_name)


def metadata_of(message: AnyMessage) -> str:
    """Return the metadata that was given with a message, as JSON."""
    metadata = message.options.get(METADATA_OPTION)
    if not metadata:
        return "{}"
    try:
        return _metadata(metadata)
    except (TypeError, ValueError) as error:
        _log_ignored(message, error)
        return "{}"


def estimate_key_of(message: AnyMessage, actor: Actor[..., Any]) -> str:
    """Return the estimate key of a message: its own, or its actor's. It may be empty."""
    key = message.options.get(ESTIMATE_KEY_OPTION)
    if key is None:
        return actor.options.get(ESTIMATE_KEY_OPTION) or ""
    try:
        return checked_estimate_key(key)
    except (TypeError, ValueError) as error:
        _log_ignored(message, error)
        return ""


def checked_estimate_key(key: object) -> str:
    """Return an estimate key.

    Raises:
      TypeError: It isn't a text.
      ValueError: It is empty, too long, or can't be encoded as UTF-8.
    """
    repair = 'Pass the kind of run, as in estimate_key="large".'
    if not isinstance(key, str):
        raise TypeError(f"estimate_key={show(key)} isn't a text. {repair}")
    if not 1 <= len(key) <= MAX_ESTIMATE_KEY_CHARACTERS or printable(key) != key:
        raise ValueError(
            f"estimate_key={show(key)} isn't a valid text of 1 to {MAX_ESTIMATE_KEY_CHARACTERS} characters. {repair}"
        )
    return key


def checked_cancellable(value: object) -> bool:
    """Return whether a message can be cancelled, as its sender or its actor says.

    Raises:
      TypeError: It isn't a bool: "no" would be true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"cancellable={show(value)} isn't True or False.")
    return value


def shown_title_text(title: str) -> str:
    """Return a title as a record has it: stripped, cut, and as valid Unicode."""
    return printable(title.strip()[:MAX_TITLE_CHARACTERS])


def _title(title: object) -> str:
    if not isinstance(title, str | Promise):
        raise TypeError(f"title={show(title)} isn't a text. Pass a string, as in title=str(path).")
    # A lazy translation is a message's own in the language of its sender.
    return shown_title_text(str(title))


def _metadata(metadata: object) -> str:
    if not isinstance(metadata, Mapping):
        raise TypeError(f'metadata={show(metadata)} isn\'t a dict. Pass one, as in metadata={{"file": "people.csv"}}.')
    try:
        return encode(dict(metadata), MAX_METADATA_BYTES)
    except Exception as error:  # any error of a value while it is encoded
        raise ValueError(
            f"metadata={show(metadata)} can't be shown on a page: {reason_of(error)}. Pass at most "
            f"{MAX_METADATA_BYTES:,} bytes of values that DjangoJSONEncoder can serialise."
        ) from error


def _log_ignored(message: AnyMessage, error: Exception) -> None:
    logger.warning("Ignoring an option of message %s (%s): %s", message.message_id, message.actor_name, error)

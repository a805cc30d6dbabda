"""Titles: the names of jobs for users. A message has its own, or its actor's, or the actor's name in words.

An actor's title may be a lazy translation, which is shown in the language of the page. Its record has it in the site's
language, for a process that hasn't imported the actor.
"""

from __future__ import annotations

import logging

from django.conf import settings
from django.utils import translation
from django.utils.functional import Promise

from .error_texts import show

#: Longer titles are cut.
MAX_TITLE_CHARACTERS = 200

logger = logging.getLogger(__name__)

#: The titles of the actors that this process has declared.
_declared: dict[str, str | Promise] = {}


def declare_title(actor_name: str, title: str | Promise | None) -> None:
    """Set the title of an actor's messages.

    Raises:
      TypeError: It is neither a text nor a lazy translation.
    """
    if title is None:
        _declared.pop(actor_name, None)
    elif isinstance(title, str | Promise):
        _declared[actor_name] = title
    else:
        raise TypeError(f"The title of {actor_name} is {show(title)}; it must be a text or a lazy translation.")


def declared_title(actor_name: str) -> str:
    """Return an actor's title as records have it: in the language of ``LANGUAGE_CODE``. Empty if it has none."""
    title = _declared.get(actor_name, "")
    if not isinstance(title, Promise):
        return _text(title)
    with translation.override(settings.LANGUAGE_CODE):
        return _text(title)


def shown_title(actor_name: str, stored: str) -> str:
    """Return the title for a page in the active language.

    Parameters:
      stored: The title in the record, which may be empty.
    """
    declared = _declared.get(actor_name)
    # A message's own title stays as it is.
    if declared is not None and (
        not stored or (isinstance(declared, Promise) and stored == declared_title(actor_name))
    ):
        stored = _text(declared)
    return stored or in_words(actor_name)


def title_in(language: str | None, actor_name: str, stored: str) -> str:
    """Return `shown_title` for a page in another language."""
    if not isinstance(_declared.get(actor_name), Promise):
        return stored
    with translation.override(language):
        return shown_title(actor_name, stored)


def in_words(actor_name: str) -> str:
    """Return an actor's name in words: "Import rows" for ``import_rows``, and for a task's path that ends with it."""
    words = actor_name.rpartition(".")[2].replace("_", " ")
    return words[:1].upper() + words[1:]


def _text(title: str | Promise) -> str:
    try:
        return str(title)[:MAX_TITLE_CHARACTERS]
    except Exception:
        logger.exception("Not showing an actor's title: its translation failed. Check the translation.")
        return ""

"""The names and values of a bar's attributes and of the template tags' options, and the hint for a misspelled name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from django.template.exceptions import TemplateSyntaxError
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString

from .texts import CANCEL_TEXTS, PARTS_TEXTS, TEXTS

#: The attributes that require the module `static_files.RESULT`.
RESULT_ATTRIBUTES = ("show-result", "download", "redirect", "swap", "retry")

#: The attributes that require `static_files.COMPACT_STYLESHEET`.
COMPACT_ATTRIBUTES = ("compact", "inline")

#: The attributes that have a meaning for a bar, and the options of the tags. Any other attribute is the page's own.
ATTRIBUTES = frozenset(
    {
        *RESULT_ATTRIBUTES,
        *COMPACT_ATTRIBUTES,
        *("src", "list", "stream", "transport", "poll-interval", "pulse", "label", "aria-label", "origins", "warning"),
        *("stream-module", "result-module", "parts-module", "cancel-module"),
        *("progress-bar-id", "progress-bar-message-id", "result-element-id"),
        *("cancel", "cancel-confirm", "csrf-cookie", "csrf"),
        # HTML has no upper case in names.
        *(f"text-{name.lower()}" for name in TEXTS | CANCEL_TEXTS | PARTS_TEXTS),
        *("fallback", "empty", "staff-only"),
    }
)

#: Escapes for an attribute in double quotes. ``&`` isn't one of them: a safe string has entities.
_ESCAPES = str.maketrans({'"': "&quot;", "<": "&lt;", ">": "&gt;"})

#: How similar a name is to that of an attribute that was meant; 1 is equal.
_SIMILARITY = 0.8


def check_names(names: Iterable[str]) -> None:
    """Check that no attribute is a misspelling.

    Raises:
      TemplateSyntaxError: One is.
    """
    for name in names:
        if meant := _meant_by(name):
            raise TemplateSyntaxError(
                f'A bar has no attribute "{name}"; did you mean "{meant}"? If you didn\'t, prefix it: "data_{name}".'
            )


def html_attributes(given: Mapping[str, str | bool | None]) -> dict[str, str | bool | None]:
    """Return a tag's keywords as HTML attributes with escaped values."""
    names = {key: key.replace("_", "-") for key in given}
    return {names[key]: _html_value(names[key], value) for key, value in given.items()}


def _html_value(name: str, value: Any) -> SafeString | bool | None:
    # A number that counts as False in a template. Other attributes may be 0, such as tabindex.
    if value == 0 and name in (*RESULT_ATTRIBUTES, *COMPACT_ATTRIBUTES, "pulse"):
        return False
    if value is None or isinstance(value, bool):
        return value
    # Text in a template is a safe string, and so is the result of {% blocktranslate asvar %}, also with quotes in it.
    return SafeString(conditional_escape(value).translate(_ESCAPES))


def is_compact(attributes: Mapping[str, object]) -> bool:
    """Whether a bar with these attributes requires the stylesheet of compact bars."""
    return any(attributes.get(name) not in (None, False) for name in COMPACT_ATTRIBUTES)


@cache
def _meant_by(name: str) -> str:
    """Return the attribute of which this name is a misspelling. Empty if it is none."""
    attribute = name.replace("_", "-").lower()
    if attribute in ATTRIBUTES or attribute.startswith(("data-", "aria-")):
        return ""
    # x-label, of another library.
    if any(attribute.endswith(f"-{each}") for each in ATTRIBUTES):
        return ""
    close = get_close_matches(attribute, sorted(ATTRIBUTES), n=1, cutoff=_SIMILARITY)
    return close[0].replace("-", "_") if close else ""

"""Values and reasons in the texts of errors, log lines and checks."""

from __future__ import annotations

import re

#: Longer values are cut.
MAX_SHOWN_CHARACTERS = 200


def show(value: object) -> str:
    """Return a value's repr for an error message; if it is cut, it ends with an ellipsis."""
    try:
        text = masked(repr(value))
    except Exception:  # an integer of over 4,300 digits has no repr
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


def masked(text: str) -> str:
    """Return the text of an error without the password of a URL that was put into the wrong place."""
    return re.sub(r"(?<=://)\S*@", "…@", text)


def reason_of(error: BaseException) -> str:
    """Return an error's text without the full stop at its end, since a sentence goes on behind it; or its type."""
    return str(error).rstrip().removesuffix(".") or type(error).__name__


def described(error: BaseException) -> str:
    """Return an error's type and its text, without the full stop at its end."""
    name, reason = type(error).__name__, reason_of(error)
    return name if reason == name else f"{name}: {reason}"

"""What an actor may report, and how it becomes what a browser can read."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sized
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from .progress import Number

#: Longer descriptions are cut.
MAX_DESCRIPTION_CHARACTERS = 1_000

#: Above this a whole number takes the slow path, where one too large for a float is refused.
EXACT_WHOLE_NUMBERS = 2**53

logger = logging.getLogger(__name__)


def shown_text(value: object) -> str:
    """A value as text that may be shown; empty where it fails to be text."""
    try:
        return printable(str(value)[:MAX_DESCRIPTION_CHARACTERS])
    except Exception:
        logger.warning("A %s cannot be shown to the user.", type(value).__name__, exc_info=True)
        return ""


def to_number(value: object) -> Number:
    """A number of any kind as one that a browser can read.

    Raises:
      TypeError: It is no number.
      ValueError, OverflowError: It is negative or not finite, for a float at least.
    """
    if type(value) in (int, float) and 0 <= value <= EXACT_WHOLE_NUMBERS:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError("it must be an int, float or Decimal")
    # A number that no float can hold is infinite to a browser.
    if not math.isfinite(value) or not math.isfinite(float(value)):
        raise ValueError("it must be finite")
    if value < 0:
        raise ValueError("it must not be negative")
    if isinstance(value, Integral) or (isinstance(value, Decimal) and value == int(value)):
        return int(value)
    return float(value)


def length_of(iterable: Iterable[object]) -> int | None:
    """The length of an iterable; None where it has none."""
    if not isinstance(iterable, Sized):
        return None
    try:
        return len(iterable)
    except Exception:  # range(10**20) has a length that len() cannot tell; others raise TypeError on purpose
        return None


def is_finite(current: Number, by: Number) -> bool:
    """Whether two numbers have a sum that can be shown."""
    try:
        return math.isfinite(current + by)
    except OverflowError:
        return False


def show(value: object) -> str:
    """A value as an error message names it, whatever it is."""
    try:
        return f"{value!r:.200}"
    except Exception:  # a whole number of over 4,300 digits has no repr
        return f"a {type(value).__name__}"


def encode(value: Any, max_bytes: int) -> str:
    """A value as JSON by Django's encoder, for a browser.

    Raises:
      TypeError, ValueError: It is no JSON, or too large.
    """
    text = printable(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False))
    size = len(text.encode())
    if size > max_bytes:
        raise ValueError(f"it has {size:,} bytes as JSON, and at most {max_bytes:,} are kept")
    return text


def printable(text: str) -> str:
    """A text that can be written as UTF-8."""
    # Half a surrogate pair cannot be written as UTF-8, and not every JSON reader takes its escape. This joins pairs
    # that were split and puts U+FFFD for the rest.
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

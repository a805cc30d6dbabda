"""Validation of reported values: numbers, texts and JSON that a browser can read."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sized
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, TypeGuard

from django.core.serializers.json import DjangoJSONEncoder

from dramatiq_progress.progress_values import Number
from dramatiq_progress.stores.fields import MAX_DEPTH, is_deep

#: Longer descriptions are cut.
MAX_DESCRIPTION_CHARACTERS = 1_000

#: Limit of a message's metadata, as JSON.
MAX_METADATA_BYTES = 16 * 1024

#: Of a loop or a call that can be resumed. Longer names of steps are cut.
MAX_NAME_CHARACTERS = 100

#: Larger whole numbers take the slow path, which rejects those too large for a float.
EXACT_WHOLE_NUMBERS = 2**53

logger = logging.getLogger(__name__)


def shown_text(value: object) -> str:
    """Return a value as text for the user; empty if it can't be converted."""
    try:
        return printable(str(value)[:MAX_DESCRIPTION_CHARACTERS])
    except Exception:
        logger.warning(
            "Not showing a %s to the user: str() of it failed. Check its __str__ method.",
            type(value).__name__,
            exc_info=True,
        )
        return ""


def to_number(value: object) -> Number:
    """Return a number of any type as one that a browser can read.

    Raises:
      TypeError: It isn't a number.
      ValueError, OverflowError: It is negative, or not finite as a float.
    """
    if type(value) in (int, float) and 0 <= value <= EXACT_WHOLE_NUMBERS:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError("it must be an int, float or Decimal")
    # A number beyond the range of floats is infinite to a browser.
    if not math.isfinite(value) or not math.isfinite(float(value)):
        raise ValueError("it must be finite")
    if value < 0:
        raise ValueError("it must not be negative")
    if isinstance(value, Integral) or (isinstance(value, Decimal) and value == int(value)):
        return int(value)
    return float(value)


def length_of(iterable: Iterable[object]) -> int | None:
    """Return the length of an iterable; None if it has none."""
    if not isinstance(iterable, Sized):
        return None
    try:
        return len(iterable)
    except Exception:  # range(10**20) has a length beyond len(); others raise TypeError on purpose
        return None


def is_finite(current: Number, by: Number) -> bool:
    """Return whether the sum of two numbers is finite."""
    try:
        return math.isfinite(current + by)
    except OverflowError:
        return False


def encode(value: Any, max_bytes: int) -> str:
    """Return a value as JSON for a browser, by Django's encoder.

    Raises:
      TypeError, ValueError: It isn't serialisable, or too large.
    """
    text = printable(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False))
    check_size(text, max_bytes)
    if is_deep(text):
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return text


def merged(older: dict[str, Any], newer: dict[str, Any]) -> str:
    """Return metadata as JSON.

    Raises:
      ValueError: It is larger than `MAX_METADATA_BYTES`.
    """
    text = json.dumps(older | newer, ensure_ascii=False)
    check_size(text, MAX_METADATA_BYTES)
    return text


def check_size(text: str, max_bytes: int) -> None:
    """Raise `ValueError` if a text is larger than allowed."""
    size = len(text.encode())
    if size > max_bytes:
        raise ValueError(f"it has {size:,} bytes as JSON, and the limit is {max_bytes:,}")


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value can be the name of a loop or a call."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARACTERS


def printable(text: str) -> str:
    """Return a text that can be encoded as UTF-8."""
    # Half a surrogate pair can't be encoded, and not every JSON reader accepts its escape. This joins split pairs, and
    # replaces the rest by U+FFFD.
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

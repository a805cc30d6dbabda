"""The values of a record's fields: numbers, steps and JSON, each such that a browser can read it.

A value that this version of the package doesn't write raises one of `decoding.UNREADABLE`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from dramatiq_progress.error_texts import show
from dramatiq_progress.progress_values import Number, StepProgress

#: Where an attempt goes on from: the cursor of an earlier one, and the values that belong to it.
KEPT_FIELDS = ("cursor", "current", "total", "description", "overall", "step")

#: How deep metadata and results may be nested. json.dumps() of an answer fails somewhat below 1,000 levels, which is
#: Python's limit of recursion.
MAX_DEPTH = 200

#: The largest number of steps that is read; above it, a browser would round.
MAX_STEPS = 2**53

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')


def is_deep(text: str) -> bool:
    """Return whether JSON is nested more than `MAX_DEPTH` levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest > MAX_DEPTH


def finite(text: str | float) -> float:
    """Return a number that is finite."""
    moment = float(text)
    if not math.isfinite(moment):
        raise ValueError(f"{text!r} isn't finite")
    return moment


def number_of(record: Mapping[str, str], name: str) -> Number | None:
    """Return the number in a field; None if there is none, or it is unknown."""
    text = record.get(name)
    if text is None or text == "null":
        return None
    number = int(text) if text.isdecimal() else float(text)
    # float() raises for a whole number beyond its range.
    if not 0 <= float(number) < math.inf:
        raise ValueError(f"{name} is {show(text)}, which isn't a number that can be shown")
    return number


def whole_number_of(record: Mapping[str, str], name: str) -> int | None:
    """Return `number_of` as a whole number."""
    number = number_of(record, name)
    return None if number is None else int(number)


def fraction_of(number: Number | None) -> float | None:
    """Return a number that is at most 1."""
    if number is not None and number > 1:
        raise ValueError(f"{number} isn't a fraction")
    return None if number is None else float(number)


def step_of(text: str | None, overall: float | None, total: Number | None) -> StepProgress | None:
    """Return the step of ``[index, count, name]``, followed by the span of the whole if it is known."""
    if text is None:
        return None
    index, count, name, *span = json_of(text)
    begin, end = span or (0.0, 0.0)
    if type(index) is not int or type(count) is not int or not 1 <= index <= count <= MAX_STEPS:
        raise ValueError(f"{show(text)} isn't a step")
    if type(name) is not str or not 0 <= begin <= end <= 1:
        raise ValueError(f"{show(text)} isn't a step")
    # Half a surrogate pair raises UnicodeEncodeError here, and not on a page.
    name.encode()
    return StepProgress.of(index, count, name, span=(begin, end), overall=overall, total=total)


def object_of(text: str) -> dict[str, Any]:
    """Return the object of a JSON text."""
    if text == "{}":
        return {}
    decoded = json_of(text)
    if not isinstance(decoded, dict):
        raise TypeError(f"the metadata is {show(text)}, which isn't an object")
    return decoded


def json_of(text: str) -> Any:
    """Return the value of a JSON text."""
    if is_deep(text):
        raise ValueError(f"JSON is nested more than {MAX_DEPTH} levels deep")
    return _decoder.decode(text)


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON that a browser can read")


_decoder = json.JSONDecoder(parse_float=finite, parse_constant=_reject_constant)

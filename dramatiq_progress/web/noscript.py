"""The children of a bar's element, for pages without JavaScript: the progress at this moment and a refresh link.

`reading` reads what the request may see, and `markup` renders it in the active language. With JavaScript they are what
the bar shows until its first answer.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import replace

from django.forms.utils import flatatt
from django.http import HttpRequest
from django.utils.formats import number_format
from django.utils.html import avoid_wrapping, format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import TIME_STRINGS

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.permissions import readable
from dramatiq_progress.progress import Number, Progress, State, StepProgress
from dramatiq_progress.stores import get_store

from .texts import REFRESH, REMAINING_SHORT, RETRY_SHORT, STEP_TEXTS, TEXTS, translate, translate_result

#: Below a minute no number is shown, since nothing counts down here.
MINUTE_SECONDS = 60
_PLACEHOLDER = re.compile(r"{(\w+)}")
#: Removed from a description before an amount follows it: "Importing: 3 of 10", not "Importing…: 3 of 10".
_END_PUNCTUATION = re.compile(r"[.…:]+$")
#: The units of durations: Django's name, seconds per unit, and the duration from which the next one is used.
_UNITS = (("minute", MINUTE_SECONDS, 5_400), ("hour", 3_600, 129_600), ("day", 86_400, math.inf))


def reading(request: HttpRequest | None, message: str | Progress) -> Progress | None:
    """Return the progress that this request may see, reading it from the store if a message id is given.

    None if there is no such message, the request may not see it, or the store is unavailable. Also None if permissions
    can't be checked (no request), and in an event loop's thread, which must not block (a template of an async view).
    """
    if request is None or _in_event_loop():
        return None
    try:
        found = get_store().read([message]) if isinstance(message, str) else [message]
        return next(iter(readable(request, found)), None)
    except StoreUnavailable:
        return None


def markup(progress: Progress | None, *, label: str | None = None, name: str = "") -> SafeString:
    """Render the children of a bar. Without progress, the text is "Checking progress…".

    Parameters:
      label: The title. None: the message's, if there is progress.
      name: The name for screen readers if there is no label.
    """
    title = label if label is not None or progress is None else progress.title
    parts = [format_html("<b>{}</b>", title)] if title else []
    parts.append(_track(progress, label or name or title or translate(TEXTS["label"])))
    if progress is None:
        parts.append(format_html("<span>{}</span>", translate(TEXTS["waiting"])))
    else:
        attributes = {"data-state": progress.state.value}
        if progress.eta and progress.eta < MINUTE_SECONDS:
            # "less than a minute left" would be replaced by "about 10 seconds left" a moment later.
            attributes["data-text"] = describe(replace(progress, eta=None))
        parts.append(format_html("<span{}>{}</span>", flatatt(attributes), describe(progress)))
    if progress is None or not progress.complete:
        parts.append(format_html(' <a href="">{}</a>', translate(REFRESH)))
    return format_html_join("", "{}", ((each,) for each in parts))


def describe(progress: Progress) -> str:
    """Return the text of a bar, in the same words as `describe` of dramatiq-progress.js."""
    state = progress.state
    position, length = progress.queue_position, progress.queue_length
    if state is State.ENQUEUED and position is not None and length is not None:
        return _format("position" if position > 1 else "first", position=position, length=length)
    if state is State.RETRYING:
        return _describe_retry(progress)
    if state is State.RUNNING:
        return _describe_run(progress)
    is_failure = progress.complete and state is not State.DONE
    return (is_failure and translate_result(progress.result)) or translate(TEXTS[state.value])


def _describe_run(progress: Progress) -> str:
    current, total, step = progress.current, progress.total, progress.step
    if total is not None:
        amount = _format("amount", current=current, total=total)
    else:
        amount = _format("count", current=current) if current else ""
    # A loop without a description of its own may have the step's name.
    description = "" if step is not None and progress.description == step.name else progress.description
    if amount and description:
        text = _format("described", description=_END_PUNCTUATION.sub("", description), amount=amount)
    else:
        text = amount or description
    if step is not None:
        text = _describe_step(step, text)
    elif not text:
        text = translate(TEXTS["running"])
    if not progress.eta:
        return text
    if progress.eta < MINUTE_SECONDS:
        return _fill(translate(REMAINING_SHORT), text=text)
    return _format("remaining", text=text, time=_duration(progress.eta))


def _describe_step(step: StepProgress, text: str) -> str:
    """Return "Step 2 of 3: Checking. 1,200 of 5,000"; without a name or a text, what there is."""
    shown = _format("step", index=step.index, count=step.count)
    if name := _END_PUNCTUATION.sub("", step.name):
        shown = _format("described", description=shown, amount=name)
    return _format("stepped", step=shown, text=text) if text else shown


def _describe_retry(progress: Progress) -> str:
    text = _describe_wait(progress.retry_in or 0)
    attempts = progress.attempt + (progress.retries_left or 0)
    name = "attemptOf" if progress.retries_left else "attempt"
    return _format(name, text=text, attempt=progress.attempt + 1, attempts=attempts)


def _describe_wait(seconds: float) -> str:
    if not seconds:
        return translate(TEXTS["retryNow"])
    return translate(RETRY_SHORT) if seconds < MINUTE_SECONDS else _format("retryIn", time=_duration(seconds))


def _format(name: str, **values: Number | str) -> str:
    return _fill(translate((TEXTS | STEP_TEXTS)[name]), **values)


def _fill(text: str, /, **values: Number | str) -> str:
    texts = {key: value if isinstance(value, str) else _format_number(value) for key, value in values.items()}
    # In one pass: a description may contain "{amount}".
    return _PLACEHOLDER.sub(lambda match: texts.get(match[1], match[0]), text)


def _format_number(value: Number) -> str:
    return str(number_format(value, use_l10n=True, force_grouping=True))


def _duration(seconds: float) -> str:
    unit, size = next((unit, size) for unit, size, limit in _UNITS if seconds < limit)
    number = math.ceil(seconds / size)
    return avoid_wrapping(TIME_STRINGS[unit] % {"num": number})


def _track(progress: Progress | None, label: str) -> SafeString:
    if progress is None:
        return format_html('<progress max="100" aria-label="{}"></progress>', label)
    if progress.state.is_pending:
        # A retry that waits in the queue still has the percentage of the attempt that failed.
        return format_html('<progress max="100" value="0" aria-label="{}"></progress>', label)
    if progress.percent is not None:
        # The attribute needs a decimal point in every locale.
        return format_html('<progress max="100" value="{}" aria-label="{}"></progress>', f"{progress.percent:g}", label)
    # A final state has no indeterminate <progress>, which would keep moving.
    return SafeString() if progress.complete else format_html('<progress max="100" aria-label="{}"></progress>', label)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""The text of a bar, in the same words as the JavaScript modules and in the active language.

Nothing counts down on a page without JavaScript: a time below a minute has no number there.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from django.utils.formats import number_format
from django.utils.html import avoid_wrapping
from django.utils.timesince import TIME_STRINGS
from django.utils.translation import override

from dramatiq_progress.progress import DEFAULT_RESULTS, Progress, State
from dramatiq_progress.progress_values import Number, Parts, StepProgress, UsualTimes

from .texts import (
    BEGINS_SHORT,
    REMAINING_SHORT,
    RETRY_SHORT,
    TEXTS,
    USUALLY_SHORT,
    BarTexts,
    language_of,
    translate,
    translate_result,
)

#: Below a minute no number is shown, since nothing counts down here.
MINUTE_SECONDS = 60
_PLACEHOLDER = re.compile(r"{(\w+)}")
#: Removed from a description before an amount follows it: "Importing: 3 of 10", not "Importing…: 3 of 10".
_END_PUNCTUATION = re.compile(r"[.…:]+$")
#: The units of durations: Django's name, seconds per unit, and the duration from which the next one is used.
_UNITS = (("minute", MINUTE_SECONDS, 5_400), ("hour", 3_600, 129_600), ("day", 86_400, math.inf))
#: If nine of ten runs take up to this many times as long as half of them, one time says enough.
NARROW_SPREAD = 3
#: Those of a bar without attributes ``text-…``.
TRANSLATIONS = BarTexts()


def describe(progress: Progress, texts: BarTexts = TRANSLATIONS) -> str:
    """Return the text of a bar, in the same words as `describe` of dramatiq-progress.js."""
    state, parts = progress.state, progress.parts
    if state is State.RETRYING:
        return _describe_retry(texts, progress)
    if progress.complete:
        return _describe_outcome(texts, progress)
    if state is State.PAUSED:
        return _describe_break(texts, progress, "paused") if progress.continues else texts["paused"]
    if state is State.RUNNING and progress.pause_requested:
        return _describe_break(texts, progress, "pausing")
    if progress.continues:
        return _describe_break(texts, progress, "continues")
    position, length = progress.queue_position, progress.queue_length
    if state is State.RUNNING:
        text = _describe_run(texts, progress)
        if parts is not None:
            text = _with_failed(texts, text, parts)
        if progress.eta:
            return _with_time(texts, "remaining", REMAINING_SHORT, text, progress.eta)
    elif state is State.ENQUEUED and position is not None and length is not None:
        text = _format(texts, "position" if position > 1 else "first", position=position, length=length)
    else:
        text = texts[state.value]
    if progress.usual is None or progress.eta is not None:
        return text
    return _describe_usual(texts, progress, progress.usual, text)


def until_first_answer(progress: Progress, texts: BarTexts = TRANSLATIONS) -> str:
    """Return the text of a bar until its first answer, which counts down: "less than a minute" would be replaced."""
    if progress.state is State.RETRYING:
        return _describe_retry(texts, progress, is_counted_down=True)
    return describe(_without_short_times(progress), texts)


def _describe_outcome(texts: BarTexts, progress: Progress) -> str:
    state, parts = progress.state, progress.parts
    text = texts[state.value]
    if state is State.DONE:
        return text
    # Instead of the default, which says no more, the bar's own text of the state.
    if progress.result != DEFAULT_RESULTS[state]:
        text = translate_result(progress.result) or text
    if parts is None or not parts.total:
        return text
    amount = _with_failed(texts, _format(texts, "doneOf", done=parts.done, total=parts.total), parts)
    if state is State.FAILED:
        return amount
    return _format(texts, "described", description=_END_PUNCTUATION.sub("", text), amount=amount)


def _with_failed(texts: BarTexts, text: str, parts: Parts) -> str:
    return _format(texts, "failedOf", text=text, failed=parts.failed) if parts.failed else text


def _describe_run(texts: BarTexts, progress: Progress) -> str:
    current, total, step = progress.current, progress.total, progress.step
    if step is not None and progress.parts is not None:
        # The number of a pipeline's stage says how many have ended.
        current, total = 0, None
    if total is not None:
        amount = _format(texts, "amount", current=current, total=total)
    else:
        amount = _format(texts, "count", current=current) if current else ""
    # A loop without a description of its own may have the step's name.
    description = "" if step is not None and progress.description == step.name else progress.description
    if amount and description:
        text = _format(texts, "described", description=_END_PUNCTUATION.sub("", description), amount=amount)
    else:
        text = amount or description
    if step is not None:
        return _describe_step(texts, step, text)
    return text or texts["running"]


def _describe_break(texts: BarTexts, progress: Progress, name: str) -> str:
    """Return "Waiting to continue: 6,200 of 10,000", or of a pause; in a step, with the text of the run."""
    current, total = progress.current, progress.total
    text = texts[name]
    without_end = _END_PUNCTUATION.sub("", text)
    if progress.step is not None:
        return _format(texts, "stepped", step=without_end, text=_describe_run(texts, progress))
    amount = current if total is None else _format(texts, "amount", current=current, total=total)
    return _format(texts, "described", description=without_end, amount=amount) if amount else text


def _describe_usual(texts: BarTexts, progress: Progress, usual: UsualTimes, text: str) -> str:
    run, most, wait = usual
    if wait and (not run or (progress.queue_position or 0) > 1):
        return _with_time(texts, "begins", BEGINS_SHORT, text, _rounded(wait))
    if not run or not most:
        return text
    if progress.state is State.RUNNING and (progress.elapsed or 0) > most:
        return _format(texts, "longer", text=text)
    if most <= NARROW_SPREAD * run:
        return _with_time(texts, "usually", USUALLY_SHORT, text, _rounded(run))
    if most < MINUTE_SECONDS or _size_of(run) != _size_of(most):
        return _with_time(texts, "usuallyMost", USUALLY_SHORT, text, _rounded(most))
    least = round(_rounded(run) / _size_of(most))
    return _format(texts, "usuallyRange", text=text, time=_duration(_rounded(most)), **{"from": least})


def _with_time(texts: BarTexts, name: str, short: str, text: str, seconds: float) -> str:
    """Return a text with a time, or without its number if it is below a minute."""
    if seconds < MINUTE_SECONDS:
        return _fill(translate(short), text=text)
    return _format(texts, name, text=text, time=_duration(seconds))


def _without_short_times(progress: Progress) -> Progress:
    """Return progress without the times that are only exact in the first answer."""
    if progress.eta and progress.eta < MINUTE_SECONDS:
        return replace(progress, eta=None, usual=None)
    if progress.usual is not None and any(each and each < MINUTE_SECONDS for each in progress.usual):
        return replace(progress, usual=None)
    return progress


def _describe_step(texts: BarTexts, step: StepProgress, text: str) -> str:
    """Return "Step 2 of 3: Checking. 1,200 of 5,000"; without a name or a text, what there is."""
    shown = _format(texts, "step", index=step.index, count=step.count)
    if name := _END_PUNCTUATION.sub("", step.name):
        shown = _format(texts, "described", description=shown, amount=name)
    return _format(texts, "stepped", step=shown, text=text) if text else shown


def _describe_retry(texts: BarTexts, progress: Progress, *, is_counted_down: bool = False) -> str:
    text = _describe_wait(texts, progress.retry_in or 0, is_counted_down=is_counted_down)
    attempts = progress.attempt + (progress.retries_left or 0)
    name = "attemptOf" if progress.retries_left else "attempt"
    return _format(texts, name, text=text, attempt=progress.attempt + 1, attempts=attempts)


def _describe_wait(texts: BarTexts, seconds: float, *, is_counted_down: bool) -> str:
    if not seconds:
        return texts["retryNow"]
    if seconds >= MINUTE_SECONDS:
        return _format(texts, "retryIn", time=_duration(seconds))
    # The symbol of the second is the same in each language, and Django has no translation of the word.
    return (
        _format(texts, "retryIn", time=f"{math.ceil(seconds)}\N{NO-BREAK SPACE}s")
        if is_counted_down
        else translate(RETRY_SHORT)
    )


def _format(texts: BarTexts, name: str, **values: Number | str) -> str:
    return _fill(texts[name], **values)


def _fill(text: str, /, **values: Number | str) -> str:
    shown = {key: value if isinstance(value, str) else _format_number(value) for key, value in values.items()}
    # In one pass: a description may contain "{amount}".
    return _PLACEHOLDER.sub(lambda match: shown.get(match[1], match[0]), text)


def _format_number(value: Number) -> str:
    if isinstance(value, float):
        # At most three digits, as the browser's `Intl.NumberFormat` shows.
        value = round(value, 3)
        value = int(value) if value.is_integer() else value
    with _in_language_of_words():
        return str(number_format(value, use_l10n=True, force_grouping=True))


def _in_language_of_words() -> override:
    """Activate the language of the words around a number: without a translation they are in another one."""
    return override(language_of([TEXTS["amount"]]))


def _size_of(seconds: float) -> int:
    """Return the size of the unit in which a duration is shown, in seconds; 1 below a minute."""
    return 1 if seconds < MINUTE_SECONDS else next(size for _, size, limit in _UNITS if seconds < limit)


def _rounded(seconds: float) -> int:
    """Round a duration to its unit, up or down, as dramatiq-progress-parts.js does."""
    size = _size_of(seconds)
    return max(1, math.floor(seconds / size + 0.5)) * size


def _duration(seconds: float) -> str:
    unit, size = next((unit, size) for unit, size, limit in _UNITS if seconds < limit)
    number = math.ceil(seconds / size)
    with _in_language_of_words():
        return avoid_wrapping(TIME_STRINGS[unit] % {"num": number})

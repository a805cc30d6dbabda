"""What a bar's element has in it for a page without JavaScript: how far the message is now, and a link to look again.

`reading` finds out what a request may know, and `markup` says it in the language that is active.
"""

from __future__ import annotations

import asyncio
import math

from django.http import HttpRequest
from django.utils.formats import number_format
from django.utils.html import avoid_wrapping, format_html
from django.utils.safestring import SafeString
from django.utils.timesince import TIME_STRINGS

from .errors import StoreUnavailable
from .permissions import readable
from .progress import Number, Progress, State
from .recorder import get_recorder
from .stores import get_store
from .texts import REFRESH, REMAINING_SHORT, RETRY_SHORT, TEXTS, translate, translate_result

#: Less than a minute is not told in numbers: nothing counts down here.
MINUTE_SECONDS = 60
#: Up to how many seconds a duration is told in which of Django's units, and how many seconds those have.
_UNITS = (("minute", MINUTE_SECONDS, 5_400), ("hour", 3_600, 129_600), ("day", 86_400, math.inf))


def reading(request: HttpRequest | None, message: str | Progress) -> Progress | None:
    """What may be shown of a message in the answer to this request, read now unless it has been.

    None: it is not there, this request may not know of it, or the store does not answer. None too where nobody can say
    or nobody may wait: without a request, and in an event loop's thread (a template that an async view renders).
    """
    if request is None or _in_event_loop():
        return None
    try:
        found = get_store().read([message]) if isinstance(message, str) else [message]
        return next(iter(readable(request, found)), None)
    except StoreUnavailable as error:
        # Only the first of an outage waits for a time-out: see stores/breaker.py. The page is the same without.
        get_recorder().trouble(error)
        return None


def markup(progress: Progress | None, *, label: str) -> SafeString:
    """The children of a bar; without a reading they say that there is none yet."""
    text = translate(TEXTS["waiting"]) if progress is None else describe(progress)
    is_over = progress is not None and progress.complete
    refresh = "" if is_over else format_html(' <a href="">{}</a>', translate(REFRESH))
    return format_html("<span>{}</span>{}{}", text, refresh, _track(progress, label or translate(TEXTS["label"])))


def describe(progress: Progress) -> str:
    """What a bar says of a message, as `describe` of dramatiq-progress.js does."""
    state = progress.state
    position, length = progress.queue_position, progress.queue_length
    if state is State.ENQUEUED and position is not None and length is not None:
        return _say("position", position=position, length=length)
    if state is State.RETRYING:
        return _describe_retry(progress)
    if state is State.RUNNING:
        return _describe_run(progress)
    is_failure = progress.complete and state is not State.DONE
    return (is_failure and translate_result(progress.result)) or translate(TEXTS[state.value])


def _describe_run(progress: Progress) -> str:
    current, total = progress.current, progress.total
    if total is not None:
        amount = _say("amount", current=current, total=total)
    else:
        amount = _say("count", current=current) if current else ""
    text = ". ".join(filter(None, [amount, progress.description])) or translate(TEXTS["running"])
    if not progress.eta:
        return text
    is_short = progress.eta < MINUTE_SECONDS
    left = translate(REMAINING_SHORT) if is_short else _say("remaining", time=_duration(progress.eta))
    return f"{text} ({left})"


def _describe_retry(progress: Progress) -> str:
    text = _describe_wait(progress.retry_in or 0)
    attempts = progress.attempt + (progress.retries_left or 0)
    name = "attemptOf" if progress.retries_left else "attempt"
    return _say(name, text=text, attempt=progress.attempt + 1, attempts=attempts)


def _describe_wait(seconds: float) -> str:
    if not seconds:
        return translate(TEXTS["retryNow"])
    return translate(RETRY_SHORT) if seconds < MINUTE_SECONDS else _say("retryIn", time=_duration(seconds))


def _say(name: str, **values: Number | str) -> str:
    said = translate(TEXTS[name])
    for key, value in values.items():
        text = value if isinstance(value, str) else number_format(value, use_l10n=True, force_grouping=True)
        said = said.replace(f"{{{key}}}", str(text))
    return said


def _duration(seconds: float) -> str:
    unit, size = next((unit, size) for unit, size, limit in _UNITS if seconds < limit)
    number = math.ceil(seconds / size)
    return avoid_wrapping(TIME_STRINGS[unit] % {"num": number})


def _track(progress: Progress | None, label: str) -> SafeString:
    if progress is None:
        return format_html('<progress max="100" aria-label="{}"></progress>', label)
    if progress.percent is not None:
        # Not by the locale: an attribute has a point.
        return format_html('<progress max="100" value="{}" aria-label="{}"></progress>', f"{progress.percent:g}", label)
    if progress.state.is_pending:
        return format_html('<progress max="100" value="0" aria-label="{}"></progress>', label)
    # One that moves for ever would belie the end.
    return SafeString() if progress.complete else format_html('<progress max="100" aria-label="{}"></progress>', label)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

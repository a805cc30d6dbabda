"""All texts of a bar, for Django's translations. Names and English texts are those of the JavaScript modules.

`page_texts` are the translations that a page passes to its bars, once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.utils.translation import get_language, override, pgettext

from dramatiq_progress.progress import DEFAULT_RESULTS, GIVEN_UP

#: Keeps these texts apart from "Done" and "no" in other packages.
CONTEXT = "dramatiq-progress"

#: `TEXTS` of dramatiq-progress.js, with placeholders in braces.
TEXTS = {
    "label": "Progress",
    "waiting": "Checking progress…",
    "not-found": "This task could not be found.",
    "expired": "This task is no longer available. You may need to sign in again.",
    "denied": "This task isn't available. You may need to sign in again.",
    "offline": "Connection lost. Trying again…",
    "enqueued": "Waiting in the queue",
    "position": "In the queue: about number {position} of {length}",
    "first": "Next in the queue",
    "delayed": "Scheduled",
    "paused": "Paused",
    "running": "Running",
    "amount": "{current} of {total}",
    "count": "{current} so far",
    "described": "{description}: {amount}",
    "remaining": "{text}, about {time} left",
    "retryIn": "This attempt failed. Retrying in {time}…",
    "retryNow": "This attempt failed. Retrying now…",
    "attempt": "{text} (attempt {attempt})",
    "attemptOf": "{text} (attempt {attempt} of {attempts})",
    "lost": "The task stopped responding. It may restart automatically.",
    "done": "Done",
    "failed": "The task failed.",
    "cancelled": "The task was cancelled.",
    "skipped": "The task was skipped.",
    "stopped": "stopped at {percent}",
    "download": "Download",
    "retry": "Try again",
    "yes": "yes",
    "no": "no",
}

#: `TEXTS` of dramatiq-progress-cancel.js.
CANCEL_TEXTS = {
    "cancel": "Cancel",
    "cancelling": "Cancelling…",
    "cancelForbidden": "Couldn't cancel the task. Reload the page and try again.",
    "cancelGone": "This task can no longer be cancelled.",
    "cancelRefused": "This task can't be cancelled.",
    "cancelFailed": "Couldn't reach the server. Try again.",
}

#: `TEXTS` of dramatiq-progress-parts.js: the step, the members of a group or a pipeline, a wait to continue, a
#: pause, and the usual times.
PARTS_TEXTS = {
    "step": "Step {index} of {count}",
    "stepped": "{step}. {text}",
    "doneOf": "{done} of {total} done",
    "failedOf": "{text}, {failed} failed",
    "continues": "Waiting to continue…",
    "pausing": "Pausing…",
    "begins": "{text}, begins in about {time}",
    "usually": "{text}, usually takes about {time}",
    "usuallyRange": "{text}, usually takes {from} to {time}",
    "usuallyMost": "{text}, usually takes up to {time}",
    "longer": "{text}, longer than usual",
}

_BY_NAME = TEXTS | CANCEL_TEXTS | PARTS_TEXTS

#: The table of the schedules, for staff.
SCHEDULE_TEXTS = {
    "schedule": "Schedule",
    "runs": "Runs",
    "next": "Next run",
    "last": "Last run",
    "outcome": "Outcome",
    "disabled": "Disabled",
    "stopped": "No scheduler is running, so nothing is sent.",
}

#: The server's own results of messages that didn't succeed, in English.
RESULTS = (*DEFAULT_RESULTS.values(), GIVEN_UP)

#: Texts for pages without JavaScript, where nothing counts down.
REFRESH = "Refresh"
REMAINING_SHORT = "{text}, less than a minute left"
RETRY_SHORT = "This attempt failed. Retrying within a minute…"
NOT_NOW = "Progress can't be shown right now."
BEGINS_SHORT = "{text}, begins within a minute"
USUALLY_SHORT = "{text}, usually takes less than a minute"
PAGE_TEXTS = (REFRESH, REMAINING_SHORT, RETRY_SHORT, BEGINS_SHORT, USUALLY_SHORT, NOT_NOW)

#: Languages of Django that a browser's `Intl` accepts as a locale.
_LOCALE = re.compile(r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-([a-z0-9]{5,8}|\d[a-z0-9]{3}))*", re.IGNORECASE)


def translate(text: str) -> str:
    """Translate one of these texts into the active language."""
    return pgettext(CONTEXT, text)


class BarTexts:
    """The texts of one bar by name: those of its attributes ``text-…``, otherwise the translations.

    Parameters:
      attributes: The attributes of the bar.
    """

    def __init__(self, attributes: Mapping[str, str | bool | None] = MappingProxyType({})) -> None:
        # HTML has no upper case in names.
        self._own = {
            name.removeprefix("text-").lower(): unescape(value)
            for name, value in attributes.items()
            if name.startswith("text-") and isinstance(value, str)
        }

    def __getitem__(self, name: str) -> str:
        own = self._own.get(name.lower())
        return translate(_BY_NAME[name]) if own is None else own


def translate_result(result: object) -> str:
    """Translate a result that is one of `RESULTS`. Other texts are returned unchanged. Return "" if it isn't a text."""
    if not isinstance(result, str):
        return ""
    return translate(result) if result in RESULTS else result


def language_of(texts: Sequence[str]) -> str:
    """Return the language that texts are shown in: the active one, unless none of them is translated into it.

    Django then uses the translations of ``LANGUAGE_CODE``, and if there are none either, they are English.

    Parameters:
      texts: The texts in English.
    """
    language = get_language() or "en"
    if _base(language) == "en":
        return language
    translated = [translate(each) for each in texts]
    if translated == list(texts):
        return "en"
    if _base(settings.LANGUAGE_CODE) != _base(language):
        with override(settings.LANGUAGE_CODE):
            if translated == [translate(each) for each in texts]:
                return str(settings.LANGUAGE_CODE)
    return language


def _base(language: str) -> str:
    return language.partition("-")[0]


def page_texts() -> dict[str, Any]:
    """Return the texts that differ from the module's English in the active language.

    ``locale`` is set to the language of the texts, so that numbers and times match them.
    """
    texts: dict[str, Any] = {name: translate(text) for name, text in _BY_NAME.items() if translate(text) != text}
    results = [[text, translate(text)] for text in RESULTS if translate(text) != text]
    if results:
        texts["results"] = results
    language = language_of([*_BY_NAME.values(), *RESULTS])
    differs_from_module = language not in ("en", "en-us") if _base(language) == "en" else bool(texts)
    if differs_from_module and _LOCALE.fullmatch(language):
        texts["locale"] = language
    return texts

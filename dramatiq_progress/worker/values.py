"""The values that an actor reports: the methods that set and return them, and notify the recorder."""

from __future__ import annotations

import json
import logging
import math
import os
from decimal import Decimal
from typing import Any

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.progress_values import Number, StepProgress, percent_of, percent_of_whole
from dramatiq_progress.titles import shown_title

from .binding import Binding
from .options import shown_title_text
from .recorder import get_recorder
from .reports import KEEP, Keep
from .validation import EXACT_WHOLE_NUMBERS, MAX_METADATA_BYTES, encode, is_finite, merged

MAX_RESULT_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class ReportedValues(Binding):
    """The base of `ProgressObserver`, which adds loops and steps: the values of one message, and their reports."""

    __slots__ = ()

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._attempt_number

    @property
    def current(self) -> Number:
        """The amount that is done, as last reported; inside a step or an inner loop, of that."""
        return self.levels.top.current

    @property
    def total(self) -> Number | None:
        """The amount that there is to do, as last reported; None while unknown."""
        return self.levels.top.total

    @property
    def description(self) -> str:
        """The current activity, as last reported."""
        return self.levels.top.description

    @property
    def percent(self) -> float | None:
        """The percentage of the whole that is done, as the page receives it; None while unknown."""
        levels = self.levels
        return percent_of_whole(levels.fraction) if levels.is_used else percent_of(self.current, self.total)

    @property
    def step(self) -> StepProgress | None:
        """The step that is in progress, or was last, as the page receives it; None before the first."""
        return self.levels.step

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancel was requested, as far as this process knows; always False when detached."""
        return self._interruption.cancel_requested

    @property
    def title(self) -> str:
        """The name of the job for users, in the active language."""
        return shown_title(self.checks.actor_name, self._title)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, as the page receives it."""
        return dict(json.loads(self._metadata))

    @property
    def result(self) -> Any:
        """The public result, as the page receives it; None before `set_result`."""
        return None if self._result is None else json.loads(self._result)

    def set_progress(
        self,
        current: Number | Decimal | Keep = KEEP,
        total: Number | Decimal | Keep | None = KEEP,
        description: str | Keep = KEEP,
    ) -> None:
        """Report how much is done, or only what is being done. Omitted values stay as they are.

        Parameters:
          current: The amount that is done, 0 or more.
          total: The amount that there is to do; None means unknown. `current` may exceed it.
          description: The current activity, as plain text, cut at 1,000 characters.

        Raises:
          InvalidReport: A value that isn't a number, is negative or isn't finite; a description that is a list or a
            dict. See `ProgressObserver` for when.
        """
        level = self.levels.top
        # Nearly every report has plain whole numbers, and the same total and description as before: no call for those.
        if type(current) is not int or not 0 <= current <= EXACT_WHOLE_NUMBERS:
            current = KEEP if current is KEEP else self.checks.number("current", current, KEEP)
        # No lock: it would take two thirds of the time. Each attribute is written independently, and a report that
        # interleaves marks the observer dirty, so the next flush writes consistent values.
        if (total is not level.total and total is not KEEP) or (
            description is not level.description and description is not KEEP
        ):
            if total is not level.total and total is not KEEP and total is not None:
                total = self.checks.number("total", total, KEEP)
            if description is not level.description and description is not KEEP:
                description = self.checks.text(description)
            if total is not KEEP:
                level.total = total  # type: ignore[assignment]  # a Decimal has become an int or float above
            if description is not KEEP:
                level.description = description
        # Not written again if it is kept: another thread may have incremented it.
        if current is not KEEP:
            level.current = current  # type: ignore[assignment]  # as above
        if self.must_notify:
            self._notify()

    def increment_progress(self, by: Number | Decimal = 1, description: str | Keep = KEEP) -> None:
        """Report that more is done.

        Parameters:
          by: The additional amount, 0 or more.
          description: The current activity. Defaults to the last one.

        Raises:
          InvalidReport: As for `set_progress`.
        """
        if type(by) is not int or not 0 <= by <= EXACT_WHOLE_NUMBERS:
            by = self.checks.number("by", by, 0)
            if not is_finite(self.current, by):
                by = self.checks.number("by", math.inf, 0)
        if description is not KEEP:
            description = self.checks.text(description)
        with self.levels.lock:
            level = self.levels.top
            level.current += by
            if description is not KEEP:
                level.description = description
        if self.must_notify:
            self._notify()

    def set_title(self, title: str) -> None:
        """Name the job for users, from now on and in later attempts.

        Parameters:
          title: Plain text, cut at 200 characters. Empty: the actor's title, or its name in words.

        Raises:
          InvalidReport: A list or a dict, or what can't be converted to text. See `ProgressObserver` for when.
        """
        text = self.checks.text(title, "title")
        if text is not KEEP:
            self._title = shown_title_text(text)
            if self.must_notify:
                self._notify()

    def set_metadata(self, **values: Any) -> None:
        """Merge values into the message's metadata, which the page may show.

        Metadata survives retries. The limit is 16 KiB of JSON in total.

        Raises:
          InvalidReport: Values that DjangoJSONEncoder can't serialise, or over the limit. See `ProgressObserver` for
            when.
        """
        try:
            # Outside the lock, which the recorder takes too: encoding runs code of the project's.
            encoded = json.loads(encode(values, MAX_METADATA_BYTES))
            with self._lock:
                self._metadata = merged(json.loads(self._metadata), encoded)
        except Exception as error:  # any error of a value while it is encoded
            self.checks.ignore("metadata", values, reason_of(error))
            return
        if self.must_notify:
            self._notify()

    def set_result(self, value: Any) -> None:
        """Set the public result, which the page receives when the actor succeeds.

        The value must be serialisable by DjangoJSONEncoder and at most 64 KiB. Otherwise it is ignored and a warning is
        logged; the job isn't affected.
        """
        try:
            self._result = encode(value, MAX_RESULT_BYTES)
        except Exception as error:  # any error of a value while it is encoded
            logger.warning(
                "Ignoring the result of %s; the page will show none. Pass a smaller or JSON-serialisable value to "
                "set_result(): %s",
                self.checks.source,
                error,
            )

    def note_change(self, *, may_cancel: bool = True) -> None:
        """Note that the values have changed without a report. Raises `Cancelled` as a report does, if it may."""
        if self.must_notify and (may_cancel or not self._interruption.cancel_requested):
            self._notify()

    def _notify(self) -> None:
        if self._process != os.getpid():
            self._ignore_child()
            return
        if self._interruption.cancel_requested:
            self._interruption.check_cancel(self.message_id)
            get_recorder().notify(self)
            return
        if self._interruption.yields and self._resumption is not None:
            # The next item of a loop must see it.
            get_recorder().notify(self)
            return
        try:
            self.must_notify = False
            if not get_recorder().notify(self):
                self.must_notify = True
        except BaseException:
            # Interrupted (by a time limit, for instance) before the recorder knows: the next report tries again.
            self.must_notify = True
            raise

    def _ignore_child(self) -> None:
        # Each process has a copy of the values: their reports would overwrite each other.
        self.must_notify = False
        logger.warning(
            "Ignoring progress that a child process reports for %s: only the process of the worker can. Report in the "
            "parent instead, for instance: for result in observer.track(pool.imap_unordered(work, items)): ...",
            self.checks.source,
        )

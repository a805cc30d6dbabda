"""The values that an actor reports: the methods that set and return them, and notify the recorder."""

from __future__ import annotations

import json
import logging
import math
from decimal import Decimal
from typing import Any

from dramatiq_progress.error_texts import reason_of
from dramatiq_progress.progress_values import Number, StepProgress, percent_of, percent_of_whole
from dramatiq_progress.titles import shown_title
from dramatiq_progress.worker.sending.options import shown_title_text
from dramatiq_progress.worker.validation import EXACT_WHOLE_NUMBERS, MAX_METADATA_BYTES, encode, is_finite

from .binding import Binding
from .reports import KEEP, Keep

MAX_RESULT_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class ReportedValues:
    """The base of `ProgressObserver`, which adds loops and steps: reports values of one message, and returns them.

    Parameters:
      binding: Keeps the values: a `Binding` to the message of an attempt, or a detached one, as for an actor that is
        called as a function inside a job. Only this package passes it.
    """

    __slots__ = ("__weakref__", "_binding")

    def __init__(self, binding: Binding | None = None) -> None:
        self._binding = Binding() if binding is None else binding

    @property
    def message_id(self) -> str | None:
        """The id of the message that is being processed; None when detached."""
        return self._binding.message_id

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._binding.attempt_number

    @property
    def current(self) -> Number:
        """The amount that is done, as last reported; inside a step or an inner loop, of that."""
        return self._binding.levels.top.current

    @property
    def total(self) -> Number | None:
        """The amount that there is to do, as last reported; None while unknown."""
        return self._binding.levels.top.total

    @property
    def description(self) -> str:
        """The current activity, as last reported."""
        return self._binding.levels.top.description

    @property
    def percent(self) -> float | None:
        """The percentage of the whole that is done, as the page receives it; None while unknown."""
        levels = self._binding.levels
        return percent_of_whole(levels.fraction) if levels.is_used else percent_of(self.current, self.total)

    @property
    def step(self) -> StepProgress | None:
        """The step that is in progress, or was last, as the page receives it; None before the first."""
        return self._binding.levels.step

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancel was requested, as far as this process knows; always False when detached."""
        return self._binding.interruption.cancel_requested

    @property
    def title(self) -> str:
        """The name of the job for users, in the active language."""
        return shown_title(self._binding.checks.actor_name, self._binding.labels.title)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, as the page receives it."""
        return dict(json.loads(self._binding.labels.metadata))

    @property
    def result(self) -> Any:
        """The public result, as the page receives it; None before `set_result`."""
        return None if self._binding.labels.result is None else json.loads(self._binding.labels.result)

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
        binding = self._binding
        level = binding.levels.top
        # Nearly every report has plain whole numbers, and the same total and description as before: no call for those.
        if type(current) is not int or not 0 <= current <= EXACT_WHOLE_NUMBERS:
            current = KEEP if current is KEEP else binding.checks.number("current", current, KEEP)
        # No lock: it would take two thirds of the time. Each attribute is written independently, and a report that
        # interleaves notifies the recorder, so the next flush writes consistent values.
        if (total is not level.total and total is not KEEP) or (
            description is not level.description and description is not KEEP
        ):
            if total is not level.total and total is not KEEP and total is not None:
                total = binding.checks.number("total", total, KEEP)
            if description is not level.description and description is not KEEP:
                description = binding.checks.text(description)
            if total is not KEEP:
                level.total = total  # type: ignore[assignment]  # a Decimal has become an int or float above
            if description is not KEEP:
                level.description = description
        # Not written again if it is kept: another thread may have incremented it.
        if current is not KEEP:
            level.current = current  # type: ignore[assignment]  # as above
        if binding.must_notify:
            binding.notify()

    def increment_progress(self, by: Number | Decimal = 1, description: str | Keep = KEEP) -> None:
        """Report that more is done.

        Parameters:
          by: The additional amount, 0 or more.
          description: The current activity. Defaults to the last one.

        Raises:
          InvalidReport: As for `set_progress`.
        """
        binding = self._binding
        if type(by) is not int or not 0 <= by <= EXACT_WHOLE_NUMBERS:
            by = binding.checks.number("by", by, 0)
            if not is_finite(self.current, by):
                by = binding.checks.number("by", math.inf, 0)
        if description is not KEEP:
            description = binding.checks.text(description)
        with binding.levels.lock:
            level = binding.levels.top
            level.current += by
            if description is not KEEP:
                level.description = description
        if binding.must_notify:
            binding.notify()

    def set_title(self, title: str) -> None:
        """Name the job for users, from now on and in later attempts.

        Parameters:
          title: Plain text, cut at 200 characters. Empty: the actor's title, or its name in words.

        Raises:
          InvalidReport: A list or a dict, or what can't be converted to text. See `ProgressObserver` for when.
        """
        text = self._binding.checks.text(title, "title")
        if text is not KEEP:
            self._binding.labels.title = shown_title_text(text)
            self._binding.note_change()

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
            self._binding.labels.add_metadata(encoded)
        except Exception as error:  # any error of a value while it is encoded
            self._binding.checks.ignore("metadata", values, reason_of(error))
            return
        self._binding.note_change()

    def set_result(self, value: Any) -> None:
        """Set the public result, which the page receives when the actor succeeds.

        The value must be serialisable by DjangoJSONEncoder and at most 64 KiB. Otherwise it is ignored and a warning is
        logged; the job isn't affected.
        """
        try:
            self._binding.labels.result = encode(value, MAX_RESULT_BYTES)
        except Exception as error:  # any error of a value while it is encoded
            logger.warning(
                "Ignoring the result of %s; the page will show none. Pass a smaller or JSON-serialisable value to "
                "set_result(): %s",
                self._binding.checks.source,
                error,
            )

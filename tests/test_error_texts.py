"""The texts of errors: values that are shown in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import dramatiq_progress
from dramatiq_progress import InvalidReport, ProgressObserver, progress_group
from dramatiq_progress.conf import configuration
from dramatiq_progress.error_texts import MAX_SHOWN_CHARACTERS, described, reason_of, show
from dramatiq_progress.links import progress_url
from dramatiq_progress.message_ids import message_id_of
from dramatiq_progress.schedules import scheduled
from dramatiq_progress.titles import declare_title

LONG: Any = ["a long value"] * 100


def read_settings(**settings: Any) -> None:
    with override_settings(DRAMATIQ_PROGRESS=settings):
        configuration()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("x" * (MAX_SHOWN_CHARACTERS - 2), repr("x" * (MAX_SHOWN_CHARACTERS - 2))),
        ("x" * (MAX_SHOWN_CHARACTERS - 1), "'" + "x" * (MAX_SHOWN_CHARACTERS - 1) + "…"),
        ([10**5_000], "a list"),
        ("redis://:secret@host/0", "'redis://…@host/0'"),
        # Not cut before the end of the password is found.
        ("redis://:" + "secret" * 100 + "@host/0", "'redis://…@host/0'"),
    ],
)
def test_values_are_shown_whole_or_cut(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize(
    "call",
    [
        lambda: ProgressObserver().set_progress(LONG),
        lambda: message_id_of(LONG),
        lambda: progress_group([LONG]),
        lambda: progress_group([], weights=LONG),
        lambda: declare_title("work", LONG),
        lambda: scheduled(every=LONG),
        lambda: scheduled(at=LONG),
        lambda: scheduled(cron=str(LONG)),
        lambda: scheduled(every=60, grace=LONG),
        lambda: scheduled(every=60, kwargs={"a": 1}, args=str(LONG)),
        lambda: scheduled(LONG),
        lambda: progress_url("m1", signed_for=LONG),
        lambda: read_settings(PREFIX="{" + str(LONG)),
    ],
)
def test_long_values_end_with_an_ellipsis(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError, InvalidReport, ImproperlyConfigured)) as caught:
        call()
    assert "a long value" in str(caught.value)
    assert "…" in str(caught.value)
    assert len(str(caught.value)) < 2 * MAX_SHOWN_CHARACTERS + 100


@pytest.mark.parametrize(
    ("error", "reason", "whole"),
    [
        (ValueError("it is negative"), "it is negative", "ValueError: it is negative"),
        (ConnectionError("Connection refused."), "Connection refused", "ConnectionError: Connection refused"),
        (ConnectionError("Two.\nLines.\n"), "Two.\nLines", "ConnectionError: Two.\nLines"),
        (KeyError(), "KeyError", "KeyError"),
    ],
)
def test_a_sentence_can_go_on_after_a_reason(error: Exception, reason: str, whole: str) -> None:
    assert (reason_of(error), described(error)) == (reason, whole)


class Endless(float):
    """A number of a project's, whose error is a sentence."""

    def __lt__(self, other: float) -> bool:
        raise ArithmeticError("It has no end.")


def test_a_reason_is_followed_by_one_full_stop() -> None:
    with pytest.raises(InvalidReport, match=r": It has no end\.$"):
        ProgressObserver().set_progress(Endless())


def test_only_show_cuts_values() -> None:
    package = Path(dramatiq_progress.__file__).parent
    assert not [path.name for path in package.rglob("*.py") if "!r:." in path.read_text()]

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
from dramatiq_progress.error_texts import MAX_SHOWN_CHARACTERS, show
from dramatiq_progress.links import progress_url
from dramatiq_progress.progress import message_id_of
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


def test_only_show_cuts_values() -> None:
    package = Path(dramatiq_progress.__file__).parent
    assert not [path.name for path in package.rglob("*.py") if "!r:." in path.read_text()]

"""The observer: valid and invalid reports, mostly on detached observers, which write nowhere."""

from __future__ import annotations

import copy
import datetime
import json
import math
import pickle
import re
import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_progress import InvalidReport, ProgressObserver
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.decoding import decode
from dramatiq_progress.worker.observing.binding import Binding


@pytest.fixture
def observer() -> ProgressObserver:
    return ProgressObserver()


@pytest.fixture
def lenient() -> ProgressObserver:
    """An observer as in a worker with DEBUG off."""
    return ProgressObserver(Binding(attempt=Attempt("m1", "work", "default"), strict=False))


def wire(observer: ProgressObserver) -> dict[str, Any]:
    """Return the JSON that a browser would receive for the observer's values."""
    record = {"actor": "work", "queue": "q", "state": "running", "heartbeat": "0", "version": "1"}
    fields = observer._binding.final_fields(with_result=True)
    progress = decode("m1", record | fields, now=0, lost_after=15)
    # Strict, like a browser: no NaN, no Infinity, and valid UTF-8.
    text = json.dumps(progress.as_dict(), ensure_ascii=False, allow_nan=False).encode()
    found: dict[str, Any] = json.loads(text)
    return found


def test_actors_see_what_is_documented_and_nothing_else() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    documented = "".join((docs / page).read_text() for page in ("observer.md", "resuming.md"))
    public = [name for name in dir(ProgressObserver()) if not name.startswith("_")]
    assert len(public) == 20
    assert [name for name in public if not re.search(rf"\b{name}\b", documented)] == []


def test_an_omitted_value_stays(observer: ProgressObserver) -> None:
    observer.set_progress(1, 10, "Reading")
    observer.set_progress(2)
    assert (observer.current, observer.total, observer.description) == (2, 10, "Reading")
    observer.set_progress(3, None)
    assert (observer.current, observer.total, observer.description) == (3, None, "Reading")
    observer.set_progress(4, description="Writing")
    assert (observer.current, observer.total, observer.description) == (4, None, "Writing")


def test_increments_add_up(observer: ProgressObserver) -> None:
    observer.increment_progress()
    observer.increment_progress(4, "Working")
    observer.increment_progress(0.5)
    assert (observer.current, observer.description) == (5.5, "Working")


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (3, 3),
        (2.5, 2.5),
        (Decimal("7"), 7),
        (Decimal("7.25"), 7.25),
        (Fraction(1, 4), 0.25),
        (2**60, 2**60),
        (10**300, 10**300),
        (0, 0),
    ],
)
def test_numbers_of_every_kind_are_accepted(observer: ProgressObserver, reported: Any, kept: Any) -> None:
    observer.set_progress(reported, reported)
    assert (observer.current, type(observer.current)) == (kept, type(kept))
    assert wire(observer)["progress"]["total"] == kept


BAD_NUMBERS = [
    *(None, "3", b"3", [], object(), True, 1j),
    *(math.nan, math.inf, -math.inf, -1, -0.5, 10**400, 10**5000),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+400"), Decimal(-1)),
]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=lambda value: f"{type(value).__name__}")
def test_an_invalid_number_is_an_error_with_debug(observer: ProgressObserver, bad: Any) -> None:
    observer.set_progress(5, 10)
    with pytest.raises(InvalidReport, match="current="):
        observer.set_progress(bad)
    with pytest.raises(InvalidReport, match="by="):
        observer.increment_progress(bad)
    if bad is not None:
        with pytest.raises(InvalidReport, match="total="):
            observer.set_progress(6, bad)
    assert (observer.current, observer.total) == (5, 10)


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=lambda value: f"{type(value).__name__}")
def test_an_invalid_number_is_ignored_in_a_job(lenient: ProgressObserver, bad: Any, caplog: Any) -> None:
    lenient.set_progress(5, 10)
    lenient.set_progress(bad, description="Working")
    lenient.increment_progress(bad)
    if bad is not None:
        lenient.set_progress(6, bad)
    assert lenient.current == (5 if bad is None else 6)
    assert (lenient.total, lenient.description) == (10, "Working")
    [warning] = [each.getMessage() for each in caplog.records]
    assert warning.startswith("Ignoring an invalid report from work (message m1): current=")


def test_numbers_cannot_add_up_to_infinity(lenient: ProgressObserver) -> None:
    lenient.increment_progress(1.7e308)
    lenient.increment_progress(1.7e308)
    assert wire(lenient)["progress"]["current"] == 1.7e308


def test_a_value_above_the_total_is_shown_as_reported(observer: ProgressObserver) -> None:
    observer.set_progress(12, 10)
    shown = wire(observer)["progress"]
    assert (shown["current"], shown["total"], shown["percent"]) == (12, 10, 100.0)


def test_descriptions_are_cut_and_may_be_lazy_translations(observer: ProgressObserver) -> None:
    observer.set_progress(1, description="x" * 5000)
    assert observer.description == "x" * 1000
    lazy: Any = gettext_lazy("Importing")
    observer.set_progress(1, description=lazy)
    assert observer.description == "Importing"


def test_a_description_whose_str_fails_is_ignored(lenient: ProgressObserver, caplog: Any) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    broken: Any = Broken()
    lenient.set_progress(1, description="before")
    lenient.set_progress(2, description=broken)
    assert (lenient.current, lenient.description) == (2, "before")
    assert "no text" in caplog.text


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_reaches_a_browser(text: str) -> None:
    observer = ProgressObserver()
    observer.set_progress(1, description=text)
    observer.set_metadata(text=text, **{"key": [text]})
    shown = wire(observer)
    assert shown["progress"]["description"] == shown["metadata"]["text"] == shown["metadata"]["key"][0]


def test_half_a_surrogate_pair_becomes_a_replacement_character(observer: ProgressObserver) -> None:
    observer.set_progress(1, description="a\ud800b \ud83d\ude00")
    assert wire(observer)["progress"]["description"] == "a�b \U0001f600"


# track


def test_track_counts_an_item_after_the_loop_body(observer: ProgressObserver) -> None:
    seen = [(item, observer.current, observer.total) for item in observer.track("abc", description="Letters")]
    assert seen == [("a", 0, 3), ("b", 1, 3), ("c", 2, 3)]
    assert (observer.current, observer.description) == (3, "Letters")


def test_track_does_not_count_the_item_that_failed(observer: ProgressObserver) -> None:
    with pytest.raises(RuntimeError):
        for item in observer.track(range(10)):
            if item == 4:
                raise RuntimeError
    assert observer.current == 4
    for item in observer.track(range(10)):
        if item == 2:
            break
    assert observer.current == 2


def test_track_of_a_generator_has_no_total_unless_given(observer: ProgressObserver) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    observer.set_progress(0, 99)
    assert list(observer.track(numbers())) == [0, 1, 2]
    assert (observer.current, observer.total) == (3, None)
    assert list(observer.track(numbers(), 3)) == [0, 1, 2]
    assert observer.total == 3
    assert list(observer.track([1], None)) == [1]
    assert observer.total is None


def test_track_reports_the_total_before_the_first_item(observer: ProgressObserver) -> None:
    observer.track([1, 2])
    assert observer.total == 2


def test_track_of_an_iterable_too_long_for_len(observer: ProgressObserver) -> None:
    for item in observer.track(range(10**20)):
        if item == 3:
            break
    assert (observer.current, observer.total) == (3, None)


@pytest.mark.django_db
def test_track_of_a_queryset_makes_one_query(observer: ProgressObserver, django_assert_num_queries: Any) -> None:
    from django_dramatiq.models import Task

    for _ in range(3):
        Task.tasks.create(id=uuid.uuid4(), message_data=b"")
    with django_assert_num_queries(1):
        assert len(list(observer.track(Task.tasks.all()))) == 3
    assert (observer.current, observer.total) == (3, 3)


@pytest.mark.parametrize("bad", [["a", "b"], ("a",), {"a": 1}, {"a"}])
def test_a_collection_is_no_text(
    observer: ProgressObserver, lenient: ProgressObserver, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lenient.set_progress(1, 2, "Reading")
    for report in (lambda each: each.set_progress(2, 2, bad), lambda each: each.increment_progress(description=bad)):
        with pytest.raises(InvalidReport, match=r"reported description=.*: it must be a text"):
            report(observer)
        report(lenient)
    with pytest.raises(InvalidReport, match="reported title="):
        observer.set_title(bad)
    lenient.set_title(bad)
    assert (lenient.current, lenient.description, lenient.title) == (3, "Reading", "Work")
    assert "invalid report from work (message m1): description=" in caplog.text


def test_a_call_whose_name_is_none_is_made(
    observer: ProgressObserver, lenient: ProgressObserver, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    # The start of this attempt is never recorded.
    settings.DRAMATIQ_PROGRESS = {"RESUME_WAIT": 0.1}
    name: Any = ["mail"]
    calls: list[str] = []
    with pytest.raises(InvalidReport, match=r"reported once=\['mail'\]: it must be a name"):
        observer.once(name, lambda: calls.append("strict"))
    lenient.once(name, lambda: calls.append("lenient"))
    assert calls == ["lenient"]
    assert "once=['mail'] (it must be a name" in caplog.text


class Locked(ProgressObserver):
    """An observer of a project's, with an attribute that can't be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("copy_of", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy, copy.copy])  # noqa: S301 - its own
@pytest.mark.parametrize("kind", [ProgressObserver, Locked])
def test_an_observer_of_a_subclass_can_be_copied(kind: type[ProgressObserver], copy_of: Any) -> None:
    copied = copy_of(kind())
    copied.set_progress(3, 5)
    assert (type(copied), copied.current, copied.total) == (ProgressObserver, 3, 5)


# Metadata and results


def test_metadata_is_merged_and_encoded_by_django(observer: ProgressObserver) -> None:
    observer.set_metadata(file="a.csv", size=3)
    observer.set_metadata(size=4, day=datetime.date(2026, 1, 2), price=Decimal("1.50"), title=gettext_lazy("T"))
    assert observer.metadata == {"file": "a.csv", "size": 4, "day": "2026-01-02", "price": "1.50", "title": "T"}


@pytest.mark.parametrize("bad", [object(), math.nan, {1: {2: math.inf}}, "x" * 20_000, {(1, 2): 3}])
def test_metadata_that_cannot_be_encoded_is_ignored(
    observer: ProgressObserver, lenient: ProgressObserver, bad: Any, caplog: Any
) -> None:
    with pytest.raises(InvalidReport, match="metadata="):
        observer.set_metadata(bad=bad)
    lenient.set_metadata(good=1)
    lenient.set_metadata(bad=bad)
    lenient.set_metadata(better=2)
    assert lenient.metadata == {"good": 1, "better": 2}
    assert "invalid report from work (message m1): metadata=" in caplog.text


def test_the_limit_of_metadata_is_for_all_values_together(observer: ProgressObserver) -> None:
    observer.set_metadata(first="x" * 10_000)
    with pytest.raises(InvalidReport, match="16,384"):
        observer.set_metadata(second="x" * 10_000)
    assert set(observer.metadata) == {"first"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"imported": 5}, {"imported": 5}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (None, None),
        (2**70, 2**70),
    ],
)
def test_results_are_encoded_by_django(observer: ProgressObserver, value: Any, shown: Any) -> None:
    observer.set_result(value)
    assert observer.result == shown


@pytest.mark.parametrize("bad", [object(), math.nan, "x" * 70_000])
def test_a_result_that_cannot_be_encoded_is_ignored_with_a_warning(
    observer: ProgressObserver, bad: Any, caplog: Any
) -> None:
    observer.set_result("before")
    observer.set_result(bad)
    assert observer.result == "before"
    assert "Ignoring the result of" in caplog.text


def test_no_report_of_concurrent_threads_is_lost(observer: ProgressObserver) -> None:
    def part(number: int) -> None:
        for _ in range(2_000):
            observer.increment_progress()
        observer.set_metadata(**{f"thread{number}": True})

    threads = [threading.Thread(target=part, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert observer.current == 16_000
    assert len(observer.metadata) == 8


def test_a_detached_observer_writes_nowhere(observer: ProgressObserver, memory_store: Any) -> None:
    observer.set_progress(1, 2)
    assert (observer.message_id, observer.attempt, observer._binding.bound_attempt) == (None, 1, None)
    assert observer._binding.take_changes() == {"current": "1", "total": "2"}


def test_values_are_sent_again_until_the_store_has_answered() -> None:
    """A value that is reset before the answer to its write must be part of the last write."""
    observer = ProgressObserver(Binding(attempt=Attempt("m1", "work", "default", number=1)))
    observer.set_progress(5, 9, "Half")
    sent = observer._binding.take_changes()
    observer.set_progress(0, None, "")
    assert observer._binding.final_fields(with_result=False) == {"current": "0", "total": "null", "description": ""}
    assert observer._binding.take_changes() == {"current": "0", "total": "null", "description": ""}
    observer._binding.confirm(sent)
    assert observer._binding.take_changes() == {"current": "0", "total": "null", "description": ""}
    observer._binding.release()


def test_a_value_that_reports_while_it_is_encoded_does_not_hang(observer: ProgressObserver) -> None:
    class Reporting(dict[str, int]):
        def items(self) -> Any:
            observer.increment_progress()
            return super().items()

    observer.set_metadata(nested=Reporting(a=1))
    assert (observer.current > 0, observer.metadata) == (True, {"nested": {"a": 1}})


def test_an_error_while_encoding_fails_no_job(lenient: ProgressObserver, caplog: Any) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    lenient.set_result(deep)
    lenient.set_metadata(deep=deep)
    assert (lenient.result, lenient.metadata) == (None, {})
    assert "Ignoring the result of work (message m1)" in caplog.text


def test_broken_number_and_iterable_types_fail_no_job(lenient: ProgressObserver) -> None:
    class Odd(float):
        def __float__(self) -> float:
            raise RuntimeError("odd")

    class Endless:
        def __len__(self) -> int:
            raise TypeError("has no length")

        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    lenient.set_progress(Odd(3))
    assert list(lenient.track(Endless())) == [1, 2]
    assert (lenient.current, lenient.total) == (2, None)
    lenient.increment_progress(int(1.7e308))
    lenient.increment_progress(0.5)
    lenient.increment_progress(int(1.7e308))
    lenient.increment_progress(0.5)
    json.dumps(wire(lenient), allow_nan=False)


def test_a_description_can_be_reported_alone() -> None:
    observer = ProgressObserver()
    observer.set_progress(3, 9, "Reading")
    observer.set_progress(description="Sorting")
    assert (observer.current, observer.total, observer.description) == (3, 9, "Sorting")
    observer.set_progress(total=12)
    assert (observer.current, observer.total, observer.description) == (3, 12, "Sorting")

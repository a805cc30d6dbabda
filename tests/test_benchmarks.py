"""The benchmarks: they can be imported, and their table is right. Their figures aren't tested."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.__main__ import QUESTIONS
from benchmarks.measuring import Row, compare, percentile


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_is_a_script_with_a_docstring(question: str) -> None:
    module = importlib.import_module(f"benchmarks.{question}")
    assert callable(module.main)
    assert module.__doc__


def test_a_row_has_the_medians_and_their_ratio_and_the_target() -> None:
    row = Row("9. polls", "polls/s", {"ours": [30.0, 10.0, 20.0], "theirs": [5.0, 10.0, 15.0]}, bar=1.5, at_most=False)
    assert (
        row.markdown()
        == "| 9. polls | ours 20 (10 to 30) polls/s; theirs 10 (5 to 15) polls/s | 2 times | ≥ 1.5 times | met |"
    )


@pytest.mark.parametrize(("at_most", "verdict"), [(True, "**not met**"), (False, "met")])
def test_a_target_is_a_limit_from_one_side(at_most: bool, verdict: str) -> None:
    row = Row("a question", "ms", {"ours": [3.0]}, bar=2, at_most=at_most, bar_unit="ms")
    assert row.markdown().endswith(f"| 3 ms | {'≤' if at_most else '≥'} 2 ms | {verdict} |")


def test_a_row_without_figures_is_marked_as_not_measured() -> None:
    row = Row("a question", "ns", {}, bar=2)
    assert row.is_met is None
    assert row.markdown() == "| a question |  | not measured | ≤ 2 times |  |"


def test_a_figure_without_a_target_has_no_verdict() -> None:
    assert Row("a question", "ms", {"ours": [3.0]}, bar_unit="ms").markdown().endswith("| 3 ms |  |  |")


def test_all_sides_are_measured_equally_often() -> None:
    calls: list[str] = []

    def measure(side: str) -> float:
        calls.append(side)
        return len(calls)

    row = compare("a question", "s", {side: lambda side=side: measure(side) for side in ("ours", "theirs")})
    assert len(row.figures["ours"]) == len(row.figures["theirs"]) == calls.count("ours") == calls.count("theirs") > 1


def test_a_percentile_is_the_figure_below_which_that_part_lies() -> None:
    assert percentile([float(i) for i in range(100, 0, -1)], 0.99) == 100
    assert percentile([1.0], 0.5) == 1

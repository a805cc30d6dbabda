"""1. The time that a step of `track()` adds to a loop in the actor's thread, compared with tqdm without output.

Also that of a step of ``track(resume=True)``: of an iterable, whose place is a count, compared with a plain loop; and
of a function of a cursor and of a queryset, whose place is a value. The rows of the queryset are in memory.

Measured with this Python and, in a separate process, with that of the second environment of `make bench`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from itertools import chain, repeat, takewhile
from pathlib import Path
from typing import Any

from django.apps.registry import Apps

from benchmarks.measuring import Row, compare, report, seconds, store

STEPS = 5_000_000
#: Of the steps that are slower.
KEYED_STEPS = 1_000_000
SECOND_ENVIRONMENT = Path(__file__).parent.parent / ".venv-bench-second"


def loop(iterable: object) -> None:
    for _ in iterable:  # type: ignore[attr-defined]
        pass


def loaded_rows() -> Any:
    """Return a queryset whose pieces are in memory."""
    from django.db import models

    from dramatiq_progress.worker.resuming.querysets import PIECE_ROWS

    class Thing(models.Model):  # noqa: DJ008 - is never shown
        class Meta:
            app_label = "benchmarks"
            apps = Apps()

    class Loaded(models.QuerySet[Thing]):
        def __init__(self) -> None:
            super().__init__(Thing)
            piece = [Thing(pk=key) for key in range(PIECE_ROWS)]
            self.pieces = chain(repeat(piece, KEYED_STEPS // PIECE_ROWS), repeat([]))

        def order_by(self, *fields: Any) -> Any:
            return self

        def filter(self, *args: Any, **lookups: Any) -> Any:
            return self

        def __getitem__(self, piece: Any) -> Any:
            return next(self.pieces)

    return Loaded()


def main() -> None:
    measure()
    other = SECOND_ENVIRONMENT / "bin" / "python"
    if other.exists():
        subprocess.run([other, "-c", "from benchmarks.track_step import measure; measure()"], check=True)
    else:
        report(Row("1. one step of track(), Python 3.13: not on this machine", "ns", {}))


def measure() -> None:
    with store():
        from tqdm import tqdm

        from benchmarks.running import running

        def added(seconds_with: float) -> float:
            return (seconds_with - seconds(lambda: loop(range(STEPS)))) / STEPS * 1e9

        def ours() -> float:
            with running() as observer:
                return added(seconds(lambda: loop(observer.track(range(STEPS)))))

        def resumable() -> float:
            with running() as observer:
                return added(seconds(lambda: loop(observer.track(range(STEPS), resume=True))))

        def by_cursor() -> float:
            def pairs(cursor: int | None) -> Iterator[tuple[int, int]]:
                return zip(range(KEYED_STEPS), range(1, KEYED_STEPS + 1), strict=True)

            def without() -> None:
                for _ in pairs(None):
                    pass

            with running() as observer:
                spent = seconds(lambda: loop(observer.track(pairs, resume=True)))
            return (spent - seconds(without)) / KEYED_STEPS * 1e9

        def by_key() -> float:
            with running() as observer:
                spent = seconds(lambda: loop(observer.track(loaded_rows(), KEYED_STEPS, resume=True)))
            without = seconds(lambda: loop(chain.from_iterable(takewhile(bool, loaded_rows().pieces))))
            return (spent - without) / KEYED_STEPS * 1e9

        def theirs() -> float:
            with open(os.devnull, "w") as nowhere:
                return added(seconds(lambda: loop(tqdm(range(STEPS), file=nowhere))))

        question = f"1. one step of track(), Python {platform.python_version()}"
        report(compare(question, "ns", {"track()": ours, "tqdm": theirs}, bar=0.5))
        question = f"1. one step of track(resume=True), Python {platform.python_version()}"
        report(compare(question, "ns", {"with resume": resumable, "without": ours}, bar=1.3))
        question = f"1. one step of track(resume=True) by a cursor, Python {platform.python_version()}"
        row = compare(question, "ns", {"function": by_cursor, "queryset": by_key})
        of_rows = {"queryset": row.figures["queryset"]}
        report(row, Row("1. … of a queryset in memory", "ns", of_rows, bar=150, bar_unit="ns"))


if __name__ == "__main__":
    main()

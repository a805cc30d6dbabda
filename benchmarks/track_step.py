"""1. The time that a step of `track()` adds to a loop in the actor's thread, compared with tqdm without output.

Measured with this Python and, in a separate process, with that of the second environment of `make bench`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from benchmarks.measuring import Row, compare, report, seconds, store

STEPS = 5_000_000
SECOND_ENVIRONMENT = Path(__file__).parent.parent / ".venv-bench-second"


def loop(iterable: object) -> None:
    for _ in iterable:  # type: ignore[attr-defined]
        pass


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

        def theirs() -> float:
            with open(os.devnull, "w") as nowhere:
                return added(seconds(lambda: loop(tqdm(range(STEPS), file=nowhere))))

        question = f"1. one step of track(), Python {platform.python_version()}"
        report(compare(question, "ns", {"track()": ours, "tqdm": theirs}, bar=0.5))


if __name__ == "__main__":
    main()

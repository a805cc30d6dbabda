"""8. The age of values for a reader: from the return of `set_progress` to a reading in the same process."""

from __future__ import annotations

import time

from benchmarks.measuring import ROUNDS, Row, percentile, report, store

SINGLE, CONTINUOUS = 100, 100


def main() -> None:
    with store():
        from benchmarks.running import running
        from dramatiq_progress.conf import configuration
        from dramatiq_progress.stores import get_store

        interval = configuration().flush_interval

        def seen(message_id: str, current: int) -> float:
            began = time.perf_counter()
            while get_store().read([message_id])[0].current < current:  # type: ignore[union-attr]
                pass
            return (time.perf_counter() - began) * 1e3

        def ages(name: str, reports: int, pause: float) -> list[float]:
            found = []
            with running(name) as observer:
                for i in range(1, reports + 1):
                    time.sleep(pause)
                    observer.set_progress(i)
                    found.append(seen(name, i))
            return found

        # After twice an interval the recorder is idle again.
        kinds = (
            ("a single report", "single", SINGLE, 2 * interval, 20),
            ("continuous reports", "continuous", CONTINUOUS, 0.0, interval * 1e3 + 20),
        )
        for title, name, reports, pause, bar in kinds:
            rounds = [ages(f"{name}-{i}", reports, pause) for i in range(ROUNDS)]
            for part in (0.5, 0.99):
                row = Row(f"8. age of {title}, p{part * 100:.0f}", "ms", bar_unit="ms")
                row.figures["reader"] = [percentile(each, part) for each in rounds]
                if part == 0.99:
                    row.bar = bar
                report(row)


if __name__ == "__main__":
    main()

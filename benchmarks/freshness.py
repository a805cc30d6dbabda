"""8. How old what a reader sees is: from the return of `set_progress` to a reader in the same process seeing it."""

from __future__ import annotations

import time

from benchmarks.measuring import Row, percentile, report, store

LONE, CONTINUOUS = 100, 100


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

        with running("lone") as observer:
            lone = []
            for i in range(1, LONE + 1):
                time.sleep(2 * interval)  # the recorder is idle again
                observer.set_progress(i)
                lone.append(seen("lone", i))
        with running("continuous") as observer:
            continuous = []
            for i in range(1, CONTINUOUS + 1):
                observer.set_progress(i)
                continuous.append(seen("continuous", i))
        for name, found, bar in (("a lone report", lone, 20), ("continuous reports", continuous, interval * 1e3 + 20)):
            for part in (0.5, 0.99):
                row = Row(f"8. age of {name}, p{part * 100:.0f}", "ms", {"reader": [percentile(found, part)]})
                if part == 0.99:
                    row.bar = bar
                row.bar_unit = "ms"
                report(row)


if __name__ == "__main__":
    main()

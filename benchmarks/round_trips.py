"""3. How often a process talks to the store while its actors report as fast as they can, as the server counts it."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from benchmarks.measuring import compare, report, store

SECONDS = 5.0


def main() -> None:
    with store() as url:
        import redis

        from benchmarks.running import running
        from dramatiq_progress.conf import configuration
        from dramatiq_progress.recorder import get_recorder

        intervals = SECONDS / configuration().flush_interval
        with redis.Redis.from_url(url) as client:

            def counted(actors: int) -> tuple[float, float]:
                """Reads of the server's socket, and script calls for each actor; both in a flush interval."""
                stopping = threading.Event()

                def work(observer: object) -> None:
                    current = 0
                    while not stopping.is_set():
                        current += 1
                        observer.set_progress(current)  # type: ignore[attr-defined]

                with ExitStack() as stack:
                    observers = [stack.enter_context(running()) for _ in range(actors)]
                    threads = [threading.Thread(target=work, args=[each]) for each in observers]
                    before = figures()
                    for thread in threads:
                        thread.start()
                    time.sleep(SECONDS)
                    after = figures()
                    stopping.set()
                    for thread in threads:
                        thread.join()
                # The two looks at the figures are reads themselves.
                return (after[0] - before[0] - 1) / intervals, (after[1] - before[1]) / intervals / actors

            def figures() -> tuple[int, int]:
                calls = client.info("commandstats")
                scripts = sum(each["calls"] for name, each in calls.items() if name.startswith("cmdstat_eval"))
                return int(client.info("stats")["total_reads_processed"]), scripts

            for actors in (1, 10, 100):
                found: list[tuple[float, float]] = []

                def round_trips(actors: int = actors, found: list[tuple[float, float]] = found) -> float:
                    found.append(counted(actors))
                    return found[-1][0]

                title = f"{actors} reporting actors"
                trips = compare(f"3. round trips in a flush interval, {title}", "", {"process": round_trips}, bar=1.1)
                scripts = iter([each[1] for each in found])
                calls = compare(
                    f"3. script calls of an actor in a flush interval, {title}",
                    "",
                    {"actor": lambda scripts=scripts: next(scripts)},  # type: ignore[misc]
                    bar=1.1,
                )
                for row in (trips, calls):
                    row.bar_unit = ""
                report(trips, calls)
        get_recorder().stop()


if __name__ == "__main__":
    main()

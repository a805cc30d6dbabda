"""2. The cost of one report for the actor's thread, compared with celery-progress and a Redis result backend."""

from __future__ import annotations

from benchmarks.measuring import compare, report, seconds, store

OURS, THEIRS = 1_000_000, 2_000


def main() -> None:
    with store():
        from celery_progress.backend import ProgressRecorder

        from benchmarks.celery_app import reporting
        from benchmarks.running import running

        reporting.push_request(id="one-report")
        recorder = ProgressRecorder(reporting)

        def set_progress() -> float:
            with running() as observer:

                def reports() -> None:
                    for i in range(OURS):
                        observer.set_progress(i, OURS, "text")

                return seconds(reports) / OURS * 1e6

        def increment_progress() -> float:
            with running() as observer:

                def reports() -> None:
                    for _ in range(OURS):
                        observer.increment_progress()

                return seconds(reports) / OURS * 1e6

        def theirs() -> float:
            def reports() -> None:
                for i in range(THEIRS):
                    recorder.set_progress(i, THEIRS, "text")

            return seconds(reports) / THEIRS * 1e6

        for name, ours in (("set_progress", set_progress), ("increment_progress", increment_progress)):
            sides = {"celery-progress set_progress": theirs, name: ours}
            report(compare(f"2. one {name}()", "µs", sides, bar=1000, at_most=False))


if __name__ == "__main__":
    main()

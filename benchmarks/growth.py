"""9. The growth of costs with the items of a job, the running messages of a process, and the stored records."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.measuring import compare, report, seconds, store

FLAT = 1.2


def main() -> None:
    with store() as url:
        import redis

        from benchmarks.running import running
        from dramatiq_progress.stores import get_store
        from dramatiq_progress.stores.attempt import Attempt

        def one_report(items: int) -> float:
            with running() as observer:
                observer.set_progress(0, items)
                reports = min(items, 1_000_000)

                def again() -> None:
                    for _ in range(1_000_000 // reports):
                        for i in range(reports):
                            observer.set_progress(i)

                return seconds(again) / 1_000_000 * 1e9

        sides = {f"{items:,} items": lambda items=items: one_report(items) for items in (10_000_000, 100)}
        report(compare("9. one report, by the items of the job", "ns", sides, bar=FLAT))

        def with_others(others: int) -> float:
            with ExitStack() as stack:
                for _ in range(others):
                    stack.enter_context(running())
                return one_report(1_000_000)

        sides = {f"{others + 1:,} running": lambda others=others: with_others(others) for others in (999, 0)}
        report(compare("9. one report, by the running messages of the process", "ns", sides, bar=FLAT))

        attempt = Attempt("one", "work", "default")
        get_store().start(attempt)

        def poll() -> float:
            return seconds(lambda: [get_store().read(["one"]) for _ in range(2000)]) / 2000 * 1e6

        def write() -> float:
            reports = [[(attempt, {"current": str(i)})] for i in range(2000)]
            return seconds(lambda: [get_store().report(each) for each in reports]) / 2000 * 1e6

        few = {"poll": [poll() for _ in range(3)], "write": [write() for _ in range(3)]}
        with redis.Redis.from_url(url) as client:
            record = client.hgetall(get_store().key("one"))
            fill = client.pipeline(transaction=False)
            for i in range(1_000_000):
                fill.hset(f"dramatiq-progress:filler-{i}", mapping=record)
                if i % 10_000 == 9_999:
                    fill.execute()
        for name, measure in (("poll", poll), ("write", write)):
            row = compare(f"9. one {name}, by the records in the store", "µs", {"1,000,001 records": measure}, bar=FLAT)
            row.figures["1 record"] = few[name]
            report(row)


if __name__ == "__main__":
    main()

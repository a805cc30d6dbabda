"""10. The memory of one record in the store, as reported by MEMORY USAGE with all samples."""

from __future__ import annotations

from benchmarks.measuring import Row, report, store

MESSAGE_ID = "b2c1a5d0-9f3b-4d2e-8a51-0c6f2b7d1e94"


def main() -> None:
    with store() as url:
        import redis

        from benchmarks.running import running
        from dramatiq_progress.stores import get_store
        from dramatiq_progress.worker.recording.recorder import get_recorder

        def memory(description: str) -> int:
            with redis.Redis.from_url(url) as client:
                client.delete(get_store().key(MESSAGE_ID))
                with running(MESSAGE_ID) as observer:
                    for i in range(4):
                        observer.set_progress(1_200_000 + i, 5_000_000, description)
                    observer.set_metadata(file="customers.csv", size=18_345_112)
                    get_recorder().stop()
                return int(client.memory_usage(get_store().key(MESSAGE_ID), samples=0))

        for name, text, bar in (("of at most 64 bytes", "Importing", 512), ("of up to 200 bytes", "x" * 200, 1536)):
            figures = {"record": [float(memory(text))]}
            report(Row(f"10. a record with values {name}", "bytes", figures, bar=bar, bar_unit="bytes"))


if __name__ == "__main__":
    main()

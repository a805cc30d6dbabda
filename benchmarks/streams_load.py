"""Streams: 10,000 on one uvicorn process, each for a message of its own and for one that all watch.

Reports are written without a recorder, so that the time from a report to its event contains no flush interval. Clients
and reports share a process, whose own delays count too. LOST_AFTER is an hour, since the 10,000 messages have no
heartbeats.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.listeners import Listener, listen
from benchmarks.measuring import Row, percentile, report, store
from benchmarks.processes import cpu_seconds, resident_bytes
from benchmarks.serving import Server, serving

if TYPE_CHECKING:
    from dramatiq_progress.stores.attempt import Attempt

STREAMS = int(os.environ.get("BENCH_STREAMS", "10000"))
UVICORN = "uvicorn --port {port} --log-level error --no-access-log --backlog 4096 benchmarks.asgi:application"
#: One for each stream, and some more.
OPEN_FILES = STREAMS + 1_000
SHARED = "shared"
UPDATES_A_SECOND, UPDATE_SECONDS = 200, 10
UPDATES_TO_ALL = 3
#: Number of clients that never read; bytes, rate and duration of the reports to them.
DEAF, DEAF_BYTES, DEAF_UPDATES_A_SECOND, DEAF_SECONDS = 200, 8_000, 20, 5
PATIENCE_SECONDS = 60.0

MOST_KIB_A_STREAM, MOST_MS, MOST_MS_TO_ALL = 60, 100, 1_500


def main() -> None:
    raise_limit()
    os.environ["BENCH_LOST_AFTER"] = "3600"
    with store(), ExitStack() as stack:
        server = stack.enter_context(serving(UVICORN))
        asyncio.run(Load(server).run())


def raise_limit() -> None:
    """Raise the limit of open files to that of the user, for this process and the server that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise SystemExit(f"{STREAMS:,} streams need {OPEN_FILES:,} open files, and `ulimit -Hn` is {hard:,}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Load:
    """The server, its clients, and their messages."""

    def __init__(self, server: Server) -> None:
        from dramatiq_progress.stores import get_store

        self.server = server
        self.store = get_store()
        self.attempts: list[Attempt] = []
        self.listeners: list[Listener] = []
        # Each report has a unique number, which identifies its event.
        self.number = 0

    async def run(self) -> None:
        self.shared = self.start(SHARED)
        self.attempts = [self.start(f"message-{i}") for i in range(STREAMS)]
        await self.connect()
        await self.update_some("200 updates a second")
        await self.update_all()
        await self.update_some_with_deaf_clients()
        await self.finish_all()

    def start(self, message_id: str) -> Attempt:
        from dramatiq_progress.stores.attempt import Attempt

        attempt = Attempt(message_id, "work", "default")
        self.store.start(attempt)
        return attempt

    def report(self, attempt: Attempt, **fields: str) -> int:
        self.number += 1
        self.store.report([(attempt, {"current": str(self.number), "total": "1000000", **fields})])
        return self.number

    async def connect(self) -> None:
        # The imports of the first streams, and the subscription, don't count.
        first = await listen(self.server.port, [["message-0", SHARED]] * 100)
        for listener in first:
            listener.leave()
        before, cpu, began = resident_bytes(self.server.pid), cpu_seconds(self.server.pid), time.perf_counter()
        self.listeners = await listen(self.server.port, [[each.message_id, SHARED] for each in self.attempts])
        seconds = time.perf_counter() - began
        kib = (resident_bytes(self.server.pid) - before) / 1024 / STREAMS
        milliseconds = (cpu_seconds(self.server.pid) - cpu) / STREAMS * 1e3
        report(
            Row("streams: memory of one", "KiB", {"server": [kib]}, bar=MOST_KIB_A_STREAM, bar_unit="KiB"),
            Row("streams: started per second", "streams/s", {"server": [STREAMS / seconds]}, bar_unit="streams/s"),
            Row("streams: CPU time to start one", "ms", {"server": [milliseconds]}, bar_unit="ms"),
        )

    async def update_some(self, what: str) -> None:
        """Report on random messages at a steady rate, and measure the time of each report to its stream."""
        reports: list[tuple[Listener, Attempt, int, float]] = []
        cpu, began = cpu_seconds(self.server.pid), time.perf_counter()
        for i in range(UPDATES_A_SECOND * UPDATE_SECONDS):
            await asyncio.sleep(max(0.0, began + i / UPDATES_A_SECOND - time.perf_counter()))
            which = random.randrange(STREAMS)  # noqa: S311 - no secret
            reported_at = time.perf_counter()
            number = await asyncio.to_thread(self.report, self.attempts[which])
            reports.append((self.listeners[which], self.attempts[which], number, reported_at))
        busy = (cpu_seconds(self.server.pid) - cpu) / (time.perf_counter() - began)
        # A report may be superseded by a later one before its event is sent.
        await until(lambda: all(listener.latest[each.message_id][1] >= number for listener, each, number, _ in reports))
        late = [
            (listener.received(each.message_id, number) - reported_at) * 1e3
            for listener, each, number, reported_at in reports
        ]
        report(
            Row(f"streams: report to event, p50, {what}", "ms", {"stream": [percentile(late, 0.5)]}, bar_unit="ms"),
            Row(
                f"streams: report to event, p99, {what}",
                "ms",
                {"stream": [percentile(late, 0.99)]},
                MOST_MS,
                bar_unit="ms",
            ),
            Row(f"streams: CPU in use, {what}", "of a core", {"server": [busy]}, bar_unit="of a core"),
        )

    async def update_all(self) -> None:
        """Report on the message that all watch."""
        late: list[float] = []
        for _ in range(UPDATES_TO_ALL):
            reported_at = time.perf_counter()
            event = (SHARED, await asyncio.to_thread(self.report, self.shared))
            await until(lambda event=event: all(event in each.received_at for each in self.listeners))  # type: ignore[misc]
            late += [(each.received_at[event] - reported_at) * 1e3 for each in self.listeners]
        row = Row("streams: one update to all, p99", "ms", {"stream": [percentile(late, 0.99)]}, MOST_MS_TO_ALL)
        row.bar_unit = "ms"
        report(row)

    async def update_some_with_deaf_clients(self) -> None:
        """The same, while clients that never read are sent more than their buffers can hold."""
        noisy = self.start("noisy")
        before = resident_bytes(self.server.pid)
        deaf = await listen(self.server.port, [["noisy"]] * DEAF, reads=False)
        for _ in range(DEAF_UPDATES_A_SECOND * DEAF_SECONDS):
            await asyncio.to_thread(self.report, noisy, description="x" * DEAF_BYTES)
            await asyncio.sleep(1 / DEAF_UPDATES_A_SECOND)
        await self.update_some(f"with {DEAF} clients that never read")
        kib = (resident_bytes(self.server.pid) - before) / 1024 / DEAF
        report(Row("streams: memory of a client that never reads", "KiB", {"server": [kib]}, bar_unit="KiB"))
        for each in deaf:
            each.leave()

    async def finish_all(self) -> None:
        """Finish all messages as fast as possible."""
        from dramatiq_progress.progress import State

        def finish() -> None:
            for attempt in self.attempts:
                self.store.finish(attempt, state=State.DONE)

        await asyncio.to_thread(finish)
        pairs = list(zip(self.listeners, self.attempts, strict=True))

        def lost() -> int:
            return sum(1 for listener, each in pairs if listener.latest[each.message_id][0] != "done")

        await until(lambda: not lost(), strict=False)
        report(Row("streams: final states lost", "", {"streams": [float(lost())]}, bar=0, bar_unit=""))


async def until(condition: Callable[[], bool], *, strict: bool = True) -> None:
    """Wait for a condition. After a timeout, fail if `strict`, and otherwise return."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            if strict:
                raise TimeoutError(f"streams received no event within {PATIENCE_SECONDS:.0f} s")
            return
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()

"""Streams: 10,000 on one uvicorn process, each of a message of its own and of one that all watch.

Reports go to the store at once, without a recorder, so that the time from a report to its event has no flush interval
in it. Client and reports share a process, whose own delays are counted too. LOST_AFTER is an hour here, since nobody
sends signs of life for 10,000 messages.
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
    from dramatiq_progress.stores.base import Attempt

STREAMS = int(os.environ.get("BENCH_STREAMS", "10000"))
UVICORN = "uvicorn --port {port} --log-level error --no-access-log --backlog 4096 benchmarks.asgi:application"
#: Their own and the server's ends of the streams, and some more.
OPEN_FILES = STREAMS + 1_000
EVERYBODYS = "everybodys"
UPDATES_A_SECOND, UPDATE_SECONDS = 200, 10
UPDATES_TO_ALL = 3
#: Clients that never read, and what is reported to them: so much, so often, for so long.
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
    """As many open files as this user may have; the server that is started then may have as many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise SystemExit(f"{STREAMS:,} streams need {OPEN_FILES:,} open files, and `ulimit -Hn` is {hard:,}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Load:
    """The server, its clients, and the messages that they watch."""

    def __init__(self, server: Server) -> None:
        from dramatiq_progress.stores import get_store

        self.server = server
        self.store = get_store()
        self.attempts: list[Attempt] = []
        self.listeners: list[Listener] = []
        # Each report has a number of its own, and so its event can be told from all others.
        self.number = 0

    async def run(self) -> None:
        self.everybodys = self.start(EVERYBODYS)
        self.attempts = [self.start(f"message-{i}") for i in range(STREAMS)]
        await self.connect()
        await self.update_some("200 updates a second")
        await self.update_all()
        await self.update_some_beside_the_deaf()
        await self.finish_all()

    def start(self, message_id: str) -> Attempt:
        from dramatiq_progress.stores.base import Attempt

        attempt = Attempt(message_id, "work", "default")
        self.store.start(attempt)
        return attempt

    def say(self, attempt: Attempt, **fields: str) -> int:
        from dramatiq_progress.stores.base import Report

        self.number += 1
        self.store.report([Report(attempt, {"current": str(self.number), "total": "1000000", **fields})])
        return self.number

    async def connect(self) -> None:
        # What the first streams load, and the subscription, are none of a stream's own.
        first = await listen(self.server.port, [["message-0", EVERYBODYS]] * 100)
        for listener in first:
            listener.leave()
        before, cpu, began = resident_bytes(self.server.pid), cpu_seconds(self.server.pid), time.perf_counter()
        self.listeners = await listen(self.server.port, [[each.message_id, EVERYBODYS] for each in self.attempts])
        seconds = time.perf_counter() - began
        kib = (resident_bytes(self.server.pid) - before) / 1024 / STREAMS
        milliseconds = (cpu_seconds(self.server.pid) - cpu) / STREAMS * 1e3
        report(
            Row("streams: memory of one", "KiB", {"server": [kib]}, bar=MOST_KIB_A_STREAM, bar_unit="KiB"),
            Row("streams: begun in a second", "streams/s", {"server": [STREAMS / seconds]}, bar_unit="streams/s"),
            Row("streams: processor time to begin one", "ms", {"server": [milliseconds]}, bar_unit="ms"),
        )

    async def update_some(self, what: str) -> None:
        """Updates of messages by chance, at a steady pace; how long each takes to its one stream."""
        said: list[tuple[Listener, Attempt, int, float]] = []
        cpu, began = cpu_seconds(self.server.pid), time.perf_counter()
        for i in range(UPDATES_A_SECOND * UPDATE_SECONDS):
            await asyncio.sleep(max(0.0, began + i / UPDATES_A_SECOND - time.perf_counter()))
            which = random.randrange(STREAMS)  # noqa: S311 - no secret
            said_at = time.perf_counter()
            number = await asyncio.to_thread(self.say, self.attempts[which])
            said.append((self.listeners[which], self.attempts[which], number, said_at))
        busy = (cpu_seconds(self.server.pid) - cpu) / (time.perf_counter() - began)
        # One that was overtaken by a newer report is told with it.
        await until(lambda: all(listener.told[each.message_id][1] >= number for listener, each, number, _ in said))
        late = [(listener.heard(each.message_id, number) - said_at) * 1e3 for listener, each, number, said_at in said]
        report(
            Row(f"streams: report to event, p50, {what}", "ms", {"stream": [percentile(late, 0.5)]}, bar_unit="ms"),
            Row(
                f"streams: report to event, p99, {what}",
                "ms",
                {"stream": [percentile(late, 0.99)]},
                MOST_MS,
                bar_unit="ms",
            ),
            Row(f"streams: processor that is busy, {what}", "of a core", {"server": [busy]}, bar_unit="of a core"),
        )

    async def update_all(self) -> None:
        """Updates of the message that all watch."""
        late: list[float] = []
        for _ in range(UPDATES_TO_ALL):
            said_at = time.perf_counter()
            told = (EVERYBODYS, await asyncio.to_thread(self.say, self.everybodys))
            await until(lambda told=told: all(told in each.told_at for each in self.listeners))  # type: ignore[misc]
            late += [(each.told_at[told] - said_at) * 1e3 for each in self.listeners]
        row = Row("streams: one update to all, p99", "ms", {"stream": [percentile(late, 0.99)]}, MOST_MS_TO_ALL)
        row.bar_unit = "ms"
        report(row)

    async def update_some_beside_the_deaf(self) -> None:
        """The same as before, while clients that never read are told more than they have room for."""
        noisy = self.start("noisy")
        before = resident_bytes(self.server.pid)
        deaf = await listen(self.server.port, [["noisy"]] * DEAF, reads=False)
        for _ in range(DEAF_UPDATES_A_SECOND * DEAF_SECONDS):
            await asyncio.to_thread(self.say, noisy, description="x" * DEAF_BYTES)
            await asyncio.sleep(1 / DEAF_UPDATES_A_SECOND)
        await self.update_some(f"with {DEAF} that never read")
        kib = (resident_bytes(self.server.pid) - before) / 1024 / DEAF
        report(Row("streams: memory of one that never reads", "KiB", {"server": [kib]}, bar_unit="KiB"))
        for each in deaf:
            each.leave()

    async def finish_all(self) -> None:
        """All messages end, as fast as one process can say it."""
        from dramatiq_progress.progress import State

        def finish() -> None:
            for attempt in self.attempts:
                self.store.finish(attempt, state=State.DONE)

        await asyncio.to_thread(finish)
        pairs = list(zip(self.listeners, self.attempts, strict=True))

        def lost() -> int:
            return sum(1 for listener, each in pairs if listener.told[each.message_id][0] != "done")

        await until(lambda: not lost(), strict=False)
        report(Row("streams: final states lost", "", {"streams": [float(lost())]}, bar=0, bar_unit=""))


async def until(condition: Callable[[], bool], *, strict: bool = True) -> None:
    """Wait for a condition; when it does not come, go on, or fail."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            if strict:
                raise TimeoutError(f"streams were not told within {PATIENCE_SECONDS:.0f} s")
            return
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()

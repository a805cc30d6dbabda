"""3. The number of round trips of a process to the store, while its actors report as fast as they can.

The server counts the calls of scripts. Round trips are counted where they leave the process, since the server counts
reads of its sockets, and reads a batch of 100 reports in several pieces.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from benchmarks.measuring import ROUNDS, Row, report, store

SECONDS = 5.0
#: One per interval, and a tenth for the one that is in progress at the beginning.
AT_MOST = 1.1


class Counters(NamedTuple):
    """The counts of `SECONDS`."""

    round_trips: int
    scripts: int


@contextmanager
def counted_round_trips() -> Iterator[list[int]]:
    """Yield a list that gets the number of commands of each round trip of this process."""
    from dramatiq_progress.stores import get_store

    servers = get_store()._servers  # type: ignore[attr-defined]
    send, found = servers.send, []

    def counting(requests: Sequence[object], *options: object) -> object:
        found.append(len(requests))
        return send(requests, *options)

    servers.send = counting
    try:
        yield found
    finally:
        del servers.send


def script_calls(client: Any) -> int:
    commands = client.info("commandstats")
    return sum(each["calls"] for name, each in commands.items() if name.startswith("cmdstat_eval"))


def counted_while_reporting(client: Any, actors: int) -> Counters:
    """Count while this many actors report as fast as they can."""
    from benchmarks.running import running
    from dramatiq_progress import ProgressObserver

    stopping = threading.Event()

    def work(observer: ProgressObserver) -> None:
        current = 0
        while not stopping.is_set():
            current += 1
            observer.set_progress(current)

    with ExitStack() as stack:
        observers = [stack.enter_context(running()) for _ in range(actors)]
        threads = [threading.Thread(target=work, args=[each]) for each in observers]
        before = script_calls(client)
        with counted_round_trips() as round_trips:
            for thread in threads:
                thread.start()
            time.sleep(SECONDS)
            found = Counters(len(round_trips), script_calls(client) - before)
        stopping.set()
        for thread in threads:
            thread.join()
    return found


def main() -> None:
    with store() as url:
        import redis

        from dramatiq_progress.conf import configuration

        intervals = SECONDS / configuration().flush_interval
        with redis.Redis.from_url(url) as client:
            for actors in (1, 10, 100):
                found = [counted_while_reporting(client, actors) for _ in range(ROUNDS)]
                of_process = [each.round_trips / intervals for each in found]
                of_actor = [each.scripts / intervals / actors for each in found]
                title = f"per flush interval, {actors} reporting actors"
                report(
                    Row(f"3. round trips {title}", "", {"process": of_process}, bar=AT_MOST, bar_unit=""),
                    Row(f"3. script calls of each actor {title}", "", {"actor": of_actor}, bar=AT_MOST, bar_unit=""),
                )


if __name__ == "__main__":
    main()

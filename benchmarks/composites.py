"""15. The costs of groups, of steps and of usual durations, compared with those of single messages without them."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Row, compare, report, seconds, store
from benchmarks.messages import DRAMATIQ, THREADS, Side, left, send, worked

if TYPE_CHECKING:
    from dramatiq_progress.stores.composites import Contribution

MEMBERS = 1_000
REPORTS = 500_000
READS = 500
STARTS = 200

SIDES = {
    "member": Side("group", f"{DRAMATIQ} --threads {THREADS}", {}),
    "message": Side("progress", f"{DRAMATIQ} --threads {THREADS}", {}),
}


def main() -> None:
    with store() as url:
        os.environ["BENCH_BROKER_URL"] = url
        sides = {"progress_group": partial(_send, url, in_group=True), "plain": partial(_send, url, in_group=False)}
        report(compare(f"15. sender's CPU time for {MEMBERS:,} messages", "ms", sides, bar=1.2))
        ends = {"member": partial(_end, url, of_member=True), "message": partial(_end, url, of_member=False)}
        row = compare("15. an end, at the server", "µs", ends)
        report(
            row, Row("15. a member's end, at the server", "µs", {"end": row.figures["member"]}, bar=30, bar_unit="µs")
        )
        size = float(_members_size(url, 10_000))
        report(Row("15. memory of 10,000 members", "bytes", {"members": [size]}, bar=2**20, bar_unit="bytes"))
        reports = {"in a step": partial(_report, in_step=True), "outside": partial(_report, in_step=False)}
        report(compare("15. one set_progress()", "ns", reports, bar=1.05))
        polls = {"group": partial(_poll, "group"), "message": partial(_poll, "message")}
        report(compare("15. one poll", "µs", polls, bar=1.1))
        calls = {"with": partial(_calls, url, estimates=True), "without": partial(_calls, url, estimates=False)}
        report(compare("15. commands per message, with usual durations", "commands", calls, bar=1.0))
        workers = {name: partial(_work, url, side) for name, side in SIDES.items()}
        report(compare("15. worker's CPU time per no-op message", "µs", workers, bar=1.15))


def _send(url: str, *, in_group: bool) -> float:
    """Return the milliseconds of CPU time of sending messages that do nothing."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from dramatiq_progress import progress_actor, progress_group
    from dramatiq_progress.middleware import ProgressMiddleware

    broker = RedisBroker(url=url, namespace="sent")
    if in_group:
        broker.add_middleware(ProgressMiddleware())
    declare = progress_actor if in_group else dramatiq.actor
    actor: Any = declare(broker=broker, actor_name="sent")(lambda: None)  # type: ignore[operator]
    actor.send()  # connections don't count
    began = time.process_time()
    if in_group:
        progress_group([actor.message() for _ in range(MEMBERS)], broker=broker).run()
    else:
        for _ in range(MEMBERS):
            actor.send()
    used = time.process_time() - began
    broker.flush_all()
    broker.close()
    return used * 1e3


def _group(name: str, count: int) -> Contribution:
    """Record a group, and return the contribution that did."""
    from dramatiq_progress.stores import get_store
    from dramatiq_progress.stores.composites import Contribution, Membership, waiting_slot
    from dramatiq_progress.stores.gathering import pieces_of

    slots = {f"{name}-{i:08x}-9f3b-4d2e-8a51"[:36]: waiting_slot(1) for i in range(count)}
    made = Contribution((Membership(name, count, "resize"),), "", slots)
    get_store().gather(list(pieces_of(made)), [])
    return made


def _end(url: str, *, of_member: bool) -> float:
    """Return the microseconds that the server takes for a member's end in its composite, or for a message's end."""
    import redis

    from dramatiq_progress import State
    from dramatiq_progress.stores import get_store
    from dramatiq_progress.stores.attempt import Attempt

    made = _group(f"ends-{time.monotonic_ns()}", MEMBERS)
    attempts = [Attempt(member, "resize", "default") for member in made.slots]
    for attempt in attempts:
        get_store().start(attempt)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.config_resetstat()
        for member, attempt in zip(made.slots, attempts, strict=True):
            if of_member:
                get_store().contribute([made._replace(slots={member: made.membership.slot(State.DONE, 1, 1000)})])
            else:
                get_store().finish(attempt, state=State.DONE)
        statistics: Any = client.info("commandstats")
        return float(statistics["cmdstat_evalsha"]["usec_per_call"])


def _members_size(url: str, count: int) -> int:
    import redis

    from dramatiq_progress.stores import get_store

    _group("size", count)
    with redis.Redis.from_url(url) as client:
        return int(client.memory_usage(get_store().members_key("size"), samples=0))


def _report(*, in_step: bool) -> float:
    from benchmarks.running import running

    with running() as observer:

        def reports() -> None:
            for i in range(REPORTS):
                observer.set_progress(i, REPORTS)

        if not in_step:
            return seconds(reports) / REPORTS * 1e9
        _, second = observer.steps("Reading", "Writing")
        with second:
            return seconds(reports) / REPORTS * 1e9


def _poll(kind: str) -> float:
    """Return the microseconds of a request for a group of which a member runs, or for a running message."""
    from django.test import RequestFactory

    from dramatiq_progress import State
    from dramatiq_progress.stores import get_store
    from dramatiq_progress.stores.attempt import Attempt
    from dramatiq_progress.views import detail

    if kind == "group":
        made = _group(kind, MEMBERS)
        first = next(iter(made.slots))
        get_store().contribute([made._replace(slots={first: made.membership.slot(State.RUNNING, 1, 240)})])
    else:
        attempt = Attempt(kind, "work", "default")
        get_store().start(attempt)
        get_store().report([(attempt, {"current": "1200", "total": "5000", "description": "Importing"})])

    request = RequestFactory().get(f"/progress/{kind}/")

    def polls() -> None:
        for _ in range(READS):
            detail(request, message_id=kind)

    return seconds(polls) / READS * 1e6


def _calls(url: str, *, estimates: bool) -> float:
    """Return the commands of a message that is sent, started and done."""
    import redis
    from django.conf import settings
    from django.test import override_settings

    from dramatiq_progress import State
    from dramatiq_progress.stores import get_store
    from dramatiq_progress.stores.attempt import Attempt

    with redis.Redis.from_url(url, decode_responses=True) as client:
        with override_settings(DRAMATIQ_PROGRESS=settings.DRAMATIQ_PROGRESS | {"ESTIMATES": estimates}):
            client.config_resetstat()
            for number in range(STARTS):
                name = f"calls-{time.monotonic_ns()}-{number}"
                get_store().enqueue(name, actor="work", queue="default", retries_left=None)
                attempt = Attempt(name, "work", "default")
                get_store().start(attempt)
                get_store().finish(attempt, state=State.DONE)
        statistics: Any = client.info("commandstats")
        return float(statistics["cmdstat_evalsha"]["calls"]) / STARTS


def _work(url: str, side: Side) -> float:
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushdb()
        send(side)
        return worked(side, partial(left, client, side.kind))[1]


if __name__ == "__main__":
    main()

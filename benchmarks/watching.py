"""6. The cost of a user who watches a job of ten minutes, for the server: requests and CPU seconds.

The ten minutes are simulated. Every request is real, over one connection to gunicorn, and so is each `poll_after` in
the responses. Instead of waiting for it, the record gets the times that it would have then: its start, and a report and
a heartbeat just now, with the numbers and the rate (by the recorder's own estimator) of a job that does ten items per
second. Like our bar, the client polls again after `poll_after`, with the last ETag. celery-progress's own client polls
every 500 ms.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

from benchmarks.measuring import Row, compare, report, store
from benchmarks.processes import cpu_seconds
from benchmarks.serving import WSGI_SERVERS, getting, serving

JOB_SECONDS = 600.0
ITEMS = 6_000
THEIR_INTERVAL_SECONDS = 0.5
#: CPU time is counted in steps of 0.01 s, so several jobs are watched one after the other.
OUR_JOBS, THEIR_JOBS = 20, 2


def main() -> None:
    with store() as url, ExitStack() as stack:
        import redis

        from benchmarks.celery_app import app
        from dramatiq_progress.conf import configuration
        from dramatiq_progress.progress import State
        from dramatiq_progress.stores import get_store
        from dramatiq_progress.stores.attempt import Attempt
        from dramatiq_progress.worker.observing.rate import RateEstimator

        client = stack.enter_context(redis.Redis.from_url(url))
        server = stack.enter_context(serving(WSGI_SERVERS["gunicorn"]))
        get = stack.enter_context(getting(server.port))
        interval = configuration().flush_interval
        requests: dict[str, list[float]] = {"progress": [], "celery-progress": []}

        def rates() -> list[float | None]:
            """Return the recorder's estimate of the rate after each flush."""
            estimator, found = RateEstimator(0.0), []
            for flush in range(int(JOB_SECONDS / interval) + 1):
                estimator.sample(int(flush * interval * ITEMS / JOB_SECONDS), flush * interval)
                found.append(estimator.rate)
            return found

        rate_after = rates()

        def put(attempt: Attempt, seconds: float) -> None:
            """Write the record of a job that has run for this many seconds."""
            flush = int(seconds / interval)
            now = time.time()
            fields = {
                "current": int(flush * interval * ITEMS / JOB_SECONDS),
                "total": ITEMS,
                "description": "Importing rows",
                "rate": json.dumps(rate_after[flush]),
                "started_at": now - seconds,
                "reported_at": now - (seconds - flush * interval),
                "heartbeat": now,
                "version": flush + 1,
            }
            client.hset(get_store().key(attempt.message_id), mapping=fields)

        def watch(job: int) -> int:
            attempt = Attempt(f"watched-{job}", "work", "default")
            get_store().start(attempt)
            seconds, count, tag, is_complete = 0.0, 0, "", False
            while not is_complete:
                if seconds < JOB_SECONDS:
                    put(attempt, seconds)
                else:
                    get_store().finish(attempt, state=State.DONE)
                response, body = get(f"/progress/{attempt.message_id}/", **({"If_None_Match": tag} if tag else {}))
                count += 1
                tag = response.getheader("ETag", "")
                answer = json.loads(body) if response.status == 200 else {"complete": False}
                is_complete = answer["complete"]
                seconds += float(answer.get("poll_after") or response.getheader("Poll-After", ""))
            return count

        def watch_theirs(job: int) -> int:
            count, is_complete = 0, False
            while not is_complete:
                seconds = count * THEIR_INTERVAL_SECONDS
                done = int(seconds * ITEMS / JOB_SECONDS)
                state = {"pending": False, "current": done, "total": ITEMS, "percent": 1.0, "description": "Importing"}
                ended = seconds >= JOB_SECONDS
                app.backend.store_result(f"watched-{job}", None if ended else state, "SUCCESS" if ended else "PROGRESS")
                is_complete = json.loads(get(f"/celery-progress/watched-{job}/")[1])["complete"]
                count += 1
            return count

        def cost(side: str) -> float:
            jobs, watched = (OUR_JOBS, watch) if side == "progress" else (THEIR_JOBS, watch_theirs)
            before = cpu_seconds(server.pid)
            requests[side].append(sum(watched(job) for job in range(jobs)) / jobs)
            client.flushdb()
            return (cpu_seconds(server.pid) - before) / jobs

        sides = {side: lambda side=side: cost(side) for side in requests}
        cpu = compare("6. server's CPU time for a watcher of ten minutes", "s", sides, bar=0.1)
        report(Row("6. requests of a watcher of ten minutes", "requests", requests, bar=0.1), cpu)


if __name__ == "__main__":
    main()

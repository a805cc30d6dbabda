"""5. One request for the progress of 100 messages against one for a single message, as a client of gunicorn sees it."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.measuring import compare, report, seconds, store
from benchmarks.serving import WSGI_SERVERS, getting, serving

MESSAGES = 100
REQUESTS = 500


def main() -> None:
    with store(), ExitStack() as stack:
        from benchmarks.running import running

        ids = [f"{i:08x}-9f3b-4d2e-8a51-0c6f2b7d1e94" for i in range(MESSAGES)]
        for i, message_id in enumerate(ids):
            stack.enter_context(running(message_id)).set_progress(1200 + i, 5000, "Importing rows")
        server = stack.enter_context(serving(WSGI_SERVERS["gunicorn"]))
        get = stack.enter_context(getting(server.port))

        def milliseconds(path: str) -> float:
            get(path)
            return seconds(lambda: [get(path) for _ in range(REQUESTS)]) / REQUESTS * 1e3

        many, one = "/progress/?" + "&".join(f"id={each}" for each in ids), f"/progress/{ids[0]}/"
        sides = {"100 ids": lambda: milliseconds(many), "one id": lambda: milliseconds(one)}
        report(compare("5. one request for 100 ids", "ms", sides, bar=8))


if __name__ == "__main__":
    main()

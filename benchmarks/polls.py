"""4. Polls per second of the JSON of one message, on one worker of two WSGI servers, sent by `wrk`.

All four views run in the same server process, and are polled in turns, for 1,000 ids one after the other.
celery-progress reads from the same Valkey server, where each of its tasks has a state with the same numbers. The
minimum for a view that uses the store is to read one hash and ignore it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.measuring import Row, compare, report, store
from benchmarks.processes import cpu_seconds
from benchmarks.serving import WSGI_SERVERS, Server, serving

IDS = 1_000
CONNECTIONS = (8, 64)
SECONDS = 2

CONSTANT, THEIRS, OURS, LEAST = "a constant", "celery-progress", "progress", "one hash"
PATHS = {OURS: "/progress/", THEIRS: "/celery-progress/", CONSTANT: "/constant/", LEAST: "/least/"}
#: Minimum ratio to each.
BARS = {"gunicorn": {CONSTANT: 0.65, THEIRS: 1.2}, "granian": {CONSTANT: 0.5, THEIRS: 1.4}}


def main() -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("Question 4 needs wrk, Debian's package of that name: sh tools/system-packages.sh wrk")

    def polls(server: Server, connections: int, path: str, cpu: list[float]) -> float:
        """Return responses per second; appends the server's CPU time per response, which depends less on other load."""
        options = ["--threads", "1", "--connections", str(connections), "--duration", f"{SECONDS}s"]
        script = str(Path(__file__).with_name("polls.lua"))
        command = [wrk, *options, "--script", script, f"http://127.0.0.1:{server.port}", "--", path, str(IDS)]
        before = cpu_seconds(server.pid)
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        per_second, failed = output.split("POLLS ")[1].split()
        if int(failed) or not float(per_second):
            raise RuntimeError(f"{path}: {failed} polls failed:\n{output}")
        cpu.append((cpu_seconds(server.pid) - before) / (float(per_second) * SECONDS) * 1e6)
        return float(per_second)

    with store(), ExitStack() as stack:
        from benchmarks.celery_app import app
        from benchmarks.running import running

        for i in range(IDS):
            message_id = f"{i:08x}-9f3b-4d2e-8a51-0c6f2b7d1e94"
            stack.enter_context(running(message_id)).set_progress(1200 + i, 5000, "Importing rows")
            state = {"pending": False, "current": 1200 + i, "total": 5000, "percent": 24.0, "description": "Importing"}
            app.backend.store_result(message_id, state, "PROGRESS")
        for name, command in WSGI_SERVERS.items():
            with serving(command) as server:
                for connections in CONNECTIONS:
                    cpu: dict[str, list[float]] = {side: [] for side in PATHS}
                    sides = {side: partial(polls, server, connections, path, cpu[side]) for side, path in PATHS.items()}
                    found = compare("", "polls/s", sides).figures
                    for other, bar in BARS[name].items():
                        question = f"4. polls, {name}, {connections} connections, compared with {other}"
                        figures = {side: found[side] for side in (OURS, other)}
                        report(Row(question, "polls/s", figures, bar=bar, at_most=False))
                    figures = {side: found[side] for side in (LEAST, CONSTANT)}
                    report(Row(f"4. minimum, {name}, {connections} connections", "polls/s", figures))
                    report(Row(f"4. CPU time per poll, {name}, {connections} connections", "µs", cpu))


if __name__ == "__main__":
    main()

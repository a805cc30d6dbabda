"""Child processes of a benchmark, and the CPU time of them and their descendants."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 20


@contextmanager
def process(*command: str, **environment: str) -> Iterator[int]:
    """Run a child for the length of a block, and yield its process id. SIGTERM stops it, or SIGKILL later."""
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL) as child:
        try:
            yield child.pid
        finally:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its running descendants, user and system, in steps of 0.01 s."""
    return sum(_ticks(each) for each in _family(pid)) / TICKS


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _family(pid: int) -> list[int]:
    # The kernel lists the children of each thread.
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [int(each) for thread in threads for each in (thread / "children").read_text().split()]
    return [pid, *(each for child in children for each in _family(child))]


def _ticks(pid: int) -> int:
    # The name in the second field may hold blanks; the times are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])

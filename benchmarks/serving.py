"""Real web servers for the views, each with one worker, and a client that keeps its connection."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from benchmarks.processes import process

#: WSGI servers by name: module and options.
WSGI_SERVERS = {
    "gunicorn": "gunicorn --worker-class gthread --threads 4 --log-level error benchmarks.wsgi --bind 127.0.0.1:{port}",
    "granian": "granian --interface wsgi --blocking-threads 4 --no-access-log --log-level error "
    "benchmarks.wsgi:application --host 127.0.0.1 --port {port}",
}
START_SECONDS = 30


class Server(NamedTuple):
    """A running server; `pid` is that of its first process."""

    port: int
    pid: int


@contextmanager
def serving(command: str) -> Iterator[Server]:
    """Run a server, given as a Python module with its options and ``{port}``."""
    port = free_port()
    with process(sys.executable, "-m", *command.format(port=port).split()) as pid:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command} does not answer")
            time.sleep(0.05)
        yield Server(port, pid)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Answer = tuple[http.client.HTTPResponse, bytes]


@contextmanager
def getting(port: int) -> Iterator[Callable[..., Answer]]:
    """Yield a function that gets a path, with headers, over one connection; it returns the response and its body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:

        def get(path: str, **headers: str) -> Answer:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            body = response.read()
            if response.status not in (200, 304):
                raise RuntimeError(f"{path}: {response.status} {body[:200]!r}")
            return response, body

        yield get

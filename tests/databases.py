"""Real database servers for the tests, each with its data in a folder of its own, on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql

from tests import servers
from tests.waiting import wait_until

#: Debian keeps the programs of each version of PostgreSQL here, and most of them not on its PATH.
POSTGRESQL_FOLDERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
#: Debian's user for PostgreSQL, whose programs refuse to run as root.
POSTGRESQL_USER = "postgres"


@contextmanager
def postgresql() -> Iterator[dict[str, Any]]:
    """Run a PostgreSQL server, and yield Django's settings of a database. Its texts are ordered as in a dictionary."""
    initdb, program = (
        servers.find_program(name, path=os.pathsep.join(POSTGRESQL_FOLDERS)) for name in ("initdb", "postgres")
    )
    port = servers.free_port()
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        as_user: tuple[str, ...] = ()
        if os.getuid() == 0:
            shutil.chown(folder, POSTGRESQL_USER)
            as_user = ("setpriv", f"--reuid={POSTGRESQL_USER}", f"--regid={POSTGRESQL_USER}", "--clear-groups", "--")
        data, log = f"{folder}/data", Path(folder) / "log"
        options = ("--username=tester", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        options += ("--locale-provider=icu", "--icu-locale=en-US")
        subprocess.run([*as_user, initdb, "-D", data, *options], check=True, capture_output=True, cwd="/")
        quick = ("-F", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}")
        command = (*as_user, program, "-D", data, "-p", str(port), *quick)
        with servers.process(*command, log=log, environment={}) as child:
            # It listens before, and refuses connections while it starts up.
            wait_until(lambda: child.poll() is not None or "ready to accept connections" in log.read_text())
            assert child.poll() is None, log.read_text()
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": "127.0.0.1",
                "PORT": port,
                "USER": "tester",
                "NAME": "postgres",
            }
            # It ends at once; SIGTERM waits for clients.
            child.send_signal(signal.SIGINT)


@contextmanager
def mariadb() -> Iterator[dict[str, Any]]:
    """Run a MariaDB server, and yield Django's settings of a database. Its texts are compared without their case."""
    install, program = (
        servers.find_program(name, path="/usr/sbin:/usr/bin") for name in ("mariadb-install-db", "mariadbd")
    )
    # Django imports it under the name of another driver, which would have to be compiled.
    pymysql.install_as_MySQLdb()
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder:
        data, log = f"{folder}/data", Path(folder) / "log"
        # Small files: by default it writes 100 MB.
        options = [f"--datadir={data}", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0"]
        options += ["--user=root"] if os.getuid() == 0 else []
        made = [install, "--no-defaults", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
        listening = (f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/socket")
        with servers.process(program, "--no-defaults", *options, *listening, log=log, environment={}) as child:
            wait_until(lambda: child.poll() is not None or servers.answers(port))
            assert child.poll() is None, log.read_text()
            with pymysql.connect(host="127.0.0.1", port=port, user="root") as client, client.cursor() as cursor:
                cursor.execute("CREATE DATABASE tests CHARACTER SET utf8mb4")
            yield {
                "ENGINE": "django.db.backends.mysql",
                "HOST": "127.0.0.1",
                "PORT": port,
                "USER": "root",
                "NAME": "tests",
                "OPTIONS": {"charset": "utf8mb4"},
            }

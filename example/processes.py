"""Child processes: started in their own sessions, and stopped together with their own children."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

POLL_INTERVAL_SECONDS = 0.05
LOG_TAIL_LINES = 12
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Sent to the demo by its web server. Its process id is in this environment variable.
RESTART_SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has none, and no demo.
DEMO_PID_VARIABLE = "EXAMPLE_DEMO_PID"
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """A program in its own session, so that Ctrl-C in the terminal only reaches its parent.

    Parameters:
      name: Its name in messages for the user.
      command: The program and its arguments.
      log_path: The file for its output.
      environment: Its environment variables.
      directory: Its working directory.
    """

    def __init__(self, name, command, *, log_path, environment, directory):
        self.name = name
        self.log_path = log_path
        parent = os.getpid()
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,
                preexec_fn=lambda: _stop_when_parent_dies(parent),
            )

    @property
    def exit_code(self):
        """None while it is running. Negative if a signal killed it."""
        return self._process.poll()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_tail(self):
        return "\n".join(self.log().rstrip().splitlines()[-LOG_TAIL_LINES:])

    def terminate(self):
        if self.exit_code is None:
            self._process.terminate()

    def kill(self):
        """Kill the process and its children, as far as they are still running."""
        # The process group has the id of this process, and the id isn't reused while a member of the group exists.
        # macOS raises PermissionError for a group of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def stop(children, *, grace_seconds, hurry):
    """Terminate `children`, wait for `grace_seconds` or until `hurry()` is true, and kill the rest."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_seconds
    while any(child.exit_code is None for child in children) and time.monotonic() < deadline and not hurry():
        time.sleep(POLL_INTERVAL_SECONDS)
    for child in children:
        child.kill()


def can_restart_worker():
    """Return whether a demo has started this process."""
    return DEMO_PID_VARIABLE in os.environ


def restart_worker():
    """Let the demo that has started this process restart its worker, if there is one."""
    if can_restart_worker():
        os.kill(int(os.environ[DEMO_PID_VARIABLE]), RESTART_SIGNAL)


def _stop_when_parent_dies(parent):
    """Let Linux stop this process if its parent is killed and can't stop it."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It died before the call above.
            os._exit(1)

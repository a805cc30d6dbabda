"""Child processes: started in sessions of their own, watched, and stopped so that none is left behind."""

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
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """A program that runs in a session of its own, so that Ctrl-C in the terminal reaches only its parent.

    Parameters:
      name: What to call it in front of the user.
      command: The program and its arguments.
      log_path: The file that takes all it prints.
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
        """None while it runs; negative if a signal ended it."""
        return self._process.poll()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_tail(self):
        return "\n".join(self.log().rstrip().splitlines()[-LOG_TAIL_LINES:])

    def ask_to_stop(self):
        if self.exit_code is None:
            self._process.terminate()

    def end(self):
        """Kill whatever is left of it and of the processes that it started."""
        # The session's first process gave its id to the group; nobody else gets it while a member lives.
        # macOS answers PermissionError for a group of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def stop(children, *, grace_seconds, hurry):
    """Ask `children` to stop, give them `grace_seconds`, or until `hurry()`, and end what is left."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + grace_seconds
    while any(child.exit_code is None for child in children) and time.monotonic() < deadline and not hurry():
        time.sleep(POLL_INTERVAL_SECONDS)
    for child in children:
        child.end()


def _stop_when_parent_dies(parent):
    """Have Linux stop this process even if its parent is killed and can stop nothing any more."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It died before the call above.
            os._exit(1)

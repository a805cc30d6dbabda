"""Dramatiq middleware that breaks the worker it is in."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware


class DiesAfterRetry(Middleware):
    """Kills the process, once, when a retry has been sent and its message is not yet acknowledged."""

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        died = Path(os.environ["TEST_LEDGER"] + "-died")
        if delay is not None and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

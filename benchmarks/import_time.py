"""11. The CPU time of importing the package, on top of Django and Dramatiq, and the memory of an idle recorder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc

from benchmarks.measuring import Row, compare, report, store

#: The imports of any process with Django and Dramatiq.
SETUP = "import django, time; from django.conf import settings; settings.configure(); import dramatiq, django.urls, "
SETUP += "dramatiq.brokers.stub, django.http, django.core.checks, django.core.handlers.asgi, "
SETUP += "django.contrib.auth.signals, django.views.decorators.csrf, redis; began = time.process_time(); "
IMPORT = "import dramatiq_progress, dramatiq_progress.views, dramatiq_progress.stores.redis; "
PRINT = "print((time.process_time() - began) * 1e3)"


def main() -> None:
    with tempfile.TemporaryDirectory() as compiled:
        # An installed package is compiled once. With PYTHONDONTWRITEBYTECODE, this would measure the compiler.
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled

        def milliseconds() -> float:
            command = [sys.executable, "-c", SETUP + IMPORT + PRINT]
            return float(subprocess.check_output(command, env=environment))

        milliseconds()
        question = "11. import beyond django, dramatiq and redis"
        report(compare(question, "ms", {"import": milliseconds}, bar=30, bar_unit="ms"))

    with store():
        from benchmarks.running import running
        from dramatiq_progress.worker.recording.recorder import get_recorder

        def idle() -> None:
            with running() as observer:
                observer.set_progress(1, 2)

        idle()  # the imports of the first use, and the connection, don't count
        get_recorder().stop()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        idle()
        kept = (tracemalloc.get_traced_memory()[0] - before) / 1024
        report(Row("11. memory of an idle recorder", "KiB", {"recorder": [kept]}, bar=1024, bar_unit="KiB"))


if __name__ == "__main__":
    main()

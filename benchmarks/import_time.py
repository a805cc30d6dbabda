"""11. What importing the package adds to Django and Dramatiq (processor time), and what an idle recorder keeps."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc

from benchmarks.measuring import Row, compare, report, store

#: What a process of Django and Dramatiq has anyway.
SETUP = "import django, time; from django.conf import settings; settings.configure(); import dramatiq, django.urls, "
SETUP += "dramatiq.brokers.stub, django.http, django.core.checks, django.core.handlers.asgi, "
SETUP += "django.contrib.auth.signals, django.views.decorators.csrf, redis; began = time.process_time(); "
IMPORT = "import dramatiq_progress, dramatiq_progress.views, dramatiq_progress.stores.redis; "
PRINT = "print((time.process_time() - began) * 1e3)"


def main() -> None:
    with tempfile.TemporaryDirectory() as compiled:
        # What is installed is compiled once. Where PYTHONDONTWRITEBYTECODE is set, this would measure the compiler.
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
        from dramatiq_progress.recorder import get_recorder

        def idle() -> None:
            with running() as observer:
                observer.set_progress(1, 2)

        idle()  # what the first use imports, and the connection, are none of the recorder's
        get_recorder().stop()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        idle()
        kept = (tracemalloc.get_traced_memory()[0] - before) / 1024
        report(Row("11. memory of an idle recorder", "KiB", {"recorder": [kept]}, bar=1024, bar_unit="KiB"))


if __name__ == "__main__":
    main()

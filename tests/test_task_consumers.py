"""Packages that use Django's tasks with any backend: a monitor and two schedulers, with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import ROOT

#: By module: django-tasks-monitor, django-periodic-tasks, django-crontask.
PACKAGES = ("tasks_monitor", "django_periodic_tasks", "crontask")


@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f"needs {', '.join(PACKAGES)}")
def test_packages_that_use_tasks_see_each_end_once(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.task_consumers", str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "monitored": [
            ["note", "FAILED", 0, "dramatiq_progress.errors.Cancelled"],
            ["add", "SUCCESSFUL", 1, ""],
            ["fail", "FAILED", 1, "builtins.ValueError"],
            ["fail_first", "SUCCESSFUL", 2, "builtins.ValueError"],
            ["fail", "FAILED", 1, "builtins.ValueError"],
        ],
        "periodic": [[["periodic"], 5, "SUCCESSFUL"]],
        "by_cron": ["SUCCESSFUL"],
        "ends": [1],
    }

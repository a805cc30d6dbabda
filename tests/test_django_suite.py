"""Django's own tests of tasks, with this backend: see tests/django_suite."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.servers import ROOT

#: Where nox has put Django's source distribution; the wheel has no tests.
SDIST = os.environ.get("DJANGO_SDIST", "")


@pytest.mark.skipif(not SDIST, reason="needs Django's source distribution, which nox downloads: DJANGO_SDIST")
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_this_backend_passes_the_tests_of_django(kind: str, request: pytest.FixtureRequest) -> None:
    store = [f"{request.getfixturevalue('valkey')}/1"] if kind == "redis" else []
    command = [sys.executable, "-m", "tests.django_suite", SDIST, *store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

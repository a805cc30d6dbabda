"""The runner. It fails if a test fails that isn't among the exceptions, and if one of the exceptions passes."""

from __future__ import annotations

import logging
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.test.runner import DiscoverRunner

PACKAGE = "tests.django_suite"

NO_RESULTS = "ImmediateBackend has no results that can be read again; this backend has"
IN_PLACE = "it expects that a stored result is the object that the test changes"

#: Tests that fail with this backend on purpose, and why.
EXCEPTIONS = {
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_get_result": NO_RESULTS,
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_refresh_result": NO_RESULTS,
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_pass_run_after": "this backend supports run_after",
    "test_immediate_backend.ImmediateBackendTestCase.test_throws_keyboard_interrupt": "a task runs in a worker's "
    "thread, whose exceptions don't reach the caller",
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result": IN_PLACE,
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result_async": IN_PLACE,
}


class Runner(DiscoverRunner):
    """Runs the tests, and expects that the exceptions fail."""

    def build_suite(self, *args: Any, **kwargs: Any) -> Any:
        suite = super().build_suite(*args, **kwargs)
        found = set()
        for test in suite:
            name = test.id().removeprefix("tasks.")
            if name in EXCEPTIONS:
                found.add(name)
                test.__unittest_expecting_failure__ = True
        assert found == EXCEPTIONS.keys(), f"not in this Django: {EXCEPTIONS.keys() - found}"
        return suite


def unpack(sdist: Path, folder: Path) -> None:
    """Write Django's tests of tasks into a folder, with the paths of its backends replaced."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            path = Path(*Path(member.name).parts[1:])
            if path.parts[:2] == ("tests", "tasks") and path.suffix == ".py":
                text = archive.extractfile(member).read().decode()  # type: ignore[union-attr]  # a file
                for name in ("dummy", "immediate"):
                    text = text.replace(f"django.tasks.backends.{name}", f"{PACKAGE}.{name}")
                target = folder / path.relative_to("tests")
                target.parent.mkdir(exist_ok=True)
                target.write_text(text)


def configure(store_url: str | None) -> None:
    """Set Django up, with a StubBroker and a store in memory or at a URL."""
    store = {"OPTIONS": {"url": store_url}} if store_url else {}
    settings.configure(
        DATABASES={each: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for each in ("default", "other")},
        INSTALLED_APPS=["django_dramatiq", "dramatiq_progress"],
        ROOT_URLCONF="tests.urls",
        STATIC_URL="/static/",
        USE_TZ=True,
        DRAMATIQ_PROGRESS={"PREFIX": "django-suite:", **store},
        DRAMATIQ_BROKER={
            "BROKER": "dramatiq.brokers.stub.StubBroker",
            "OPTIONS": {},
            "MIDDLEWARE": [
                "dramatiq.middleware.AsyncIO",
                "dramatiq.middleware.Retries",
                "dramatiq_progress.middleware.ProgressMiddleware",
            ],
        },
    )
    django.setup()
    # Some of the tasks fail, and each runs in a worker of its own.
    logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)


def main(sdist: str, store_url: str | None = None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(sdist), Path(folder))
        sys.path.insert(0, folder)
        configure(store_url)
        for name, reason in EXCEPTIONS.items():
            sys.stderr.write(f"Expected to fail, since {reason}: {name}\n")
        return Runner(verbosity=1, interactive=False).run_tests(["tasks"])


if __name__ == "__main__":
    # Failed tests and exceptions that pass, without those that fail as expected.
    sys.exit(min(main(*sys.argv[1:]), 1))

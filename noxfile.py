"""The tests on each interpreter and Django version that the project supports: ``nox``, or ``.ci/run``."""

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
# A missing interpreter is named in nox's summary, and doesn't fail the run.
nox.options.error_on_missing_interpreters = False

#: Versions of Python and Django. `make test` has run all tests with the first row.
LEGS = [
    ("3.11", "5.2"),
    ("3.12", "6.0"),
    ("3.13", "6.1"),
    ("3.14", "6.1"),
]

#: Tests that don't depend on the versions of Python and Django: servers that break, the scripts of the store, the bar's
#: module, and the project's own files.
INDEPENDENT = (
    "faults/test_clocks.py",
    "faults/test_composites.py",
    "faults/test_deliveries.py",
    "faults/test_deploys.py",
    "faults/test_failover.py",
    "faults/test_history.py",
    "faults/test_lost_workers.py",
    "faults/test_partial_clusters.py",
    "faults/test_pausing.py",
    "faults/test_resuming.py",
    "faults/test_schedules.py",
    "faults/test_soak.py",
    "faults/test_store_outages.py",
    "test_audit.py",
    "test_bar.py",
    "test_bar_access.py",
    "test_bar_compact.py",
    "test_bar_list.py",
    "test_bar_looks.py",
    "test_bar_parts.py",
    "test_bar_polling.py",
    "test_bar_results.py",
    "test_bar_types.py",
    "test_batching.py",
    "test_benchmarks.py",
    "test_claims.py",
    "test_composite_machine.py",
    "test_composites.py",
    "test_connections.py",
    "test_documents.py",
    "test_engines.py",
    "test_english.py",
    "test_odd_records.py",
    "test_pictures.py",
    "test_progress_bar_api.py",
    "test_record_machine.py",
    "test_redis_py.py",
    "test_resuming_machine.py",
    "test_sentinels.py",
    "test_stores.py",
    "test_subscriptions.py",
    "test_transport.py",
    "test_usual.py",
    "test_wheel.py",
)


#: Tests mostly wait: three processes of them for each core, as in the Makefile.
WORKERS = 3 * (os.cpu_count() or 1)


@nox.session
@nox.parametrize(("python", "django"), LEGS)
def tests(session: nox.Session, django: str) -> None:
    """Run all tests except those that don't depend on the versions."""
    session.install("--quiet", "pip>=25.1")
    session.run("pip", "install", "--quiet", "--editable", ".", "--group", "test", f"django~={django}.0", silent=True)
    version = session.run("python", "-m", "django", "--version", silent=True)
    if django != "5.2":
        # Its tests of tasks aren't in the wheel.
        folder = Path(session.create_tmp())
        session.run(
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=django",
            f"--dest={folder}",
            f"django=={str(version).strip()}",
            silent=True,
        )
        session.env["DJANGO_SDIST"] = str(next(folder.glob("django-*.tar.gz")).resolve())
    ignored = [f"--ignore=tests/{each}" for each in INDEPENDENT]
    # As in the Makefile: the processes that the tests start don't compile all modules again.
    compiled = {"PYTHONDONTWRITEBYTECODE": None}
    session.run("pytest", "--quiet", "-n", str(WORKERS), *ignored, *session.posargs, env=compiled)

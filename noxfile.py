"""The tests on each interpreter and Django version that the project supports: ``nox``, or ``.ci/run``."""

import nox

nox.options.default_venv_backend = "venv"
# An interpreter that this machine lacks is named in nox's summary, and its leg does not fail the run.
nox.options.error_on_missing_interpreters = False

#: Python and Django; `make test` has run the first row, the one that every machine has, in full.
LEGS = [
    ("3.11", "5.2"),
    ("3.12", "6.0"),
    ("3.13", "6.1"),
    ("3.14", "6.1"),
]

#: What `make test` has shown, and no other Python or Django changes: servers that break, the bar's module in a browser
#: against answers that a test dictates, and what is made of the project.
INDEPENDENT = (
    "faults",
    "test_audit.py",
    "test_bar.py",
    "test_bar_access.py",
    "test_bar_list.py",
    "test_bar_looks.py",
    "test_bar_polling.py",
    "test_bar_results.py",
    "test_bar_types.py",
    "test_benchmarks.py",
    "test_connections.py",
    "test_pictures.py",
    "test_progress_bar_api.py",
    "test_record_machine.py",
    "test_wheel.py",
)


@nox.session
@nox.parametrize(("python", "django"), LEGS)
def tests(session: nox.Session, django: str) -> None:
    """All tests but those that do not depend on the versions."""
    session.install("--quiet", "pip>=25.1")
    session.run("pip", "install", "--quiet", "--editable", ".", "--group", "test", f"django~={django}.0", silent=True)
    session.run("python", "-m", "django", "--version")
    ignored = [f"--ignore=tests/{each}" for each in INDEPENDENT]
    session.run("pytest", "--quiet", *ignored, *session.posargs)

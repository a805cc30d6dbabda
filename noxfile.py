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


@nox.session
@nox.parametrize(("python", "django"), LEGS)
def tests(session: nox.Session, django: str) -> None:
    """All tests but those that do not depend on the versions: the wheel, and workers that are killed."""
    session.install("--quiet", "pip>=25.1")
    session.run("pip", "install", "--quiet", "--editable", ".", "--group", "test", f"django~={django}.0", silent=True)
    session.run("python", "-m", "django", "--version")
    session.run("pytest", "--quiet", "--ignore=tests/test_wheel.py", "--ignore=tests/faults", *session.posargs)

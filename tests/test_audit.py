"""What `make audit` makes of pip-audit's answers."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType
from typing import Any

import pytest

from tests.servers import ROOT

SKIPPED = {"name": "redis", "skip_reason": "Dependency not found on PyPI"}
SOUND = {"name": "django", "version": "6.0", "vulns": []}
WEAK = {"name": "django", "version": "4.0", "vulns": [{"id": "CVE-1", "fix_versions": ["4.1"]}]}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "is_well", "said"),
    [
        ([SOUND, SOUND], True, "no known weakness in 2 packages."),
        ([SOUND, SKIPPED], True, "no known weakness in 1 packages; not known there: redis."),
        ([SKIPPED, SKIPPED], True, "its database was not reached"),
        ([SKIPPED, WEAK], False, "django 4.0: CVE-1 (mended in 4.1)"),
    ],
)
def test_a_known_weakness_fails_and_a_missing_database_does_not(
    audit: ModuleType, dependencies: list[Any], is_well: bool, said: str
) -> None:
    found = audit.verdict(json.dumps({"dependencies": dependencies, "fixes": []}), "")
    assert found[0] is is_well and said in found[1]


def test_an_audit_that_fails_is_told_from_one_that_reaches_nothing(audit: ModuleType) -> None:
    assert audit.verdict("", "requests.exceptions.ConnectionError: api.osv.dev")[0]
    assert audit.verdict("", "unrecognized arguments: --format") == (
        False,
        "pip-audit failed:\nunrecognized arguments: --format",
    )


def test_what_the_package_needs_is_found_and_no_more(audit: ModuleType) -> None:
    needed = audit.needed("dramatiq-progress")
    assert {"django", "dramatiq", "django-dramatiq", "redis", "asgiref", "sqlparse"} <= needed.keys()
    assert not {"pytest", "pika", "dramatiq-progress"} & needed.keys()

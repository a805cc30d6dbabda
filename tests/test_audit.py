"""The evaluation of pip-audit's output by `make audit`."""

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
    ("dependencies", "passes", "text"),
    [
        ([SOUND, SOUND], True, "no known vulnerability in 2 packages."),
        ([SOUND, SKIPPED], True, "no known vulnerability in 1 packages; not in the database: redis."),
        ([SKIPPED, SKIPPED], True, "the database could not be reached"),
        ([SKIPPED, WEAK], False, "django 4.0: CVE-1 (fixed in 4.1)"),
    ],
)
def test_a_known_vulnerability_fails_and_an_unreachable_database_does_not(
    audit: ModuleType, dependencies: list[Any], passes: bool, text: str
) -> None:
    found = audit.evaluate(json.dumps({"dependencies": dependencies, "fixes": []}), "")
    assert found[0] is passes and text in found[1]


def test_a_failing_audit_differs_from_an_unreachable_database(audit: ModuleType) -> None:
    assert audit.evaluate("", "requests.exceptions.ConnectionError: api.osv.dev")[0]
    assert audit.evaluate("", "unrecognized arguments: --format") == (
        False,
        "pip-audit failed:\nunrecognized arguments: --format",
    )


def test_only_the_package_s_own_dependencies_are_audited(audit: ModuleType) -> None:
    dependencies = audit.dependencies_of("dramatiq-progress")
    assert {"django", "dramatiq", "django-dramatiq", "redis", "asgiref", "sqlparse"} <= dependencies.keys()
    assert not {"pytest", "pika", "dramatiq-progress"} & dependencies.keys()

"""The import order of the package's modules (CONTRIBUTING.md), read from their import statements."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dramatiq_progress

PACKAGE = Path(dramatiq_progress.__file__).parent

#: A module may import modules of the rows above its own, and of its own package.
ORDER = [
    {"error_texts", "event_loop"},
    {"errors", "conf", "polling", "owners", "titles", "threads", "jitter", "progress_values"},
    {"progress"},
    {"message_ids"},
    {"links", "stores", "requests"},
    {"permissions"},
    {"signals", "schedules"},
    {"cancellation", "pausing"},
    {"worker", "web"},
    {"middleware", "views"},
    {"actors", "urls", "templatetags"},
    {"backends", "scheduler"},
    {"checks", "composition", "management"},
    {"apps"},
]
ROW = {name: row for row, names in enumerate(ORDER) for name in names}

#: The two sides of the package. Neither imports the other; both import the stores. Checks may import both.
SIDES = {
    **dict.fromkeys(("worker", "middleware", "actors", "scheduler", "backends"), "worker"),
    **dict.fromkeys(("web", "views", "urls", "templatetags", "permissions", "requests", "links"), "web"),
}


def modules() -> list[Path]:
    return [each for each in PACKAGE.rglob("*.py") if each != PACKAGE / "__init__.py"]


def name_of(path: Path) -> str:
    """The first part of a module's name below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_by(path: Path) -> set[str]:
    """The modules of this package that a module imports anywhere, also in functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names if each.name.split(".")[0] == "dramatiq_progress"}
        elif isinstance(node, ast.ImportFrom):
            # The package that the import starts from; a module's own package for a single dot.
            start = path.relative_to(PACKAGE.parent).parent.parts
            start = start[: len(start) + 1 - node.level] if node.level else ()
            name = ".".join([*start, *([node.module] if node.module else [])])
            if name == "dramatiq_progress":
                found |= {f"dramatiq_progress.{each.name}" for each in node.names}
            elif name.startswith("dramatiq_progress."):
                found.add(name)
    return {name.split(".")[1] for name in found}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_toward_the_store(path: Path) -> None:
    name = name_of(path)
    assert name in ROW, f"{name} has no row in ORDER"
    wrong = {each for each in imported_by(path) if each != name and ROW[each] >= ROW[name]}
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_worker_and_web_do_not_import_each_other(path: Path) -> None:
    side = SIDES.get(name_of(path))
    assert not {each for each in imported_by(path) if side and SIDES.get(each, side) != side}


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("from .hub import Hub", {"web"}),
        ("from ..sessions import refreshed", {"web"}),
        ("from ... import polling", {"polling"}),
        ("from ...stores.base import Store", {"stores"}),
        ("from dramatiq_progress.worker.recording.recorder import get_recorder", {"worker"}),
        ("def act():\n    import dramatiq_progress.worker.recording.recorder as recorder", {"worker"}),
        ("import json\nfrom django.http import HttpRequest", set()),
    ],
)
def test_every_form_of_import_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, imported: set[str]
) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "dramatiq_progress")
    path = tmp_path / "dramatiq_progress" / "web" / "streams" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert imported_by(path) == imported


def test_no_public_name_hides_a_module() -> None:
    assert not set(dramatiq_progress.__all__) & {name_of(each) for each in modules()}
    assert dramatiq_progress.__all__ == sorted(dramatiq_progress.__all__)


@pytest.mark.parametrize("name", ["progress", "progress_values", "message_ids"])
def test_progress_is_independent_of_django_and_redis(name: str) -> None:
    text = (PACKAGE / f"{name}.py").read_text()
    assert "django" not in text.lower().replace("no django", "") and "redis" not in text.lower()


def test_only_the_scheduler_imports_apscheduler() -> None:
    code = (
        "import sys, django; django.setup()\n"
        "import dramatiq_progress.checks, dramatiq_progress.views, dramatiq_progress.templatetags.dramatiq_progress\n"
        "import dramatiq_progress.management.commands.runscheduler\n"
        "sys.exit('apscheduler' in sys.modules)"
    )
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, env=environment)


def test_the_package_can_be_imported_before_django_is_set_up() -> None:
    code = "import dramatiq_progress, dramatiq_progress.middleware, dramatiq_progress.stores.redis"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)

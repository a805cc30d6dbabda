"""The order in which modules may know each other, read from their imports: it points toward the store."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dramatiq_progress

PACKAGE = Path(dramatiq_progress.__file__).parent

#: A module may import those in the rows above its own, and its own package's.
ORDER = [
    {"errors", "conf", "signals", "polling", "owners", "links"},
    {"progress"},
    {"stores", "rate", "values", "permissions"},
    {"recorder"},
    {"observer"},
    {"middleware", "requests"},
    {"cancellation"},
    {"actors"},
    {"hub", "places"},
    {"streams"},
    {"views", "checks", "texts"},
    {"urls", "fallback"},
    {"templatetags"},
    {"apps"},
]
ROW = {name: row for row, names in enumerate(ORDER) for name in names}


def modules() -> list[Path]:
    return [each for each in PACKAGE.rglob("*.py") if each != PACKAGE / "__init__.py"]


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The modules of this package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level == 1 and path.parent == PACKAGE:
                found |= {name.split(".")[0]} if name else {each.name for each in node.names}
            elif name.startswith("dramatiq_progress."):
                found.add(name.split(".")[1])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_toward_the_store(path: Path) -> None:
    here = place(path)
    assert here in ROW, f"{here} has no row in the table above"
    wrong = {each for each in imported(path) if each != here and ROW[each] >= ROW[here]}
    assert not wrong


def test_no_public_name_hides_a_module() -> None:
    assert not set(dramatiq_progress.__all__) & {place(each) for each in modules()}
    assert dramatiq_progress.__all__ == sorted(dramatiq_progress.__all__)


def test_progress_knows_neither_django_nor_redis() -> None:
    text = (PACKAGE / "progress.py").read_text()
    assert "django" not in text.lower().replace("no django", "") and "redis" not in text.lower()


def test_the_package_can_be_imported_before_django_is_set_up() -> None:
    code = "import dramatiq_progress, dramatiq_progress.middleware, dramatiq_progress.stores.redis"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)

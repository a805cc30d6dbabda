"""The module's `.d.ts`: compiled with TypeScript, and compared with the module in a real browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page

from dramatiq_progress.progress import Progress, State
from tests import npm
from tests.scripted_site import STATIC, ScriptedSite
from tests.servers import ROOT, find_program

TYPESCRIPT = "typescript@5.9.3"
OPTIONS = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
LIBRARIES = ["--lib", "es2022,dom,dom.iterable"]
TYPES = (STATIC / "dramatiq_progress" / "dramatiq-progress.d.ts").read_text()


@pytest.mark.slow(8)
def test_pages_that_use_the_module_compile(tmp_path: Path) -> None:
    """Lines that must not compile have a `@ts-expect-error`."""
    compiler = npm.install(TYPESCRIPT, tmp_path) / "bin" / "tsc"
    tsc = [find_program("node"), str(compiler)]
    compiled = subprocess.run(
        [*tsc, *OPTIONS, *LIBRARIES, "tests/typing_bar.ts"], cwd=ROOT, capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout


def declared(name: str) -> set[str]:
    """Return the members of an interface."""
    found = re.search(rf"interface {name} (?:extends \w+ )?{{\n(.*?)\n}}", TYPES, re.DOTALL)
    assert found
    return set(re.findall(r'^  (?:readonly )?"?([\w-]+)"?[?(:]', found[1], re.MULTILINE))


def test_exactly_the_exports_are_declared(site: ScriptedSite, page: Page) -> None:
    site.html = "<!doctype html><title>Names</title>"
    page.goto(site.url)
    names, texts, missing = page.evaluate(
        """async (members) => {
          const module = await import("/static/dramatiq_progress/dramatiq-progress.js");
          const { DramatiqProgress, ProgressBar, TEXTS } = module;
          const bars = [new DramatiqProgress(), new ProgressBar("")];
          const missing = members.filter((member) => !bars.every((bar) => member in bar));
          return [Object.keys(module), Object.keys(TEXTS), missing];
        }""",
        sorted(declared("Bar")),
    )
    assert set(names) == set(re.findall(r"^export (?:const|class) (\w+)", TYPES, re.MULTILINE))
    assert set(texts) == declared("Texts")
    assert missing == []


def test_the_answer_has_the_keys_of_the_server() -> None:
    answer = Progress(id="m1", actor="work", queue="default", state=State.DONE).as_dict()
    assert declared("Answer") == set(answer)
    progress = answer["progress"]
    assert isinstance(progress, dict)
    assert declared("ProgressNumbers") == set(progress)
    assert all(f'"{state}"' in TYPES for state in State)

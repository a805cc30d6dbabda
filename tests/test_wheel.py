"""The built wheel: installed into a new environment, it contains everything that a project needs."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from playwright.sync_api import expect

from dramatiq_progress.progress import StepProgress
from tests import npm
from tests.bars import OpenBar, answer, part
from tests.scripted_site import ScriptedSite
from tools.static_files import ESBUILD, REFERENCES, STATIC, SUFFIXES

# They build and install the package.
pytestmark = pytest.mark.slow(2)

ROOT = Path(__file__).resolve().parent.parent

#: A project in one file: it sends a message, processes it, and reads its progress over HTTP.
PROJECT = """
import sys

import django
from django.conf import settings
from django.urls import include, path

urlpatterns = [path("progress/", include("dramatiq_progress.urls"))]

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    STATIC_URL="/static/",
    INSTALLED_APPS=["django.contrib.staticfiles", "django_dramatiq", "dramatiq_progress"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DRAMATIQ_BROKER={
        "BROKER": "dramatiq.brokers.redis.RedisBroker",
        "OPTIONS": {"url": sys.argv[1]},
        "MIDDLEWARE": [
            "dramatiq.middleware.Pipelines",
            "dramatiq.middleware.Retries",
            "dramatiq_progress.middleware.ProgressMiddleware",
        ],
    },
)
django.setup()

import dramatiq
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.template import engines
from django.test import Client

import dramatiq_progress
from dramatiq_progress import ProgressObserver, progress_actor

assert "site-packages" in dramatiq_progress.__file__, dramatiq_progress.__file__


@progress_actor
def work(progress_observer: ProgressObserver, rows: int) -> None:
    for _ in progress_observer.track(range(rows)):
        pass
    progress_observer.set_result({"rows": rows})


call_command("check", "--deploy", "--tag", "dramatiq_progress", "--fail-level", "WARNING")
broker = dramatiq.get_broker()
message = work.send(7)
worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=1)
worker.start()
broker.join("default", timeout=30_000)
worker.stop()

answer = Client().get(f"/progress/{message.message_id}/").json()
assert (answer["state"], answer["progress"]["current"], answer["result"]) == ("done", 7, {"rows": 7}), answer

page = "{% load dramatiq_progress %}{% dramatiq_progress_script %}{% dramatiq_progress id %}"
html = engines["django"].from_string(page).render({"id": message.message_id})
for name in ("dramatiq_progress/dramatiq-progress.js", "dramatiq_progress/dramatiq-progress.css"):
    assert f"/static/{name}" in html, html
    assert finders.find(name), name
print("complete")
"""


#: Limits of the compressed files. Browsers load these two for every bar.
LARGEST_BYTES = {"dramatiq-progress.js": 7 * 1024, "dramatiq-progress.css": 2.5 * 1024}


def build(folder: Path, path: str) -> Path:
    """Build the wheel with this PATH."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of `make wheel`."""
    programs = npm.install(ESBUILD, tmp_path_factory.mktemp("npm")).parent / ".bin"
    return build(tmp_path_factory.mktemp("dist"), f"{programs}:{os.environ['PATH']}")


@pytest.fixture(scope="module")
def plain_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built without esbuild."""
    return build(tmp_path_factory.mktemp("dist"), "/nowhere")


@pytest.fixture(params=["wheel", "plain_wheel"])
def any_wheel(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def static_files(wheel: Path) -> dict[str, str]:
    """Return the scripts, stylesheets and source maps by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [each for each in archive.namelist() if each.startswith(f"{STATIC}/")]
        return {Path(each).name: archive.read(each).decode() for each in names}


def test_the_wheel_contains_the_package_and_source_maps_and_nothing_else(any_wheel: Path) -> None:
    names = set(zipfile.ZipFile(any_wheel).namelist())
    package = {each for each in names if ".dist-info/" not in each}
    files = [each for each in (ROOT / "dramatiq_progress").rglob("*") if each.is_file()]
    expected = {str(each.relative_to(ROOT)) for each in files if "__pycache__" not in each.parts}
    expected |= {f"{STATIC}/{each.name}.map" for each in (ROOT / STATIC).iterdir() if each.suffix in SUFFIXES}
    assert package == expected
    assert {Path(each).suffix for each in package} >= {".py", ".lua", ".js", ".css", ".map", ".typed"}


def test_static_files_are_small(wheel: Path) -> None:
    files = static_files(wheel)
    sizes = {name: len(gzip.compress(files[name].encode())) for name in LARGEST_BYTES}
    assert {name: size for name, size in sizes.items() if size > LARGEST_BYTES[name]} == {}


def test_static_files_have_no_comments_and_a_source_map_with_the_original(any_wheel: Path) -> None:
    files = static_files(any_wheel)
    for source in (ROOT / STATIC).iterdir():
        if source.suffix in SUFFIXES:
            text = files[source.name]
            assert text.rstrip().endswith(REFERENCES[source.suffix].format(f"{source.name}.map").strip())
            assert len(re.findall(r"^\s*/[/*]", text, re.MULTILINE)) <= 1
            source_map = json.loads(files[f"{source.name}.map"])
            assert source_map["sourcesContent"] == [source.read_text(encoding="utf-8")]


def test_without_esbuild_each_line_is_mapped_to_its_line_of_the_original(plain_wheel: Path) -> None:
    files = static_files(plain_wheel)
    for name in ("dramatiq-progress.js", "dramatiq-progress.css"):
        original = (ROOT / STATIC / name).read_text(encoding="utf-8").splitlines()
        source_map = json.loads(files[f"{name}.map"])
        number = 0
        lines = files[name].splitlines()[:-1]
        for line, segment in zip(lines, source_map["mappings"].split(";"), strict=True):
            column, source, difference, source_column = decoded(segment)
            number += difference
            assert (column, source, source_column) == (0, 0, 0)
            assert original[number].strip() == line


def decoded(segment: str) -> list[int]:
    """Decode the numbers of a source map's segment: base 64 digits with five bits each, and the sign last."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    numbers, value, shift = [], 0, 0
    for digit in map(digits.index, segment):
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            numbers.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    return numbers


@pytest.mark.parametrize("storage", ["StaticFilesStorage", "ManifestStaticFilesStorage"])
def test_static_files_can_be_collected(any_wheel: Path, tmp_path: Path, settings: Any, storage: str) -> None:
    """The second one resolves each reference to a source map."""
    zipfile.ZipFile(any_wheel).extractall(tmp_path / "wheel")
    settings.STATICFILES_DIRS = [tmp_path / "wheel" / "dramatiq_progress" / "static"]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATIC_ROOT = tmp_path / "collected"
    settings.STORAGES = {"staticfiles": {"BACKEND": f"django.contrib.staticfiles.storage.{storage}"}}
    call_command("collectstatic", interactive=False, verbosity=0)
    assert (tmp_path / "collected" / "dramatiq_progress" / "dramatiq-progress.js").exists()


def test_the_scripts_of_the_wheel_work(
    any_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: ScriptedSite, open_bar: OpenBar
) -> None:
    zipfile.ZipFile(any_wheel).extractall(tmp_path)
    monkeypatch.setattr("tests.scripted_site.STATIC", tmp_path / "dramatiq_progress" / "static")
    site.reply(answer("running", step=StepProgress(2, 3, "Checking"), extra={"can_cancel": True}))
    bar = open_bar('cancel="/progress/m1/cancel/" show-result')
    expect(part(bar, "text")).to_have_text("Step 2 of 3: Checking. Importing: 1,200 of 5,000")
    expect(bar.get_by_role("button", name="Cancel: Import rows")).to_be_visible()
    expect(part(bar, "title")).to_have_css("font-weight", "600")
    site.reply(answer("done", result={"rows": 3}))
    expect(part(bar, "text")).to_have_text("rows: 3")


@pytest.mark.slow(20)
def test_a_message_runs_in_a_new_environment(wheel: Path, tmp_path: Path, valkey: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    project = tmp_path / "project.py"
    project.write_text(PROJECT)
    ran = subprocess.run([python, "-E", str(project), f"{valkey}/5"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["complete"]), ran.stderr

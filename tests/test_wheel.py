"""The built wheel, installed into an environment of its own, carries all that a project needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A project in one file: it sends a message, works on it, and looks at it as a page would.
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
print("all is there")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {each for each in names if ".dist-info/" not in each}
    expected = {
        str(each.relative_to(ROOT))
        for each in (ROOT / "dramatiq_progress").rglob("*")
        if each.is_file() and "__pycache__" not in each.parts
    }
    assert package == expected
    assert {Path(each).suffix for each in package} >= {".py", ".lua", ".js", ".css", ".typed"}


def test_a_message_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path, valkey: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    project = tmp_path / "project.py"
    project.write_text(PROJECT)
    ran = subprocess.run([python, str(project), f"{valkey}/5"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["all is there"]), ran.stderr

"""The page about Django's tasks: its first part is followed word for word, in a new project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests import servers
from tests.waiting import wait_until

PAGES = [servers.ROOT / "README.md", servers.ROOT / "docs" / "django-tasks.md"]
BLOCK = re.compile(r"```[\w+]+\n(?:# |\{# )(\S+\.(?:py|html))[^\n]*\n(.*?)```", re.DOTALL)

#: The lines that a reader has before.
SETTINGS = """
INSTALLED_APPS += ["shop"]
ALLOWED_HOSTS = ["127.0.0.1"]
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of a page that name a file, and their text."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def manage(*command: str, folder: Path, **environment: str) -> None:
    command = (sys.executable, "-m", "django", *command)
    subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, capture_output=True)


@pytest.mark.slow(15)
def test_the_page_leads_to_a_bar(valkey: str, tmp_path: Path) -> None:
    manage("startproject", "site_of_shop", ".", folder=tmp_path)
    manage("startapp", "shop", folder=tmp_path)
    readme, page = (blocks(each) for each in PAGES)
    # The README has the settings of a project without Dramatiq after those for one with it.
    of_settings = sorted(
        (text for name, text in readme if name == "settings.py"), key=lambda text: "BROKER =" not in text
    )
    first = [(name, text) for name, text in page if '"OPTIONS"' not in text]
    files = [("settings.py", text) for text in of_settings] + [each for each in readme if each[0] == "urls.py"] + first
    append(tmp_path / "site_of_shop" / "settings.py", SETTINGS)
    for name, text in files:
        folder = tmp_path / "site_of_shop" if name in ("settings.py", "urls.py") else tmp_path
        append(folder / name, text.replace("redis://127.0.0.1:6379/0", f"{valkey}/7"))
    environment = {"DJANGO_SETTINGS_MODULE": "site_of_shop.settings", "PYTHONPATH": f"{servers.ROOT}:{tmp_path}"}
    for command in (["migrate"], ["check", "--fail-level", "WARNING"]):
        manage(*command, folder=tmp_path, **environment)

    port = servers.free_port()
    log = tmp_path / "log"
    site = (sys.executable, "-m", "django", "runserver", "--noreload", str(port))
    worker = (
        str(Path(sys.executable).with_name("dramatiq")),
        "django_dramatiq.setup",
        "shop.tasks",
        "-p",
        "1",
        "-t",
        "1",
    )
    opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def read(path: str) -> str:
        return str(opener.open(f"http://127.0.0.1:{port}{path}").read().decode())

    with servers.process(*site, log=log, environment=environment):
        wait_until(lambda: servers.answers(port))
        [url] = set(re.findall(r"/progress/[0-9a-f-]{36}/", read("/import/")))
        assert json.loads(read(url))["state"] == "enqueued"
        with servers.process(*worker, log=log, environment=environment):

            def ended() -> Any:
                progress = json.loads(read(url))
                return progress if progress["complete"] else None

            progress = wait_until(ended)
    assert (progress["state"], progress["title"], progress["result"]) == ("done", "Import rows", {"imported": 100})
    assert progress["progress"]["description"] == "Importing"


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{text}")

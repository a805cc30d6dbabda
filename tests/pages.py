"""A new Django project that is made by following a page of the documentation word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import servers
from tests.waiting import wait_until

README = servers.ROOT / "README.md"
BLOCK = re.compile(r"```[\w+]+\n(?:# |\{# )(\S+\.(?:py|html))[^\n]*\n(.*?)```", re.DOTALL)

#: The lines that a reader has before.
SETTINGS = """
INSTALLED_APPS += ["shop"]
ALLOWED_HOSTS = ["127.0.0.1"]
"""


class Project:
    """A project with the app `shop`, the README's settings and URLs, and the blocks of a page.

    Parameters:
      folder: An empty folder.
      redis_url: The server that replaces the README's.
      blocks: File names, and the text that is added to each.
    """

    def __init__(self, folder: Path, redis_url: str, blocks: list[tuple[str, str]]) -> None:
        self.folder = folder
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "site_of_shop.settings",
            "PYTHONPATH": f"{servers.ROOT}:{folder}",
        }
        self._django("startproject", "site_of_shop", ".", environment={})
        self._django("startapp", "shop", environment={})
        readme = blocks_of(README)
        # The README has the settings of a project without Dramatiq after those for one with it.
        of_settings = sorted(
            (each for each in readme if each[0] == "settings.py"), key=lambda each: "BROKER =" not in each[1]
        )
        append(folder / "site_of_shop" / "settings.py", SETTINGS)
        for name, text in (*of_settings, *(each for each in readme if each[0] == "urls.py"), *blocks):
            parent = folder / "site_of_shop" if name in ("settings.py", "urls.py") else folder
            append(parent / name, text.replace("redis://127.0.0.1:6379/0", redis_url))
        self._django("migrate", environment=self.environment)
        self._django("check", "--fail-level", "WARNING", environment=self.environment)

    @contextmanager
    def site(self) -> Iterator[str]:
        """Run the web server, and yield its URL without a trailing slash."""
        port = servers.free_port()
        command = (sys.executable, "-m", "django", "runserver", "--noreload", str(port))
        with servers.process(*command, log=self.folder / "site.log", environment=self.environment):
            wait_until(lambda: servers.answers(port))
            yield f"http://127.0.0.1:{port}"

    def _django(self, *command: str, environment: dict[str, str]) -> None:
        command = (sys.executable, "-m", "django", *command)
        subprocess.run(command, cwd=self.folder, env=os.environ | environment, check=True, capture_output=True)


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of a page that name a file, and their text."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def append(path: Path, text: str) -> None:
    """Add a text to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{text}")

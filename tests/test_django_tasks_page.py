"""The page about Django's tasks: its first part is followed word for word, in a new project."""

from __future__ import annotations

import json
import re
import sys
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests import servers
from tests.pages import Project, blocks_of
from tests.waiting import wait_until

PAGE = servers.ROOT / "docs" / "django-tasks.md"


@pytest.mark.slow(15)
def test_the_page_leads_to_a_bar(valkey: str, tmp_path: Path) -> None:
    first = [(name, text) for name, text in blocks_of(PAGE) if '"OPTIONS"' not in text]
    project = Project(tmp_path, f"{valkey}/7", first)
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

    with project.site() as site:

        def read(path: str) -> str:
            return str(wait_until(lambda: answered(path)))

        def answered(path: str) -> str:
            """Return "" if the store didn't answer in time, as on a busy machine."""
            try:
                return str(opener.open(f"{site}{path}").read().decode())
            except HTTPError as error:
                if error.code != 503:
                    raise
                error.close()
                return ""

        [url] = set(re.findall(r"/progress/[0-9a-f-]{36}/", read("/import/")))
        assert json.loads(read(url))["state"] == "enqueued"
        with servers.process(*worker, log=tmp_path / "worker.log", environment=project.environment):

            def ended() -> Any:
                progress = json.loads(read(url))
                return progress if progress["complete"] else None

            progress = wait_until(ended)
    assert (progress["state"], progress["title"], progress["result"]) == ("done", "Import rows", {"imported": 100})
    assert progress["progress"]["description"] == "Importing"

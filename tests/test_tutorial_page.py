"""The tutorial "A job that survives a deploy", followed word for word in a new project and a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests import servers
from tests.pages import Project, blocks_of
from tests.waiting import wait_until

PAGE = servers.ROOT / "docs" / "tutorial-deploy.md"
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
PAGES = 300


@pytest.mark.slow(25)
def test_the_bar_goes_on_after_a_restart_of_the_worker(valkey: str, tmp_path: Path, page: Page) -> None:
    runserver, start, start_again, count, repeated = COMMANDS
    assert runserver == "python manage.py runserver" and start_again == start
    project = Project(tmp_path, f"{valkey}/8", blocks_of(PAGE))
    tasks, printed = tmp_path / "shop" / "tasks.py", tmp_path / "printed.txt"

    def worker() -> AbstractContextManager[subprocess.Popen[bytes]]:
        command = (sys.executable, *start.split()[1:])
        return servers.process(*command, log=tmp_path / "log", environment=project.environment, folder=tmp_path)

    with project.site() as site:
        page.goto(f"{site}/print/")
        page.get_by_role("button", name="Print 300 pages").click()
        bar = page.locator("dramatiq-progress")
        with worker() as child:
            expect(bar).to_contain_text(re.compile(r"Printing: [1-9]\d of 300"))
            # As a terminal does.
            os.killpg(child.pid, signal.SIGINT)
            child.wait(60)
        expect(bar).to_contain_text(re.compile(r"Waiting to continue: \d+ of 300"))
        done = len(printed.read_text().splitlines())
        assert 10 < done < PAGES

        tasks.write_text(tasks.read_text().replace("time.sleep(0.1)", "time.sleep(0.02)"))
        with worker():
            wait_until(lambda: len(printed.read_text().splitlines()) > done)
            expect(bar).to_have_attribute("state", "done")
    assert printed.read_text().split() == [str(number) for number in range(1, PAGES + 1)]
    outputs = [subprocess.check_output(each, shell=True, cwd=tmp_path, text=True) for each in (count, repeated)]  # noqa: S602
    assert outputs == [f"{PAGES}\n", ""]

"""The whole path: a file is uploaded, a worker imports it, and a bar on the page moves.

All parts are real: a Valkey server, a Dramatiq worker process, an HTTP server and a browser.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests import servers
from tests.waiting import wait_until

#: Imported in more than 12 seconds: the page must load, and show three texts, before the end.
ROWS = 6_000

#: Records every value that the bar exposes to a screen reader.
WATCH_THE_BAR = """
    () => {
        const bar = document.querySelector("dramatiq-progress").shadowRoot.querySelector("[role=progressbar]");
        window.shown = [];
        new MutationObserver(() => window.shown.push(bar.getAttribute("aria-valuenow")))
            .observe(bar, {attributes: true, attributeFilter: ["aria-valuenow"]});
    }
"""


@pytest.fixture(scope="module")
def site(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the site and a worker, with Valkey as broker and store, and yield the site's URL."""
    folder = tmp_path_factory.mktemp("site")
    environment = {
        "TEST_BROKER_URL": f"{valkey}/8",
        "TEST_STORE_URL": f"{valkey}/9",
        "TEST_UPLOADS": str(folder),
    }
    with (
        servers.site(log=folder / "site.log", environment=environment) as url,
        servers.worker("-p", "1", "-t", "2", log=folder / "worker.log", environment=environment),
    ):
        yield url


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=60) as response:
        return dict(json.load(response))


def test_the_bar_shows_the_progress_of_an_uploaded_file(site: str, page: Page, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("name,age\n" + "\n".join(f"person {number},{number}" for number in range(ROWS)))

    page.goto(site)
    page.set_input_files("input[type=file]", table)
    page.click("button")
    page.wait_for_selector("dramatiq-progress[state]")
    page.evaluate(WATCH_THE_BAR)

    bar = page.locator("dramatiq-progress")
    expect(bar).to_have_attribute("state", "running")
    expect(bar).to_contain_text(f"of {ROWS:,}")
    expect(bar).to_contain_text("Importing")
    expect(bar).to_have_attribute("state", "done")
    expect(bar).to_contain_text(f"imported: {ROWS:,}")

    shown = [float(value) for value in page.evaluate("window.shown") if value is not None]
    assert len(set(shown)) >= 3, "the bar moved through at least three values"
    assert shown == sorted(shown), "and never backwards"

    answer = get(f"{site}/progress/{page.url.rstrip('/').rsplit('/')[-1]}/")
    assert (answer["state"], answer["success"], answer["result"]) == ("done", True, {"imported": ROWS})
    assert answer["progress"] == {
        "pending": False,
        "current": ROWS,
        "total": ROWS,
        "percent": 100.0,
        "description": "Importing",
    }
    assert (answer["actor"], answer["attempt"]) == ("import_rows", 1)


def test_the_bar_shows_why_a_file_cannot_be_imported(site: str, page: Page, tmp_path: Path) -> None:
    table = tmp_path / "empty.csv"
    table.write_text("name,age\n")

    page.goto(site)
    page.set_input_files("input[type=file]", table)
    page.click("button")

    bar = page.locator("dramatiq-progress")
    expect(bar).to_have_attribute("state", "failed")
    expect(bar).to_contain_text("The file is empty.")


def test_the_bar_is_the_same_after_a_reload(site: str, page: Page, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("name\n" + "\n".join(f"person {number}" for number in range(200)))

    page.goto(site)
    page.set_input_files("input[type=file]", table)
    page.click("button")
    expect(page.locator("dramatiq-progress")).to_have_attribute("state", "done")
    page.reload()
    expect(page.locator("dramatiq-progress")).to_have_attribute("state", "done")
    expect(page.locator("dramatiq-progress")).to_contain_text("imported: 200")


def test_a_message_that_was_never_sent_is_not_found(site: str) -> None:
    def status() -> int:
        try:
            get(f"{site}/progress/never-sent/")
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return 200

    assert wait_until(status) == 404

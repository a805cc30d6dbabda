"""A real, headless Chromium: the fixtures `browser` (one for a module) and `page` (one for each test)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.servers import find_program

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: For a machine that has no network and no graphics.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_SECONDS = 15


# Not for the whole session: while it is open, Playwright's loop counts as running in this thread, and neither
# asyncio.run() nor Django's database works beside it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_program(*CHROMIUM_NAMES)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a context of its own. An uncaught error or a violated policy fails the test at its end."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.extend(_complaints(message)))
    yield page
    context.close()
    assert not complaints


def _complaints(message: ConsoleMessage) -> list[str]:
    # Chromium notes each answer that is no 2xx, and each lost connection: those are what the tests are about.
    expected = ("Failed to load resource", "EventSource's response has a MIME type")
    if message.type != "error" or message.text.startswith(expected):
        return []
    return [message.text]

"""A real, headless Chromium: the fixtures `browser` (one for a process) and `page` (one for each test)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import find_program

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Debian's build without windows takes two thirds of Chromium's processor time for a test, and draws the same pixels.
HEADLESS_NAMES = ("chromium-headless-shell", *CHROMIUM_NAMES)
#: Features of Chromium that are switched off. The last three load a popup for the address bar of each window, and keep
#: a process for the next page: 0.4 s of the 0.65 s of processor time that an empty page takes (Chromium 156). A second
#: --disable-features replaces the first, so Playwright's own (1.65) are repeated.
DISABLED_FEATURES = [
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades"),
    *("HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding"),
    *("ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints"),
    *("NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch"),
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "SpareRendererForSitePerProcess"),
]
#: For a machine that has no network and no graphics.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(DISABLED_FEATURES)}",
]
#: Of each action and each expectation: long enough for a busy machine.
TIMEOUT_SECONDS = 60
expect.set_options(timeout=TIMEOUT_SECONDS * 1000)


@pytest.fixture(scope="session")
def chromium() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """The browser of this process, launched for the first test that needs one, and the event loop of Playwright."""
    path = find_program(*HEADLESS_NAMES)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield launched, loop
        with running(loop):
            launched.close()
        # Playwright stops its loop itself.
        asyncio._set_running_loop(loop)


@contextmanager
def running(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Playwright's loop counts as running in this thread, for the length of a block.

    Playwright leaves it so from its start to its end, and neither `asyncio.run` nor Django's database works meanwhile.
    """
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@pytest.fixture
def browser(chromium: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    launched, loop = chromium
    with running(loop):
        yield launched


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

"""Three browser engines behind one interface, so that a test compares what they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Page

from tests import firefox, webkit

#: Of the window, in CSS pixels. Enough for every look, since the width of a scroll bar depends on the engine, and the
#: driver of WebKit only makes pictures of what is in the window.
WIDTH, HEIGHT = 1280, 1100

#: Everything that the page, or a script of it, complains about.
RECORD_COMPLAINTS = """
  window.complaints = [];
  for (const type of ["error", "unhandledrejection", "securitypolicyviolation"])
    addEventListener(type, (event) => complaints.push(`${type}: ${event.message ?? event.reason ?? ""}`), true);
  for (const name of ["error", "warn"]) console[name] = (...values) => complaints.push(values.join(" "));
"""


class Engine(Protocol):
    """One window of a browser."""

    def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""

    def run(self, script: str) -> Any:
        """Run the body of an async function in the page, and return its result, made from JSON."""

    def screenshot(self) -> bytes:
        """Return a PNG of the window, a device pixel for each CSS pixel."""


class Chromium:
    def __init__(self, page: Page) -> None:
        self._page = page
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def open(self, url: str) -> None:
        self._page.goto(url)

    def run(self, script: str) -> Any:
        return self._page.evaluate(f"async () => {{ {script} }}")

    def screenshot(self) -> bytes:
        return self._page.screenshot()


@pytest.fixture
def in_chromium(page: Page) -> Engine:
    return Chromium(page)


@pytest.fixture
def in_firefox(tmp_path: Path) -> Iterator[Engine]:
    with firefox.run(tmp_path, WIDTH, HEIGHT) as window:
        yield window


@pytest.fixture
def in_webkit(tmp_path: Path) -> Iterator[Engine]:
    with webkit.run(tmp_path, WIDTH, HEIGHT) as window:
        yield window


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """A window of the engine that the test's parameter names."""
    made: Engine = request.getfixturevalue(f"in_{request.param}")
    return made

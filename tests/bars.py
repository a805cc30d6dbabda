"""What the tests of the bar share: a page with a bar or many, and what a server says of a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import Progress, State
from tests.scripted_site import Reply, ScriptedSite

OpenBar = Callable[..., Locator]

HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress.css">'
    '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
)
NOT_FOUND = Reply(status=404, json={"error": "not_found"})
UNAVAILABLE = Reply(status=503, json={"error": "store_unavailable"})

#: Before any script of the page: note every event of a bar, and all that it says to a screen reader.
OBSERVE = """
  window.heard = [];
  window.spoken = [];
  for (const type of ["progress", "done", "failed"])
    document.addEventListener(type, (event) => heard.push([type, event.detail]));
  customElements.whenDefined("dramatiq-progress").then(() => {
    const status = document.querySelector("dramatiq-progress").shadowRoot.querySelector("[role=status]");
    new MutationObserver(() => spoken.push(status.textContent)).observe(status, { childList: true });
  });
"""


@pytest.fixture
def site() -> Iterator[ScriptedSite]:
    """A server that says what the test tells it to say."""
    with ScriptedSite() as made:
        yield made


@pytest.fixture
def open_bar(site: ScriptedSite, page: Page) -> OpenBar:
    """Opens the page with one bar of these attributes and children; gives the bar."""

    def open_page(attributes: str = "", children: str = "", head: str = "") -> Locator:
        bar = f'<dramatiq-progress src="/progress/m1/" {attributes}>{children}</dramatiq-progress>'
        site.html = f"{HEAD}{head}<body>{bar}"
        page.add_init_script(OBSERVE)
        page.goto(site.url)
        return page.locator("dramatiq-progress")

    return open_page


def answer(state: str, *, poll_after: float = 0.1, extra: dict[str, Any] | None = None, **values: Any) -> Any:
    """What the server says of a message. Where no numbers are given, 1,200 of 5,000 are done."""
    values = {"current": 1200, "total": 5000, "description": "Importing", "attempt": 1} | values
    progress = Progress(id="m1", actor="import_rows", queue="default", state=State(state), **values)
    return progress.as_dict() | {"poll_after": poll_after} | (extra or {})


def part(bar: Locator, name: str) -> Locator:
    return bar.locator(f"[part={name}]")


def expect_state(bar: Locator, state: str) -> None:
    expect(bar).to_have_attribute("state", state)


def settle(bar: Locator, site: ScriptedSite) -> int:
    """The number of polls, when all that the page had sent until now have arrived."""
    bar.page.evaluate("fetch('/after-all-others/')")
    return len(site.polls)


def set_hidden(page: Page, hidden: bool) -> None:
    """A headless browser never hides a tab: say what the platform says when one is hidden."""
    page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )

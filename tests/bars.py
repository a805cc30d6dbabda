"""Fixtures and helpers of the bar's tests: a page with one bar, and a server's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import Progress, State
from tests.scripted_site import Reply, ScriptedSite
from tests.waiting import wait_until

OpenBar = Callable[..., Locator]

HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress.css">'
    '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
)
NOT_FOUND = Reply(status=404, json={"error": "not_found"})
UNAVAILABLE = Reply(status=503, json={"error": "store_unavailable"})

#: Run before any script of the page: record every event of a bar, and every announcement to screen readers.
OBSERVE = """
  window.events = [];
  window.announced = [];
  for (const type of ["progress", "done", "failed"])
    document.addEventListener(type, (event) => events.push([type, event.detail]));
  customElements.whenDefined("dramatiq-progress").then(() => {
    const status = document.querySelector("dramatiq-progress").shadowRoot.querySelector("[role=status]");
    new MutationObserver(() => announced.push(status.textContent)).observe(status, { childList: true });
  });
"""
#: Record every `trouble` event and every change of `offline`, with its value.
RECORD_TROUBLE = """
  window.troubles = [];
  document.addEventListener("trouble", ({ detail }) => troubles.push(detail.response?.status ?? "network"));
  new MutationObserver((changes) => {
    for (const { target } of changes) troubles.push(target.hasAttribute("offline") ? "offline" : "online");
  }).observe(document, { subtree: true, attributeFilter: ["offline"] });
"""
#: Record every wait before a poll, and the time of the next poll: null while a request is open.
RECORD_WAITS = """
  window.waits = [];
  window.pollAt = null;
  const { setTimeout } = window;
  window.setTimeout = (act, milliseconds) => {
    if (!String(act).includes("#poll")) return setTimeout(act, milliseconds);
    waits.push(milliseconds / 1000);
    pollAt = performance.now() + milliseconds;
    return setTimeout(() => {
      pollAt = null;
      act();
    }, milliseconds);
  };
"""


@pytest.fixture
def site() -> Iterator[ScriptedSite]:
    """A server with the replies that the test sets."""
    with ScriptedSite() as made:
        yield made


@pytest.fixture
def open_bar(site: ScriptedSite, page: Page) -> OpenBar:
    """A function that opens a page with one bar, with these attributes and children, and returns the bar."""

    def open_page(attributes: str = "", children: str = "", head: str = "") -> Locator:
        bar = f'<dramatiq-progress src="/progress/m1/" {attributes}>{children}</dramatiq-progress>'
        site.html = f"{HEAD}{head}<body>{bar}"
        page.add_init_script(OBSERVE)
        page.goto(site.url)
        return page.locator("dramatiq-progress")

    return open_page


@pytest.fixture
def patient_page(page: Page) -> Page:
    """A page with a paused clock, which records troubles and waits."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.add_init_script(RECORD_WAITS + RECORD_TROUBLE)
    return page


def run_until_poll(page: Page, site: ScriptedSite, number: int) -> None:
    """Let the time of a `patient_page` pass until this poll is sent, and not longer."""

    def has_arrived() -> bool:
        # Read before the polls are counted: if it is the next poll's time, this one has arrived.
        left = page.evaluate("pollAt === null ? null : Math.max(0, pollAt - performance.now())")
        if len(site.polls) >= number:
            return True
        if left is not None:
            page.clock.run_for(left + 1)
        return False

    wait_until(has_arrived)


def answer(state: str, *, poll_after: float = 0.1, extra: dict[str, Any] | None = None, **values: Any) -> Any:
    """Return a server's answer. The default progress is 1,200 of 5,000."""
    values = {"current": 1200, "total": 5000, "description": "Importing", "attempt": 1} | values
    progress = Progress(id="m1", actor="import_rows", queue="default", state=State(state), **values)
    return progress.as_dict() | {"poll_after": poll_after} | (extra or {})


def part(bar: Locator, name: str) -> Locator:
    return bar.locator(f"[part~={name}]")


def expect_state(bar: Locator, state: str) -> None:
    expect(bar).to_have_attribute("state", state)


def settle(bar: Locator, site: ScriptedSite) -> int:
    """Wait until all requests that the page has sent have arrived, and return the number of polls."""
    bar.page.evaluate("fetch('/after-all-others/')")
    return len(site.polls)


def set_hidden(page: Page, hidden: bool) -> None:
    """Simulate a hidden or visible tab, since a headless browser never hides one."""
    page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )

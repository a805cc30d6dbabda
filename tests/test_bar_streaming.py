"""The bar with a stream: in a real browser, with a real ASGI server and a real store."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

from dramatiq_progress import State
from tests.bars import answer, set_hidden
from tests.scripted_site import Reply, ScriptedSite
from tests.store_server import Server
from tests.streaming_site import Site, begin, report

STREAM = "/progress/stream/"


class Asked:
    """The paths that a page has asked for below ``/progress/``: polls and streams."""

    def __init__(self, page: Page) -> None:
        self.polls: list[str] = []
        self.streams: list[str] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        path = "/" + request.url.split("/", 3)[3]
        if path.startswith(STREAM):
            self.streams.append(path)
        elif path.startswith("/progress/"):
            self.polls.append(path)


def streams(asgi_site: Site) -> int:
    return int(asgi_site.get("/counts/")["streams"])


def wait_for(page: Page, condition: Any) -> None:
    """Wait, while the page's events are heard."""
    for _ in range(1000):
        if condition():
            return
        page.wait_for_timeout(10)
    raise AssertionError("it never came")


def show(page: Page, asgi_site: Site, *message_ids: str) -> Locator:
    page.goto(f"{asgi_site.url}/bars/?" + "&".join(f"id={each}" for each in message_ids))
    return page.locator("dramatiq-progress")


def expect_percent(bar: Locator, percent: int) -> None:
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", str(percent))


def test_the_page_is_told_and_asks_no_more(asgi_site: Site, page: Page) -> None:
    attempts = [begin(asgi_site.store, message_id) for message_id in ("m1", "m2")]
    asked = Asked(page)
    bars = show(page, asgi_site, "m1", "m2")
    wait_for(page, lambda: asked.streams and streams(asgi_site) == 1)
    report(asgi_site.store, attempts[0], 1000)
    expect_percent(bars.nth(0), 10)
    for current in range(2000, 6000, 500):
        report(asgi_site.store, attempts[1], current)
        expect_percent(bars.nth(1), current // 100)
    polls = len(asked.polls)
    page.wait_for_timeout(1500)  # two polls would have come
    assert len(asked.polls) == polls <= 3
    assert asked.streams == [f"{STREAM}?id=m1&id=m2"]
    for attempt in attempts:
        asgi_site.store.finish(attempt, state=State.DONE)
    expect(bars.nth(0)).to_have_attribute("state", "done")
    expect(bars.nth(1)).to_have_attribute("state", "done")
    wait_for(page, lambda: streams(asgi_site) == 0)


def test_a_bar_that_comes_later_joins_the_stream(asgi_site: Site, page: Page) -> None:
    begin(asgi_site.store, "m1")
    attempt = begin(asgi_site.store, "m2")
    asked = Asked(page)
    bars = show(page, asgi_site, "m1")
    wait_for(page, lambda: streams(asgi_site) == 1)
    bars.evaluate("bar => { const other = bar.cloneNode(); other.src = '/progress/m2/'; bar.after(other); }")
    wait_for(page, lambda: asked.streams[-1] == f"{STREAM}?id=m1&id=m2")
    wait_for(page, lambda: streams(asgi_site) == 1)
    report(asgi_site.store, attempt, 2000)
    expect_percent(bars.nth(1), 20)


def test_a_hidden_tab_lets_go_of_its_stream(asgi_site: Site, page: Page) -> None:
    attempt = begin(asgi_site.store)
    bar = show(page, asgi_site, "m1")
    wait_for(page, lambda: streams(asgi_site) == 1)
    set_hidden(page, True)
    wait_for(page, lambda: streams(asgi_site) == 0)
    set_hidden(page, False)
    wait_for(page, lambda: streams(asgi_site) == 1)
    report(asgi_site.store, attempt, 3000)
    expect_percent(bar, 30)


def test_four_tabs_stream_and_the_fifth_polls(asgi_site: Site, page: Page) -> None:
    attempt = begin(asgi_site.store)
    context: BrowserContext = page.context
    tabs = [page, *[context.new_page() for _ in range(4)]]
    bars = [show(tab, asgi_site, "m1") for tab in tabs]
    wait_for(page, lambda: streams(asgi_site) == 4)
    report(asgi_site.store, attempt, 5000)
    for bar in bars:
        expect_percent(bar, 50)
    assert streams(asgi_site) == 4


def test_a_bar_that_is_to_poll_polls(asgi_site: Site, page: Page) -> None:
    attempt = begin(asgi_site.store)
    asked = Asked(page)
    page.route("**/bars/*", lambda route: _edit(route, "<dramatiq-progress", '<dramatiq-progress transport="poll"'))
    bar = show(page, asgi_site, "m1")
    wait_for(page, lambda: len(asked.polls) >= 3)
    report(asgi_site.store, attempt, 5000)
    expect_percent(bar, 50)
    assert asked.streams == []


def _edit(route: Any, before: str, after: str) -> None:
    response = route.fetch()
    route.fulfill(response=response, body=response.text().replace(before, after))


def test_a_store_that_dies_is_seen_and_comes_back(asgi_site: Site, server: Server, page: Page) -> None:
    dying = begin(asgi_site.store)
    bar = show(page, asgi_site, "m1")
    wait_for(page, lambda: streams(asgi_site) == 1)
    report(asgi_site.store, dying, 1000)
    expect_percent(bar, 10)
    server.kill()
    expect(bar).to_have_attribute("offline", "")
    server.start()
    attempt = begin(asgi_site.store)
    report(asgi_site.store, attempt, 4000)
    expect_percent(bar, 40)
    expect(bar).not_to_have_attribute("offline", re.compile(""))


# ---- Without a stream that works ----


HEAD = '<!doctype html><script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
BAR = f'{HEAD}<dramatiq-progress list="/progress/" stream="{STREAM}" src="/progress/m1/"></dramatiq-progress>'

BROKEN = [
    Reply(status=503, json={"error": "store_unavailable"}),
    Reply(status=501, json={"error": "not_implemented"}),
    Reply(text="a login page"),
    Reply(drop=True),
    Reply(held=True, text=""),
]


@pytest.mark.parametrize("broken", BROKEN, ids=["503", "501", "html", "drop", "buffered"])
def test_where_the_stream_is_broken_it_polls(site: ScriptedSite, page: Page, broken: Reply) -> None:
    site.html = BAR
    site.say(answer("running"))
    asked = Asked(page)
    site.say(broken, path=f"{STREAM}?id=m1")
    site._replies["/progress/"] = site._replies[f"{STREAM}?id=m1"]
    page.goto(site.url)
    wait_for(page, lambda: asked.streams)
    polls = len(asked.polls)
    wait_for(page, lambda: len(asked.polls) >= polls + 5)
    assert len(asked.streams) == 1 or broken.drop


def test_it_comes_back_to_a_stream_that_was_broken(site: ScriptedSite, page: Page) -> None:
    site.html = BAR
    site.say(answer("running", poll_after=3600))
    site.say(Reply(status=503, json={}), path="/progress/")
    asked = Asked(page)
    page.clock.install()
    page.goto(site.url)
    page.clock.run_for(1000)
    wait_for(page, lambda: len(asked.streams) == 1)
    page.wait_for_timeout(200)
    page.clock.run_for(61_000)
    wait_for(page, lambda: len(asked.streams) == 2)


def test_the_stream_of_a_page_is_one(asgi_site: Site, page: Page) -> None:
    begin(asgi_site.store)
    asked = Asked(page)
    bar = show(page, asgi_site, "m1")
    bar.evaluate(
        """bar => {
          customElements.define("other-progress", class extends customElements.get("dramatiq-progress") {});
          const other = document.createElement("other-progress");
          for (const { name, value } of bar.attributes) other.setAttribute(name, value);
          bar.after(other);
        }"""
    )
    wait_for(page, lambda: streams(asgi_site) == 1)
    expect(page.locator("other-progress")).to_have_attribute("state", "running")
    page.wait_for_timeout(500)
    assert len(asked.streams) == 1

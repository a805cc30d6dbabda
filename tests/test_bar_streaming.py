"""The bar with a stream, in a real browser, with a real ASGI server and a real store."""

from __future__ import annotations

import json
import re
from time import monotonic
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

from dramatiq_progress import State
from tests.bars import HEAD as STYLED_HEAD
from tests.bars import UNAVAILABLE, answer, expect_state, run_until_poll, set_hidden
from tests.scripted_site import Reply, ScriptedSite
from tests.store_server import Server
from tests.streaming_site import Site, begin, report
from tests.waiting import TIMEOUT_SECONDS

STREAM = "/progress/stream/"


class Requests:
    """The paths below ``/progress/`` that a page has requested: polls and streams."""

    def __init__(self, page: Page) -> None:
        self.polls: list[str] = []
        self.streams: list[str] = []
        page.on("request", self._record)

    def _record(self, request: Request) -> None:
        path = "/" + request.url.split("/", 3)[3]
        if path.startswith(STREAM):
            self.streams.append(path)
        elif path.startswith("/progress/"):
            self.polls.append(path)


def streams(asgi_site: Site) -> int:
    return int(asgi_site.get("/counts/")["streams"])


def wait_for(page: Page, condition: Any) -> None:
    """Wait for a condition while Playwright handles the page's events."""
    deadline = monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert monotonic() < deadline, "The condition was never met."
        page.wait_for_timeout(10)


def show(page: Page, asgi_site: Site, *message_ids: str) -> Locator:
    page.goto(f"{asgi_site.url}/bars/?" + "&".join(f"id={each}" for each in message_ids))
    return page.locator("dramatiq-progress")


def expect_percent(bar: Locator, percent: int) -> None:
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", str(percent))


def test_the_page_receives_changes_and_stops_polling(asgi_site: Site, page: Page) -> None:
    attempts = [begin(asgi_site.store, message_id) for message_id in ("m1", "m2")]
    requests = Requests(page)
    bars = show(page, asgi_site, "m1", "m2")
    wait_for(page, lambda: requests.streams and streams(asgi_site) == 1)
    report(asgi_site.store, attempts[0], 1000)
    expect_percent(bars.nth(0), 10)
    for current in range(2000, 6000, 500):
        report(asgi_site.store, attempts[1], current)
        expect_percent(bars.nth(1), current // 100)
    # How many there were before depends on when the stream's first event came.
    polls = len(requests.polls)
    page.wait_for_timeout(1500)  # enough for two polls
    assert len(requests.polls) == polls
    assert requests.streams == [f"{STREAM}?id=m1&id=m2"]
    for attempt in attempts:
        asgi_site.store.finish(attempt, state=State.DONE)
    expect(bars.nth(0)).to_have_attribute("state", "done")
    expect(bars.nth(1)).to_have_attribute("state", "done")
    wait_for(page, lambda: streams(asgi_site) == 0)


#: A stream whose events the test sends.
FAKE_STREAM = """
  window.EventSource = class { constructor() { window.source = this; } addEventListener() {} close() {} };
  window.drawn = [];
  document.addEventListener("progress", ({ detail }) => drawn.push([detail.id, detail.version]));
"""


#: Send versions of all messages, and return how many changes were drawn before.
SEND = """versions => {
  for (const version of versions) for (const id of ids)
    source.onmessage({ data: JSON.stringify({ ...base, id, version, progress: { percent: version } }) });
  return drawn.length;
}"""


def open_fake_stream(site: ScriptedSite, page: Page, count: int) -> None:
    """Open a page with this many bars of a fake stream. The page's clock stands still."""
    page.add_init_script(FAKE_STREAM)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    ids = [f"m{number}" for number in range(1, count + 1)]
    for each in ids:
        site.reply(answer("running", version=1, poll_after=60) | {"id": each}, path=f"/progress/{each}/")
    bars = [
        f'<dramatiq-progress list="/progress/" src="/progress/{each}/" stream="/s/"></dramatiq-progress>'
        for each in ids
    ]
    site.html = f"{STYLED_HEAD}<body>{''.join(bars)}"
    page.goto(site.url)
    is_open = f"drawn.length === {count} && 'onmessage' in (window.source ?? {{}})"
    wait_for(page, lambda: page.clock.run_for(100) or page.evaluate(is_open))
    page.evaluate(
        "values => { Object.assign(window, values); drawn.length = 0 }", {"ids": ids, "base": answer("running")}
    )
    page.clock.run_for(1000)


def test_only_the_newest_of_many_changes_is_drawn(site: ScriptedSite, page: Page) -> None:
    open_fake_stream(site, page, 2)
    assert page.evaluate(SEND, [2, 3, 4]) == 0
    page.clock.run_for(20)
    assert page.evaluate("drawn") == [["m1", 4], ["m2", 4]]
    assert page.evaluate(SEND, [5, 6]) == 2
    page.clock.run_for(100)
    assert page.evaluate(SEND, [7]) == 2
    page.clock.run_for(200)
    assert page.evaluate("drawn") == [["m1", 4], ["m2", 4], ["m1", 7], ["m2", 7]]


COUNT_FORMATTERS = """
  window.formatters = 0;
  Intl.NumberFormat = class extends Intl.NumberFormat { constructor(...values) { super(...values); formatters++; } };
"""


def test_a_hundred_bars_that_change_ten_times_a_second_leave_time_for_frames(site: ScriptedSite, page: Page) -> None:
    """Not measured but counted: the draws per frame, and what is created once."""
    page.add_init_script(COUNT_FORMATTERS)
    open_fake_stream(site, page, 100)
    formatters = page.evaluate("formatters")
    frames: list[list[tuple[str, int]]] = []
    for version in range(2, 22):
        page.evaluate(SEND, [version])
        for _ in range(6):  # 100 ms
            page.evaluate("drawn.length = 0")
            page.clock.run_for(17)
            frames.append(page.evaluate("drawn"))
    assert max(map(len, frames)) == 12
    assert all(len({message_id for message_id, _ in frame}) == len(frame) for frame in frames)
    drawn = [message_id for frame in frames for message_id, _ in frame]
    counts = [drawn.count(f"m{number}") for number in range(1, 101)]
    # The oldest first, so that no bar waits for longer than the others.
    assert max(counts) - min(counts) <= 2
    assert min(counts) >= 2
    # Amounts, percentages, seconds: once per page, not once per bar.
    assert formatters <= 3
    assert page.evaluate("formatters") == formatters


TRANSITIONS = """() => [...document.querySelectorAll("dramatiq-progress")].map((bar) =>
  bar.shadowRoot.getAnimations().filter(({ transitionProperty }) => transitionProperty === "width").length)"""


def test_only_bars_that_are_near_the_view_are_animated(site: ScriptedSite, page: Page) -> None:
    open_fake_stream(site, page, 100)
    page.add_style_tag(content=":root { --dramatiq-progress-transition-duration: 1000s }")
    page.evaluate(SEND, [60])
    page.clock.run_for(2000)
    assert page.evaluate("new Set(drawn.map(([id]) => id)).size") == 100
    transitions = page.evaluate(TRANSITIONS)
    assert (transitions[0], transitions[-1]) == (1, 0)
    assert sum(transitions) < 60
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    last = page.locator("dramatiq-progress").last.locator("[part=fill]")
    wait_for(
        page,
        lambda: (
            page.clock.run_for(20) or last.evaluate("fill => fill.clientWidth / fill.parentElement.clientWidth") > 0.59
        ),
    )


def test_a_bar_that_is_added_later_joins_the_stream(asgi_site: Site, page: Page) -> None:
    begin(asgi_site.store, "m1")
    attempt = begin(asgi_site.store, "m2")
    requests = Requests(page)
    bars = show(page, asgi_site, "m1")
    wait_for(page, lambda: streams(asgi_site) == 1)
    bars.evaluate("bar => { const other = bar.cloneNode(); other.src = '/progress/m2/'; bar.after(other); }")
    wait_for(page, lambda: requests.streams[-1] == f"{STREAM}?id=m1&id=m2")
    wait_for(page, lambda: streams(asgi_site) == 1)
    report(asgi_site.store, attempt, 2000)
    expect_percent(bars.nth(1), 20)


def test_a_hidden_tab_closes_its_stream(asgi_site: Site, page: Page) -> None:
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


def test_a_bar_with_transport_poll_polls(asgi_site: Site, page: Page) -> None:
    attempt = begin(asgi_site.store)
    requests = Requests(page)
    page.route("**/bars/*", lambda route: _edit(route, "<dramatiq-progress", '<dramatiq-progress transport="poll"'))
    bar = show(page, asgi_site, "m1")
    wait_for(page, lambda: len(requests.polls) >= 3)
    report(asgi_site.store, attempt, 5000)
    expect_percent(bar, 50)
    assert requests.streams == []


def _edit(route: Any, before: str, after: str) -> None:
    response = route.fetch()
    route.fulfill(response=response, body=response.text().replace(before, after))


def test_a_store_that_dies_is_shown_and_it_recovers(asgi_site: Site, server: Server, page: Page) -> None:
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


def events() -> str:
    """Return a stream that sends m1, loses its store, and isn't reopened for an hour."""
    first = json.dumps(answer("running", poll_after=3600, version=1))
    return f"retry: 3600000\n\ndata: {first}\n\nevent: store_unavailable\ndata: {{}}\n\n"


def open_streaming_bar(site: ScriptedSite, page: Page) -> Locator:
    """Open a `patient_page` with a bar that was polled once and has received the stream."""
    site.html = BAR
    page.route(f"**{STREAM}*", lambda route: route.fulfill(content_type="text/event-stream", body=events()))
    # Half a second after the stream's loss: its answer is drawn before.
    page.add_init_script("Math.random = () => 0.5")
    page.goto(site.url)
    run_until_poll(page, site, 1)
    bar = page.locator("dramatiq-progress")
    expect_state(bar, "running")

    def has_received() -> bool:
        page.clock.run_for(50)
        # One each for the bar, the poll's answer, the stream's answer and the stream's loss.
        return bool(page.evaluate("waits.length") == 4)

    wait_for(page, has_received)
    assert len(site.polls) == 1
    return bar


def test_a_stream_that_loses_its_store_shows_nothing_if_the_second_poll_is_answered(
    site: ScriptedSite, patient_page: Page
) -> None:
    """Only failed polls count, not the stream's event and not the end of the stream."""
    site.reply(answer("running", poll_after=3600), UNAVAILABLE, answer("done", version=2))
    bar = open_streaming_bar(site, patient_page)
    for number in (2, 3):
        run_until_poll(patient_page, site, number)
    expect_state(bar, "done")
    assert patient_page.evaluate("troubles") == []


def test_a_stream_that_loses_its_store_shows_it_if_two_polls_fail(site: ScriptedSite, patient_page: Page) -> None:
    site.reply(answer("running", poll_after=3600), UNAVAILABLE, UNAVAILABLE, answer("done", version=2))
    bar = open_streaming_bar(site, patient_page)
    for number in (2, 3, 4):
        run_until_poll(patient_page, site, number)
    expect_state(bar, "done")
    assert patient_page.evaluate("troubles") == [503, "offline", "online"]


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
def test_it_polls_if_the_stream_is_broken(site: ScriptedSite, page: Page, broken: Reply) -> None:
    site.html = BAR
    site.reply(answer("running"))
    requests = Requests(page)
    site.reply(broken, path=f"{STREAM}?id=m1")
    site._replies["/progress/"] = site._replies[f"{STREAM}?id=m1"]
    page.goto(site.url)
    wait_for(page, lambda: requests.streams)
    polls = len(requests.polls)
    wait_for(page, lambda: len(requests.polls) >= polls + 5)
    assert len(requests.streams) == 1 or broken.drop


def test_it_reopens_a_stream_that_was_broken(site: ScriptedSite, page: Page) -> None:
    site.html = BAR
    site.reply(answer("running", poll_after=3600))
    site.reply(Reply(status=503, json={}), path="/progress/")
    requests = Requests(page)
    page.clock.install()
    page.goto(site.url)
    page.clock.run_for(1000)
    wait_for(page, lambda: len(requests.streams) == 1)
    page.wait_for_timeout(200)
    page.clock.run_for(61_000)
    wait_for(page, lambda: len(requests.streams) == 2)


def test_a_page_has_one_stream(asgi_site: Site, page: Page) -> None:
    begin(asgi_site.store)
    requests = Requests(page)
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
    assert len(requests.streams) == 1

"""The bar in a project's pages: added and removed, in forms, changed by morphs, and cleaned up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.bars import HEAD, OpenBar, answer, expect_state, part, settle
from tests.scripted_site import Reply, ScriptedSite
from tests.waiting import wait_until

#: Run before any script of the page: count listeners, timers, requests, streams and locks.
COUNT = """
  window.live = { listeners: new Set(), timers: new Set(), requests: new Set(), streams: new Set(), bars: [] };
  const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
  const isOurs = () => new Error().stack.includes("/dramatiq-progress");
  EventTarget.prototype.addEventListener = function (type, listener, options) {
    const target = this ?? window;
    if ((target === window || target === document) && isOurs()) {
      live.listeners.add(listener);
      if (options?.signal) add.call(options.signal, "abort", () => live.listeners.delete(listener));
    }
    return add.call(target, type, listener, options);
  };
  EventTarget.prototype.removeEventListener = function (type, listener, options) {
    live.listeners.delete(listener);
    return remove.call(this ?? window, type, listener, options);
  };
  const { setTimeout: start, clearTimeout: stop, setInterval: repeat, fetch: send, EventSource: Source } = window;
  window.setTimeout = (act, ...rest) => {
    const timer = start(() => { live.timers.delete(timer); act(); }, ...rest);
    live.timers.add(timer);
    return timer;
  };
  window.clearTimeout = (timer) => { live.timers.delete(timer); stop(timer); };
  window.setInterval = (...all) => { const timer = repeat(...all); live.timers.add(timer); return timer; };
  window.fetch = (request, ...rest) => {
    live.requests.add(request);
    return send(request, ...rest).finally(() => live.requests.delete(request));
  };
  window.EventSource = class extends Source {
    constructor(url) { super(url); live.streams.add(this); }
  };
  window.count = async () => {
    const { held, pending } = await navigator.locks.query();
    return {
      listeners: live.listeners.size,
      timers: live.timers.size,
      requests: live.requests.size,
      streams: [...live.streams].filter(({ readyState }) => readyState !== EventSource.CLOSED).length,
      locks: held.length + pending.length,
    };
  };
"""
NOTHING = {"listeners": 0, "timers": 0, "requests": 0, "streams": 0, "locks": 0}


@pytest.fixture
def counted(site: ScriptedSite, page: Page) -> Iterator[Page]:
    """A page without bars that counts resources."""
    page.add_init_script(COUNT)
    site.html = f"{HEAD}<body>"
    page.goto(site.url)
    page.evaluate("customElements.whenDefined('dramatiq-progress').then(() => {})")
    assert page.evaluate("count()") == NOTHING
    yield page


def wait_for_count(page: Page, condition: str) -> None:
    page.wait_for_function(f"async () => {{ const now = await count(); return {condition}; }}")


ADD_500 = """(attributes) => {
  for (let index = 0; index < 500; index += 1) {
    const bar = document.createElement("dramatiq-progress");
    for (const [name, value] of Object.entries(attributes)) bar.setAttribute(name, value);
    bar.src = `/progress/m${index}/`;
    document.body.append(bar);
    live.bars.push(new WeakRef(bar));
  }
}"""


@pytest.mark.parametrize(
    "attributes",
    [
        {"list": "/progress/", "stream": "/progress/stream/", "show-result": ""},
        {},
    ],
    ids=["together", "alone"],
)
def test_five_hundred_bars_leave_nothing_behind(site: ScriptedSite, counted: Page, attributes: dict[str, str]) -> None:
    """No timer, listener, request, stream or lock is left, and the elements can be garbage-collected."""
    for index in range(0, 500, 10):
        site.reply(answer("retrying", retry_in=50, poll_after=0.2), path=f"/progress/m{index}/")
    site.reply(Reply(held=True), path="/progress/stream/")
    counted.evaluate(ADD_500, attributes)
    counted.wait_for_function("Boolean(document.querySelector('dramatiq-progress[state=retrying]'))")
    wait_for_count(counted, "now.listeners && now.timers && now.requests")
    if attributes:
        wait_for_count(counted, "now.streams === 1 && now.locks === 1")
    counted.evaluate("document.body.replaceChildren()")
    wait_for_count(counted, "Object.values(now).every((each) => each === 0)")
    polls = settle_without_bar(counted, site)
    browser = counted.context.new_cdp_session(counted)
    browser.send("HeapProfiler.collectGarbage")
    # With a stream Chromium keeps the last one. A leak would keep all of them.
    assert counted.evaluate("live.bars.filter((bar) => bar.deref()).length") <= 1
    assert counted.evaluate("count()") == NOTHING
    assert settle_without_bar(counted, site) == polls
    site.release()


def settle_without_bar(page: Page, site: ScriptedSite) -> int:
    """Wait until the number of polls stays the same, and return it: one that was cancelled may be counted late."""
    counts: list[int] = []

    def is_settled() -> bool:
        page.evaluate("fetch('/after-all-others/')")
        counts.append(len(site.polls))
        return counts[-10:] == counts[-1:] * 10

    wait_until(is_settled)
    return counts[-1]


def test_a_stopped_progress_bar_leaves_nothing_behind(site: ScriptedSite, counted: Page) -> None:
    site.reply(answer("retrying", retry_in=50, poll_after=0.2))
    counted.evaluate(
        """async () => {
          const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
          document.body.insertAdjacentHTML("beforeend", "<p id='progress-bar-message'>");
          window.bars = ["a", "b"].map(() => new ProgressBar("/progress/m1/", { list: "/progress/" }));
        }"""
    )
    expect(counted.locator("#progress-bar-message")).to_contain_text("Retrying in")
    counted.evaluate("for (const bar of bars) bar.stop()")
    wait_for_count(counted, "Object.values(now).every((each) => each === 0)")


def test_a_final_bar_needs_no_resources(site: ScriptedSite, counted: Page) -> None:
    site.reply(answer("done", result="All there"))
    counted.evaluate(
        """document.body.innerHTML = '<dramatiq-progress src="/progress/m1/" list="/progress/" show-result>'"""
    )
    expect(part(counted.locator("dramatiq-progress"), "text")).to_have_text("All there")
    wait_for_count(counted, "Object.values(now).every((each) => each === 0)")


def test_a_browser_without_event_sources_polls(site: ScriptedSite, page: Page) -> None:
    """The fixture `page` fails after an error in the console."""
    page.add_init_script("delete window.EventSource")
    site.reply(answer("running"), answer("running"), answer("done"))
    site.html = f'{HEAD}<body><dramatiq-progress list="/progress/" src="/progress/m1/" stream="/progress/stream/">'
    page.goto(site.url)
    expect_state(page.locator("dramatiq-progress"), "done")
    assert page.evaluate("navigator.locks.query().then(({ held }) => held.length)") == 0


# ---- In a form ----


def test_a_bar_in_a_form_is_not_submitted(site: ScriptedSite, page: Page) -> None:
    """It doesn't submit or reset the form either, and its label is its name."""
    site.reply(answer("failed", result="Row 7 has no code."))
    site.reply(Reply(text="<title>Again</title>"), path="/again/")
    site.html = (
        f'{HEAD}<body><form action="/sent/"><label>Name <input name="name" value="Ada"></label>'
        '<label>Import <dramatiq-progress src="/progress/m1/" name="bar" value="7" label="Import of rows"'
        ' retry="#again"></dramatiq-progress></label><button>Send</button></form>'
        "<script>window.submits = 0; document.addEventListener('submit', () => submits += 1)</script>"
    )
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect(bar.get_by_role("progressbar", name="Import of rows")).to_be_visible()
    link = bar.get_by_role("link", name="Try again")
    link.click()
    link.press("Enter")
    part(bar, "track").click()
    assert page.url == f"{site.url}/#again"
    assert page.evaluate("submits") == 0
    assert page.evaluate("[...new FormData(document.forms[0])]") == [["name", "Ada"]]
    assert page.evaluate("[...document.forms[0].elements].map(({ localName }) => localName)") == ["input", "button"]
    page.evaluate("document.forms[0].reset()")
    expect_state(bar, "failed")
    site.reply(Reply(text="<title>Sent</title>"), path="/sent/?name=Ada")
    page.get_by_role("textbox").press("Enter")
    expect(page).to_have_title("Sent")


# ---- Morphs ----


def test_attributes_that_a_morph_removes_are_restored(open_bar: OpenBar, site: ScriptedSite) -> None:
    """A morph removes attributes that the server's HTML doesn't have."""
    site.reply(answer("running", total=None, poll_after=3600))
    bar = open_bar()
    expect_state(bar, "running")
    for name, value in [("state", "running"), ("indeterminate", "")]:
        bar.evaluate("(bar, name) => bar.removeAttribute(name)", name)
        expect(bar).to_have_attribute(name, value)
    bar.evaluate("bar => { bar.setAttribute('state', 'done'); bar.setAttribute('offline', '') }")
    expect_state(bar, "running")
    expect(bar).not_to_have_attribute("offline", "")
    assert settle(bar, site) == 1


# ---- Static files on another origin ----


@pytest.mark.parametrize("is_allowed", [True, False])
def test_static_files_on_another_origin_need_its_permission(
    browser: Browser, site: ScriptedSite, is_allowed: bool
) -> None:
    site.reply(answer("running"))
    with ScriptedSite() as static_site:
        static_site.static_headers = {"Access-Control-Allow-Origin": "*"} if is_allowed else {}
        head = HEAD.replace('"/static/', f'"{static_site.url}/static/')
        site.html = f'{head}<body><dramatiq-progress src="/progress/m1/"><span>It runs.</span></dramatiq-progress>'
        # The fixture `page` would fail, since Chromium reports the blocked request in the console.
        with browser.new_page() as page:
            page.goto(site.url)
            expect(page.get_by_text("It runs.")).to_be_visible(visible=not is_allowed)
            expect(page.locator("dramatiq-progress[state=running]")).to_have_count(int(is_allowed))

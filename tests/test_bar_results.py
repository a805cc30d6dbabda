"""Outcomes: the result as text, link, redirect or the page's own HTML, a retry link, and listeners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.bars import HEAD, UNAVAILABLE, OpenBar, answer, expect_state, part, settle
from tests.scripted_site import Reply, ScriptedSite

TRUSTED = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types dramatiq-progress"
)
OPEN_TO_ALL = Reply(text="<b>no</b>", headers={"Access-Control-Allow-Origin": "*"})
SUMMARY = "<p id=summary>All <b>there</b></p><script>document.title = 'ran'</script>"


@pytest.fixture
def other_site() -> Iterator[ScriptedSite]:
    """A site of another origin."""
    with ScriptedSite() as site:
        site.html = "<title>Elsewhere</title>"
        yield site


# ---- URLs of other origins ----


def test_an_origin_that_the_page_lists_is_followed(
    open_bar: OpenBar, site: ScriptedSite, other_site: ScriptedSite, page: Page
) -> None:
    site.reply(answer("done", result=f"{other_site.url}/"))
    open_bar(f'redirect origins="https://files.example {other_site.url}"')
    expect(page).to_have_title("Elsewhere")


def test_an_origin_that_the_page_lists_is_linked(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result={"url": "https://files.example/rows.zip"}))
    bar = open_bar('download origins="https://files.example"')
    expect(bar.get_by_role("link", name="Download")).to_have_attribute("href", "https://files.example/rows.zip")


@pytest.mark.parametrize("attribute", ["redirect", "download"])
@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/",
        "https://files.example.elsewhere.example/",
        "https://files.example@elsewhere.example/",
        "http://files.example/",
        "https://files.example:8443/",
        "//elsewhere.example/",
        "javascript:alert(1)//https://files.example",
        "data:text/html,https://files.example",
        "blob:https://files.example/1",
    ],
)
def test_a_url_of_an_origin_that_is_not_listed_is_only_text(
    open_bar: OpenBar, site: ScriptedSite, attribute: str, url: str
) -> None:
    site.reply(answer("done", result=url))
    bar = open_bar(f'{attribute} origins="https://files.example null"')
    expect(part(bar, "text")).to_have_text(url)
    expect(bar.get_by_role("link")).to_have_count(0)
    assert bar.page.url == f"{site.url}/"


# ---- HTML of the page's own ----


def test_html_of_the_page_replaces_the_bar(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Trusted types allow it too. A script in the HTML isn't run."""
    site.page_headers = {"Content-Security-Policy": TRUSTED}
    site.reply(Reply(text=SUMMARY), path="/summary/")
    site.reply(answer("running"), answer("done", result="/other/"))
    open_bar('swap="/summary/"')
    expect(page.locator("#summary b")).to_have_text("there")
    expect(page.locator("dramatiq-progress")).to_have_count(0)
    assert page.title() != "ran"


def test_html_is_inserted_in_the_result_element(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(text=SUMMARY), path="/summary/")
    site.reply(answer("done"))
    bar = open_bar('swap="summary/" result-element-id="here"', head='<body><div id="here">Not yet</div>')
    expect(page.locator("#here #summary")).to_have_text("All there")
    expect(page.locator("#here")).not_to_contain_text("Not yet")
    expect_state(bar, "done")


@pytest.mark.parametrize("status", [404, 500])
def test_the_result_is_text_if_the_html_fails(open_bar: OpenBar, site: ScriptedSite, status: int) -> None:
    site.reply(Reply(status=status, text="<b>Oh</b>"), path="/summary/")
    site.reply(answer("done", result={"rows": 3}))
    bar = open_bar('swap="/summary/"')
    expect(part(bar, "text")).to_have_text("rows: 3")


def test_the_result_is_text_if_the_connection_is_lost(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(Reply(drop=True), path="/summary/")
    site.reply(answer("done", result={"rows": 3}))
    expect(part(open_bar('swap="/summary/"'), "text")).to_have_text("rows: 3")


@pytest.mark.parametrize("url", ["data:text/html,<b>no</b>", "javascript:'<b>no</b>'", "{other}/summary/"])
def test_html_of_another_origin_is_never_swapped_in(
    open_bar: OpenBar, site: ScriptedSite, other_site: ScriptedSite, url: str
) -> None:
    """Even if it is listed in `origins`, which allows links only."""
    other_site.reply(OPEN_TO_ALL, path="/summary/")
    site.reply(answer("done", result={"rows": 3}))
    bar = open_bar(f'swap="{url.replace("{other}", other_site.url)}" origins="{other_site.url}"')
    expect(part(bar, "text")).to_have_text("rows: 3")
    expect(bar.page.locator("b")).to_have_count(0)


def test_html_of_another_origin_is_not_swapped_in_after_a_redirect(
    browser: Browser, site: ScriptedSite, other_site: ScriptedSite
) -> None:
    other_site.reply(OPEN_TO_ALL, path="/summary/")
    site.reply(Reply(status=302, headers={"Location": f"{other_site.url}/summary/"}), path="/away/")
    site.reply(answer("done", result={"rows": 3}))
    site.html = f'{HEAD}<body><dramatiq-progress src="/progress/m1/" swap="/away/"></dramatiq-progress>'
    # The fixture `page` would fail, since Chromium reports the redirect in the console.
    with browser.new_page() as page:
        page.goto(site.url)
        expect(part(page.locator("dramatiq-progress"), "text")).to_have_text("rows: 3")


def test_html_of_the_first_message_is_ignored_after_a_switch(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(text=SUMMARY, held=True), path="/summary/")
    site.reply(answer("done"))
    site.reply(answer("running"), path="/progress/m2/")
    bar = open_bar('swap="/summary/"')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        bar.evaluate("bar => { bar.src = '/progress/m2/' }")
        expect_state(bar, "running")
        site.release()
    settle(bar, site)
    expect_state(bar, "running")
    expect(page.locator("#summary")).to_have_count(0)


def test_html_for_a_removed_bar_is_ignored(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(text=SUMMARY, held=True), path="/summary/")
    site.reply(answer("done", result="All there"))
    bar = open_bar('swap="/summary/" result-element-id="here"', head='<body><div id="here">Not yet</div>')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        page.evaluate("window.kept = document.querySelector('dramatiq-progress'); kept.remove()")
        site.release()
    page.evaluate("fetch('/after-all-others/')")
    expect(page.locator("#here")).to_have_text("Not yet")


def test_html_for_a_moved_bar_is_swapped_in(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(text=SUMMARY, held=True), path="/summary/")
    site.reply(answer("done"))
    bar = open_bar('swap="/summary/"', head='<body><div id="there"></div>')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        page.evaluate("document.getElementById('there').append(document.querySelector('dramatiq-progress'))")
        site.release()
    expect(page.locator("#there #summary")).to_have_text("All there")


@pytest.mark.parametrize("event", ["progress", "done"])
def test_a_bar_that_a_listener_removes_does_not_redirect(
    open_bar: OpenBar, site: ScriptedSite, page: Page, event: str
) -> None:
    site.reply(Reply(text="<title>The result</title>"), path="/result/")
    site.reply(Reply(json=answer("done", result="/result/"), held=True))
    bar = open_bar("redirect swap='/result/'", head="<title>The bar</title>")
    page.evaluate("type => document.addEventListener(type, ({ target }) => target.remove())", event)
    site.release()
    expect(bar).to_have_count(0)
    page.evaluate("fetch('/after-all-others/')")
    expect(page).to_have_title("The bar")


# ---- The result module ----


def test_it_is_loaded_only_if_an_attribute_needs_it(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(answer("done", result="All there"))
    bar = open_bar()
    expect_state(bar, "done")
    assert site.files.count("dramatiq_progress/dramatiq-progress-result.js") == 0
    bar.evaluate("bar => { bar.setAttribute('show-result', ''); bar.src = '/progress/m1/?again' }")
    site.reply(answer("done", result="All there"), path="/progress/m1/?again")
    expect(part(bar, "text")).to_have_text("All there")
    assert site.files.count("dramatiq_progress/dramatiq-progress-result.js") == 1


def test_it_is_loaded_from_the_url_of_the_page(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(answer("done", result="All there"))
    bar = open_bar('show-result result-module="/static/dramatiq_progress/dramatiq-progress-result.js?0b54"')
    expect(part(bar, "text")).to_have_text("All there")
    assert [each for each in site.files if "result" in each] == ["dramatiq_progress/dramatiq-progress-result.js?0b54"]


def test_it_is_requested_again_after_a_failure(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress-result.js", lambda route: route.abort())
    site.reply(answer("running"), answer("done", result="All there"))
    bar = open_bar("show-result")
    expect(part(bar, "text")).to_have_text("All there")


def test_without_it_the_bar_shows_the_outcome(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress-result.js*", lambda route: route.abort())
    site.reply(answer("running"), answer("failed", result="Row 7 has no code."))
    bar = open_bar("show-result retry='/again/'")
    expect(part(bar, "text")).to_have_text("Row 7 has no code.")


def test_no_html_is_requested_if_done_is_prevented(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    site.reply(Reply(json=answer("done"), held=True))
    bar = open_bar('swap="/summary/"')
    page.evaluate("document.addEventListener('done', (event) => event.preventDefault())")
    site.release()
    expect_state(bar, "done")
    settle(bar, site)
    assert not [each for each in urls if each.endswith("/summary/")]


# ---- Failure ----


@pytest.mark.parametrize("state", ["failed", "cancelled", "skipped"])
def test_a_failure_shows_the_message_and_the_retry_link_of_the_page(
    open_bar: OpenBar, site: ScriptedSite, state: str
) -> None:
    site.reply(answer(state, result="Row 7 has no code."))
    bar = open_bar('retry="/import/7/again/" text-retry="Once more"')
    expect(part(bar, "text")).to_have_text("Row 7 has no code.")
    link = bar.get_by_role("link", name="Once more")
    expect(link).to_have_attribute("href", f"{site.url}/import/7/again/")
    site.reply(Reply(text="<title>Again</title>"), path="/import/7/again/")
    link.click()
    expect(bar.page).to_have_title("Again")


def test_another_src_after_a_failure_removes_the_retry_link(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("failed", result="First."))
    site.reply(answer("running"), path="/progress/m2/")
    site.reply(answer("failed", result="Third."), path="/progress/m3/")
    bar = open_bar('retry="/again/"')
    expect(bar.get_by_role("link")).to_have_count(1)
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect_state(bar, "running")
    expect(bar.get_by_role("link")).to_have_count(0)
    # Two failures in a row too.
    for number, text in ((3, "Third."), (1, "First.")):
        bar.evaluate("(bar, number) => { bar.src = `/progress/m${number}/` }", number)
        expect(part(bar, "text")).to_have_text(text)
        settle(bar, site)
        expect(bar.get_by_role("link")).to_have_count(1)


def test_the_retry_link_stays_while_its_bar_is_moved_and_morphed(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("failed"))
    bar = open_bar('retry="/again/"')
    expect(bar.get_by_role("link")).to_have_count(1)
    bar.evaluate("""async bar => {
      bar.remove();
      bar.removeAttribute("state");
      await new Promise((go) => setTimeout(go));
      document.body.append(bar);
    }""")
    expect_state(bar, "failed")
    expect(bar.get_by_role("link")).to_have_count(1)


def test_without_the_attribute_there_is_no_retry_link(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("failed", result={"url": "/again/"}))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("The task failed.")
    expect(bar.get_by_role("link")).to_have_count(0)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "https://elsewhere.example/"])
def test_a_retry_link_stays_on_this_site(open_bar: OpenBar, site: ScriptedSite, url: str) -> None:
    site.reply(answer("failed"))
    bar = open_bar(f'retry="{url}"')
    expect_state(bar, "failed")
    expect(part(bar, "text")).to_have_text("The task failed.")
    expect(bar.get_by_role("link")).to_have_count(0)


def test_no_retry_link_is_shown_if_failed_is_prevented(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(json=answer("failed"), held=True))
    bar = open_bar('retry="/again/"')
    page.evaluate("document.addEventListener('failed', (event) => event.preventDefault())")
    site.release()
    expect_state(bar, "failed")
    expect(bar.get_by_role("link")).to_have_count(0)


def test_a_success_has_no_retry_link(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done"))
    bar = open_bar('retry="/again/"')
    expect_state(bar, "done")
    expect(bar.get_by_role("link")).to_have_count(0)


# ---- Trouble, as an event ----

LISTEN_FOR_TROUBLE = """document.addEventListener("trouble", (event) => {
  window.trouble = event.detail.response?.status ?? "network";
  if (window.prevents) event.preventDefault();
})"""


@pytest.mark.parametrize(
    ("reply", "status"),
    [(UNAVAILABLE, 503), (Reply(text="<title>Sign in</title>"), 200), (Reply(drop=True), "network")],
)
def test_trouble_is_an_event(open_bar: OpenBar, site: ScriptedSite, page: Page, reply: Reply, status: Any) -> None:
    page.add_init_script(LISTEN_FOR_TROUBLE)
    site.reply(reply)
    expect(open_bar()).to_have_attribute("offline", "")
    assert page.evaluate("window.trouble") == status


def test_a_page_can_show_trouble_itself(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.add_init_script(f"window.prevents = true; {LISTEN_FOR_TROUBLE}")
    site.reply(answer("running"), UNAVAILABLE)
    bar = open_bar()
    page.wait_for_function("window.trouble")
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")


# ---- Attributes for what celery-progress has as options ----


def test_a_page_can_set_the_polling_interval(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(answer("running", poll_after=60), answer("lost", poll_after=60), answer("running"))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar('poll-interval="2000"')
    page.clock.run_for(1)
    expect_state(bar, "running")
    page.clock.run_for(1_990)
    assert settle(bar, site) == 1
    page.clock.run_for(10)
    expect_state(bar, "lost")


def test_a_bar_can_draw_on_elements_of_the_page(site: ScriptedSite, page: Page) -> None:
    site.html = (
        f'{HEAD}<body><div style="width: 200px"><i id="own" style="display: block; width: 0"></i></div><p id="say"></p>'
        '<p id="out" hidden></p><dramatiq-progress hidden src="/progress/m1/" show-result '
        'progress-bar-id="own" progress-bar-message-id="say" result-element-id="out"></dramatiq-progress>'
    )
    site.reply(answer("running", current=25, total=100), answer("done", current=25, total=100, result={"rows": 3}))
    page.goto(site.url)
    expect(page.locator("#out")).to_have_text("rows: 3")
    expect(page.locator("#out")).to_be_visible()
    expect(page.locator("#say")).to_have_text("Done")
    expect(page.locator("#own")).to_have_css("width", "50px")
    expect(page.locator("#own")).to_have_css("background-color", "rgb(21, 128, 61)")


def test_texts_can_be_attributes(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("retrying", retry_in=0), answer("done"))
    bar = open_bar('text-retryNow="Noch einmal" text-attempt="{text}, Versuch {attempt}" text-done="Fertig"')
    expect(part(bar, "text")).to_have_text("Fertig")
    assert bar.page.evaluate("announced")[0].endswith("Noch einmal, Versuch 2")


@pytest.mark.parametrize(
    ("result", "text"), [("The task failed.", "Sorry"), ("Row 7 is empty.", "Row 7 is empty."), (None, "Sorry")]
)
def test_a_bar_s_own_text_of_a_failure_replaces_the_default_only(
    open_bar: OpenBar, site: ScriptedSite, result: str | None, text: str
) -> None:
    site.reply(answer("failed", result=result))
    expect(part(open_bar('text-failed="Sorry"'), "text")).to_have_text(text)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("enqueued", "idle-color"),
        ("running", "color"),
        ("retrying", "trouble-color"),
        ("lost", "trouble-color"),
        ("done", "done-color"),
        ("failed", "failed-color"),
        ("cancelled", "idle-color"),
        ("skipped", "idle-color"),
    ],
)
def test_a_page_can_set_the_colour_of_one_state(open_bar: OpenBar, site: ScriptedSite, state: str, name: str) -> None:
    site.reply(answer(state))
    selector = f'dramatiq-progress[state="{state}"]'
    bar = open_bar(head=f"<style>{selector} {{ --dramatiq-progress-{name}: rgb(1, 2, 3) }}</style>")
    expect_state(bar, state)
    seen_as = "background-color" if state == "lost" else "border-top-color"
    expect(part(bar, "sign")).to_have_css(seen_as, "rgb(1, 2, 3)")

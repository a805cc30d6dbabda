"""What a bar does with an end: text, link, new page, HTML of the page's own, a retry link, or what a listener wants."""

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


# ---- Addresses of other origins ----


def test_an_origin_that_the_page_lists_is_followed(
    open_bar: OpenBar, site: ScriptedSite, other_site: ScriptedSite, page: Page
) -> None:
    site.say(answer("done", result=f"{other_site.url}/"))
    open_bar(f'redirect origins="https://files.example {other_site.url}"')
    expect(page).to_have_title("Elsewhere")


def test_an_origin_that_the_page_lists_is_linked(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("done", result={"url": "https://files.example/rows.zip"}))
    bar = open_bar('download origins="https://files.example"')
    expect(bar.get_by_role("link", name="Download")).to_have_attribute("href", "https://files.example/rows.zip")


@pytest.mark.parametrize("attribute", ["redirect", "download"])
@pytest.mark.parametrize(
    "address",
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
def test_what_the_page_does_not_list_is_only_text(
    open_bar: OpenBar, site: ScriptedSite, attribute: str, address: str
) -> None:
    site.say(answer("done", result=address))
    bar = open_bar(f'{attribute} origins="https://files.example null"')
    expect(part(bar, "note")).to_have_text(address)
    expect(bar.get_by_role("link")).to_have_count(0)
    assert bar.page.url == f"{site.url}/"


# ---- HTML of the page's own ----


def test_html_of_the_page_takes_the_place_of_the_bar(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Also where the page demands trusted types; a script in it does not run."""
    site.page_headers = {"Content-Security-Policy": TRUSTED}
    site.say(Reply(text=SUMMARY), path="/summary/")
    site.say(answer("running"), answer("done", result="/other/"))
    open_bar('swap="/summary/"')
    expect(page.locator("#summary b")).to_have_text("there")
    expect(page.locator("dramatiq-progress")).to_have_count(0)
    assert page.title() != "ran"


def test_html_goes_where_the_page_wants_the_result(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(Reply(text=SUMMARY), path="/summary/")
    site.say(answer("done"))
    bar = open_bar('swap="summary/" result-element-id="here"', head='<body><div id="here">Not yet</div>')
    expect(page.locator("#here #summary")).to_have_text("All there")
    expect(page.locator("#here")).not_to_contain_text("Not yet")
    expect_state(bar, "done")


@pytest.mark.parametrize("status", [404, 500])
def test_html_that_does_not_come_leaves_the_result_as_text(open_bar: OpenBar, site: ScriptedSite, status: int) -> None:
    site.say(Reply(status=status, text="<b>Oh</b>"), path="/summary/")
    site.say(answer("done", result={"rows": 3}))
    bar = open_bar('swap="/summary/"')
    expect(part(bar, "note")).to_have_text("rows: 3")


def test_a_connection_that_is_lost_leaves_the_result_as_text(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(Reply(drop=True), path="/summary/")
    site.say(answer("done", result={"rows": 3}))
    expect(part(open_bar('swap="/summary/"'), "note")).to_have_text("rows: 3")


@pytest.mark.parametrize("address", ["data:text/html,<b>no</b>", "javascript:'<b>no</b>'", "{other}/summary/"])
def test_html_of_another_origin_is_never_swapped_in(
    open_bar: OpenBar, site: ScriptedSite, other_site: ScriptedSite, address: str
) -> None:
    """Also if it is listed: then it may be linked, not trusted."""
    other_site.say(OPEN_TO_ALL, path="/summary/")
    site.say(answer("done", result={"rows": 3}))
    bar = open_bar(f'swap="{address.replace("{other}", other_site.url)}" origins="{other_site.url}"')
    expect(part(bar, "note")).to_have_text("rows: 3")
    expect(bar.page.locator("b")).to_have_count(0)


def test_html_of_another_origin_is_not_swapped_in_by_a_detour(
    browser: Browser, site: ScriptedSite, other_site: ScriptedSite
) -> None:
    other_site.say(OPEN_TO_ALL, path="/summary/")
    site.say(Reply(status=302, headers={"Location": f"{other_site.url}/summary/"}), path="/away/")
    site.say(answer("done", result={"rows": 3}))
    site.html = f'{HEAD}<body><dramatiq-progress src="/progress/m1/" swap="/away/"></dramatiq-progress>'
    # Not the fixture's page: Chromium complains of the redirect in the console.
    with browser.new_page() as page:
        page.goto(site.url)
        expect(part(page.locator("dramatiq-progress"), "note")).to_have_text("rows: 3")


def test_html_for_another_message_is_left(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(Reply(text=SUMMARY, held=True), path="/summary/")
    site.say(answer("done"))
    site.say(answer("running"), path="/progress/m2/")
    bar = open_bar('swap="/summary/"')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        bar.evaluate("bar => { bar.src = '/progress/m2/' }")
        expect_state(bar, "running")
        site.let_go()
    settle(bar, site)
    expect_state(bar, "running")
    expect(page.locator("#summary")).to_have_count(0)


def test_html_for_a_bar_that_was_removed_is_left(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(Reply(text=SUMMARY, held=True), path="/summary/")
    site.say(answer("done", result="All there"))
    bar = open_bar('swap="/summary/" result-element-id="here"', head='<body><div id="here">Not yet</div>')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        page.evaluate("window.kept = document.querySelector('dramatiq-progress'); kept.remove()")
        site.let_go()
    page.evaluate("fetch('/after-all-others/')")
    expect(page.locator("#here")).to_have_text("Not yet")


def test_html_for_a_bar_that_was_moved_meanwhile_is_swapped_in(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.say(Reply(text=SUMMARY, held=True), path="/summary/")
    site.say(answer("done"))
    bar = open_bar('swap="/summary/"', head='<body><div id="there"></div>')
    with page.expect_response("**/summary/"):
        expect_state(bar, "done")
        page.evaluate("document.getElementById('there').append(document.querySelector('dramatiq-progress'))")
        site.let_go()
    expect(page.locator("#there #summary")).to_have_text("All there")


@pytest.mark.parametrize("event", ["progress", "done"])
def test_a_bar_that_a_listener_removes_leads_nowhere(
    open_bar: OpenBar, site: ScriptedSite, page: Page, event: str
) -> None:
    site.say(Reply(text="<title>The result</title>"), path="/result/")
    site.say(Reply(json=answer("done", result="/result/"), held=True))
    bar = open_bar("redirect swap='/result/'", head="<title>The bar</title>")
    page.evaluate("type => document.addEventListener(type, ({ target }) => target.remove())", event)
    site.let_go()
    expect(bar).to_have_count(0)
    page.evaluate("fetch('/after-all-others/')")
    expect(page).to_have_title("The bar")


# ---- The module that does all this ----


def test_only_a_bar_that_wants_more_than_words_loads_it(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(answer("done", result="All there"))
    bar = open_bar()
    expect_state(bar, "done")
    assert site.files.count("dramatiq_progress/dramatiq-progress-result.js") == 0
    bar.evaluate("bar => { bar.setAttribute('show-result', ''); bar.src = '/progress/m1/?again' }")
    site.say(answer("done", result="All there"), path="/progress/m1/?again")
    expect(part(bar, "note")).to_have_text("All there")
    assert site.files.count("dramatiq_progress/dramatiq-progress-result.js") == 1


def test_it_is_loaded_from_where_the_page_says(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(answer("done", result="All there"))
    bar = open_bar('show-result result-module="/static/dramatiq_progress/dramatiq-progress-result.js?0b54"')
    expect(part(bar, "note")).to_have_text("All there")
    assert [each for each in site.files if "result" in each] == ["dramatiq_progress/dramatiq-progress-result.js?0b54"]


def test_where_it_does_not_come_it_is_asked_for_once_more(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress-result.js", lambda route: route.abort())
    site.say(answer("running"), answer("done", result="All there"))
    bar = open_bar("show-result")
    expect(part(bar, "note")).to_have_text("All there")


def test_without_it_the_bar_says_how_it_ended(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress-result.js*", lambda route: route.abort())
    site.say(answer("running"), answer("failed", result="Row 7 has no code."))
    bar = open_bar("show-result retry='/again/'")
    expect(part(bar, "text")).to_have_text("Row 7 has no code.")


def test_a_cancelled_done_asks_for_no_html(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    site.say(Reply(json=answer("done"), held=True))
    bar = open_bar('swap="/summary/"')
    page.evaluate("document.addEventListener('done', (event) => event.preventDefault())")
    site.let_go()
    expect_state(bar, "done")
    settle(bar, site)
    assert not [each for each in asked if each.endswith("/summary/")]


# ---- Failure ----


@pytest.mark.parametrize("state", ["failed", "cancelled", "skipped"])
def test_a_failure_shows_the_message_and_the_retry_link_of_the_page(
    open_bar: OpenBar, site: ScriptedSite, state: str
) -> None:
    site.say(answer(state, result="Row 7 has no code."))
    bar = open_bar('retry="/import/7/again/" text-retry="Once more"')
    expect(part(bar, "text")).to_have_text("Row 7 has no code. Once more")
    link = bar.get_by_role("link", name="Once more")
    expect(link).to_have_attribute("href", f"{site.url}/import/7/again/")
    site.say(Reply(text="<title>Again</title>"), path="/import/7/again/")
    link.click()
    expect(bar.page).to_have_title("Again")


def test_without_one_there_is_no_retry_link(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("failed", result={"url": "/again/"}))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("The task failed.")
    expect(bar.get_by_role("link")).to_have_count(0)


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "https://elsewhere.example/"])
def test_a_retry_link_stays_on_this_site(open_bar: OpenBar, site: ScriptedSite, address: str) -> None:
    site.say(answer("failed"))
    bar = open_bar(f'retry="{address}"')
    expect_state(bar, "failed")
    expect(part(bar, "text")).to_have_text("The task failed.")
    expect(bar.get_by_role("link")).to_have_count(0)


def test_a_cancelled_failed_shows_no_retry_link(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(Reply(json=answer("failed"), held=True))
    bar = open_bar('retry="/again/"')
    page.evaluate("document.addEventListener('failed', (event) => event.preventDefault())")
    site.let_go()
    expect_state(bar, "failed")
    expect(bar.get_by_role("link")).to_have_count(0)


def test_success_needs_no_retry_link(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("done"))
    bar = open_bar('retry="/again/"')
    expect_state(bar, "done")
    expect(bar.get_by_role("link")).to_have_count(0)


# ---- Trouble, as an event ----

NOTE_TROUBLE = """document.addEventListener("trouble", (event) => {
  window.trouble = event.detail.response?.status ?? "network";
  if (window.prevents) event.preventDefault();
})"""


@pytest.mark.parametrize(
    ("reply", "status"),
    [(UNAVAILABLE, 503), (Reply(text="<title>Sign in</title>"), 200), (Reply(drop=True), "network")],
)
def test_trouble_is_an_event(open_bar: OpenBar, site: ScriptedSite, page: Page, reply: Reply, status: Any) -> None:
    page.add_init_script(NOTE_TROUBLE)
    site.say(reply)
    expect(open_bar()).to_have_attribute("offline", "")
    assert page.evaluate("window.trouble") == status


def test_a_page_may_tell_of_trouble_itself(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.add_init_script(f"window.prevents = true; {NOTE_TROUBLE}")
    site.say(answer("running"), UNAVAILABLE)
    bar = open_bar()
    page.wait_for_function("window.trouble")
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "note")).to_be_hidden()


# ---- Attributes for what celery-progress has as options ----


def test_a_page_sets_how_often_it_asks(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(answer("running", poll_after=60), answer("lost", poll_after=60), answer("running"))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar('poll-interval="2000"')
    page.clock.run_for(1)
    expect_state(bar, "running")
    page.clock.run_for(1_990)
    assert settle(bar, site) == 1
    page.clock.run_for(10)
    expect_state(bar, "lost")


def test_a_bar_draws_on_elements_of_the_page(site: ScriptedSite, page: Page) -> None:
    site.html = (
        f'{HEAD}<body><div style="width: 200px"><i id="own" style="display: block; width: 0"></i></div><p id="say"></p>'
        '<p id="out" hidden></p><dramatiq-progress hidden src="/progress/m1/" show-result '
        'progress-bar-id="own" progress-bar-message-id="say" result-element-id="out"></dramatiq-progress>'
    )
    site.say(answer("running", current=25, total=100), answer("done", current=25, total=100, result={"rows": 3}))
    page.goto(site.url)
    expect(page.locator("#out")).to_have_text("rows: 3")
    expect(page.locator("#out")).to_be_visible()
    expect(page.locator("#say")).to_have_text("Done")
    expect(page.locator("#own")).to_have_css("width", "50px")
    expect(page.locator("#own")).to_have_css("background-color", "rgb(21, 128, 61)")


def test_texts_are_attributes_too(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("retrying", retry_in=0), answer("done"))
    bar = open_bar('text-retryNow="Noch einmal" text-attempt="{text}, Versuch {attempt}" text-done="Fertig"')
    expect(part(bar, "text")).to_have_text("Fertig")
    assert bar.page.evaluate("spoken")[0].endswith("Noch einmal, Versuch 2")


@pytest.mark.parametrize("state", ["enqueued", "running", "retrying", "lost", "done", "failed", "cancelled", "skipped"])
def test_each_state_has_a_colour_that_a_page_may_set(open_bar: OpenBar, site: ScriptedSite, state: str) -> None:
    site.say(answer(state))
    style = f"<style>:root {{ --dramatiq-progress-{state}-color: rgb(1, 2, 3) }}</style>"
    name = "--dramatiq-progress-color" if state == "running" else ""
    bar = open_bar(head=style.replace("--dramatiq-progress-running-color", name) if name else style)
    expect_state(bar, state)
    expect(part(bar, "fill")).to_have_css("background-color", "rgb(1, 2, 3)")

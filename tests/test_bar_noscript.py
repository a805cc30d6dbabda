"""The children of a bar in browsers with and without JavaScript."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from dramatiq_progress import Progress, State
from dramatiq_progress.web.elements import bar as render_bar
from dramatiq_progress.web.noscript import markup
from tests.bars import HEAD, OBSERVE, answer, expect_state, part
from tests.scripted_site import Reply, ScriptedSite


def set_page(site: ScriptedSite, current: int = 1200, **values: Any) -> None:
    """Set a page with a bar like that of the template tag."""
    values = {"state": State.RUNNING, "total": 5000, "description": "Importing", "attempt": 1} | values
    progress = Progress(id="m1", actor="import_rows", queue="default", current=current, **values)
    bar = f'<dramatiq-progress src="/progress/m1/">{markup(progress, label="Import")}</dramatiq-progress>'
    site.html = f"{HEAD}<body>{bar}"


def test_without_javascript_the_children_are_shown_and_can_be_refreshed(browser: Browser, site: ScriptedSite) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        set_page(site)
        page.goto(site.url)
        expect(page.get_by_text("Importing: 1,200 of 5,000")).to_be_visible()
        bar = page.get_by_role("progressbar", name="Import")
        expect(bar).to_be_visible()
        set_page(site, 2400)
        page.get_by_role("link", name="Refresh").click()
        expect(page.get_by_text("Importing: 2,400 of 5,000")).to_be_visible()
        expect(bar).to_have_attribute("value", "48")


def test_with_javascript_the_children_are_neither_shown_nor_announced(site: ScriptedSite, page: Page) -> None:
    site.reply(answer("running"))
    set_page(site)
    held: list[Route] = []
    page.route("**/dramatiq-progress.js", lambda route: held.append(route))
    # The delay of the fallback must not pass in this test.
    site.html += "<style>dramatiq-progress > * { animation-play-state: paused !important }</style>"
    # The load event waits for the module.
    page.goto(site.url, wait_until="commit")
    text = page.get_by_text("Importing: 1,200 of 5,000")
    expect(text).to_have_count(1)
    expect(text).to_be_hidden()
    held[0].continue_()
    bar = page.locator("dramatiq-progress")
    expect_state(bar, "running")
    expect(bar.locator("> span")).to_be_hidden()
    expect(bar.get_by_role("progressbar")).to_have_count(1)
    assert "Refresh" not in bar.aria_snapshot()


def test_until_the_first_answer_the_bar_shows_what_the_page_says(site: ScriptedSite, page: Page) -> None:
    """Not "Checking progress…". It is announced once, and no event is dispatched for it."""
    page.add_init_script(OBSERVE)
    site.reply(Reply(json=answer("running", current=1200), held=True))
    set_page(site)
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect_state(bar, "running")
    expect(part(bar, "title")).to_have_text("Import")
    expect(part(bar, "percent")).to_have_text("24%")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")
    expect(part(bar, "fill")).to_have_attribute("style", re.compile("24%"))
    assert page.evaluate("events") == []
    site.release()
    page.wait_for_function("events.length")
    assert page.evaluate("announced") == ["Import, 24%, Importing: 1,200 of 5,000"]


def test_no_time_left_is_shown_before_it_is_exact(site: ScriptedSite, page: Page) -> None:
    """ "Less than a minute left", which is for pages without JavaScript, would be replaced a moment later."""
    site.reply(Reply(json=answer("running", extra={"eta": 9.2}), held=True))
    set_page(site, eta=9.2)
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")
    expect(bar.locator("> span")).to_have_text("Importing: 1,200 of 5,000, less than a minute left")
    site.release()
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000, about 10 seconds left")


def test_until_the_first_answer_a_retry_has_its_seconds(site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(json=answer("retrying", extra={"retry_in": 11.2, "attempt": 1, "retries_left": 3}), held=True))
    set_page(site, state=State.RETRYING, retry_in=11.4, retries_left=3)
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect(part(bar, "text")).to_have_text("This attempt failed. Retrying in 12 s… (attempt 2 of 4)")
    expect(bar.locator("> span")).to_contain_text("Retrying within a minute…")
    site.release()
    expect(part(bar, "text")).to_contain_text("seconds… (attempt 2 of 4)")


def test_a_bar_of_an_invalid_id_looks_like_one_whose_task_is_not_found(site: ScriptedSite, page: Page) -> None:
    """Also after it was moved in the page."""
    site.html = f"{HEAD}<body>{render_bar('a b', label='Import')}"
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    for _ in range(2):
        expect_state(bar, "not-found")
        expect(part(bar, "text")).to_have_text("This task could not be found.")
        expect(part(bar, "track")).to_be_hidden()
        bar.evaluate("bar => document.body.append(bar)")
    assert site.polls == []


def test_a_bar_that_switched_to_another_message_forgets_what_the_page_says(site: ScriptedSite, page: Page) -> None:
    site.reply(answer("running"))
    set_page(site)
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect_state(bar, "running")
    site.reply(Reply(json=answer("running"), held=True), path="/progress/m2/")
    bar.evaluate("bar => { bar.src = '/progress/m2/'; document.body.append(bar) }")
    expect(part(bar, "text")).to_have_text("Checking progress…")


def test_the_children_are_shown_if_the_module_is_not_loaded(site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress.js", lambda route: route.abort())
    set_page(site)
    page.goto(site.url)
    expect(page.get_by_role("link", name="Refresh")).to_be_visible()

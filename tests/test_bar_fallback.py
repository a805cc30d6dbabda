"""What a page shows where there is no JavaScript, in a browser with and without it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from dramatiq_progress import Progress, State
from dramatiq_progress.fallback import markup
from tests.bars import HEAD, answer, expect_state
from tests.scripted_site import ScriptedSite


def fallback_page(site: ScriptedSite, current: int = 1200) -> None:
    """A page with a bar as the template tag writes it."""
    values: dict[str, Any] = {"total": 5000, "description": "Importing", "attempt": 1}
    progress = Progress(id="m1", actor="import_rows", queue="default", state=State.RUNNING, current=current, **values)
    bar = f'<dramatiq-progress src="/progress/m1/">{markup(progress, label="Import")}</dramatiq-progress>'
    site.html = f"{HEAD}<body>{bar}"


def test_without_javascript_it_is_seen_and_leads_to_the_newest(browser: Browser, site: ScriptedSite) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        fallback_page(site)
        page.goto(site.url)
        expect(page.get_by_text("1,200 of 5,000. Importing")).to_be_visible()
        bar = page.get_by_role("progressbar", name="Import")
        expect(bar).to_be_visible()
        fallback_page(site, 2400)
        page.get_by_role("link", name="Refresh").click()
        expect(page.get_by_text("2,400 of 5,000. Importing")).to_be_visible()
        expect(bar).to_have_attribute("value", "48")


def test_with_javascript_it_neither_flashes_nor_is_told(site: ScriptedSite, page: Page) -> None:
    site.say(answer("running"))
    fallback_page(site)
    held: list[Route] = []
    page.route("**/dramatiq-progress.js", lambda route: held.append(route))
    # However long this test takes, the module is not late.
    site.html += "<style>dramatiq-progress > * { animation-play-state: paused !important }</style>"
    # A module is waited for before the page counts as loaded.
    page.goto(site.url, wait_until="commit")
    text = page.get_by_text("1,200 of 5,000. Importing")
    expect(text).to_have_count(1)
    expect(text).to_be_hidden()
    held[0].continue_()
    bar = page.locator("dramatiq-progress")
    expect_state(bar, "running")
    expect(bar.locator("> span")).to_be_hidden()
    expect(bar.get_by_role("progressbar")).to_have_count(1)
    assert "Refresh" not in bar.aria_snapshot()


def test_where_the_module_does_not_come_it_is_seen_after_all(site: ScriptedSite, page: Page) -> None:
    page.route("**/dramatiq-progress.js", lambda route: route.abort())
    fallback_page(site)
    page.goto(site.url)
    expect(page.get_by_role("link", name="Refresh")).to_be_visible()

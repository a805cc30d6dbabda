"""When the bar asks, in a real browser: as the server says, rarely after trouble, and not without need."""

from __future__ import annotations

import re
from contextlib import closing
from email.utils import formatdate
from time import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.bars import HEAD, NOT_FOUND, UNAVAILABLE, OpenBar, answer, expect_state, part, set_hidden, settle
from tests.browser import CHROMIUM_FLAGS, CHROMIUM_NAMES
from tests.scripted_site import Reply, ScriptedSite
from tests.servers import find_program
from tests.waiting import wait_until

# ---- When it asks ----


def test_it_asks_for_json_with_the_cookies_of_the_site(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    page.context.add_cookies([{"name": "sessionid", "value": "s1", "url": site.url}])
    open_bar()
    site.wait_for_polls(1)
    assert site.poll_headers[0]["Accept"] == "application/json"
    assert site.poll_headers[0]["Cookie"] == "sessionid=s1"
    assert "If-None-Match" not in site.poll_headers[0]


@pytest.mark.parametrize(("poll_after", "seconds"), [(60, 60), (None, 0.5), ("soon", 0.5), (-1, 0.1), (10**9, 3600)])
def test_the_server_says_when_to_ask_again(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    poll_after: Any,
    seconds: float,
) -> None:
    site.say(answer("running", extra={"poll_after": poll_after}), answer("lost", poll_after=3600))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar()
    page.clock.run_for(1)
    expect_state(bar, "running")
    page.clock.run_for(seconds * 1000 - 1)
    assert settle(bar, site) == 1
    page.clock.run_for(1)
    expect_state(bar, "lost")


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "skipped"])
def test_it_stops_when_the_message_has_ended(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    state: str,
) -> None:
    site.say(answer("running"), answer(state))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, state)
    page.clock.fast_forward("10:00:00")
    # Nor does it begin again when it is moved.
    bar.evaluate("bar => document.body.append(document.createElement('p'), bar)")
    page.clock.fast_forward("10:00:00")
    assert settle(bar, site) == 2
    expect_state(bar, state)


def test_a_hidden_tab_does_not_ask_and_asks_at_once_when_it_is_seen_again(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(answer("running", poll_after=60))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "running")
    set_hidden(page, True)
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1
    site.say(answer("done"))
    set_hidden(page, False)
    expect_state(bar, "done")


def test_a_tab_that_is_hidden_while_an_answer_is_under_way_takes_it_and_stops(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(Reply(json=answer("running"), held=True))
    page.clock.install()
    bar = open_bar()
    site.wait_for_polls(1)
    set_hidden(page, True)
    site.let_go()
    expect_state(bar, "running")
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1


def test_a_removed_bar_does_not_ask_and_goes_on_when_it_is_put_back(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(answer("running", poll_after=60))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "running")
    page.evaluate("window.bar = document.querySelector('dramatiq-progress'); bar.remove()")
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1
    site.say(answer("done"))
    page.evaluate("document.body.append(bar)")
    expect_state(bar, "done")


def test_another_address_begins_anew_and_the_old_answer_is_not_heard(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(Reply(json=answer("done"), held=True))
    site.say(answer("running", current=7, total=10), path="/progress/m2/")
    bar = open_bar()
    site.wait_for_polls(1)
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect(part(bar, "text")).to_have_text("7 of 10. Importing")
    site.let_go()
    before = len(site.polls)
    site.wait_for_polls(before + 2)
    expect_state(bar, "running")
    assert set(site.polls[1:]) == {"/progress/m2/"}


def test_another_address_after_the_end_forgets_the_first_message(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("done", result="old result"))
    bar = open_bar("show-result")
    expect(part(bar, "note")).to_have_text("old result")
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect_state(bar, "waiting")
    expect(part(bar, "note")).to_be_hidden()
    expect(part(bar, "percent")).to_be_hidden()


def test_a_listener_may_turn_the_bar_to_the_next_message(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(Reply(json=answer("done", result="first"), held=True))
    site.say(answer("done", result="second"), path="/progress/m2/")
    bar = open_bar("show-result")
    bar.evaluate("bar => bar.addEventListener('done', () => { bar.src = '/progress/m2/' }, { once: true })")
    site.let_go()
    expect(part(bar, "note")).to_have_text("second")


def test_a_bar_without_address_waits_for_one(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("running"))
    bar = open_bar()
    expect_state(bar, "running")
    bar.evaluate("bar => bar.removeAttribute('src')")
    expect_state(bar, "waiting")
    bar.evaluate("bar => { bar.src = '/progress/m1/' }")
    expect_state(bar, "running")


def test_a_copy_of_a_bar_hears_for_itself(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("running", extra={"eta": 60}))
    bar = open_bar()
    expect_state(bar, "running")
    bar.evaluate("bar => bar.replaceWith(bar.cloneNode(true))")
    expect(part(bar, "text")).to_have_text("1,200 of 5,000. Importing")


def test_a_page_that_comes_back_out_of_the_cache_asks_at_once(browser: Browser, site: ScriptedSite) -> None:
    # Playwright switches that cache off; a second Chromium has it.
    site.say(answer("running", poll_after=3600))
    site.say(Reply(text="<title>Elsewhere</title>"), path="/elsewhere/")
    site.html = f'{HEAD}<body><dramatiq-progress src="/progress/m1/"></dramatiq-progress>'
    own = browser.browser_type.launch(
        executable_path=find_program(*CHROMIUM_NAMES),
        args=CHROMIUM_FLAGS,
        ignore_default_args=["--disable-back-forward-cache"],
    )
    with closing(own):
        page = own.new_page()
        page.goto(site.url)
        expect_state(page.locator("dramatiq-progress"), "running")
        page.evaluate("addEventListener('pageshow', ({ persisted }) => { window.wasKept = persisted })")
        page.goto(f"{site.url}/elsewhere/")
        site.say(answer("done"))
        page.go_back(wait_until="commit")
        expect_state(page.locator("dramatiq-progress"), "done")
        assert page.evaluate("window.wasKept") is True
        assert len(site.polls) == 2


# ---- Not modified ----

NOT_MODIFIED = Reply(status=304)


def tagged(said: Any, etag: str = 'W/"1"') -> Reply:
    return Reply(json=said, headers={"ETag": etag})


def test_what_was_heard_is_not_sent_again(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """In a real Chromium the page itself hears of the 304, and no cache answers in its place."""
    site.say(tagged(answer("running")), NOT_MODIFIED)
    bar = open_bar()
    site.wait_for_polls(4)
    assert [each.get("If-None-Match") for each in site.poll_headers[:4]] == [None, *['W/"1"'] * 3]
    expect_state(bar, "running")
    expect(part(bar, "text")).to_have_text("1,200 of 5,000. Importing")
    expect(bar).not_to_have_attribute("offline", "")
    site.say(tagged(answer("running", current=1300), 'W/"2"'), NOT_MODIFIED)
    expect(part(bar, "text")).to_have_text("1,300 of 5,000. Importing")
    wait_until(lambda: site.poll_headers[-1].get("If-None-Match") == 'W/"2"')
    assert page.evaluate("heard.length") == 2


@pytest.mark.parametrize(("headers", "seconds"), [({}, 60), ({"Poll-After": "90.5"}, 90.5), ({"Poll-After": "x"}, 60)])
def test_with_nothing_new_the_last_wait_holds_or_the_one_of_the_header(
    open_bar: OpenBar, site: ScriptedSite, page: Page, headers: dict[str, str], seconds: float
) -> None:
    site.say(tagged(answer("running", poll_after=60)), Reply(status=304, headers=headers), answer("done"))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar()
    page.clock.run_for(1)
    expect_state(bar, "running")
    page.clock.run_for(60_000)
    wait_until(lambda: settle(bar, site) == 2)
    page.clock.run_for(seconds * 1000 - 10)
    assert settle(bar, site) == 2
    page.clock.run_for(20)
    expect_state(bar, "done")


def test_clocks_go_on_while_nothing_is_new(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(tagged(answer("running", poll_after=30, extra={"eta": 70})), NOT_MODIFIED)
    page.clock.install()
    bar = open_bar()
    expect(part(bar, "remaining")).to_have_text("about 70 seconds left")
    page.clock.run_for(30_500)
    expect(part(bar, "remaining")).to_have_text(re.compile(r"about (39|40) seconds left"))
    page.clock.run_for(60_000)
    expect(part(bar, "remaining")).to_be_hidden()


def test_a_countdown_goes_on_while_nothing_is_new(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(tagged(answer("retrying", poll_after=10, retry_in=60)), NOT_MODIFIED)
    page.clock.install()
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("Failed; trying again in 60 seconds (attempt 2)")
    page.clock.run_for(35_000)
    expect(part(bar, "text")).to_have_text(re.compile(r"trying again in 2[45] seconds"))


def test_nothing_new_also_means_that_the_server_is_back(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(tagged(answer("running")), UNAVAILABLE)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    site.say(NOT_MODIFIED)
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "note")).to_be_hidden()


def test_a_bar_that_comes_back_asks_in_full(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(tagged(answer("running", poll_after=60)))
    bar = open_bar()
    expect_state(bar, "running")
    page.evaluate("window.bar = document.querySelector('dramatiq-progress'); bar.remove(); document.body.append(bar)")
    site.wait_for_polls(2)
    assert "If-None-Match" not in site.poll_headers[1]


# ---- Trouble ----

TROUBLES = {
    "500": Reply(status=500, text="<h1>Server Error</h1>"),
    "429": Reply(status=429, json={}),
    "503": UNAVAILABLE,
    "400": Reply(status=400, json={}),
    "dropped connection": Reply(drop=True),
    "login page": Reply(text="<!doctype html><title>Sign in</title><form></form>"),
    "JSON of something else": Reply(json={"status": "ok"}),
    "null": Reply(json=None),
    "list": Reply(json=[1]),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_trouble_is_told_beside_what_is_known_and_it_recovers(
    open_bar: OpenBar, site: ScriptedSite, trouble: Reply
) -> None:
    site.say(answer("running"), trouble)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    expect(part(bar, "note")).to_have_text("Connection lost. Trying again…")
    expect(part(bar, "text")).to_have_text("1,200 of 5,000. Importing")
    expect_state(bar, "running")
    site.say(answer("done"))
    expect_state(bar, "done")
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "note")).to_be_hidden()


def test_trouble_before_the_first_answer_is_told_too(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(UNAVAILABLE)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Waiting for information…")


def test_the_network_of_the_browser_goes_and_comes(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(answer("running"))
    bar = open_bar()
    expect_state(bar, "running")
    page.context.set_offline(True)
    expect(bar).to_have_attribute("offline", "")
    site.say(answer("done"))
    page.context.set_offline(False)
    expect_state(bar, "done")


def test_a_network_that_goes_is_told_without_waiting_for_the_next_poll(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.say(answer("running", poll_after=3600))
    bar = open_bar()
    expect_state(bar, "running")
    page.context.set_offline(True)
    expect(bar).to_have_attribute("offline", "")
    page.context.set_offline(False)
    expect(bar).not_to_have_attribute("offline", "")


def test_a_request_without_answer_is_given_up_after_ten_seconds(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(Reply(held=True), answer("running"))
    page.clock.install()
    bar = open_bar()
    site.wait_for_polls(1)
    page.clock.fast_forward(9_000)
    expect_state(bar, "waiting")
    expect(bar).not_to_have_attribute("offline", "")
    page.clock.fast_forward(1_000)
    # Time goes on, and the bar may have recovered by now.
    page.wait_for_function("spoken.includes('Connection lost. Trying again…')")
    page.clock.fast_forward(1_000)
    expect_state(bar, "running")


#: Note every wait that is begun, except for the limit of a request.
NOTE_WAITS = """
  window.waits = [];
  const { setTimeout } = window;
  window.setTimeout = (act, milliseconds) => {
    if (milliseconds !== 10_000) waits.push(milliseconds / 1000);
    return setTimeout(act, milliseconds);
  };
"""


def test_it_asks_ever_more_rarely_and_never_gives_up(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.say(UNAVAILABLE)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.add_init_script(NOTE_WAITS)
    bar = open_bar()
    for failures in range(12):
        wait = _nth_wait(page, failures)
        longest = min(2 ** (failures - 1), 30) if failures else 0
        assert longest / 2 <= wait <= longest, f"a wait of {wait} s after {failures} failures"
        page.clock.run_for(wait * 1000 + 1)
    site.say(answer("done"))
    # Not further than that: ten seconds more on this clock, and the bar gives up the request that is on its way.
    page.clock.run_for(_nth_wait(page, 12) * 1000 + 1)
    expect_state(bar, "done")


def _nth_wait(page: Page, index: int) -> float:
    # Not page.wait_for_function(): that needs animation frames, which stand still with the clock.
    wait_until(lambda: page.evaluate("waits.length") > index)
    return float(page.evaluate(f"waits[{index}]"))


@pytest.mark.parametrize("written", ["seconds", "date"])
def test_retry_after_is_obeyed_even_by_a_tab_that_comes_back(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    written: str,
) -> None:
    header = "120" if written == "seconds" else formatdate(time() + 120, usegmt=True)
    site.say(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    page.clock.install()
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    page.clock.fast_forward(60_000)
    set_hidden(page, True)
    set_hidden(page, False)
    page.clock.fast_forward(30_000)
    assert settle(bar, site) == 1
    page.clock.fast_forward(31_000)
    expect_state(bar, "running")


def test_a_wrong_clock_of_the_visitor_does_not_matter(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    header = formatdate(time() + 120, usegmt=True)
    site.say(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    page.clock.install(time="2001-01-01")
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    page.clock.fast_forward(115_000)
    assert settle(bar, site) == 1
    page.clock.fast_forward(6_000)
    expect_state(bar, "running")


def test_a_clock_that_is_set_while_a_job_runs_does_not_matter(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.say(answer("retrying", retry_in=60, poll_after=65), answer("done"))
    page.clock.install(time="2026-01-01")
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("Failed; trying again in 60 seconds (attempt 2)")
    page.clock.set_system_time("2001-01-01")
    page.clock.run_for(30_000)
    expect(part(bar, "text")).to_have_text(re.compile(r"in (29|30) seconds"))
    page.clock.run_for(36_000)
    expect_state(bar, "done")


def test_a_date_is_understood_without_that_of_the_answer(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Another site's answers do not show theirs."""
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "waiting")
    bar.evaluate(
        """(bar, date) => {
          bar.fetch = async () => new Response("", { status: 503, headers: { "Retry-After": date } });
          bar.src = "/progress/m2/";
        }""",
        formatdate(time() + 120, usegmt=True),
    )
    expect(bar).to_have_attribute("offline", "")
    site.say(answer("done"), path="/progress/m2/")
    bar.evaluate("bar => { delete bar.fetch }")
    page.clock.fast_forward(110_000)
    expect_state(bar, "waiting")
    assert "/progress/m2/" not in site.polls
    page.clock.fast_forward(11_000)
    expect_state(bar, "done")


def test_an_outage_that_is_to_end_soon_is_seen_to_end_soon(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.say(Reply(status=503, json={}, headers={"Retry-After": "2"}))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.add_init_script(NOTE_WAITS)
    open_bar()
    page.clock.run_for(1)
    for failures in range(1, 12):
        wait = _nth_wait(page, failures)
        assert 2 <= wait <= 2.5, f"a wait of {wait} s after {failures} failures"
        page.clock.run_for(wait * 1000 + 1)


@pytest.mark.parametrize("header", ["", "soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_passed_over(open_bar: OpenBar, site: ScriptedSite, header: str) -> None:
    site.say(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    expect_state(open_bar(), "running")


# ---- Not there, or not there any more ----


def test_a_message_nobody_has_heard_of_is_waited_for_two_minutes_and_then_asked_for_rarely(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "waiting")
    site.wait_for_polls(3)
    page.clock.fast_forward(100_000)
    site.wait_for_polls(4)
    expect(part(bar, "text")).to_have_text("Waiting for information…")
    page.clock.fast_forward(25_000)
    expect_state(bar, "not-found")
    expect(part(bar, "text")).to_have_text("There is nothing to show here")
    before = settle(bar, site)
    page.clock.fast_forward(25_000)
    assert settle(bar, site) == before
    site.say(answer("running"))
    page.clock.fast_forward(6_000)
    expect_state(bar, "running")


def test_a_message_that_was_there_and_is_gone_has_expired(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("running"), NOT_FOUND)
    bar = open_bar()
    expect_state(bar, "expired")
    expect(part(bar, "text")).to_have_text("No longer available. You may have to sign in again.")
    # A store that was emptied is written again by the worker.
    site.say(answer("running"))
    expect_state(bar, "running")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("seen", [True, False])
def test_what_one_may_not_see_is_said_at_once_and_asked_for_rarely(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    status: int,
    seen: bool,
) -> None:
    denial = Reply(status=status, json={})
    site.say(*([answer("running")] if seen else []), denial)
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "expired" if seen else "not-found")
    expect(part(bar, "text")).to_have_text("Not available. You may have to sign in again.")
    before = settle(bar, site)
    page.clock.fast_forward(25_000)
    assert settle(bar, site) == before
    site.say(answer("done"))
    page.clock.fast_forward(6_000)
    expect_state(bar, "done")

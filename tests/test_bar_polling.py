"""The times of the bar's polls, and its patience, in a real browser."""

from __future__ import annotations

import re
from contextlib import closing
from email.utils import formatdate
from time import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.bars import (
    HEAD,
    NOT_FOUND,
    RECORD_WAITS,
    UNAVAILABLE,
    OpenBar,
    answer,
    expect_state,
    part,
    run_until_poll,
    set_hidden,
    settle,
)
from tests.browser import CHROMIUM_FLAGS, CHROMIUM_NAMES
from tests.scripted_site import Reply, ScriptedSite
from tests.servers import find_program
from tests.waiting import wait_until

# ---- Intervals ----


def test_it_requests_json_with_the_cookies_of_the_site(
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
def test_the_server_sets_the_time_of_the_next_poll(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    poll_after: Any,
    seconds: float,
) -> None:
    site.reply(answer("running", extra={"poll_after": poll_after}), answer("lost", poll_after=3600))
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
def test_it_stops_at_a_final_state(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    state: str,
) -> None:
    site.reply(answer("running"), answer(state))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, state)
    page.clock.fast_forward("10:00:00")
    # It doesn't start again when it is moved.
    bar.evaluate("bar => document.body.append(document.createElement('p'), bar)")
    page.clock.fast_forward("10:00:00")
    assert settle(bar, site) == 2
    expect_state(bar, state)


def test_a_hidden_tab_does_not_poll_and_polls_immediately_when_it_is_visible_again(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(answer("running", poll_after=60))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "running")
    set_hidden(page, True)
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1
    site.reply(answer("done"))
    set_hidden(page, False)
    expect_state(bar, "done")


def test_a_tab_that_is_hidden_during_a_request_draws_the_answer_and_stops(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(Reply(json=answer("running"), held=True))
    page.clock.install()
    bar = open_bar()
    site.wait_for_polls(1)
    set_hidden(page, True)
    site.release()
    expect_state(bar, "running")
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1


def test_a_removed_bar_does_not_poll_and_continues_when_it_is_inserted_again(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(answer("running", poll_after=60))
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "running")
    page.evaluate("window.bar = document.querySelector('dramatiq-progress'); bar.remove()")
    page.clock.fast_forward("01:00:00")
    assert settle(bar, site) == 1
    site.reply(answer("done"))
    page.evaluate("document.body.append(bar)")
    expect_state(bar, "done")


def test_another_src_starts_over_and_ignores_the_answer_to_the_first(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(Reply(json=answer("done"), held=True))
    site.reply(answer("running", current=7, total=10), path="/progress/m2/")
    bar = open_bar()
    site.wait_for_polls(1)
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect(part(bar, "text")).to_have_text("Importing: 7 of 10")
    site.release()
    before = len(site.polls)
    site.wait_for_polls(before + 2)
    expect_state(bar, "running")
    assert set(site.polls[1:]) == {"/progress/m2/"}


def test_another_src_after_a_final_state_forgets_the_first_message(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result="old result"))
    bar = open_bar("show-result")
    expect(part(bar, "text")).to_have_text("old result")
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect_state(bar, "waiting")
    expect(part(bar, "text")).to_have_text("Checking progress…")
    expect(part(bar, "percent")).to_be_hidden()


def test_a_listener_can_switch_the_bar_to_the_next_message(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(Reply(json=answer("done", result="first"), held=True))
    site.reply(answer("done", result="second"), path="/progress/m2/")
    bar = open_bar("show-result")
    bar.evaluate("bar => bar.addEventListener('done', () => { bar.src = '/progress/m2/' }, { once: true })")
    site.release()
    expect(part(bar, "text")).to_have_text("second")


def test_a_bar_without_src_waits_for_one(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running"))
    bar = open_bar()
    expect_state(bar, "running")
    bar.evaluate("bar => bar.removeAttribute('src')")
    expect_state(bar, "waiting")
    bar.evaluate("bar => { bar.src = '/progress/m1/' }")
    expect_state(bar, "running")


def test_a_clone_of_a_bar_polls_on_its_own(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running", extra={"eta": 60}))
    bar = open_bar()
    expect_state(bar, "running")
    bar.evaluate("bar => bar.replaceWith(bar.cloneNode(true))")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000, about 1 minute left")


def test_a_page_from_the_back_forward_cache_polls_immediately(browser: Browser, site: ScriptedSite) -> None:
    # Playwright disables that cache, so this needs a Chromium of its own.
    site.reply(answer("running", poll_after=3600))
    site.reply(Reply(text="<title>Elsewhere</title>"), path="/elsewhere/")
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
        page.evaluate("addEventListener('pageshow', ({ persisted }) => { window.wasRestored = persisted })")
        page.goto(f"{site.url}/elsewhere/")
        site.reply(answer("done"))
        page.go_back(wait_until="commit")
        expect_state(page.locator("dramatiq-progress"), "done")
        assert page.evaluate("window.wasRestored") is True
        assert len(site.polls) == 2


# ---- Not modified ----

NOT_MODIFIED = Reply(status=304)


def tagged(content: Any, etag: str = 'W/"1"') -> Reply:
    return Reply(json=content, headers={"ETag": etag})


def test_an_unchanged_answer_is_not_sent_again(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """In a real Chromium the page itself receives the 304; no cache answers for it."""
    site.reply(tagged(answer("running")), NOT_MODIFIED)
    bar = open_bar()
    site.wait_for_polls(4)
    assert [each.get("If-None-Match") for each in site.poll_headers[:4]] == [None, *['W/"1"'] * 3]
    expect_state(bar, "running")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")
    expect(bar).not_to_have_attribute("offline", "")
    site.reply(tagged(answer("running", current=1300), 'W/"2"'), NOT_MODIFIED)
    expect(part(bar, "text")).to_have_text("Importing: 1,300 of 5,000")
    wait_until(lambda: site.poll_headers[-1].get("If-None-Match") == 'W/"2"')
    assert page.evaluate("events.length") == 2


@pytest.mark.parametrize(("headers", "seconds"), [({}, 60), ({"Poll-After": "90.5"}, 90.5), ({"Poll-After": "x"}, 60)])
def test_after_a_304_the_wait_is_the_last_one_or_that_of_the_header(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page, headers: dict[str, str], seconds: float
) -> None:
    site.reply(tagged(answer("running", poll_after=60)), Reply(status=304, headers=headers), answer("done"))
    bar = open_bar()
    for number in (1, 2):
        run_until_poll(patient_page, site, number)
    assert _nth_wait(patient_page, 2) == pytest.approx(seconds, abs=0.01)
    patient_page.clock.run_for(seconds * 1000 - 10)
    assert settle(bar, site) == 2
    patient_page.clock.run_for(20)
    expect_state(bar, "done")


def test_clocks_continue_after_a_304(open_bar: OpenBar, site: ScriptedSite, patient_page: Page) -> None:
    site.reply(tagged(answer("running", poll_after=30, extra={"eta": 69.5})), NOT_MODIFIED)
    bar = open_bar()
    times = [", about 2 minutes left", ", about 40 seconds left", ", about 10 seconds left", ""]
    for number, left in enumerate(times, 1):
        run_until_poll(patient_page, site, number)
        expect(part(bar, "text")).to_have_text(f"Importing: 1,200 of 5,000{left}")


#: In a minute; in less on a busy machine, since the page's clock runs on.
RETRYING_SOON = re.compile(r"This attempt failed\. Retrying in (1 minute|[45]\d seconds)… \(attempt 2\)")


def test_a_countdown_continues_after_a_304(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(tagged(answer("retrying", poll_after=10, retry_in=60)), NOT_MODIFIED)
    page.clock.install()
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(RETRYING_SOON)
    page.clock.run_for(35_000)
    expect(part(bar, "text")).to_have_text(re.compile(r"Retrying in (1\d|2[0-5]) seconds…"))


def test_a_304_ends_trouble(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(tagged(answer("running")), UNAVAILABLE)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    site.reply(NOT_MODIFIED)
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")


def test_a_bar_that_is_inserted_again_sends_no_etag(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(tagged(answer("running", poll_after=60)))
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
def test_trouble_is_shown_with_the_last_percentage_and_it_recovers(
    open_bar: OpenBar, site: ScriptedSite, trouble: Reply
) -> None:
    site.reply(answer("running"), trouble)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Connection lost. Trying again…")
    expect(part(bar, "percent")).to_have_text("24%")
    expect_state(bar, "running")
    site.reply(answer("done"))
    expect_state(bar, "done")
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Done")


def test_trouble_before_the_first_answer_is_shown(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(UNAVAILABLE)
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Connection lost. Trying again…")


def test_the_browser_loses_its_network_and_recovers(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(answer("running"))
    bar = open_bar()
    expect_state(bar, "running")
    page.context.set_offline(True)
    expect(bar).to_have_attribute("offline", "")
    site.reply(answer("done"))
    page.context.set_offline(False)
    expect_state(bar, "done")


def test_a_lost_network_is_shown_without_waiting_for_the_next_poll(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.reply(answer("running", poll_after=3600))
    bar = open_bar()
    expect_state(bar, "running")
    page.context.set_offline(True)
    expect(bar).to_have_attribute("offline", "")
    page.context.set_offline(False)
    expect(bar).not_to_have_attribute("offline", "")


def test_a_request_without_an_answer_is_cancelled_after_ten_seconds(
    open_bar: OpenBar,
    site: ScriptedSite,
    patient_page: Page,
) -> None:
    site.reply(Reply(held=True), answer("running"))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    patient_page.clock.run_for(9_900)
    expect_state(bar, "waiting")
    assert settle(bar, site) == 1
    # No next poll is planned while the request is open.
    assert patient_page.evaluate("waits.length") == 1
    patient_page.clock.run_for(200)
    run_until_poll(patient_page, site, 2)
    expect_state(bar, "running")


def test_it_backs_off_and_never_stops_retrying(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(UNAVAILABLE)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.add_init_script(RECORD_WAITS)
    bar = open_bar()
    for failures in range(12):
        wait = _nth_wait(page, failures)
        longest = min(2 ** (failures - 1), 30) if failures else 0
        assert longest / 2 <= wait <= longest, f"a wait of {wait} s after {failures} failures"
        page.clock.run_for(wait * 1000 + 1)
    site.reply(answer("done"))
    # Not longer: after ten more seconds on this clock, the bar would cancel the pending request.
    page.clock.run_for(_nth_wait(page, 12) * 1000 + 1)
    expect_state(bar, "done")


def _nth_wait(page: Page, index: int) -> float:
    # page.wait_for_function() needs animation frames, which stop with the clock.
    wait_until(lambda: page.evaluate("waits.length") > index)
    return float(page.evaluate(f"waits[{index}]"))


#: Seconds of a Retry-After. A date is written before the page loads, and the page's clock runs on: a test that checks
#: for a poll after 1,100 s may take 100 s until then, longer than it waits for anything.
LONG_WAIT = 1_200


@pytest.mark.parametrize("written", ["seconds", "date"])
def test_retry_after_is_obeyed_even_by_a_tab_that_is_visible_again(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    written: str,
) -> None:
    header = str(LONG_WAIT) if written == "seconds" else formatdate(time() + LONG_WAIT, usegmt=True)
    site.reply(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    page.clock.install()
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    page.clock.fast_forward(600_000)
    set_hidden(page, True)
    set_hidden(page, False)
    page.clock.fast_forward(500_000)
    assert settle(bar, site) == 1
    page.clock.fast_forward(110_000)
    expect_state(bar, "running")


def test_a_wrong_clock_of_the_visitor_does_not_matter(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    header = formatdate(time() + LONG_WAIT, usegmt=True)
    site.reply(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    page.clock.install(time="2001-01-01")
    bar = open_bar()
    expect(bar).to_have_attribute("offline", "")
    page.clock.fast_forward(1_100_000)
    assert settle(bar, site) == 1
    page.clock.fast_forward(110_000)
    expect_state(bar, "running")


def test_a_clock_that_is_changed_while_a_job_runs_does_not_matter(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.reply(answer("retrying", retry_in=60, poll_after=65), answer("done"))
    page.clock.install(time="2026-01-01")
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(RETRYING_SOON)
    page.clock.set_system_time("2001-01-01")
    page.clock.run_for(30_000)
    expect(part(bar, "text")).to_have_text(re.compile(r"in (2\d|30) seconds"))
    page.clock.run_for(36_000)
    expect_state(bar, "done")


def test_a_retry_date_works_without_the_date_of_the_response(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Responses of another site don't expose their own date."""
    page.clock.install()
    bar = open_bar()
    expect_state(bar, "waiting")
    bar.evaluate(
        """(bar, date) => {
          bar.fetch = async () => new Response("", { status: 503, headers: { "Retry-After": date } });
          bar.src = "/progress/m2/";
        }""",
        formatdate(time() + LONG_WAIT, usegmt=True),
    )
    expect(bar).to_have_attribute("offline", "")
    site.reply(answer("done"), path="/progress/m2/")
    bar.evaluate("bar => { delete bar.fetch }")
    page.clock.fast_forward(1_100_000)
    expect_state(bar, "waiting")
    assert "/progress/m2/" not in site.polls
    page.clock.fast_forward(110_000)
    expect_state(bar, "done")


def test_a_short_retry_after_is_not_extended(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(status=503, json={}, headers={"Retry-After": "2"}))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.add_init_script(RECORD_WAITS)
    open_bar()
    page.clock.run_for(1)
    for failures in range(1, 12):
        wait = _nth_wait(page, failures)
        assert 2 <= wait <= 2.5, f"a wait of {wait} s after {failures} failures"
        page.clock.run_for(wait * 1000 + 1)


@pytest.mark.parametrize("header", ["", "soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_an_invalid_retry_after_is_ignored(open_bar: OpenBar, site: ScriptedSite, header: str) -> None:
    site.reply(Reply(status=503, json={}, headers={"Retry-After": header}), answer("running"))
    expect_state(open_bar(), "running")


# ---- Patience: a short interruption isn't shown ----

SHORT_OUTAGE = Reply(status=503, json={"error": "store_unavailable"}, headers={"Retry-After": "2"})


@pytest.mark.parametrize("trouble", [UNAVAILABLE, SHORT_OUTAGE, Reply(drop=True)], ids=["503", "Retry-After", "drop"])
def test_one_failure_shows_nothing(open_bar: OpenBar, site: ScriptedSite, patient_page: Page, trouble: Reply) -> None:
    site.reply(answer("running"), trouble, answer("done"))
    bar = open_bar()
    for number in (1, 2, 3):
        run_until_poll(patient_page, site, number)
    expect_state(bar, "done")
    assert patient_page.evaluate("troubles") == []


def test_the_second_failure_in_a_row_shows_it_and_an_answer_clears_it(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    site.reply(answer("running"), UNAVAILABLE, UNAVAILABLE, answer("running", poll_after=3600))
    bar = open_bar()
    for number in (1, 2, 3):
        run_until_poll(patient_page, site, number)
    _nth_wait(patient_page, 3)
    patient_page.clock.run_for(1)
    expect(part(bar, "text")).to_have_text("Connection lost. Trying again…")
    assert patient_page.evaluate("troubles") == [503, "offline"]
    run_until_poll(patient_page, site, 4)
    expect(bar).not_to_have_attribute("offline", "")
    assert patient_page.evaluate("troubles") == [503, "offline", "online"]
    # No timer is left that shows it again.
    patient_page.clock.run_for(60_000)
    assert len(patient_page.evaluate("troubles")) == 3


def test_failures_that_are_not_in_a_row_show_nothing(open_bar: OpenBar, site: ScriptedSite, patient_page: Page) -> None:
    site.reply(*[answer("running"), UNAVAILABLE] * 3, answer("done"))
    bar = open_bar()
    for number in range(1, 8):
        run_until_poll(patient_page, site, number)
    expect_state(bar, "done")
    assert patient_page.evaluate("troubles") == []


@pytest.mark.parametrize(
    ("failures", "retry_after", "patience"), [([], "", 2), ([UNAVAILABLE], "", 2), ([SHORT_OUTAGE], "2", 4)]
)
def test_a_request_that_hangs_shows_it_two_seconds_after_the_trouble_began(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page, failures: list[Reply], retry_after: str, patience: float
) -> None:
    """A wait that the server requests isn't counted."""
    site.reply(answer("running"), *failures, Reply(json=answer("running", poll_after=3600), held=True))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    run_until_poll(patient_page, site, 2)
    waited = 0.0
    if failures:
        waited = _nth_wait(patient_page, 2) + 0.001
        run_until_poll(patient_page, site, 3)
    patient_page.clock.run_for((patience - waited) * 1000 - 50)
    assert patient_page.evaluate("troubles") == []
    patient_page.clock.run_for(100)
    expect(part(bar, "text")).to_have_text("Connection lost. Trying again…")
    site.release()
    expect(bar).not_to_have_attribute("offline", "")
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")


def test_a_server_that_is_always_slow_is_not_taken_for_a_lost_connection(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    """A request may take two seconds longer than the one before."""
    held: list[Route] = []
    patient_page.route("**/progress/m1/", lambda route: held.append(route))
    bar = open_bar()
    patient_page.clock.run_for(1)
    _wait_for_routes(patient_page, held, 1)
    patient_page.clock.run_for(3_000)
    expect(bar).to_have_attribute("offline", "")
    held[0].fulfill(json=answer("running"))
    expect(bar).not_to_have_attribute("offline", "")
    patient_page.clock.run_for(_nth_wait(patient_page, 1) * 1000 + 1)
    _wait_for_routes(patient_page, held, 2)
    patient_page.clock.run_for(4_900)
    expect(bar).not_to_have_attribute("offline", "")
    patient_page.clock.run_for(200)
    expect(bar).to_have_attribute("offline", "")
    held[1].abort()


def _wait_for_routes(page: Page, held: list[Route], count: int) -> None:
    # Playwright calls a route's handler only while one of its functions runs.
    while len(held) < count:
        page.evaluate("0")


@pytest.mark.parametrize("fails", [False, True], ids=["hangs", "fails"])
def test_a_hidden_tab_shows_no_trouble_since_it_does_not_retry(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page, fails: bool
) -> None:
    site.reply(Reply(status=503, json={}, held=True), answer("running"))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    set_hidden(patient_page, True)
    if fails:
        site.release()
        settle(bar, site)
    patient_page.clock.run_for(5_000)
    set_hidden(patient_page, False)
    run_until_poll(patient_page, site, 2)
    expect_state(bar, "running")
    assert patient_page.evaluate("troubles") == []


def test_a_long_retry_after_is_shown_immediately(open_bar: OpenBar, site: ScriptedSite, patient_page: Page) -> None:
    site.reply(Reply(status=429, json={}, headers={"Retry-After": "10"}))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    _nth_wait(patient_page, 1)
    patient_page.clock.run_for(1)
    expect(bar).to_have_attribute("offline", "")


# ---- Missing or expired ----


def test_an_unknown_message_is_not_found_after_some_seconds_and_then_polled_rarely(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    """Each request is a line in the server's log."""
    bar = open_bar()
    for number in range(1, 5):
        run_until_poll(patient_page, site, number)
        expect(part(bar, "text")).to_have_text("Checking progress…")
    for number in range(5, 11):
        run_until_poll(patient_page, site, number)
        expect(part(bar, "text")).to_have_text("This task could not be found.")
    _nth_wait(patient_page, 10)
    waits = patient_page.evaluate("waits.slice(1, 11)")
    assert waits == [pytest.approx(each, abs=0.1) for each in (0.5, 0.5, 1, 2, 4, 8, 16, 30, 30, 30)]
    site.reply(answer("running"))
    run_until_poll(patient_page, site, 11)
    expect_state(bar, "running")


def test_a_message_that_disappears_has_expired(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running"), NOT_FOUND)
    bar = open_bar()
    expect_state(bar, "expired")
    expect(part(bar, "text")).to_have_text("This task is no longer available. You may need to sign in again.")
    # A worker rewrites a record that its store has lost.
    site.reply(answer("running"))
    expect_state(bar, "running")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("seen", [True, False])
def test_a_denied_message_is_shown_immediately_and_polled_rarely(
    open_bar: OpenBar,
    site: ScriptedSite,
    patient_page: Page,
    status: int,
    seen: bool,
) -> None:
    denial = Reply(status=status, json={})
    site.reply(*([answer("running")] if seen else []), denial)
    bar = open_bar()
    polls = 1 + seen
    run_until_poll(patient_page, site, polls)
    expect_state(bar, "expired" if seen else "not-found")
    expect(part(bar, "text")).to_have_text("This task isn't available. You may need to sign in again.")
    patient_page.clock.run_for(29_900)
    assert settle(bar, site) == polls
    site.reply(answer("done"))
    patient_page.clock.run_for(200)
    expect_state(bar, "done")


SIGN_IN = Reply(status=302, headers={"Location": "/sign-in/"})


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("is_list", [True, False], ids=["list", "single"])
def test_a_redirect_to_a_sign_in_page_is_no_lost_connection(
    site: ScriptedSite, patient_page: Page, seen: bool, is_list: bool
) -> None:
    """As with LoginRequiredMiddleware after the end of a session."""
    site.reply(Reply(text="<!doctype html><title>Sign in</title><form></form>"), path="/sign-in/")
    for path in ("/progress/m1/", "/progress/m2/"):
        site.reply(*([answer("running") | {"id": path[10:12]}] if seen else []), SIGN_IN, path=path)
    bars = [
        f'<dramatiq-progress src="/progress/{each}/" list="/progress/"></dramatiq-progress>' for each in ("m1", "m2")
    ]
    site.html = f"{HEAD}<body>{''.join(bars[: 1 + is_list])}"
    patient_page.goto(site.url)
    bar = patient_page.locator("dramatiq-progress").first
    polls = 1 + seen
    run_until_poll(patient_page, site, polls)
    expect_state(bar, "expired" if seen else "not-found")
    expect(part(bar, "text")).to_have_text("This task isn't available. You may need to sign in again.")
    patient_page.clock.run_for(29_900)
    assert settle(bar, site) == polls
    assert patient_page.evaluate("troubles") == []
    for path in ("/progress/m1/", "/progress/m2/"):
        site.reply(answer("done") | {"id": path[10:12]}, path=path)
    patient_page.clock.run_for(200)
    expect_state(bar, "done")


# ---- Leaving the page ----


@pytest.mark.parametrize("leaves", ["after an answer", "before an answer", ""])
def test_requests_that_fail_because_another_page_was_requested_are_no_trouble(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page, leaves: str
) -> None:
    """WebKit fails all requests of a page from the click on a link until the next page is there."""
    site.reply(Reply(json=answer("running"), held=leaves == "before an answer"), Reply(drop=True))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    if leaves != "before an answer":
        expect_state(bar, "running")
    if leaves:
        patient_page.clock.run_for(1)
        patient_page.evaluate("dispatchEvent(new Event('beforeunload'))")
    site.release()
    expect_state(bar, "running")
    for number in range(2, 6):
        run_until_poll(patient_page, site, number)
    _nth_wait(patient_page, 5)
    patient_page.clock.run_for(1)
    assert ("offline" in patient_page.evaluate("troubles")) is not bool(leaves)
    # If the next page never comes, it is said after all.
    for number in range(6, 10):
        run_until_poll(patient_page, site, number)
    _nth_wait(patient_page, 9)
    patient_page.clock.run_for(1)
    assert "offline" in patient_page.evaluate("troubles")


def test_nothing_is_requested_or_said_after_the_page_was_left(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    site.reply(answer("running"), UNAVAILABLE)
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    run_until_poll(patient_page, site, 2)
    patient_page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    patient_page.clock.run_for(60_000)
    assert settle(bar, site) == 2
    assert patient_page.evaluate("troubles") == []
    site.reply(answer("done"))
    patient_page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    patient_page.clock.run_for(1)
    expect_state(bar, "done")

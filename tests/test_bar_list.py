"""Many bars on a page: they share one request and one timer, and don't affect each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests import servers
from tests.bars import HEAD, OBSERVE, UNAVAILABLE, answer, expect_state, part, run_until_poll, set_hidden, settle
from tests.scripted_site import Reply, ScriptedSite
from tests.waiting import wait_until

OpenBars = Callable[..., Locator]

SLOW = 3600


@pytest.fixture
def open_bars(site: ScriptedSite, page: Page) -> OpenBars:
    """A function that opens a page with a bar for each id, like the template tag, and returns the bars."""

    def open_page(*ids: str, more: str = "") -> Locator:
        site.html = f"{HEAD}<body>{''.join(map(html, ids))}{more}"
        page.add_init_script(OBSERVE)
        page.goto(site.url)
        return page.locator("dramatiq-progress")

    return open_page


def html(message_id: str) -> str:
    return f'<dramatiq-progress list="/progress/" src="/progress/{message_id}/"></dramatiq-progress>'


def set_answers(site: ScriptedSite, *ids: str, state: str = "running", poll_after: float = SLOW, **more: Any) -> None:
    for each in ids:
        site.reply(answer(state, poll_after=poll_after, **more), path=f"/progress/{each}/")


def ids_in(path: str) -> list[str]:
    """Return the ids in the URL of a poll."""
    parts = urlsplit(path)
    return parse_qs(parts.query).get("id") or [parts.path.split("/")[2]]


def expect_each(bars: Locator, state: str) -> None:
    bars.page.wait_for_function(
        """state => [...document.querySelectorAll("dramatiq-progress")].every((bar) => bar.state === state)""",
        arg=state,
    )


def add(page: Page, markup: str) -> None:
    page.evaluate("markup => document.body.append(document.createRange().createContextualFragment(markup))", markup)


# ---- One request ----


def test_a_hundred_bars_cost_one_request(open_bars: OpenBars, site: ScriptedSite) -> None:
    ids = [f"{number:08}-c5d0-4f4b-9d3c-000000000000" for number in range(100)]
    set_answers(site, *ids)
    bars = open_bars(*ids)
    expect_each(bars, "running")
    assert settle(bars, site) == 1
    assert ids_in(site.polls[0]) == ids
    # gunicorn accepts a request line of 4,094 bytes, and other servers accept more.
    assert len(f"GET {site.polls[0]} HTTP/1.1\r\n") < 4094


def test_more_than_a_hundred_bars_cost_several_requests(open_bars: OpenBars, site: ScriptedSite) -> None:
    ids = [f"m{number}" for number in range(250)]
    set_answers(site, *ids)
    bars = open_bars(*ids)
    expect_each(bars, "running")
    assert settle(bars, site) == 3
    assert sorted(len(ids_in(poll)) for poll in site.polls) == [50, 100, 100]


def test_bars_that_are_always_due_do_not_starve_others(open_bars: OpenBars, site: ScriptedSite) -> None:
    ids = [f"m{number}" for number in range(150)]
    set_answers(site, *ids, poll_after=0.1)
    bars = open_bars(*ids)
    expect_each(bars, "running")
    set_answers(site, *ids, state="done")
    expect_each(bars, "done")


def test_a_single_bar_polls_its_own_url(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1")
    bars = open_bars("m1")
    expect_state(bars, "running")
    assert site.polls == ["/progress/m1/"]


def test_two_bars_of_one_message_cost_one_request(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1")
    bars = open_bars("m1", "m1")
    expect_each(bars, "running")
    assert settle(bars, site) == 1
    assert site.polls == ["/progress/m1/"]


def test_a_second_bar_of_a_message_is_drawn_after_a_304(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    listed = Reply(json=answer("retrying", retry_in=60, poll_after=SLOW), headers={"ETag": 'W/"1"'})
    site.reply(listed, Reply(status=304))
    bars = open_bars("m1")
    expect_state(bars, "retrying")
    add(page, html("m1"))
    expect_each(bars, "retrying")
    assert site.poll_headers[1]["If-None-Match"] == 'W/"1"'
    assert settle(bars, site) == 2
    expect(part(bars.nth(1), "percent")).to_have_text("24%")


@pytest.mark.parametrize(
    "more",
    [
        '<dramatiq-progress src="/progress/m2/"></dramatiq-progress>',
        '<dramatiq-progress list="/other/" src="/progress/m2/"></dramatiq-progress>',
        '<dramatiq-progress list="/progress/" src="/progress/m2/?key=1"></dramatiq-progress>',
        '<dramatiq-progress list="/progress/" src="/progress/m2/deep/"></dramatiq-progress>',
        '<dramatiq-progress list="/progress/" src="/progress/a%20b/"></dramatiq-progress>',
        f'<dramatiq-progress list="/progress/" src="/progress/{"x" * 65}/"></dramatiq-progress>',
    ],
)
def test_a_bar_of_another_server_polls_separately(open_bars: OpenBars, site: ScriptedSite, more: str) -> None:
    """So does a URL that isn't in the list: an id that the list rejects must not stop the other bars."""
    celery = {"complete": False, "progress": {"pending": False, "current": 30, "total": 100, "percent": 30}}
    set_answers(site, "m1", "m3")
    other = more.split('src="')[1].split('"')[0]
    site.reply(celery, path=other)
    bars = open_bars("m1", "m3", more=more)
    expect_each(bars, "running")
    assert {"/progress/?id=m1&id=m3", other} == set(site.polls)


def test_a_subclass_makes_its_own_requests(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    set_answers(site, "m1", "m2", "m3", "m4", poll_after=0.1)
    bars = open_bars("m1", "m2")
    expect_each(bars, "running")
    page.evaluate(
        """async (module) => {
          const { DramatiqProgress } = await import(module);
          customElements.define("own-progress", class extends DramatiqProgress {
            request(signal, url) {
              const request = super.request(signal, url);
              request.headers.set("X-Requested-By", "me");
              return request;
            }
          });
        }""",
        "/static/dramatiq_progress/dramatiq-progress.js",
    )
    add(page, (html("m3") + html("m4")).replace("dramatiq-progress", "own-progress"))
    expect_state(page.locator("own-progress").nth(1), "running")
    site.wait_for_polls(len(site.polls) + 6)
    requested_by = {
        (poll, headers.get("X-Requested-By")) for poll, headers in zip(site.polls, site.poll_headers, strict=True)
    }
    assert requested_by == {("/progress/?id=m1&id=m2", None), ("/progress/?id=m3&id=m4", "me")}


def test_a_page_of_a_real_site_costs_one_request_at_a_time(
    redis_store: Store, settings: Any, page: Page, tmp_path: Path
) -> None:
    wanted = settings.DRAMATIQ_PROGRESS
    environment = {
        "TEST_STORE_URL": wanted["OPTIONS"]["url"],
        # No heartbeats: `lost` would be a change.
        "TEST_PROGRESS": json.dumps({"PREFIX": wanted["PREFIX"], "LOST_AFTER": 3600}),
        "TEST_DJANGO_MIDDLEWARE": json.dumps(["django.middleware.gzip.GZipMiddleware"]),
    }
    attempts = [Attempt(f"m{number}", "work", "default", 3) for number in range(100)]
    for attempt in attempts:
        redis_store.start(attempt)
    answers: list[tuple[int, str | None]] = []
    page.on(
        "response",
        lambda each: (
            answers.append((each.status, each.headers.get("content-encoding"))) if "/progress/" in each.url else None
        ),
    )
    with servers.site(log=tmp_path / "site.log", environment=environment) as url:
        page.goto(f"{url}/bars/?{'&'.join(f'id=m{number}' for number in range(100))}")
        bars = page.locator("dramatiq-progress")
        expect(bars).to_have_count(100)
        expect_each(bars, "running")
        assert answers[0] == (200, "gzip")
        page.wait_for_event("response", lambda each: each.status == 304)
        assert set(answers[1:]) == {(304, None)}
        redis_store.report([(attempts[7], {"current": "7", "total": "10"})])
        expect(part(bars.nth(7), "percent")).to_have_text("70%")
        assert answers.count((200, "gzip")) == 2
        for attempt in attempts:
            redis_store.finish(attempt, state=State.DONE)
        expect_each(bars, "done")


# ---- When ----


def test_a_slow_message_is_polled_less_often_than_a_quick_one(
    open_bars: OpenBars, site: ScriptedSite, patient_page: Page
) -> None:
    set_answers(site, "quick", poll_after=1)
    set_answers(site, "slow", "slower", poll_after=10)
    bars = open_bars("quick", "slow", "slower")
    run_until_poll(patient_page, site, 1)
    began = patient_page.evaluate("performance.now()")
    for number in range(2, 42):
        run_until_poll(patient_page, site, number)
    assert patient_page.evaluate("performance.now()") - began == pytest.approx(40_000, abs=200)
    for bar in bars.all():
        expect_state(bar, "running")
    polls = [ids_in(poll) for poll in site.polls]
    assert len(polls) == 41 and all("quick" in ids for ids in polls)
    # It joins another request up to an eighth of its wait early.
    for message_id in ("slow", "slower"):
        assert [second for second, ids in enumerate(polls) if message_id in ids] == [0, 9, 18, 27, 36]


@pytest.mark.parametrize("waits", [(8, 9, 10), (10, 9, 8), (10, 10, 10), (6, 10, 8)])
def test_bars_that_are_added_one_after_another_align_their_polls(
    open_bars: OpenBars, site: ScriptedSite, patient_page: Page, waits: tuple[float, ...]
) -> None:
    ids = ["m1", "m2", "m3"]
    for message_id, wait in zip(ids, waits, strict=True):
        set_answers(site, message_id, poll_after=wait)

    def run_until_next_poll() -> float:
        run_until_poll(patient_page, site, len(site.polls) + 1)
        return float(patient_page.evaluate("performance.now()"))

    bars = open_bars("m1")
    run_until_next_poll()
    for message_id in ids[1:]:
        expect_state(bars.last, "running")
        patient_page.clock.run_for(3_000)
        add(patient_page, html(message_id))
        run_until_next_poll()
    expect_state(bars.last, "running")
    began = patient_page.evaluate("performance.now()")
    while run_until_next_poll() < began + 20_000:
        pass
    before = len(site.polls)
    for _ in range(5):
        run_until_next_poll()
    assert [ids_in(poll) for poll in site.polls[before:]] == [ids] * 5


def test_a_final_message_is_no_longer_polled(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1", "m2", "m3", poll_after=0.1)
    bars = open_bars("m1", "m2", "m3")
    expect_each(bars, "running")
    set_answers(site, "m2", state="done")
    expect_state(bars.nth(1), "done")
    before = settle(bars, site)
    site.wait_for_polls(before + 3)
    assert all(ids_in(poll) == ["m1", "m3"] for poll in site.polls[before + 1 :])
    set_answers(site, "m1", state="done")
    expect_state(bars.nth(0), "done")
    before = settle(bars, site)
    site.wait_for_polls(before + 3)
    assert set(site.polls[before + 1 :]) == {"/progress/m3/"}
    set_answers(site, "m3", state="failed")
    expect_state(bars.nth(2), "failed")
    assert settle(bars, site) == len(site.polls)


def test_bars_can_be_added_and_removed(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    set_answers(site, "m1", "m2", "m3")
    page.clock.install()
    bars = open_bars("m1")
    expect_state(bars, "running")
    add(page, html("m2") + html("m3"))
    expect_each(bars, "running")
    assert [ids_in(poll) for poll in site.polls] == [["m1"], ["m2", "m3"]]
    page.evaluate("document.querySelectorAll('dramatiq-progress').forEach((bar) => bar.remove())")
    page.clock.fast_forward("03:00:00")
    assert settle(bars, site) == 2
    add(page, html("m1"))
    expect_state(bars, "running")
    assert settle(bars, site) == 3


def test_removing_a_final_bar_does_not_separate_the_others(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    set_answers(site, "m1", state="done")
    set_answers(site, "m2", "m3", poll_after=0.1)
    bars = open_bars("m1")
    expect_state(bars, "done")
    add(page, html("m2"))
    expect_state(bars.nth(1), "running")
    page.evaluate("document.querySelector('dramatiq-progress').remove()")
    add(page, html("m3"))
    wait_until(lambda: "/progress/?id=m2&id=m3" in site.polls)


def test_removing_a_bar_during_a_request_does_not_affect_the_others(
    open_bars: OpenBars, site: ScriptedSite, page: Page
) -> None:
    site.reply(Reply(json=answer("running"), held=True), path="/progress/m1/")
    set_answers(site, "m2", state="done")
    bars = open_bars("m1", "m2")
    site.wait_for_polls(1)
    page.evaluate("document.querySelector('dramatiq-progress').remove()")
    site.release()
    expect_each(bars, "done")
    assert page.evaluate("events.map(([type, { id }]) => type + id)") == ["progressm2", "donem2"]


def test_a_bar_that_switches_to_another_message_leaves_the_first(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1", "m2", poll_after=0.1)
    set_answers(site, "m3", state="done", current=7, total=10)
    bars = open_bars("m1", "m2")
    expect_each(bars, "running")
    bars.nth(0).evaluate("bar => { bar.src = '/progress/m3/' }")
    expect_state(bars.nth(0), "done")
    expect(part(bars.nth(0), "percent")).to_have_text("70%")
    before = settle(bars, site)
    site.wait_for_polls(before + 2)
    assert set(site.polls[before + 1 :]) == {"/progress/m2/"}


def test_a_list_that_is_set_later_is_used(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1", "m2", poll_after=0.1)
    bars = open_bars("m1", more='<dramatiq-progress src="/progress/m2/"></dramatiq-progress>')
    expect_each(bars, "running")
    bars.nth(1).evaluate("bar => bar.setAttribute('list', '/progress/')")
    expect(bars.nth(1)).to_have_attribute("state", "running")
    wait_until(lambda: "/progress/?id=m1&id=m2" in site.polls)


def test_a_hidden_page_polls_nothing_and_a_visible_one_polls_all(
    open_bars: OpenBars, site: ScriptedSite, page: Page
) -> None:
    set_answers(site, "m1", poll_after=5)
    set_answers(site, "m2", poll_after=500)
    page.clock.install()
    bars = open_bars("m1", "m2")
    expect_each(bars, "running")
    set_hidden(page, True)
    page.clock.fast_forward("01:00:00")
    assert settle(bars, site) == 1
    set_answers(site, "m1", "m2", state="done")
    set_hidden(page, False)
    expect_each(bars, "done")
    assert settle(bars, site) == 2


def test_a_listener_can_remove_every_bar(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(json=answer("running", poll_after=0.1), held=True), path="/progress/m1/")
    set_answers(site, "m2", poll_after=0.1)
    bars = open_bars("m1", "m2")
    site.wait_for_polls(1)
    page.evaluate(
        """document.addEventListener("progress", () => {
          document.querySelectorAll("dramatiq-progress").forEach((bar) => bar.remove());
        })"""
    )
    site.release()
    page.wait_for_function("events.length === 1 && !document.querySelector('dramatiq-progress')")
    assert settle(bars, site) == 1
    assert page.evaluate("events.length") == 1


def test_a_listener_can_switch_another_bar_of_the_message(open_bars: OpenBars, site: ScriptedSite, page: Page) -> None:
    site.reply(Reply(json=answer("running", poll_after=SLOW), held=True))
    set_answers(site, "m2", state="enqueued")
    bars = open_bars("m1", "m1")
    site.wait_for_polls(1)
    page.evaluate(
        """document.addEventListener("progress", () => {
          document.querySelectorAll("dramatiq-progress")[1].src = "/progress/m2/";
        }, { once: true })"""
    )
    site.release()
    expect_state(bars.nth(1), "enqueued")
    expect_state(bars.nth(0), "running")
    assert page.evaluate("events.map(([, { state }]) => state)") == ["running", "enqueued"]


# ---- Not modified ----


def test_an_unchanged_list_is_not_sent_again(open_bars: OpenBars, site: ScriptedSite) -> None:
    listed = {"messages": [answer("running", extra={"id": each}) for each in ("m2", "m1")], "unknown": []}
    site.reply(Reply(json=listed, headers={"ETag": 'W/"a"'}), Reply(status=304), path="/progress/")
    bars = open_bars("m1", "m2")
    site.wait_for_polls(4)
    assert [each.get("If-None-Match") for each in site.poll_headers[:4]] == [None, *['W/"a"'] * 3]
    expect_each(bars, "running")


#: The quick one is polled alone before both are due again, the slow one first.
WAITS = {"slow": 4.1, "quick": 2}


def test_an_etag_is_sent_only_if_all_received_that_answer_last(
    open_bars: OpenBars, site: ScriptedSite, page: Page
) -> None:
    """Otherwise a 304 could repeat an answer that is older than the latest one of a bar."""
    listed = {"messages": [answer("running", poll_after=wait, extra={"id": name}) for name, wait in WAITS.items()]}
    site.reply(Reply(json=listed, headers={"ETag": 'W/"both"'}), path="/progress/")
    site.reply(Reply(json=answer("lost", poll_after=2.2), headers={"ETag": 'W/"alone"'}), path="/progress/quick/")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bars = open_bars(*WAITS)
    page.clock.run_for(1)
    for state in ("running", "lost", "running"):
        expect_state(bars.nth(1), state)
        page.clock.run_for(2_101)
    assert [ids_in(poll) for poll in site.polls[:3]] == [["quick", "slow"], ["quick"], ["quick", "slow"]]
    assert [each.get("If-None-Match") for each in site.poll_headers[:3]] == [None, None, None]


# ---- Trouble ----


def test_one_failure_of_the_list_shows_nothing_on_any_bar(
    open_bars: OpenBars, site: ScriptedSite, patient_page: Page
) -> None:
    listed = {"messages": [answer("running", extra={"id": each}) for each in ("m1", "m2")]}
    end = {"messages": [answer("done", extra={"id": each}) for each in ("m1", "m2")]}
    site.reply(listed, UNAVAILABLE, listed, Reply(drop=True), end, path="/progress/")
    bars = open_bars("m1", "m2")
    for number in range(1, 6):
        run_until_poll(patient_page, site, number)
    for bar in bars.all():
        expect_state(bar, "done")
    assert patient_page.evaluate("troubles") == []


@pytest.mark.parametrize(
    "trouble",
    [
        UNAVAILABLE,
        Reply(drop=True),
        Reply(text="<title>Sign in</title>"),
        Reply(json=[]),
        Reply(json={"messages": [1]}),
    ],
    ids=["503", "dropped", "login page", "no list", "no answers"],
)
def test_every_bar_shows_trouble_and_all_recover_together(
    open_bars: OpenBars, site: ScriptedSite, trouble: Reply
) -> None:
    set_answers(site, "m1", "m2", poll_after=0.1)
    bars = open_bars("m1", "m2")
    expect_each(bars, "running")
    site.reply(trouble, path="/progress/")
    for bar in bars.all():
        expect(bar).to_have_attribute("offline", "")
        expect_state(bar, "running")
    listed = {"messages": [answer("done", extra={"id": each}) for each in ("m1", "m2")]}
    site.reply(listed, path="/progress/")
    expect_each(bars, "done")
    expect(bars.nth(0)).not_to_have_attribute("offline", "")


def test_a_bar_that_is_added_in_an_outage_waits_with_the_others(
    open_bars: OpenBars, site: ScriptedSite, page: Page
) -> None:
    site.reply(Reply(status=503, json={}, headers={"Retry-After": "100"}), path="/progress/")
    page.clock.install()
    bars = open_bars("m1", "m2")
    expect(bars.nth(0)).to_have_attribute("offline", "")
    add(page, html("m3"))
    expect(bars).to_have_count(3)
    page.clock.run_for(90_000)
    assert settle(bars, site) == 1
    site.reply({"messages": [answer("done", extra={"id": f"m{number}"}) for number in (1, 2, 3)]}, path="/progress/")
    page.clock.run_for(11_000)
    expect_each(bars, "done")
    assert settle(bars, site) == 2


@pytest.mark.parametrize("status", [400, 404, 405, 414])
def test_each_message_is_polled_separately_if_the_list_is_refused(
    open_bars: OpenBars, site: ScriptedSite, status: int
) -> None:
    """For example by a server that doesn't accept URLs of this length."""
    site.reply(Reply(status=status, text="<h1>No</h1>"), path="/progress/")
    set_answers(site, "m1", "m2", "m3")
    bars = open_bars("m1", "m2", "m3")
    expect_each(bars, "running")
    assert settle(bars, site) == 4
    assert sorted(site.polls[1:]) == ["/progress/m1/", "/progress/m2/", "/progress/m3/"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_denied_list_is_shown_by_each_bar(open_bars: OpenBars, site: ScriptedSite, status: int) -> None:
    site.reply(Reply(status=status, json={}), path="/progress/")
    bars = open_bars("m1", "m2")
    expect_each(bars, "not-found")
    expect(part(bars.nth(1), "text")).to_have_text("This task isn't available. You may need to sign in again.")


def test_a_missing_message_does_not_affect_the_others(open_bars: OpenBars, site: ScriptedSite) -> None:
    set_answers(site, "m1", "m2", poll_after=0.1)
    bars = open_bars("m1", "m2", "m3")
    expect_state(bars.nth(0), "running")
    expect_state(bars.nth(2), "waiting")
    site.reply(Reply(status=404), path="/progress/m2/")
    expect_state(bars.nth(1), "expired")
    expect_state(bars.nth(0), "running")
    set_answers(site, "m2", "m3", state="done")
    expect_state(bars.nth(1), "done")
    expect_state(bars.nth(2), "done")
    expect_state(bars.nth(0), "running")

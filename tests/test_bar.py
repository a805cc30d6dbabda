"""The bar in a real browser, with replies that each test sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import State
from tests.bars import UNAVAILABLE, OpenBar, answer, expect_state, part, run_until_poll, settle
from tests.scripted_site import STATIC, Reply, ScriptedSite

MODULE = STATIC / "dramatiq_progress" / "dramatiq-progress.js"


# ---- Each state ----

STATES: list[tuple[dict[str, Any], str, str | None]] = [
    (answer("enqueued", total=None, current=0), "Waiting in the queue", None),
    (
        answer("enqueued", total=None, current=0, extra={"queue_position": 3, "queue_length": 1200}),
        "In the queue: about number 3 of 1,200",
        None,
    ),
    (
        answer("enqueued", total=None, current=0, extra={"queue_position": 1, "queue_length": 12}),
        "Next in the queue",
        None,
    ),
    (answer("delayed", total=None, current=0), "Scheduled", None),
    (answer("running"), "Importing: 1,200 of 5,000", "24"),
    (answer("running", description=""), "1,200 of 5,000", "24"),
    (answer("running", total=None), "Importing: 1,200 so far", None),
    (answer("running", description="Importing…"), "Importing: 1,200 of 5,000", "24"),
    (answer("running", description="{amount} {current}"), "{amount} {current}: 1,200 of 5,000", "24"),
    (answer("running", total=None, current=0), "Importing", None),
    (answer("running", total=None, current=0, description=""), "Running", None),
    (answer("running", current=6000), "Importing: 6,000 of 5,000", "100"),
    (answer("running", current=0.5, total=4), "Importing: 0.5 of 4", "12.5"),
    (answer("retrying", retry_in=0, retries_left=3), "This attempt failed. Retrying now… (attempt 2 of 4)", "24"),
    (answer("retrying", retry_in=7200, attempt=2), "This attempt failed. Retrying in 2 hours… (attempt 3)", "24"),
    (answer("lost"), "The task stopped responding. It may restart automatically.", "24"),
    # A retry has the values of the attempt that failed.
    (answer("enqueued", attempt=2), "Waiting in the queue", None),
    (answer("paused", total=None, current=0, pause_requested=True), "Paused", None),
    (answer("paused", attempt=2, pause_requested=True), "Paused", None),
    (answer("done"), "Done", "24"),
    (answer("done", total=None, current=0), "Done", None),
    (answer("failed", result="Row 7 has no code."), "Row 7 has no code.", "24"),
    (answer("failed"), "The task failed.", "24"),
    (answer("failed", result={"no": "text"}), "The task failed.", "24"),
    (answer("cancelled", result="The task was cancelled."), "The task was cancelled.", "24"),
    (answer("skipped"), "The task was skipped.", "24"),
]


@pytest.mark.parametrize(("reply", "text", "value"), STATES, ids=[f"{each[0]['state']}-{each[1]}" for each in STATES])
def test_each_state_is_shown(
    open_bar: OpenBar, site: ScriptedSite, reply: dict[str, Any], text: str, value: str | None
) -> None:
    site.reply(reply)
    bar = open_bar()
    expect_state(bar, reply["state"])
    expect(part(bar, "text")).to_have_text(text)
    track = bar.get_by_role("progressbar")
    if value is None:
        expect(track).not_to_have_attribute("aria-valuenow", re.compile(""))
        expect(track).to_have_attribute("aria-valuetext", text)
        expect(bar).to_have_attribute("indeterminate", "")
    else:
        percent = f"{int(float(value))}%"
        if reply["state"] in ("failed", "cancelled", "skipped"):
            percent = f"stopped at {percent}"
        expect(track).to_have_attribute("aria-valuenow", value)
        expect(track).to_have_attribute("aria-valuetext", f"{percent}, {text}")
        expect(part(bar, "percent")).to_have_text(percent)
        expect(bar).not_to_have_attribute("indeterminate", "")


def test_every_state_of_the_server_is_tested_above() -> None:
    assert {reply["state"] for reply, *_ in STATES} == set(State)


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_the_length_of_the_fill_is_the_percentage(open_bar: OpenBar, site: ScriptedSite, direction: str) -> None:
    site.reply(answer("running", current=25, total=100))
    bar = open_bar(f'dir="{direction}"')
    bar.page.wait_for_function(
        """direction => {
          const { shadowRoot } = document.querySelector("dramatiq-progress");
          const [track, fill] = ["track", "fill"].map((name) =>
            shadowRoot.querySelector(`[part=${name}]`).getBoundingClientRect());
          const begins = direction === "ltr" ? fill.left - track.left : track.right - fill.right;
          return Math.abs(fill.width / track.width - 0.25) < 0.001 && Math.abs(begins) < 1;
        }""",
        arg=direction,
    )


def test_a_finished_bar_keeps_its_percentage(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running", current=98, total=100), answer("done", current=98, total=100))
    bar = open_bar()
    expect_state(bar, "done")
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "98")
    expect(part(bar, "percent")).to_have_text("98%")


def test_a_percentage_is_never_rounded_up(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running", current=999, total=1000))
    expect(part(open_bar(), "percent")).to_have_text("99%")


@pytest.mark.parametrize(
    ("eta", "text"),
    [
        (0.2, "1 second"),
        (9.2, "10 seconds"),
        (61.5, "2 minutes"),
        (119.3, "2 minutes"),
        (5400, "2 hours"),
        (200_000, "3 days"),
    ],
)
def test_the_time_left_has_a_suitable_unit(open_bar: OpenBar, site: ScriptedSite, eta: float, text: str) -> None:
    site.reply(answer("running", extra={"eta": eta}))
    expect(part(open_bar(), "text")).to_have_text(f"Importing: 1,200 of 5,000, about {text} left")


def test_only_the_seconds_until_the_next_attempt_count_down(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
) -> None:
    site.reply(answer("retrying", retry_in=110, retries_left=3, poll_after=3600))
    page.clock.install()
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("This attempt failed. Retrying in 2 minutes… (attempt 2 of 4)")
    page.clock.run_for(80_000)
    expect(part(bar, "text")).to_have_text(re.compile(r"in (2\d|30) seconds… \(attempt 2 of 4\)"))
    page.clock.run_for(31_000)
    expect(part(bar, "text")).to_have_text("This attempt failed. Retrying now… (attempt 2 of 4)")
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "24")
    assert settle(bar, site) == 1


# ---- Servers that speak celery-progress's keys ----

CELERY_PROGRESS = {"pending": False, "current": 30, "total": 100, "percent": 30, "description": "Half-time"}
CELERY: list[tuple[dict[str, Any], str, str]] = [
    (
        {"complete": False, "progress": {**CELERY_PROGRESS, "pending": True}},
        "enqueued",
        "Waiting in the queue",
    ),
    ({"complete": False, "progress": CELERY_PROGRESS}, "running", "Half-time: 30 of 100"),
    ({"complete": False, "progress": {"current": 1, "total": 3}}, "running", "1 of 3"),
    ({"complete": True, "success": True, "progress": CELERY_PROGRESS}, "done", "Done"),
    ({"complete": True, "success": False, "result": "No such file"}, "failed", "No such file"),
    ({"state": "PENDING", "complete": False}, "enqueued", "Waiting in the queue"),
    ({"state": "STARTED", "complete": False, "progress": CELERY_PROGRESS}, "running", "Half-time: 30 of 100"),
    (
        {"state": "PROGRESS", "complete": False, "progress": CELERY_PROGRESS},
        "running",
        "Half-time: 30 of 100",
    ),
    ({"state": "SUCCESS", "complete": True, "success": True}, "done", "Done"),
    ({"state": "FAILURE", "complete": True, "success": False, "result": "Oh"}, "failed", "Oh"),
    ({"state": "REVOKED", "complete": True, "success": False}, "cancelled", "The task was cancelled."),
    ({"state": "IGNORED", "complete": True, "success": None}, "skipped", "The task was skipped."),
    (
        {"state": "NEW-WORD", "complete": False, "progress": CELERY_PROGRESS},
        "running",
        "Half-time: 30 of 100",
    ),
]


@pytest.mark.parametrize(("reply", "state", "text"), CELERY)
def test_the_keys_of_celery_progress_are_understood(
    open_bar: OpenBar, site: ScriptedSite, reply: dict[str, Any], state: str, text: str
) -> None:
    site.reply(reply)
    bar = open_bar()
    expect_state(bar, state)
    expect(part(bar, "text")).to_have_text(text)


def test_a_missing_percentage_is_computed(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply({"complete": False, "progress": {"current": 1, "total": 3}})
    expect(open_bar().get_by_role("progressbar")).to_have_attribute("aria-valuenow", "33.3")


def test_a_celery_task_that_will_be_retried_is_not_final(open_bar: OpenBar, site: ScriptedSite) -> None:
    result = {"when": "2026-01-01 00:00:00", "message": "no"}
    retry = {"state": "RETRY", "complete": True, "success": False, "result": result}
    site.reply(retry)
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("This attempt failed. Retrying now…")
    site.reply({"state": "SUCCESS", "complete": True, "success": True})
    expect_state(bar, "done")


# ---- Events ----


def events_of(bar: Locator) -> list[tuple[str, Any]]:
    return [(type_, detail) for type_, detail in bar.page.evaluate("events")]


def test_progress_is_dispatched_for_changes_except_those_of_clocks(open_bar: OpenBar, site: ScriptedSite) -> None:
    first = answer("running", elapsed=1.0)
    later = answer("running", elapsed=1.5, poll_after=0.2, extra={"eta": 4, "rate": 2.5})
    second = answer("running", current=1300, version=2)
    last = answer("done", current=1300, version=3, result={"imported": 1300})
    site.reply(first, first, later, second, last)
    bar = open_bar()
    expect_state(bar, "done")
    assert events_of(bar) == [("progress", first), ("progress", second), ("progress", last), ("done", last)]


@pytest.mark.parametrize("state", ["failed", "cancelled", "skipped"])
def test_each_outcome_without_success_dispatches_failed(open_bar: OpenBar, site: ScriptedSite, state: str) -> None:
    reply = answer(state, result="Why")
    site.reply(reply)
    bar = open_bar()
    expect_state(bar, state)
    assert events_of(bar) == [("progress", reply), ("failed", reply)]


def test_the_result_is_not_shown_if_done_is_prevented(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(Reply(json=answer("done", result="/result/"), held=True))
    bar = open_bar("show-result redirect download")
    bar.page.evaluate("document.addEventListener('done', (event) => event.preventDefault())")
    site.release()
    expect_state(bar, "done")
    expect(part(bar, "text")).to_have_text("Done")
    assert settle(bar, site) == 1


def test_the_message_is_not_shown_if_failed_is_prevented(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(Reply(json=answer("failed", result="Row 7"), held=True))
    bar = open_bar()
    bar.page.evaluate("document.addEventListener('failed', (event) => event.preventDefault())")
    site.release()
    expect_state(bar, "failed")
    expect(part(bar, "text")).to_have_text("The task failed.")


# ---- Results ----


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("All 20,000 rows", "All 20,000 rows"),
        (20000, "20,000"),
        (True, "yes"),
        ({"imported": 20000, "left_out": 3}, "imported: 20,000, left out: 3"),
        (["a", 1], "a, 1"),
        ({"files": ["a.csv", "b.csv"], "ok": False}, "files: a.csv, b.csv, ok: no"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ({"<b>": "<i>"}, "<b>: <i>"),
        ("/a/path/", "/a/path/"),
    ],
)
def test_a_result_is_shown_as_text(open_bar: OpenBar, site: ScriptedSite, result: Any, text: str) -> None:
    site.reply(answer("done", result=result))
    bar = open_bar("show-result")
    expect(part(bar, "text")).to_have_text(text)
    assert part(bar, "text").evaluate("text => text.childElementCount") == 0


def test_no_result_shows_nothing(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result=None))
    bar = open_bar("show-result download redirect")
    expect_state(bar, "done")
    expect(part(bar, "text")).to_have_text("Done")


def test_a_result_is_not_shown_without_an_attribute(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result="/result/"))
    bar = open_bar()
    expect_state(bar, "done")
    expect(part(bar, "text")).to_have_text("Done")


@pytest.mark.parametrize("result", ["/result/", {"url": "/result/", "rows": 3}, "{site}/result/"])
def test_a_result_that_is_a_url_is_followed(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    result: Any,
) -> None:
    site.reply(Reply(text="<title>The result</title>"), path="/result/")
    site.reply(answer("running"), answer("done", result=_at(site, result)))
    open_bar("redirect")
    expect(page).to_have_title("The result")
    # Going back leads to the page before the bar, not to a bar that redirects here again.
    page.go_back()
    assert page.url == "about:blank"


@pytest.mark.parametrize("result", ["/media/rows.zip", {"url": "/media/rows.zip"}, "{site}/media/rows.zip"])
@pytest.mark.parametrize("label", ["", "Get the rows"])
def test_a_result_that_is_a_url_becomes_a_link(open_bar: OpenBar, site: ScriptedSite, result: Any, label: str) -> None:
    site.reply(answer("done", result=_at(site, result)))
    bar = open_bar(f'download="{label}"')
    link = bar.get_by_role("link", name=label or "Download", exact=True)
    expect(link).to_have_attribute("href", f"{site.url}/media/rows.zip")
    expect(part(bar, "text")).to_have_text(label or "Download")
    site.reply(Reply(text="a,b"), path="/media/rows.zip")
    with bar.page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename.startswith("rows")


def test_the_url_of_a_link_is_not_shown_again(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result={"url": "/media/rows.zip", "rows": 3}))
    bar = open_bar("show-result download")
    expect(part(bar, "text")).to_have_text("Download: rows: 3")


@pytest.mark.parametrize("attribute", ["redirect", "download"])
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "/\\elsewhere.example/",
        "http://[broken",
        "ftp://127.0.0.1/",
        "Imported 3 rows",
    ],
)
def test_a_result_that_is_not_a_url_of_this_site_is_only_text(
    open_bar: OpenBar, site: ScriptedSite, attribute: str, url: str
) -> None:
    site.reply(answer("done", result=url))
    bar = open_bar(attribute)
    expect(part(bar, "text")).to_have_text(url)
    expect(bar.get_by_role("link")).to_have_count(0)
    assert bar.page.url == f"{site.url}/"


def _at(site: ScriptedSite, result: Any) -> Any:
    return result.replace("{site}", site.url) if isinstance(result, str) else result


# ---- In pages of a project ----


def test_text_from_an_actor_is_text_and_never_markup(open_bar: OpenBar, site: ScriptedSite) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b> $& {total}"
    site.reply(answer("running", description=markup))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(f"{markup}: 1,200 of 5,000")
    assert part(bar, "text").evaluate("text => text.childElementCount") == 0


def test_children_are_shown_only_without_javascript(open_bar: OpenBar, site: ScriptedSite) -> None:
    bar = open_bar(children='<a href="/">Refresh</a>')
    expect_state(bar, "waiting")
    expect(bar.get_by_text("Refresh")).to_be_hidden()


def test_a_subclass_can_replace_request_and_fetch(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    bar = open_bar()
    page.evaluate(
        """async ([module, reply]) => {
          const { DramatiqProgress, TEXTS } = await import(module);
          customElements.define("own-progress", class extends DramatiqProgress {
            get texts() { return { ...TEXTS, locale: "de", amount: "{current} von {total}" }; }
            request(signal) { return new Request("/own/", { signal, headers: { "X-Requested-By": "me" } }); }
            async fetch({ headers }) { return Response.json({ ...reply, actor: headers.get("X-Requested-By") }); }
          });
          const own = document.createElement("own-progress");
          own.src = "/anything/";
          document.body.append(own);
        }""",
        ["/static/dramatiq_progress/dramatiq-progress.js", answer("running")],
    )
    own = page.locator("own-progress")
    expect(part(own, "text")).to_have_text("Importing: 1.200 von 5.000")
    assert "me" in [detail["actor"] for _, detail in events_of(bar)]


def test_a_module_can_be_loaded_from_two_urls(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running"))
    again = '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js?again"></script>'
    expect_state(open_bar(head=again), "running")


def test_a_page_can_style_properties_and_parts(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running"))
    style = (
        "<style>:root { --dramatiq-progress-color: rgb(1, 2, 3); --dramatiq-progress-height: 20px }"
        "dramatiq-progress { margin: 7px } dramatiq-progress::part(text) { font-style: italic }</style>"
    )
    bar = open_bar(head=style)
    expect(part(bar, "fill")).to_have_css("background-color", "rgb(1, 2, 3)")
    expect(part(bar, "track")).to_have_css("height", "20px")
    expect(part(bar, "text")).to_have_css("font-style", "italic")
    expect(bar).to_have_css("margin-top", "7px")


def test_a_hidden_bar_is_not_visible(open_bar: OpenBar) -> None:
    expect(open_bar("hidden")).to_be_hidden()


# ---- Accessibility ----


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("", "Progress"),
        ('label="Import of rows"', "Import of rows"),
        ('aria-label="Rows"', "Rows"),
        ('label="" aria-label="Rows"', "Rows"),
    ],
)
def test_the_bar_has_a_name(open_bar: OpenBar, attributes: str, name: str) -> None:
    expect(open_bar(attributes).get_by_role("progressbar", name=name, exact=True)).to_have_count(1)


def test_the_title_is_the_label_or_the_actor_s_name_in_words(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running"))
    bar = open_bar('aria-label="Rows"')
    expect(part(bar, "title")).to_have_text("Import rows")
    expect(bar.get_by_role("progressbar", name="Rows", exact=True)).to_have_count(1)
    bar.evaluate("bar => bar.setAttribute('label', 'people.csv')")
    expect(part(bar, "title")).to_have_text("people.csv")
    # An empty label is for a page that has a title of its own.
    bar.evaluate("bar => bar.setAttribute('label', '')")
    expect(part(bar, "title")).to_be_hidden()
    expect(bar).to_have_attribute("untitled", "")


def test_a_message_s_title_is_shown_as_it_is(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running", extra={"title": "people.csv"}))
    expect(part(open_bar(""), "title")).to_have_text("people.csv")


def test_a_server_without_actors_has_bars_without_a_title(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply({"complete": False, "progress": CELERY_PROGRESS})
    bar = open_bar()
    expect(part(bar, "title")).to_be_hidden()
    expect(bar).to_have_attribute("untitled", "")
    expect(bar.get_by_role("progressbar", name="Progress", exact=True)).to_have_count(1)


def test_the_name_can_change(open_bar: OpenBar) -> None:
    bar = open_bar()
    bar.evaluate("bar => bar.setAttribute('label', 'Export')")
    expect(bar.get_by_role("progressbar", name="Export", exact=True)).to_have_count(1)


def test_start_quarters_trouble_and_outcome_are_announced(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    steps = [answer("running", current=current, total=100, description="") for current in (0, 1, 24, 26, 27, 49)]
    end = answer("done", current=100, total=100, result="All there")
    site.reply(answer("enqueued", total=None, current=0), *steps, UNAVAILABLE, UNAVAILABLE, steps[-1], end)
    bar = open_bar("show-result")
    for number in range(1, len(steps) + 6):
        run_until_poll(patient_page, site, number)
    expect_state(bar, "done")
    assert bar.page.evaluate("announced") == [
        "Import rows, Waiting in the queue",
        "Import rows, 0%, 0 of 100",
        "Import rows, 26%, 26 of 100",
        "Import rows, Connection lost. Trying again…",
        "Import rows, 49%, 49 of 100",
        "Import rows, 100%, Done, All there",
    ]


def test_an_announcement_begins_with_the_label_of_its_job(open_bar: OpenBar, site: ScriptedSite) -> None:
    """Three bars that say "100 %, Done" would be the same job three times."""
    site.reply(answer("running", current=0, total=100, description=""), answer("done", current=100, total=100))
    bar = open_bar('label="Import of people.csv"')
    expect_state(bar, "done")
    assert bar.page.evaluate("announced") == [
        "Import of people.csv, 0%, 0 of 100",
        "Import of people.csv, 100%, Done",
    ]


@pytest.mark.parametrize("reduced", [True, False])
def test_reduced_motion_removes_transitions(
    open_bar: OpenBar,
    site: ScriptedSite,
    page: Page,
    reduced: bool,
) -> None:
    page.emulate_media(reduced_motion="reduce" if reduced else "no-preference")
    site.reply(answer("running"))
    bar = open_bar()
    expect(part(bar, "fill")).to_have_css("transition-duration", "0s" if reduced else re.compile("0.3s"))


@pytest.mark.parametrize("module", sorted(MODULE.parent.glob("*.js")), ids=lambda module: module.name)
def test_a_module_has_no_static_imports_and_no_html_sinks(module: Path) -> None:
    """It loads other modules from the URLs that it was given, since it can't guess hashed names."""
    assert not re.search(r"^\s*import\b(?!\()", module.read_text(), re.MULTILINE)
    sinks = r"(inner|outer|Adjacent)HTML|set\w*HTML|srcdoc|document\.write|ContextualFragment|\beval\b|Function\("
    assert not re.search(sinks, module.read_text())


def test_only_one_function_turns_text_into_markup() -> None:
    """It uses the policy that a page may list in its `trusted-types`."""
    modules = [path.read_text() for path in MODULE.parent.glob("*.js")]
    parsed = [found for module in modules for found in re.findall(r"parseFromString\((.*?)\(", module)]
    assert parsed == ["policy.createHTML"]

"""`ProgressBar`: a bar on existing elements of a page, with the options of celery-progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.bars import NOT_FOUND, UNAVAILABLE, answer, settle
from tests.scripted_site import Reply, ScriptedSite
from tests.waiting import wait_until

OpenPage = Callable[..., None]

MARKUP = """<!doctype html><html lang="en"><meta charset="utf-8"><body>
<div style="width: 200px"><div id="progress-bar" style="background-color: #68a9ef; width: 0%">&nbsp;</div></div>
<div id="progress-bar-message">Waiting for progress to start…</div><div id="celery-result"></div>
<i id="own-bar"></i><i id="own-message"></i><i id="own-result"></i>"""

#: Records each call of a handler: its name, the ids of its elements, and its other arguments.
START = """async ([handlers, options]) => {
  const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
  window.calls = [];
  const describe = (value) =>
    value instanceof Element ? "#" + value.id : value instanceof Response ? `Response ${value.status}` : value;
  for (const name of handlers)
    options[name] = function (...values) { calls.push([name, this === window.bar, ...values.map(describe)]); };
  window.bar = new ProgressBar("/progress/m1/", options);
}"""


@pytest.fixture
def site(site: ScriptedSite) -> ScriptedSite:
    site.html = MARKUP
    return site


@pytest.fixture
def start(site: ScriptedSite, page: Page) -> OpenPage:
    """A function that opens the page and starts a `ProgressBar` with these recorded handlers and these options."""

    def start_bar(*handlers: str, **options: Any) -> None:
        page.goto(site.url)
        page.evaluate(START, [handlers, options])

    return start_bar


def calls(page: Page) -> list[Any]:
    """Return the calls of handlers, each as `name, ...arguments`."""
    recorded = page.evaluate("calls")
    assert all(is_bar for _, is_bar, *_ in recorded), "`this` is the bar"
    return [[name, *values] for name, _, *values in recorded]


def wait_for_call(page: Page, name: str) -> list[Any]:
    wait_until(lambda: name in [each[0] for each in page.evaluate("calls")])
    return next(each for each in calls(page) if each[0] == name)


BAR, MESSAGE = "#progress-bar", "#progress-bar-message"


# ---- Without handlers: celery-progress's markup, unchanged ----


@pytest.mark.parametrize(
    ("reply", "text", "width", "color"),
    [
        (answer("enqueued", total=None, current=0), "Waiting in the queue", "0px", "rgb(37, 99, 235)"),
        (answer("running"), "Importing: 1,200 of 5,000", "48px", "rgb(37, 99, 235)"),
        (answer("retrying", retry_in=0), "This attempt failed. Retrying now… (attempt 2)", "48px", "rgb(220, 38, 38)"),
        (answer("done"), "Done", "48px", "rgb(21, 128, 61)"),
        (answer("failed", result="Row 7"), "Row 7", "48px", "rgb(220, 38, 38)"),
        (answer("cancelled"), "The task was cancelled.", "48px", "rgb(107, 114, 128)"),
        (answer("skipped"), "The task was skipped.", "48px", "rgb(107, 114, 128)"),
    ],
)
def test_existing_markup_shows_each_state(
    site: ScriptedSite, start: OpenPage, page: Page, reply: Any, text: str, width: str, color: str
) -> None:
    site.reply(reply)
    start()
    expect(page.locator(MESSAGE)).to_have_text(text)
    expect(page.locator(BAR)).to_have_css("width", width)
    expect(page.locator(BAR)).to_have_css("background-color", color)
    assert page.evaluate("bar.state") == reply["state"]


def test_the_result_is_shown_as_text(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("done", result={"rows": 3, "note": "<b>"}))
    start()
    expect(page.locator("#celery-result")).to_have_text("rows: 3, note: <b>")


def test_missing_elements_are_no_error(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.html = "<!doctype html><title>Nothing</title>"
    site.reply(UNAVAILABLE, answer("running"), answer("done", result="/r/"))
    start(download=True)
    page.wait_for_function("bar.state === 'done'")


# ---- Own elements ----


@pytest.mark.parametrize("by", ["Id", "Element"])
def test_a_page_can_use_its_own_elements(site: ScriptedSite, start: OpenPage, page: Page, by: str) -> None:
    site.reply(answer("done", result="All"))
    if by == "Id":
        start(progressBarId="own-bar", progressBarMessageId="own-message", resultElementId="own-result")
    else:
        page.goto(site.url)
        page.evaluate(
            """async () => {
              const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
              const [progressBarElement, progressBarMessageElement, resultElement] =
                ["own-bar", "own-message", "own-result"].map((id) => document.getElementById(id));
              new ProgressBar("/progress/m1/", { progressBarElement, progressBarMessageElement, resultElement });
            }"""
        )
    expect(page.locator("#own-result")).to_have_text("All")
    expect(page.locator("#own-message")).to_have_text("Done")
    expect(page.locator("#own-bar")).to_have_css("background-color", "rgb(21, 128, 61)")
    expect(page.locator(MESSAGE)).to_contain_text("Waiting for progress")


# ---- Handlers ----


def test_on_progress_is_called_for_each_answer(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    first, last = answer("running"), answer("done", current=5000)
    site.reply(first, last)
    start("onProgress", "onSuccess")
    wait_for_call(page, "onSuccess")
    assert calls(page) == [
        ["onProgress", BAR, MESSAGE, first["progress"]],
        ["onProgress", BAR, MESSAGE, last["progress"]],
        ["onSuccess", BAR, MESSAGE, None],
    ]
    expect(page.locator(MESSAGE)).to_have_text("Checking progress…")


def test_on_success_and_on_result_are_called_with_the_result(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("done", result={"rows": 3}))
    start("onSuccess", "onResult")
    assert wait_for_call(page, "onResult") == ["onResult", "#celery-result", {"rows": 3}]
    assert calls(page)[0] == ["onSuccess", BAR, MESSAGE, {"rows": 3}]
    expect(page.locator("#celery-result")).to_have_text("")


@pytest.mark.parametrize(
    ("state", "name"), [("failed", "onTaskError"), ("cancelled", "onTaskError"), ("skipped", "onIgnored")]
)
def test_an_outcome_without_success_is_passed_with_its_message(
    site: ScriptedSite, start: OpenPage, page: Page, state: str, name: str
) -> None:
    site.reply(answer(state, result="Row 7"))
    start("onTaskError", "onIgnored", "onError", "onResult")
    wait_for_call(page, name)
    assert calls(page) == [[name, BAR, MESSAGE, "Row 7"]]


def test_on_retry_is_called_with_the_remaining_seconds(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("retrying", retry_in=12))
    start("onRetry")
    text = "This attempt failed. Retrying in 12 seconds… (attempt 2)"
    assert wait_for_call(page, "onRetry") == ["onRetry", BAR, MESSAGE, text, 12]


OFFLINE = "Connection lost. Trying again…"
ERRORS = [
    (Reply(drop=True), "onNetworkError", OFFLINE, None),
    (UNAVAILABLE, "onHttpError", OFFLINE, "Response 503"),
    (Reply(text="<title>Sign in</title>"), "onDataError", OFFLINE, "Response 200"),
    (Reply(json={"status": "ok"}), "onDataError", OFFLINE, "Response 200"),
    (
        Reply(status=403, json={}),
        "onHttpError",
        "This task isn't available. You may need to sign in again.",
        "Response 403",
    ),
]


@pytest.mark.parametrize(("reply", "name", "text", "data"), ERRORS)
@pytest.mark.parametrize("handler", ["own", "onError"])
def test_each_error_has_a_handler_and_on_error_is_the_default(
    site: ScriptedSite, start: OpenPage, page: Page, reply: Reply, name: str, text: str, data: Any, handler: str
) -> None:
    site.reply(reply)
    handler = name if handler == "own" else "onError"
    start(handler)
    assert wait_for_call(page, handler) == [handler, BAR, MESSAGE, text, data]


@pytest.mark.parametrize(("reply", "text"), [(each[0], each[2]) for each in ERRORS])
def test_an_error_without_a_handler_is_shown(
    site: ScriptedSite, start: OpenPage, page: Page, reply: Reply, text: str
) -> None:
    site.reply(reply)
    start()
    expect(page.locator(MESSAGE)).to_have_text(text)


def test_a_message_that_expires_is_an_http_error(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("running"), NOT_FOUND)
    start("onHttpError")
    assert wait_for_call(page, "onHttpError") == [
        "onHttpError", BAR, MESSAGE, "This task is no longer available. You may need to sign in again.", "Response 404",
    ]  # fmt: skip


def test_a_task_error_defaults_to_on_error(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("failed", result="Row 7"))
    start("onError")
    assert wait_for_call(page, "onError") == ["onError", BAR, MESSAGE, "Row 7"]


# ---- Other options ----


def test_colours_have_celery_progress_s_names_or_those_of_states(
    site: ScriptedSite, start: OpenPage, page: Page
) -> None:
    site.reply(Reply(json=answer("running")), Reply(json=answer("retrying", retry_in=0), held=True), answer("done"))
    start(barColors={"progress": "rgb(1, 1, 1)", "error": "rgb(2, 2, 2)", "done": "rgb(3, 3, 3)", "success": "red"})
    expect(page.locator(BAR)).to_have_css("background-color", "rgb(1, 1, 1)")
    site.release()
    expect(page.locator(BAR)).to_have_css("background-color", "rgb(3, 3, 3)")


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (answer("enqueued", total=None, current=0), "In line"),
        (answer("running", total=None, current=0, description=""), "Begun"),
        (answer("done"), "Ready"),
        (answer("running"), "Importing: 1,200 of 5,000"),
    ],
)
def test_default_messages_have_celery_progress_s_names_or_those_of_texts(
    site: ScriptedSite, start: OpenPage, page: Page, reply: Any, text: str
) -> None:
    site.reply(reply)
    start(defaultMessages={"waiting": "In line", "started": "Begun", "done": "Ready"})
    expect(page.locator(MESSAGE)).to_have_text(text)


def test_the_poll_interval_is_in_milliseconds(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("running", poll_after=3600), answer("done"))
    start(pollInterval=150)
    page.wait_for_function("bar.state === 'done'")
    assert len(site.polls) == 2


def test_options_for_results_work_like_attributes(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(Reply(text="<p id=summary>All there</p>"), path="/summary/")
    site.reply(answer("done", result="https://files.example/rows.zip"))
    start(download="Get it", origins=["https://files.example"], swap="/summary/", showResult=False)
    expect(page.locator(f"{MESSAGE} a")).to_have_attribute("href", "https://files.example/rows.zip")
    expect(page.locator(f"{MESSAGE} a")).to_have_text("Get it")
    expect(page.locator("#celery-result #summary")).to_have_text("All there")
    site.reply(answer("failed"))
    start(retry="/again/")
    expect(page.locator(f"{MESSAGE} a")).to_have_attribute("href", f"{site.url}/again/")


def test_a_result_is_followed(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(Reply(text="<title>The result</title>"), path="/result/")
    site.reply(answer("done", result="/result/"))
    start(redirect=True)
    expect(page).to_have_title("The result")


def test_a_result_that_is_not_a_url_of_this_site_is_not_followed(
    site: ScriptedSite, start: OpenPage, page: Page
) -> None:
    site.reply(answer("done", result="javascript:alert(1)"))
    start(redirect=True, download=True)
    expect(page.locator("#celery-result")).to_have_text("javascript:alert(1)")
    expect(page.locator("a")).to_have_count(0)


def test_events_are_those_of_the_element(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(Reply(json=answer("done", result="All"), held=True))
    start("onSuccess", "onResult")
    page.evaluate("bar.addEventListener('done', (event) => { window.done = event.detail; event.preventDefault() })")
    site.release()
    page.wait_for_function("window.done")
    assert page.evaluate("done.result") == "All"
    assert calls(page) == []


def test_a_bar_can_be_stopped_and_switched_to_another_message(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("running"))
    site.reply(answer("done"), path="/progress/m2/")
    start()
    page.wait_for_function("bar.state === 'running'")
    page.evaluate("bar.stop(); fetch('/after-all-others/')")
    before = settle(page.locator("body"), site)
    assert settle(page.locator("body"), site) == before
    page.evaluate("bar.src = '/progress/m2/'; bar.start()")
    page.wait_for_function("bar.state === 'done'")


def test_bars_with_the_same_list_share_one_request(site: ScriptedSite, start: OpenPage, page: Page) -> None:
    site.reply(answer("running", poll_after=60))
    site.reply(answer("done"), path="/progress/m2/")
    page.goto(site.url)
    page.evaluate(
        """async () => {
          const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
          window.bars = ["m1", "m2"].map((id) => new ProgressBar(`/progress/${id}/`, { list: "/progress/" }));
        }"""
    )
    page.wait_for_function("bars[1].state === 'done'")
    assert site.polls == ["/progress/?id=m1&id=m2"]

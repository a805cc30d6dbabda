"""The cancel button: with scripted answers, and on a real site from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.utils import translation
from playwright.sync_api import Dialog, Locator, Page, Route, expect

from dramatiq_progress.web.texts import CANCEL_TEXTS, page_texts
from tests import policies, servers
from tests.axe import Found
from tests.bars import HEAD, UNAVAILABLE, OpenBar, answer, expect_state, part
from tests.scripted_site import ScriptedSite
from tests.test_bar_policies import RECORD_VIOLATIONS
from tests.waiting import wait_until

CANCEL_URL = "/progress/m1/cancel/"
#: Polled by the button if the bar's answers don't include the permission.
PERMISSION_URL = "/progress/m1/?can_cancel"
OFFERED = {"can_cancel": True}
REQUESTED = {"cancel_requested": True}
WITH_BUTTON = f'cancel="{CANCEL_URL}" csrf-cookie="csrftoken"'


class Presses:
    """The requests of the button, and the server's replies. After a 200, polls get the same answer."""

    def __init__(self, page: Page, site: ScriptedSite) -> None:
        self.site = site
        self.bodies: list[dict[str, list[str]]] = []
        self.status, self.answer = 200, answer("running", extra=REQUESTED)
        self.is_held = self.is_offline = False
        self._held: list[Route] = []
        page.route(f"**{CANCEL_URL}", self._reply)

    def _reply(self, route: Route) -> None:
        assert route.request.method == "POST"
        self.bodies.append(parse_qs(route.request.post_data or "", keep_blank_values=True))
        if self.is_offline:
            route.abort()
        elif self.is_held:
            self._held.append(route)
        else:
            self._fulfill(route)

    def release(self) -> None:
        for route in self._held:
            self._fulfill(route)

    def _fulfill(self, route: Route) -> None:
        if self.status == 200:
            self.site.reply(self.answer)
        route.fulfill(status=self.status, content_type="application/json", body=json.dumps(self.answer))


@pytest.fixture
def presses(page: Page, site: ScriptedSite) -> Presses:
    return Presses(page, site)


def button(bar: Locator) -> Locator:
    return bar.get_by_role("button")


def test_a_press_sends_the_request_and_shows_that_the_task_is_being_cancelled(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses
) -> None:
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(f'{WITH_BUTTON} label="Import"')
    page.context.add_cookies([{"name": "csrftoken", "value": "fresh", "url": site.url}])
    expect(button(bar)).to_have_accessible_name("Cancel: Import")
    presses.is_held = True
    # The keyboard is enough.
    page.keyboard.press("Tab")
    expect(button(bar)).to_be_focused()
    page.keyboard.press("Enter")
    expect(button(bar)).to_have_attribute("aria-disabled", "true")
    button(bar).dispatch_event("click")
    presses.release()
    expect(part(bar, "text")).to_have_text("Cancelling…")
    expect(part(bar, "text")).to_be_focused()
    expect(part(bar, "cancel")).to_be_hidden()
    site.reply(answer("cancelled", result="The task was cancelled."))
    expect_state(bar, "cancelled")
    expect(part(bar, "text")).to_have_text("The task was cancelled.")
    expect(part(bar, "cancel")).to_be_hidden()
    assert presses.bodies == [{"csrfmiddlewaretoken": ["fresh"]}]


def test_the_button_is_shown_only_while_the_server_allows_it(site: ScriptedSite, open_bar: OpenBar) -> None:
    site.reply(answer("running"))
    bar = open_bar(WITH_BUTTON)
    expect_state(bar, "running")
    expect(button(bar)).to_have_count(0)
    site.reply(answer("running", current=1300, extra=OFFERED))
    expect(button(bar)).to_be_visible()
    site.reply(answer("done"))
    expect_state(bar, "done")
    expect(button(bar)).to_be_hidden()


def test_a_warning_for_the_developer_is_written_to_the_console_once(
    site: ScriptedSite, page: Page, open_bar: OpenBar
) -> None:
    """The page says there why a bar has no button."""
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    site.reply(answer("running"))
    bar = open_bar('warning="No cancel button: …"')
    bar.evaluate("bar => document.body.append(bar)")
    expect_state(bar, "running")
    page.evaluate("fetch('/after-all-others/')")
    assert [each.partition(" JSHandle")[0] for each in warnings] == ["No cancel button: …"]


def test_without_the_attribute_nothing_is_loaded_or_requested(site: ScriptedSite, open_bar: OpenBar) -> None:
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar()
    expect_state(bar, "running")
    assert not any("cancel" in each for each in site.files + site.polls)
    expect(button(bar)).to_have_count(0)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (401, "cancelForbidden"),
        (403, "cancelForbidden"),
        (404, "cancelGone"),
        (409, "cancelRefused"),
        (500, "cancelFailed"),
        (503, "cancelFailed"),
        (None, "cancelFailed"),
    ],
)
def test_an_error_is_shown_and_the_button_can_be_pressed_again(
    site: ScriptedSite, open_bar: OpenBar, presses: Presses, status: int | None, name: str
) -> None:
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(WITH_BUTTON)
    presses.is_offline, presses.status = status is None, status or 0
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS[name])
    expect(button(bar)).to_have_attribute("aria-disabled", "false")
    presses.is_offline, presses.status = False, 200
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS["cancelling"])
    assert len(presses.bodies) == 2


def test_an_error_is_shown_for_some_seconds(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses
) -> None:
    page.clock.install()
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(WITH_BUTTON)
    presses.status = 503
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS["cancelFailed"])
    page.clock.run_for(8_000)
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")
    expect(button(bar)).to_be_visible()


def open_paused(site: ScriptedSite, page: Page, open_bar: OpenBar) -> Any:
    """Open a bar with a button, which has its first answer, and whose clock stands still from then on."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(WITH_BUTTON)
    page.clock.run_for(1)
    return bar


def test_an_error_in_an_outage_is_shown_and_announced_before_the_next_answer(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses
) -> None:
    bar = open_paused(site, page, open_bar)
    expect(button(bar)).to_be_visible()
    site.reply(UNAVAILABLE)
    presses.is_offline = True
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS["cancelFailed"])
    expect(part(bar, "status")).to_contain_text(CANCEL_TEXTS["cancelFailed"])


def test_an_error_of_another_message_is_not_shown(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses
) -> None:
    bar = open_paused(site, page, open_bar)
    presses.is_held, presses.status = True, 503
    button(bar).click()
    wait_until(lambda: page.evaluate("true") and presses.bodies)
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    presses.release()
    expect(button(bar)).to_have_attribute("aria-disabled", "false")
    expect(part(bar, "text")).to_have_text("Checking progress…")


@pytest.mark.parametrize("confirms", [True, False])
def test_a_page_can_require_a_confirmation(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses, confirms: bool
) -> None:
    questions: list[str] = []

    def reply(dialog: Dialog) -> None:
        questions.append(dialog.message)
        dialog.accept() if confirms else dialog.dismiss()

    page.on("dialog", reply)
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(f'{WITH_BUTTON} cancel-confirm="Stop the import?"')
    button(bar).click()
    page.evaluate("fetch('/after-all-others/')")
    assert questions == ["Stop the import?"]
    assert len(presses.bodies) == (1 if confirms else 0)


@pytest.mark.parametrize(
    ("attributes", "sent"),
    [
        ('aria-label="Import" csrf="of the page"', "of the page"),
        ('csrf-cookie="other" csrf="of the page"', "of the page"),
        ("", ""),
    ],
)
def test_the_token_can_be_in_the_page(
    site: ScriptedSite, open_bar: OpenBar, presses: Presses, attributes: str, sent: str
) -> None:
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(f'cancel="{CANCEL_URL}" {attributes}')
    expect(button(bar)).to_have_accessible_name("Cancel: Import" if "label" in attributes else "Cancel: Import rows")
    button(bar).click()
    wait_until(lambda: presses.bodies)
    assert presses.bodies == [{"csrfmiddlewaretoken": [sent]}]


def test_the_token_is_never_sent_to_another_site(site: ScriptedSite, page: Page, open_bar: OpenBar) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar('cancel="https://elsewhere.example/cancel/" csrf="secret"')
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS["cancelForbidden"])
    assert not any("elsewhere" in each for each in sent)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_permission_that_answers_do_not_include_is_requested_once(
    site: ScriptedSite, page: Page, is_allowed: bool
) -> None:
    """Streams and messages without an owner don't include it."""
    site.reply(answer("running", extra={"can_cancel": is_allowed}), path=PERMISSION_URL)
    for each in ("m1", "m2"):
        site.reply(answer("running"), path=f"/progress/{each}/")
    bars = [
        f'<dramatiq-progress src="/progress/{each}/" list="/progress/" {attributes}></dramatiq-progress>'
        for each, attributes in (("m1", WITH_BUTTON), ("m2", ""))
    ]
    site.html = f"{HEAD}<body>{''.join(bars)}"
    page.goto(site.url)
    wait_until(lambda: PERMISSION_URL in site.polls)
    site.wait_for_polls(len(site.polls) + 3)
    expect(page.get_by_role("button")).to_have_count(1 if is_allowed else 0)
    assert site.polls.count(PERMISSION_URL) == 1


def test_the_permission_is_requested_again_after_a_server_error(site: ScriptedSite, open_bar: OpenBar) -> None:
    site.reply(UNAVAILABLE, answer("running", extra=OFFERED), path=PERMISSION_URL)
    site.reply(answer("running"))
    expect(button(open_bar(WITH_BUTTON))).to_be_visible()


def test_a_bar_on_the_page_s_own_elements_has_a_button(site: ScriptedSite, page: Page, presses: Presses) -> None:
    site.reply(answer("running", extra=OFFERED))
    site.html = f"""{HEAD}<body><div id="progress-bar"></div><p id="progress-bar-message"></p><p id="place"></p>
      <script type="module">
        import {{ ProgressBar }} from "/static/dramatiq_progress/dramatiq-progress.js";
        const cancelElement = document.getElementById("place");
        new ProgressBar("/progress/m1/", {{ cancel: "{CANCEL_URL}", cancelElement, csrf: "of the page" }});
      </script>"""
    page.goto(site.url)
    page.locator("#place").get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress-bar-message")).to_have_text(CANCEL_TEXTS["cancelling"])
    assert presses.bodies == [{"csrfmiddlewaretoken": ["of the page"]}]


def test_it_is_in_the_language_of_the_page(site: ScriptedSite, open_bar: OpenBar, presses: Presses) -> None:
    with translation.override("de"):
        texts = page_texts()
    site.reply(answer("running", extra=OFFERED))
    meta = f"<meta name='dramatiq-progress-texts' content='{escape(json.dumps(texts))}'>"
    bar = open_bar(f'{WITH_BUTTON} text-cancelling="Gleich…"', head=meta)
    button(bar).click()
    expect(part(bar, "text")).to_have_text("Gleich…")
    expect(part(bar, "cancel")).to_have_text("Abbrechen")


def test_english_texts_are_those_of_the_module(site: ScriptedSite, page: Page) -> None:
    site.html = "<!doctype html><title>Texts</title>"
    page.goto(site.url)
    texts = page.evaluate("import('/static/dramatiq_progress/dramatiq-progress-cancel.js').then(({ TEXTS }) => TEXTS)")
    assert texts == CANCEL_TEXTS


# ---- On a real site ----


def test_a_visitor_cancels_an_import(valkey: str, page: Page, tmp_path: Path) -> None:
    """With a form, cookies, Django's CSRF protection, a worker, and an actor that runs for a minute."""
    environment = {
        "TEST_BROKER_URL": f"{valkey}/10",
        "TEST_STORE_URL": f"{valkey}/11",
        "TEST_UPLOADS": str(tmp_path),
        "TEST_DJANGO_MIDDLEWARE": json.dumps(["django.middleware.csrf.CsrfViewMiddleware"]),
        "TEST_PROGRESS": json.dumps({"CANCEL_PERMISSION": "dramatiq_progress.permissions.anyone_with_link"}),
    }
    table = tmp_path / "people.csv"
    table.write_text("name\n" + "\n".join(f"person {number}" for number in range(30_000)))
    with (
        servers.site(log=tmp_path / "site.log", environment=environment) as url,
        servers.worker("-p", "1", "-t", "1", log=tmp_path / "worker.log", environment=environment),
    ):
        page.goto(url)
        page.set_input_files("input[type=file]", table)
        page.click("button")
        page.wait_for_url("**/import/*/")
        page.goto(f"{page.url}?button")
        bar = page.locator("dramatiq-progress")
        expect_state(bar, "running")
        button(bar).click()
        expect(bar).to_have_attribute("state", "cancelled")
        expect(bar).to_contain_text("The task was cancelled.")
        expect(button(bar)).to_be_hidden()


# ---- Accessibility and policies ----


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("pressed", [False, True])
def test_axe_finds_nothing(
    run_axe: Callable[[Page], Found],
    site: ScriptedSite,
    page: Page,
    presses: Presses,
    scheme: Any,
    pressed: bool,
) -> None:
    page.emulate_media(color_scheme=scheme)
    site.reply(answer("running", extra=OFFERED))
    site.html = f"""{HEAD}<title>Import</title><style>body {{ background: Canvas; color: CanvasText }}</style>
      <main><h1>Import</h1>
      <dramatiq-progress src="/progress/m1/" {WITH_BUTTON} label="Import"></dramatiq-progress></main>"""
    page.goto(site.url)
    bar = page.locator("dramatiq-progress")
    expect(button(bar)).to_be_visible()
    if pressed:
        button(bar).click()
        expect(part(bar, "text")).not_to_be_empty()
    found = run_axe(page)
    assert found.violations == {}
    # The hidden button.
    assert set(found.incomplete) <= {"hidden-content"}
    shown = 'part="text"' if pressed else "cancel"
    assert any(shown in html for html in found.passes["color-contrast"])


@pytest.mark.parametrize("policy", [policies.STRICT, policies.TRUSTED], ids=["strict", "trusted"])
def test_it_violates_no_strict_policy(
    site: ScriptedSite, page: Page, open_bar: OpenBar, presses: Presses, policy: Any
) -> None:
    site.page_headers = {"Content-Security-Policy": policies.header(policy)}
    page.add_init_script(RECORD_VIOLATIONS)
    site.reply(answer("running", extra=OFFERED))
    bar = open_bar(WITH_BUTTON)
    button(bar).click()
    expect(part(bar, "text")).to_have_text(CANCEL_TEXTS["cancelling"])
    expect(part(bar, "text")).to_have_css("overflow-wrap", "anywhere")
    assert page.evaluate("violations") == []


# ---- The template tag ----


def rendered(attributes: str, **settings: Any) -> str:
    request = RequestFactory().get("/")
    tag = "{% dramatiq_progress 'm1' fallback=False " + attributes + " %}"
    html = Template("{% load dramatiq_progress %}" + tag).render(RequestContext(request))
    assert ("CSRF_COOKIE" in request.META) == ("cancel=" in html)
    return html


def test_the_tag_names_the_cookie_with_the_token() -> None:
    html = rendered('cancel=True cancel_confirm="Really?"')
    assert 'cancel="/progress/m1/cancel/"' in html and 'csrf-cookie="csrftoken"' in html and "csrf=" not in html
    assert 'cancel-module="/static/dramatiq_progress/dramatiq-progress-cancel.js"' in html
    assert 'cancel-confirm="Really?"' in html


@pytest.mark.parametrize("setting", ["CSRF_COOKIE_HTTPONLY"])
def test_the_tag_writes_the_token_if_scripts_cannot_read_the_cookie(settings: Any, setting: str) -> None:
    setattr(settings, setting, True)
    html = rendered("cancel=True")
    assert ' csrf="' in html and "csrf-cookie" not in html


@pytest.mark.parametrize("attributes", ["", "cancel=False", "cancel=None"])
def test_without_a_button_there_is_no_token(attributes: str) -> None:
    assert "csrf" not in rendered(attributes) and "cancel" not in rendered(attributes)


def test_a_button_needs_a_request() -> None:
    with pytest.raises(ImproperlyConfigured, match="needs the request"):
        Template("{% load dramatiq_progress %}{% dramatiq_progress 'm1' cancel=True %}").render(Context())

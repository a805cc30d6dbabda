"""The bar under Content Security Policies: no state, outcome or stream violates one; nonces; trusted types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from dramatiq_progress import State
from tests import policies
from tests.bars import HEAD, answer, part
from tests.looks import LOOKS, open_looks
from tests.scripted_site import Reply, ScriptedSite
from tests.servers import ROOT
from tests.store_server import Server
from tests.streaming_site import begin, report, serve

#: The fixture `page` fails for violations in the console, which aren't all. The browser's event reports all.
RECORD_VIOLATIONS = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sample }) =>
    violations.push([violatedDirective, blockedURI, sample]));
"""


def test_the_documented_policy_is_tested() -> None:
    docs = (ROOT / "docs" / "bar.md").read_text()
    assert f"`{policies.header(policies.STRICT)}`" in docs


@pytest.mark.parametrize("policy", [policies.STRICT, policies.TRUSTED], ids=["strict", "trusted"])
def test_no_state_violates_a_strict_policy(site: ScriptedSite, page: Page, policy: Any) -> None:
    site.page_headers = {"Content-Security-Policy": policies.header(policy)}
    page.add_init_script(RECORD_VIOLATIONS)
    open_looks(page, site)
    # The stylesheet was loaded, and the length, which a script sets, was applied.
    fill = part(page.locator("#running dramatiq-progress"), "fill")
    expect(fill).to_have_css("border-radius", "4px")
    assert fill.evaluate("fill => fill.style.inlineSize") == "62%"
    assert len(LOOKS) == page.locator("dramatiq-progress[state]").count()
    assert page.evaluate("violations") == []


def test_a_violation_is_detected(browser: Browser, site: ScriptedSite) -> None:
    site.page_headers = {"Content-Security-Policy": policies.header(policies.TRUSTED)}
    site.html = "<title>Violations</title>"
    # The fixture `page` would fail for the error in the console.
    with browser.new_page() as page:
        page.add_init_script(RECORD_VIOLATIONS)
        page.goto(site.url)
        page.evaluate("document.body.setAttribute('style', 'color: red')")
        page.wait_for_function("violations.length")
        assert page.evaluate("violations[0][0]") == "style-src-attr"


@pytest.mark.parametrize(
    "policy", [policies.STRICT, policies.WITH_NONCE, policies.TRUSTED], ids=["strict", "nonce", "trusted"]
)
@pytest.mark.parametrize("middleware", policies.MIDDLEWARE)
def test_no_stream_and_no_outcome_violates_a_policy_of_django(
    server: Server, tmp_path: Path, page: Page, policy: Any, middleware: str
) -> None:
    """With Django's own middleware, if it has one, and with django-csp."""
    page.add_init_script(RECORD_VIOLATIONS)
    environment = {
        "TEST_DJANGO_MIDDLEWARE": json.dumps([policies.MIDDLEWARE[middleware]]),
        "TEST_POLICY": json.dumps(policy),
    }
    with serve(tmp_path, server.url, **environment) as site:
        attempts = [begin(site.store, f"m{number}") for number in (1, 2, 3, 4)]
        with page.expect_request("**/progress/stream/?**"):
            response = page.goto(f"{site.url}/ends/")
        assert response
        kept = re.sub("'nonce-[^']+'", policies.NONCE, response.headers["content-security-policy"])
        assert _directives(kept) == _directives(policies.header(policy))
        bars = page.locator("dramatiq-progress")
        report(site.store, attempts[0], 5000)
        expect(part(bars.first, "percent")).to_have_text("50%")
        for attempt, result in zip(attempts[:3], ({"rows": 3}, "/exports/7.zip", "all"), strict=True):
            site.store.finish(attempt, state=State.DONE, fields={"result": json.dumps(result)})
        site.store.finish(attempts[3], state=State.FAILED)
        expect(part(bars.first, "text")).to_have_text("rows: 3")
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        expect(page.locator("#summary b")).to_have_text("there")
        expect(page.get_by_role("link", name="Try again")).to_be_visible()
        expect(part(bars.first, "track")).to_have_css("border-radius", "4px")
        assert page.evaluate("violations") == []


def _directives(header: str) -> set[str]:
    return {each.strip() for each in header.split(";")}


@pytest.mark.parametrize("middleware", policies.MIDDLEWARE)
@pytest.mark.parametrize("policy", [policies.WITH_NONCE, policies.STRICT], ids=["nonce", "strict"])
def test_a_nonce_is_in_the_policy_only_if_the_page_uses_it(
    client: Any, settings: Any, middleware: str, policy: Any
) -> None:
    """A nonce disables `'unsafe-inline'`, so a page without our tag must not get one."""
    settings.MIDDLEWARE = [policies.MIDDLEWARE[middleware]]
    settings.SECURE_CSP, settings.CONTENT_SECURITY_POLICY = policies.read(json.dumps(policy))
    with_tag, without = client.get("/ends/"), client.get("/")
    nonces = re.findall('nonce="([^"]+)"', with_tag.content.decode())
    assert len(nonces) == 2
    assert len(set(nonces)) == 1
    is_expected = policy is policies.WITH_NONCE
    assert (f"'nonce-{nonces[0]}'" in with_tag.headers["Content-Security-Policy"]) == is_expected
    assert "nonce-" not in without.headers["Content-Security-Policy"]
    assert client.get("/ends/").content != with_tag.content


def test_a_result_is_followed_under_a_strict_policy(site: ScriptedSite, page: Page) -> None:
    site.page_headers = {"Content-Security-Policy": policies.header(policies.TRUSTED)}
    site.reply(Reply(text="<title>The result</title>"), path="/result/")
    site.reply(answer("done", result="/result/"))
    site.html = f'{HEAD}<body><dramatiq-progress src="/progress/m1/" redirect></dramatiq-progress>'
    page.goto(site.url)
    expect(page).to_have_title("The result")


def test_the_result_is_text_if_trusted_types_exclude_our_policy(browser: Browser, site: ScriptedSite) -> None:
    policy = policies.TRUSTED | {"trusted-types": ["another"]}
    site.page_headers = {"Content-Security-Policy": policies.header(policy)}
    site.reply(Reply(text="<p id=summary>All there</p>"), path="/summary/")
    site.reply(answer("done", result={"rows": 3}))
    site.html = f'{HEAD}<body><dramatiq-progress src="/progress/m1/" swap="/summary/"></dramatiq-progress>'
    # The fixture `page` would fail for the violation in the console.
    with browser.new_page() as page:
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site.url)
        bar = page.locator("dramatiq-progress")
        expect(part(bar, "text")).to_have_text("rows: 3")
        assert errors == []

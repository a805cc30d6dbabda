"""What a page can restyle, and what moves: each property and part that docs/bar.md lists does what it says."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import policies
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.looks import LOOKS, NEVER, open_looks
from tests.scripted_site import STATIC, Reply, ScriptedSite
from tests.servers import ROOT

STYLESHEET = (STATIC / "dramatiq_progress" / "dramatiq-progress.css").read_text()
DOCS = (ROOT / "docs" / "bar.md").read_text()

#: What a property is set to, and where it is seen: in this look, at this part, as this property.
PROPERTIES = {
    "color": ("rgb(1, 1, 1)", "running", "fill", "background-color"),
    "done-color": ("rgb(2, 2, 2)", "done", "fill", "background-color"),
    "failed-color": ("rgb(3, 3, 3)", "failed", "fill", "background-color"),
    "trouble-color": ("rgb(4, 4, 4)", "offline", "note", "color"),
    "idle-color": ("rgb(5, 5, 5)", "denied", "fill", "background-color"),
    "retrying-color": ("rgb(6, 6, 6)", "retrying", "fill", "background-color"),
    "lost-color": ("rgb(7, 7, 7)", "lost", "fill", "background-color"),
    "waiting-color": ("rgb(8, 8, 8)", "waiting", "fill", "background-color"),
    "enqueued-color": ("rgb(9, 9, 9)", "enqueued", "fill", "background-color"),
    "delayed-color": ("rgb(10, 10, 10)", "delayed", "fill", "background-color"),
    "cancelled-color": ("rgb(11, 11, 11)", "cancelled", "fill", "background-color"),
    "skipped-color": ("rgb(12, 12, 12)", "skipped", "fill", "background-color"),
    "not-found-color": ("rgb(13, 13, 13)", "not-found", "fill", "background-color"),
    "expired-color": ("rgb(14, 14, 14)", "expired", "fill", "background-color"),
    "track-color": ("rgb(15, 15, 15)", "running", "track", "background-color"),
    "text-color": ("rgb(16, 16, 16)", "running", "text", "color"),
    "font-size": ("21px", "running", "text", "font-size"),
    "height": ("22px", "running", "track", "height"),
    "radius": ("3px", "running", "track", "border-top-left-radius"),
    "gap": ("24px", "running", "line", "margin-bottom"),
    "transition-duration": ("0.01s", "running", "fill", "transition-duration"),
}
#: The colours that stand for several states: without one of their own, these have it.
SHARED = {
    "trouble-color": ["retrying", "lost"],
    "idle-color": ["waiting", "enqueued", "delayed", "cancelled", "skipped"],
}


def test_every_property_of_the_stylesheet_is_documented_and_tried_here() -> None:
    used = set(re.findall(r"var\(--dramatiq-progress-([a-z-]+)", STYLESHEET))
    listed = DOCS.partition("| property |")[2].partition("\n\n")[0]
    assert used == set(re.findall(r"`(?:--dramatiq-progress|…)-([a-z-]+)`", listed)) == set(PROPERTIES)


@pytest.mark.parametrize("properties", [set(PROPERTIES) - set(SHARED), set(SHARED)], ids=["own", "shared"])
def test_a_page_restyles_by_property(site: ScriptedSite, page: Page, properties: set[str]) -> None:
    """Each of a bar's own, and those that stand for several where these are not set."""
    rules = "".join(f"--dramatiq-progress-{name}: {PROPERTIES[name][0]};" for name in properties)
    open_looks(page, site, style=f"<style>:root {{ {rules} }}</style>")
    for name in properties:
        value, look, where, seen_as = PROPERTIES[name]
        if name != "idle-color":
            expect(_part(page, look, where)).to_have_css(seen_as, re.compile(rf"^{re.escape(value)}(, {value})*$"))
        for each in SHARED.get(name, []):
            expect(_part(page, each, "fill")).to_have_css("background-color", value)


def test_every_part_is_documented_and_can_be_restyled(site: ScriptedSite, page: Page) -> None:
    """The link and the button that cancels are never in one bar."""
    listed = DOCS.partition("For more there are parts:")[2].partition(". ")[0]
    names = re.findall(r"`([a-z-]+)`", listed)
    rules = "".join(
        f"dramatiq-progress::part({name}) {{ outline: {width}px solid }}" for width, name in enumerate(names, 1)
    )
    looks = [each for each in LOOKS if each.name in ("done-download", "cancel")]
    open_looks(page, site, looks, style=f"<style>{rules}</style>")
    there: set[str] = set()
    for look in looks:
        bar = page.locator(f"#{look.name} dramatiq-progress")
        inside = bar.evaluate(
            "bar => [...bar.shadowRoot.querySelectorAll('*')].map((each) => each.getAttribute('part'))"
        )
        there.update(inside)
        for name in inside:
            expect(part(bar, name)).to_have_css("outline-width", f"{names.index(name) + 1}px")
    assert there == set(names)


def test_a_rule_of_the_page_wins_however_weak(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("done", result="/x/", poll_after=NEVER))
    style = "<style>:where(dramatiq-progress) { display: flex } ::part(link) { color: rgb(1, 2, 3) }</style>"
    bar = open_bar("download", head=style)
    expect(part(bar, "link")).to_have_css("color", "rgb(1, 2, 3)")
    expect(bar).to_have_css("display", "flex")


@pytest.mark.parametrize("host", ["<div>{}</div>", '<div><template shadowrootmode="open">{}</template></div>'])
def test_where_no_stylesheet_arrives_a_bar_is_plain_and_not_broken(site: ScriptedSite, page: Page, host: str) -> None:
    """By `adoptedStyleSheets`, which a policy that forbids style elements lets pass."""
    site.page_headers = {"Content-Security-Policy": policies.header(policies.STRICT)}
    site.say(answer("running", current=25, total=100, poll_after=NEVER))
    script = '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
    bar = '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'
    site.html = f"<!doctype html><meta charset=utf-8>{script}<body>{host.format(bar)}"
    page.goto(site.url)
    plain = page.locator("dramatiq-progress")
    expect(part(plain, "text")).to_have_text("25 of 100. Importing")
    expect(part(plain, "track")).to_have_css("height", "8px")
    expect(part(plain, "fill")).to_have_css("background-color", "rgb(37, 99, 235)")
    assert _share(plain) == pytest.approx(0.25, abs=0.001)
    # Read aloud, and not seen a second time.
    expect(part(plain, "status")).to_have_css("clip-path", "inset(50%)")
    expect(part(plain, "status")).to_have_css("position", "fixed")


def test_in_a_shadow_root_of_the_page_the_stylesheet_is_linked_once_more(site: ScriptedSite, page: Page) -> None:
    """The styles of a page end where a shadow root begins, also under a policy that forbids style elements."""
    site.page_headers = {"Content-Security-Policy": policies.header(policies.STRICT)}
    site.say(answer("running", total=None, poll_after=NEVER))
    bar = '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'
    link = '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress.css">'
    site.html = f'{HEAD}<body><div><template shadowrootmode="open">{link}{bar}</template></div>'
    page.goto(site.url)
    styled = page.locator("dramatiq-progress")
    expect(styled).to_have_attribute("state", "running")
    expect(part(styled, "track")).to_have_css("border-radius", "4px")
    expect(part(styled, "status")).to_have_css("position", "absolute")
    expect(part(styled, "fill")).to_have_css("transition-duration", re.compile("0.3s"))


MOTIONS = """(bar) => bar.shadowRoot.getAnimations().map((each) => [
  each.constructor.name, each.transitionProperty, each.effect.target.getAttribute("part"),
]).sort()"""


def test_only_what_was_reported_moves_and_by_a_transition(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(
        answer("running", current=20, total=100),
        Reply(json=answer("running", current=60, total=100, poll_after=NEVER), held=True),
    )
    bar = open_bar(head="<style>:root { --dramatiq-progress-transition-duration: 1000s }</style>")
    expect(part(bar, "percent")).to_have_text("20%")
    _end_motions(bar)
    assert _share(bar) == pytest.approx(0.2, abs=0.001)
    assert bar.evaluate(MOTIONS) == []
    site.let_go()
    expect(part(bar, "percent")).to_have_text("60%")
    assert bar.evaluate(MOTIONS) == [["CSSTransition", "width", "fill"]]
    _end_motions(bar)
    assert _share(bar) == pytest.approx(0.6, abs=0.001)
    assert bar.evaluate(MOTIONS) == []


def test_where_no_percentage_is_known_a_piece_goes_a_step_with_each_report(
    open_bar: OpenBar, site: ScriptedSite
) -> None:
    site.say(
        *[answer("running", total=None, version=4)] * 3,
        Reply(json=answer("running", total=None, version=5, poll_after=NEVER), held=True),
    )
    bar = open_bar(head="<style>:root { --dramatiq-progress-transition-duration: 1000s }</style>")
    site.wait_for_polls(2)
    expect_state(bar, "running")
    _end_motions(bar)
    before = _span(bar)
    # Two more answers say that it is alive, and nothing more.
    site.wait_for_polls(4)
    assert bar.evaluate(MOTIONS) == []
    site.let_go()
    bar.page.wait_for_function("document.querySelector('dramatiq-progress').shadowRoot.getAnimations().length")
    assert bar.evaluate(MOTIONS) == [["CSSTransition", "left", "fill"]]
    _end_motions(bar)
    assert _span(bar) == [pytest.approx(each + 0.07, abs=0.001) for each in before]


@pytest.mark.parametrize("version", [0, 1, 8, 9, 17, 10**6])
def test_a_piece_never_looks_like_a_length(open_bar: OpenBar, site: ScriptedSite, version: int) -> None:
    site.say(answer("running", total=None, version=version, poll_after=NEVER))
    bar = open_bar()
    expect_state(bar, "running")
    _end_motions(bar)
    begin, end = _span(bar)
    assert 0.06 < begin < end < 0.99


def _span(bar: Locator) -> list[float]:
    """Where the filled part begins and ends, as parts of the track."""
    span: list[float] = bar.evaluate(
        """bar => {
          const [track, fill] = ["track", "fill"].map((name) =>
            bar.shadowRoot.querySelector(`[part=${name}]`).getBoundingClientRect());
          return [fill.left, fill.right].map((at) => (at - track.left) / track.width);
        }"""
    )
    return span


def _end_motions(bar: Locator) -> None:
    # The one of a change that was just drawn begins with the next frame.
    bar.evaluate(
        """async bar => {
          await new Promise((goOn) => requestAnimationFrame(() => requestAnimationFrame(goOn)));
          bar.shadowRoot.getAnimations().forEach((each) => each.finish());
        }"""
    )


def _share(bar: Locator) -> float:
    """How much of the track is filled."""
    begin, end = _span(bar)
    return end - begin


def _part(page: Page, look: str, name: str) -> Locator:
    return part(page.locator(f"#{look} dramatiq-progress"), name)

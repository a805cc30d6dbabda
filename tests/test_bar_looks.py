"""Styles of the bar: each property and part in docs/bar.md works, and only changes are animated."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import policies
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.looks import LOOKS, NEVER, open_looks
from tests.scripted_site import STATIC, ScriptedSite
from tests.servers import ROOT

STYLESHEET = (STATIC / "dramatiq_progress" / "dramatiq-progress.css").read_text()
DOCS = (ROOT / "docs" / "bar.md").read_text()

#: The value of each property, and where it has an effect: the look, the part, and the CSS property.
PROPERTIES = {
    "color": ("rgb(1, 1, 1)", "running", "fill", "background-color"),
    "done-color": ("rgb(2, 2, 2)", "done", "fill", "background-color"),
    "failed-color": ("rgb(3, 3, 3)", "failed", "fill", "background-color"),
    "trouble-color": ("rgb(4, 4, 4)", "retrying", "fill", "background-color"),
    "idle-color": ("rgb(5, 5, 5)", "cancelled", "fill", "background-color"),
    "track-color": ("rgb(6, 6, 6)", "running", "track", "background-color"),
    "text-color": ("rgb(7, 7, 7)", "running", "title", "color"),
    "muted-color": ("rgb(8, 8, 8)", "running", "text", "color"),
    "percent-color": ("rgb(9, 9, 9)", "running", "percent", "color"),
    "action-color": ("rgb(10, 10, 10)", "cancel", "cancel", "color"),
    "font-size": ("20px", "running", "box", "font-size"),
    "title-size": ("21px", "running", "title", "font-size"),
    "title-weight": ("300", "running", "title", "font-weight"),
    "help-size": ("11px", "running", "text", "font-size"),
    "actions-width": ("123px", "cancel", "actions", "min-width"),
    "ended-scale": ("0.5", "done", "track", "scale"),
    "height": ("22px", "running", "track", "height"),
    "radius": ("3px", "running", "track", "border-top-left-radius"),
    "gap": ("24px", "running", "track", "margin-bottom"),
    "transition-duration": ("0.01s", "running", "fill", "transition-duration"),
}
#: Properties of pseudo-elements: where they have an effect, and the CSS property.
OF_PSEUDO_ELEMENTS = {
    "on-sign-color": ("rgb(14, 14, 14)", "done", "sign", "::after", "backgroundColor"),
    "reserve": ('"x"', "running", "words", "::after", "content"),
}


def test_every_property_of_the_stylesheet_is_documented_and_tested() -> None:
    used = set(re.findall(r"var\(--dramatiq-progress-([a-z-]+)", STYLESHEET))
    listed = DOCS.partition("| property |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"`(?:--dramatiq-progress|…)-([a-z-]+)`", listed))
    assert used == documented == set(PROPERTIES) | set(OF_PSEUDO_ELEMENTS)


def test_a_page_can_set_every_property(site: ScriptedSite, page: Page) -> None:
    values = {name: value for name, (value, *_) in (PROPERTIES | OF_PSEUDO_ELEMENTS).items()}
    rules = "".join(f"--dramatiq-progress-{name}: {value};" for name, value in values.items())
    open_looks(page, site, style=f"<style>:root {{ {rules} }}</style>")
    for value, look, where, seen_as in PROPERTIES.values():
        shown = "1 0.5" if seen_as == "scale" else value
        expect(_part(page, look, where)).to_have_css(seen_as, re.compile(rf"^{re.escape(shown)}(, {value})*$"))
    for value, look, where, pseudo, seen_as in OF_PSEUDO_ELEMENTS.values():
        script = "(part, [pseudo, name]) => getComputedStyle(part, pseudo)[name]"
        assert _part(page, look, where).evaluate(script, [pseudo, seen_as]) == value


def test_every_part_is_documented_and_can_be_styled(site: ScriptedSite, page: Page) -> None:
    """Links, buttons and failed members are never in the same bar."""
    listed = DOCS.partition("For more there are parts:")[2].partition("\n\n")[0]
    names = re.findall(r"`([a-z-]+)`", listed)
    looks = [each for each in LOOKS if each.name in ("done-download", "cancel", "failed-retry", "group")]
    open_looks(page, site, looks, style="<style></style>")
    there: set[str] = set()
    for look in looks:
        bar = page.locator(f"#{look.name} dramatiq-progress")
        inside = bar.evaluate("bar => [...bar.shadowRoot.querySelectorAll('*')].flatMap((each) => [...each.part])")
        there.update(inside)
        for name in set(inside):
            rule = f"dramatiq-progress::part({name}) {{ outline: 7px solid }}"
            page.evaluate("rule => { document.querySelector('style').textContent = rule }", rule)
            expect(part(bar, name)).to_have_css("outline-width", "7px")
    assert there == set(names)


def test_a_rule_of_the_page_wins_with_the_lowest_specificity(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result="/x/", poll_after=NEVER))
    style = "<style>:where(dramatiq-progress) { display: flex } ::part(link) { color: rgb(1, 2, 3) }</style>"
    bar = open_bar("download", head=style)
    expect(part(bar, "link")).to_have_css("color", "rgb(1, 2, 3)")
    expect(bar).to_have_css("display", "flex")


def test_controls_and_links_are_underlined(site: ScriptedSite, page: Page) -> None:
    """A word at the end of a line must look like something to press."""
    looks = [each for each in LOOKS if each.name in ("done-download", "cancel", "failed-retry")]
    open_looks(page, site, looks)
    for look in looks:
        control = _part(page, look.name, look.shows)
        expect(control).to_have_css("text-decoration-line", "underline")
        expect(control).to_have_css("cursor", "pointer")


@pytest.mark.parametrize("reserve", [None, '""'])
def test_the_sign_is_beside_the_first_line_in_every_look(site: ScriptedSite, page: Page, reserve: str | None) -> None:
    """Also if the bar is too narrow for its longest text in one line."""
    rule = f"--dramatiq-progress-reserve: {reserve}" if reserve else ""
    open_looks(page, site, style=f"<style>body {{ font: 16px sans-serif; {rule} }} section {{ width: 312px }}</style>")
    distances = page.evaluate(
        """() => [...document.querySelectorAll("dramatiq-progress")].map((bar) => {
          const [sign, text] = ["sign", "text"].map((name) => bar.shadowRoot.querySelector(`[part=${name}]`));
          const range = document.createRange();
          range.selectNodeContents(text);
          const middle = ({ top, bottom }) => (top + bottom) / 2;
          return Math.abs(middle(sign.getBoundingClientRect()) - middle(range.getClientRects()[0]));
        })"""
    )
    assert {look.name for look, distance in zip(LOOKS, distances, strict=True) if distance > 4} == set()


@pytest.mark.parametrize("host", ["<div>{}</div>", '<div><template shadowrootmode="open">{}</template></div>'])
def test_without_the_stylesheet_a_bar_is_plain_but_works(site: ScriptedSite, page: Page, host: str) -> None:
    """It uses `adoptedStyleSheets`, which a policy that forbids style elements allows."""
    site.page_headers = {"Content-Security-Policy": policies.header(policies.STRICT)}
    site.reply(answer("running", current=25, total=100, poll_after=NEVER))
    script = '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
    bar = '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'
    site.html = f"<!doctype html><meta charset=utf-8>{script}<body>{host.format(bar)}"
    page.goto(site.url)
    plain = page.locator("dramatiq-progress")
    expect(part(plain, "text")).to_have_text("Importing: 25 of 100")
    expect(part(plain, "track")).to_have_css("height", "8px")
    expect(part(plain, "fill")).to_have_css("background-color", "rgb(37, 99, 235)")
    assert _share(plain) == pytest.approx(0.25, abs=0.001)
    # For screen readers only.
    expect(part(plain, "status")).to_have_css("clip-path", "inset(50%)")
    expect(part(plain, "status")).to_have_css("position", "fixed")


def test_a_shadow_root_of_the_page_links_the_stylesheet_again(site: ScriptedSite, page: Page) -> None:
    """A page's styles don't apply in a shadow root. A link works under a policy that forbids style elements."""
    site.page_headers = {"Content-Security-Policy": policies.header(policies.STRICT)}
    site.reply(answer("running", total=None, poll_after=NEVER))
    bar = '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'
    link = '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress.css">'
    site.html = f'{HEAD}<body><div><template shadowrootmode="open">{link}{bar}</template></div>'
    page.goto(site.url)
    styled = page.locator("dramatiq-progress")
    expect(styled).to_have_attribute("state", "running")
    expect(part(styled, "track")).to_have_css("border-radius", "4px")
    expect(part(styled, "fill")).to_have_css("transition-duration", re.compile("0.3s"))


ANIMATIONS = """(bar) => bar.shadowRoot.getAnimations().map((each) => [
  each.constructor.name, each.transitionProperty, each.effect.target.getAttribute("part"),
]).sort()"""


def test_only_a_report_moves_the_fill_and_by_a_transition(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(*(answer("running", current=current, total=100, poll_after=NEVER) for current in (20, 60)))
    bar = open_bar(head="<style>:root { --dramatiq-progress-transition-duration: 1000s }</style>")
    expect(part(bar, "percent")).to_have_text("20%")
    _finish_animations(bar)
    assert _share(bar) == pytest.approx(0.2, abs=0.001)
    assert bar.evaluate(ANIMATIONS) == []
    # Polls at once. A reply that was held for too long would be a trouble, which has another color.
    bar.page.evaluate("dispatchEvent(new Event('online'))")
    expect(part(bar, "percent")).to_have_text("60%")
    assert bar.evaluate(ANIMATIONS) == [["CSSTransition", "width", "fill"]]
    _finish_animations(bar)
    assert _share(bar) == pytest.approx(0.6, abs=0.001)
    assert bar.evaluate(ANIMATIONS) == []


def test_a_move_of_less_than_half_a_percent_is_not_animated(open_bar: OpenBar, site: ScriptedSite) -> None:
    """Many of them would animate a bar all the time, and nobody sees it."""
    site.reply(
        answer("running", current=2000, total=10_000, poll_after=NEVER),
        answer("running", current=2049, total=10_000),
        answer("running", current=2100, total=10_000, poll_after=NEVER),
    )
    bar = open_bar(head="<style>:root { --dramatiq-progress-transition-duration: 1000s }</style>")
    expect(part(bar, "text")).to_have_text("Importing: 2,000 of 10,000")
    _finish_animations(bar)
    bar.evaluate(
        """bar => {
          window.animated = [];
          bar.addEventListener("progress", ({ detail }) => requestAnimationFrame(() =>
            animated.push([detail.progress.current, bar.shadowRoot.getAnimations().length])));
        }"""
    )
    bar.page.evaluate("dispatchEvent(new Event('online'))")
    bar.page.wait_for_function("animated.length === 2")
    assert bar.page.evaluate("animated") == [[2049, 0], [2100, 1]]


def test_without_a_percentage_a_segment_moves_one_step_per_report(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(
        *[answer("running", total=None, version=4)] * 3,
        *(answer("running", total=None, version=version, poll_after=NEVER) for version in (4, 5)),
    )
    bar = open_bar(head="<style>:root { --dramatiq-progress-transition-duration: 1000s }</style>")
    site.wait_for_polls(2)
    expect_state(bar, "running")
    _finish_animations(bar)
    before = _span(bar)
    # Two more answers without a report.
    site.wait_for_polls(4)
    assert bar.evaluate(ANIMATIONS) == []
    bar.page.evaluate("dispatchEvent(new Event('online'))")
    bar.page.wait_for_function("document.querySelector('dramatiq-progress').shadowRoot.getAnimations().length")
    assert bar.evaluate(ANIMATIONS) == [["CSSTransition", "left", "fill"]]
    _finish_animations(bar)
    assert _span(bar) == [pytest.approx(each + 0.07, abs=0.001) for each in before]


@pytest.mark.parametrize("version", [0, 1, 8, 9, 17, 10**6])
def test_a_segment_never_looks_like_a_length(open_bar: OpenBar, site: ScriptedSite, version: int) -> None:
    site.reply(answer("running", total=None, version=version, poll_after=NEVER))
    bar = open_bar()
    expect_state(bar, "running")
    _finish_animations(bar)
    begin, end = _span(bar)
    assert 0.06 < begin < end < 0.99


def _span(bar: Locator) -> list[float]:
    """Return the start and end of the fill, as fractions of the track."""
    span: list[float] = bar.evaluate(
        """bar => {
          const [track, fill] = ["track", "fill"].map((name) =>
            bar.shadowRoot.querySelector(`[part=${name}]`).getBoundingClientRect());
          return [fill.left, fill.right].map((at) => (at - track.left) / track.width);
        }"""
    )
    return span


def _finish_animations(bar: Locator) -> None:
    # The animation of a change starts with the next frame.
    bar.evaluate(
        """async bar => {
          await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
          bar.shadowRoot.getAnimations().forEach((each) => each.finish());
        }"""
    )


def _share(bar: Locator) -> float:
    """Return the filled fraction of the track."""
    begin, end = _span(bar)
    return end - begin


def _part(page: Page, look: str, name: str) -> Locator:
    return part(page.locator(f"#{look} dramatiq-progress"), name)

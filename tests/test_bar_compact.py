"""`compact`, one line for a table, and `inline`, a part of a sentence: their appearance, and their stylesheet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.web.attributes import COMPACT_ATTRIBUTES
from dramatiq_progress.web.elements import bar
from dramatiq_progress.web.static_files import COMPACT_STYLESHEET
from tests.axe import Found
from tests.bars import part
from tests.looks import LOOKS, Look, open_looks
from tests.scripted_site import STATIC, ScriptedSite
from tests.servers import ROOT

LINK = f'<link rel="stylesheet" href="/static/{COMPACT_STYLESHEET}">'
ON_CANVAS = "<style>body { background: Canvas; color: CanvasText; font: 16px sans-serif }</style>"
UNDER_WAY = ("running", "retrying", "lost")


def open_small(page: Page, site: ScriptedSite, attribute: str, looks: list[Look], style: str = "") -> None:
    # The sign is in both.
    small = [dataclasses.replace(look, attributes=f"{look.attributes} {attribute}", shows="sign") for look in looks]
    open_looks(page, site, small, style=f"{LINK}{ON_CANVAS}{style}")


def bar_of(page: Page, look: Look) -> Locator:
    return page.locator(f"#{look.name} dramatiq-progress")


# ---- Appearance ----


@pytest.mark.parametrize("width", [1280, 360])
def test_a_compact_bar_is_one_line_in_every_state(site: ScriptedSite, page: Page, width: int) -> None:
    """Sign, bar and percentage are in columns, and a long text is cut off instead of making a table wider."""
    page.set_viewport_size({"width": width, "height": 800})
    open_small(page, site, "compact", LOOKS)
    boxes = {
        look.name: bar_of(page, look).evaluate(
            """bar => {
              const box = (name) => bar.shadowRoot.querySelector(`[part=${name}]`).getBoundingClientRect();
              const [sign, track, text] = ["sign", "track", "text"].map(box);
              const { height } = bar.getBoundingClientRect();
              return [height, sign.width > 0, track.left - sign.left, track.width, Math.round(text.left - track.right)];
            }"""
        )
        for look in LOOKS
        if look.state != "retrying"
    }
    # The width of the percentage depends on the font.
    assert {tuple(values) for values in boxes.values()} == {(24, True, 24, 96, boxes["running"][-1])}, boxes
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_a_compact_bar_has_its_percentage_in_every_state(site: ScriptedSite, page: Page) -> None:
    """Tables are read by columns."""
    looks = [look for look in LOOKS if look.name in ("running", "done", "failed")]
    open_small(page, site, "compact", looks)
    for look, percent in zip(looks, ("62%", "100%", "24%"), strict=True):
        expect(part(bar_of(page, look), "percent")).to_have_text(percent)
        expect(part(bar_of(page, look), "percent")).to_be_visible()


def test_an_unknown_percentage_of_a_compact_bar_is_a_dash(site: ScriptedSite, page: Page) -> None:
    """Not a hole in its column."""
    open_small(page, site, "compact", LOOKS)
    dashed = set()
    for look in LOOKS:
        percent = part(bar_of(page, look), "percent")
        content = percent.evaluate("part => getComputedStyle(part, '::before').content")
        if "\N{EN DASH}" in content:
            dashed.add(look.state)
            assert percent.text_content() == ""
        else:
            assert content == "none" and (percent.text_content() or look.state in ("waiting", "not-found", "expired"))
    assert {"running", "done", "failed", "enqueued"} <= dashed


def test_an_inline_bar_is_a_part_of_its_sentence(site: ScriptedSite, page: Page) -> None:
    """Bar and percentage under way, otherwise sign and text."""
    open_small(page, site, "inline", LOOKS, "<style>section { line-height: 30px }</style>")
    for look in LOOKS:
        shown = bar_of(page, look)
        has_bar = look.state in UNDER_WAY or look.name == "continuing"
        is_known = has_bar and shown.get_attribute("indeterminate") is None
        expect(shown).to_have_css("display", "inline-block")
        assert shown.evaluate("bar => bar.getBoundingClientRect().height") == 30
        expect(part(shown, "track")).to_be_visible(visible=has_bar)
        expect(part(shown, "percent")).to_be_visible(visible=is_known)
        expect(part(shown, "text")).to_be_visible(visible=not is_known or look.offline)


@pytest.mark.parametrize("attribute", COMPACT_ATTRIBUTES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    run_axe: Callable[[Page], Found], site: ScriptedSite, page: Page, attribute: str, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    open_small(page, site, attribute, LOOKS)
    page.clock.resume()
    found = run_axe(page)
    assert found.violations == {}


def test_every_property_of_the_stylesheet_is_documented() -> None:
    used = set(re.findall(r"var\(--dramatiq-progress-([a-z-]+)", (STATIC / COMPACT_STYLESHEET).read_text()))
    listed = (ROOT / "docs" / "bar.md").read_text().partition("## Compact and inline")[2].partition("\n## ")[0]
    assert used == set(re.findall(r"`--dramatiq-progress-([a-z-]+)", listed))


# ---- The template tag ----


def render(source: str, **context: Any) -> str:
    request = RequestFactory().get("/")
    return Template("{% load dramatiq_progress %}" + source).render(RequestContext(request, context))


def test_the_tag_links_the_stylesheet_once_if_a_bar_needs_it() -> None:
    loop = "{% for id in ids %}{% dramatiq_progress id compact=True fallback=False %}{% endfor %}"
    html = render(loop, ids=["m1", "m2", "m3"])
    assert html.startswith(f"{LINK}<dramatiq-progress ")
    assert (html.count("<link"), html.count(" compact></dramatiq-progress>")) == (1, 3)
    assert finders.find(COMPACT_STYLESHEET)


@pytest.mark.parametrize("attributes", ["", "compact=False", "inline=None"])
def test_other_bars_need_no_second_stylesheet(attributes: str) -> None:
    assert "<link" not in render("{% dramatiq_progress 'm1' fallback=False " + attributes + " %}")


def test_the_link_has_the_nonce_of_the_page() -> None:
    html = render("{% dramatiq_progress 'm1' inline=True fallback=False %}", csp_nonce="a&b")
    assert html.startswith(LINK.replace(">", ' nonce="a&amp;b">'))


def test_the_function_links_it_each_time() -> None:
    """It doesn't know the template."""
    assert bar("m1", compact=True, fallback=False).startswith(LINK)
    assert Template("{{ bar }}").render(Context({"bar": bar("m1", inline=True)})).startswith(LINK)

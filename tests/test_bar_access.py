"""Accessibility of the bar: assistive technology, keyboards, contrast, large text, narrow windows, reduced motion."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import Progress, State
from dramatiq_progress.web.noscript import markup
from tests.axe import Found
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.looks import LOOKS, NEVER, Look, open_looks
from tests.scripted_site import ScriptedSite

SCHEMES = ["light", "dark"]
#: axe assumes a white background if a page sets none.
ON_CANVAS = "<style>body { background: Canvas; color: CanvasText }</style>"
DIRECTIONS = ['lang="en"', 'lang="ar" dir="rtl"']


# ---- axe ----


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("root", DIRECTIONS, ids=["ltr", "rtl"])
def test_axe_finds_nothing_in_any_state(
    run_axe: Callable[[Page], Found], site: ScriptedSite, page: Page, scheme: Any, root: str
) -> None:
    """Nothing needs a manual check either."""
    page.emulate_media(color_scheme=scheme)
    open_looks(page, site, root=root, style=ON_CANVAS)
    page.clock.resume()
    found = run_axe(page)
    assert found.violations == {}
    assert found.incomplete == {}
    # It has checked every bar, in its shadow root. Those that aren't found have none.
    assert len(found.passes["aria-progressbar-name"]) == len([look for look in LOOKS if look.state != "not-found"])


def test_axe_would_find_something(run_axe: Callable[[Page], Found], open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("running", poll_after=NEVER))
    bar = open_bar(head="<style>dramatiq-progress::part(text) { color: #ddd }</style>")
    expect_state(bar, "running")
    part(bar, "track").evaluate("track => track.removeAttribute('aria-label')")
    assert {"aria-progressbar-name", "color-contrast"} <= set(run_axe(bar.page).violations)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_without_javascript(
    run_axe: Callable[[Page], Found], site: ScriptedSite, page: Page, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    open_without_module(site, page, 'lang="en"', list(State))
    found = run_axe(page)
    assert found.violations == found.incomplete == {}
    assert any("1,200 of 5,000" in html for html in found.passes["color-contrast"])


def open_without_module(site: ScriptedSite, page: Page, root: str, states: list[State]) -> None:
    """Open a page without the module, which shows the children that the template tag renders."""
    shown = [
        Progress(id="m1", actor="work", queue="default", state=each, current=1200, total=5000, description="Importing")
        for each in states
    ]
    bars = "".join(f"<dramatiq-progress>{markup(each, label=each.state)}</dramatiq-progress>" for each in shown)
    # axe needs JavaScript, and then the children are shown only after a delay.
    style = f"{ON_CANVAS}<style>dramatiq-progress > * {{ animation-delay: 0s }}</style>"
    head = HEAD.replace('lang="en"', root)
    page.route("**/dramatiq-progress.js", lambda route: route.abort())
    site.html = f"{head}<title>Bars</title>{style}<main><h1>Bars</h1>{bars}</main>"
    page.goto(site.url)
    expect(page.get_by_role("progressbar").first).to_be_visible()


# ---- Screen readers ----


def test_each_bar_is_a_progressbar_with_a_name_and_a_value_only_if_it_is_known(site: ScriptedSite, page: Page) -> None:
    """In the browser's accessibility tree."""
    open_looks(page, site)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    bars = [node for node in tree if node.get("role", {}).get("value") == "progressbar"]
    exposed = {node["name"]["value"]: node.get("value", {}).get("value") for node in bars}
    # What isn't found has no bar, but its text.
    assert exposed == {look.name: _percent(look) for look in LOOKS if look.state != "not-found"}
    for node in bars:
        limits = {each["name"]: each["value"]["value"] for each in node["properties"] if each["name"] != "valuetext"}
        assert limits == {"valuemin": 0, "valuemax": 100}
    for look in LOOKS:
        bar = _bar(page, look)
        percent = part(bar, "percent").text_content()
        text = ", ".join(filter(None, [percent, _state_text(bar)]))
        expect(part(bar, "track")).to_have_attribute("aria-valuetext", text)


def _percent(look: Look) -> float | None:
    known = [reply["progress"]["percent"] for reply in look.replies if isinstance(reply, dict)]
    return known[-1] if known else None


def _state_text(bar: Locator) -> str:
    text = part(bar, "text")
    # A link or a result replaces "Done".
    return "Done" if bar.get_attribute("state") == "done" else str(text.text_content())


def test_of_a_long_job_start_quarters_troubles_and_outcome_are_announced(open_bar: OpenBar, page: Page) -> None:
    """Of more than a hundred different reports, twelve are announced."""

    def waiting(place: int) -> Any:
        return answer("enqueued", total=None, current=0, extra={"queue_position": place, "queue_length": 9})

    def running(current: int, **values: Any) -> Any:
        return answer("running", current=current, total=100, poll_after=1, extra={"eta": 100 - current}, **values)

    replies = [
        *[
            answer("enqueued", total=None, current=0, extra={"queue_position": place, "queue_length": 9})
            for place in (9, 8, 7)
        ],
        *[running(current) for current in range(34)],
        *[{"error": "store_unavailable"}] * 3,
        *[running(current) for current in range(33, 54)],
        *[answer("retrying", current=53, total=100, retry_in=each, poll_after=1) for each in (3, 2, 1)],
        *[running(current, attempt=2) for current in range(53, 57)],
        *[answer("lost", current=56, total=100, attempt=2)] * 3,
        *[running(current, attempt=3) for current in range(56, 100)],
        answer("done", current=100, total=100, attempt=3),
    ]
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar()
    page.evaluate(
        """async ([module, replies]) => {
          const { DramatiqProgress } = await import(module);
          DramatiqProgress.prototype.fetch = async () => Response.json(replies.shift());
        }""",
        ["/static/dramatiq_progress/dramatiq-progress.js", replies],
    )
    for _ in range(10 * len(replies)):
        page.clock.run_for(1000)
        if bar.get_attribute("state") == "done":
            break
    assert page.evaluate("announced") == [
        "Import rows, In the queue: about number 9 of 9",
        "Import rows, 0%, Importing: 0 of 100, about 2 minutes left",
        "Import rows, 25%, Importing: 25 of 100, about 2 minutes left",
        "Import rows, Connection lost. Trying again…",
        "Import rows, 33%, Importing: 33 of 100, about 2 minutes left",
        "Import rows, 50%, Importing: 50 of 100, about 50 seconds left",
        "Import rows, 53%, This attempt failed. Retrying in 3 seconds… (attempt 2)",
        "Import rows, 53%, Importing: 53 of 100, about 47 seconds left",
        "Import rows, 56%, The task stopped responding. It may restart automatically.",
        "Import rows, 56%, Importing: 56 of 100, about 44 seconds left",
        "Import rows, 75%, Importing: 75 of 100, about 25 seconds left",
        "Import rows, 100%, Done",
    ]


# ---- Keyboards ----


FOCUSED = """() => {
  const bar = document.activeElement;
  const focused = bar?.shadowRoot?.activeElement;
  if (!focused) return null;
  const { outlineStyle: style, outlineWidth, outlineColor: color } = getComputedStyle(focused);
  const text = focused.textContent;
  return { bar: bar.parentElement.id, text, style, width: parseFloat(outlineWidth), color };
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_keyboard_reaches_only_links_and_buttons_and_the_focus_is_visible(
    site: ScriptedSite, page: Page, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    open_looks(page, site)
    linked = []
    for _ in range(len(LOOKS)):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        assert focused["style"] == "solid"
        assert focused["width"] >= 2
        assert page.evaluate(CONTRAST, [focused["color"], [GROUNDS[scheme]]]) >= 3
        linked.append((focused["bar"], focused["text"]))
    assert linked == [("cancel", "Cancel"), ("done-download", "Download the ZIP"), ("failed-retry", "Try again")]


# ---- Contrast ----

GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}

#: The contrast of two colours by WCAG 2, drawn one on top of the other, since they may be transparent.
CONTRAST = """([front, backs]) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const draw = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    const channels = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2];
  };
  const [dark, light] = [draw([...backs, front]), draw(backs)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}"""

#: The colours of one bar: each visible text, the track, the marks on it, and the sign.
COLORS = """(bar) => {
  const one = (name, pseudo) => getComputedStyle(bar.shadowRoot.querySelector(`[part=${name}]`), pseudo);
  const isSeen = (each) => each.textContent && each.checkVisibility({ visibilityProperty: true });
  const names = "[part=title], [part=percent], [part=text], [part=text] *, [part~=action]";
  const texts = [...bar.shadowRoot.querySelectorAll(names)].filter(isSeen)
    .map((each) => [each.getAttribute("part"), getComputedStyle(each).color]);
  const [fill, track, end, sign] = [one("fill"), one("track"), one("track", "::before"), one("sign")];
  const marks = [];
  // The stripes have the colour of their frame.
  const fillColor = fill.boxShadow === "none" ? fill.backgroundColor : fill.boxShadow.match(/^.*?\\)/)[0];
  if (parseFloat(fill.inlineSize)) marks.push(["fill", fillColor]);
  if (end.content !== "none") marks.push(["end", end.backgroundColor]);
  const failed = bar.shadowRoot.querySelector("[part=failed]:not([hidden])");
  if (failed) marks.push(["failed", getComputedStyle(failed).borderTopColor]);
  const signColor = parseFloat(sign.borderTopWidth) ? sign.borderTopColor : sign.backgroundColor;
  const isDisc = sign.backgroundColor !== "rgba(0, 0, 0, 0)";
  return {
    texts, marks, sign: signColor, glyph: isDisc ? one("sign", "::after").backgroundColor : null,
    track: track.visibility === "visible" ? track.backgroundColor : null,
    outlineStyle: track.outlineStyle, outlineColor: track.outlineColor,
  };
}"""

#: Pages on which the default colours are used: their background and their text, by scheme.
PAGES = {
    "light": [("white", "black"), ("#f6f7f9", "#20242a"), ("white", "#212529")],
    "dark": [("#121212", "white"), ("#14171b", "#e6e8ea"), ("#1c2026", "#e6e8ea"), ("#212121", "#eee")],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_and_bar_has_enough_contrast(site: ScriptedSite, page: Page, scheme: Any) -> None:
    """4.5:1 for text, 3:1 for the fill, the far end, the signs and what is drawn on them, in every state."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    open_looks(page, site)
    too_weak = {}
    for background, text in PAGES[scheme]:
        page.evaluate(
            "([background, color]) => Object.assign(document.body.style, { background, color })", [background, text]
        )
        for look in LOOKS:
            colors = _bar(page, look).evaluate(COLORS)
            assert {"title", "text"} <= {name for name, _ in colors["texts"]}
            wanted = [(name, color, [background], 4.5) for name, color in colors["texts"]]
            wanted += [(name, color, [background], 3) for name, color in colors["marks"]]
            wanted += [(name, color, [background, colors["track"]], 3) for name, color in colors["marks"]]
            wanted += [("sign", colors["sign"], [background], 3)]
            wanted += [("glyph", colors["glyph"], [background, colors["sign"]], 3)] if colors["glyph"] else []
            for name, color, backs, least in wanted:
                contrast = page.evaluate(CONTRAST, [color, backs])
                if contrast < least:
                    too_weak[look.name, name, color, backs[-1]] = contrast
    assert too_weak == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forced_colours_are_used_by_every_bar(site: ScriptedSite, page: Page, scheme: Any) -> None:
    page.emulate_media(forced_colors="active", color_scheme=scheme, reduced_motion="reduce")
    open_looks(page, site)
    ground, text, link = page.evaluate(
        """["Canvas", "CanvasText", "LinkText"].map((color) => {
          document.body.style.color = color;
          return getComputedStyle(document.body).color;
        })"""
    )
    page.evaluate("document.body.removeAttribute('style')")
    for look in LOOKS:
        colors = _bar(page, look).evaluate(COLORS)
        links = {"link", "action retry"}
        assert {color for name, color in colors["texts"] if name not in links} == {text}
        assert {color for name, color in colors["texts"] if name in links} <= {link}
        assert (colors["outlineStyle"], colors["outlineColor"]) == ("solid", text)
        assert {color for name, color in colors["marks"] if name == "failed"} <= {text}
        for color in [*[color for _, color in colors["marks"]], colors["sign"]]:
            assert page.evaluate(CONTRAST, [color, [ground]]) >= 3
        if colors["glyph"]:
            assert page.evaluate(CONTRAST, [colors["glyph"], [ground, colors["sign"]]]) >= 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forced_colours_show_the_length_without_javascript(site: ScriptedSite, page: Page, scheme: Any) -> None:
    page.emulate_media(forced_colors="active", color_scheme=scheme)
    open_without_module(site, page, 'lang="en"', [State.RUNNING])
    picture = Image.open(io.BytesIO(page.locator("progress").screenshot())).convert("L")
    filled, empty = (picture.getpixel((int(picture.width * share), picture.height // 2)) for share in (0.1, 0.5))
    assert {filled, empty} == {0, 255}
    assert (filled == 0) == (scheme == "light")


# ---- Large text and narrow windows ----

LONG_WORD = "Zusammenführungsgeschwindigkeitsüberprüfung" * 3
LONG = [
    Look(
        name="long-text",
        state="running",
        replies=(
            answer("running", poll_after=NEVER, description=f"{LONG_WORD} and {LONG_WORD}", extra={"eta": 200_000}),
        ),
    ),
    Look(
        name="huge-numbers",
        state="running",
        replies=(answer("running", poll_after=NEVER, current=9**17, total=10**18, extra={"eta": 9**9}),),
    ),
    Look(
        name="long-result",
        state="done",
        replies=(answer("done", result={"file": LONG_WORD, LONG_WORD: 10**18}),),
        attributes="show-result",
    ),
    Look(
        name="long-link",
        state="done",
        replies=(answer("done", result="/x/"),),
        attributes=f'download="Download the {LONG_WORD}"',
    ),
    Look(
        name="long-message", state="failed", replies=(answer("failed", result=LONG_WORD),), attributes='retry="/again/"'
    ),
]
#: The text spacing that WCAG 2 requires pages to support.
SPACED = (
    "<style>* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }"
    "dramatiq-progress::part(title), dramatiq-progress::part(percent), dramatiq-progress::part(text)"
    "{ line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }</style>"
)


#: The parts that are cut off, exceed the bar, or overlap another part.
LAYOUT_ERRORS = """(bar) => {
  const part = (name) => bar.shadowRoot.querySelector(`[part~=${name}]`);
  const box = (element) => element.getBoundingClientRect();
  const seen = ["title", "percent", "track", "text", "cancel", "retry"].map(part)
    .filter((each) => each && box(each).height);
  const overlaps = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
    && one.top < other.bottom - 1 && other.top < one.bottom - 1;
  const found = [];
  for (const each of seen) {
    const name = each.getAttribute("part");
    if (name !== "track" && each.scrollWidth > each.clientWidth + 1) found.push([name, "is cut off"]);
    if (box(each).left < box(bar).left - 1 || box(each).right > box(bar).right + 1) found.push([name, "sticks out"]);
    for (const other of seen) if (each !== other && overlaps(box(each), box(other))) found.push([name, "overlaps"]);
  }
  return found;
}"""


@pytest.mark.parametrize(
    ("width", "style"),
    [
        pytest.param(640, "", id="200 % of 1280 px"),
        pytest.param(320, "", id="320 px"),
        pytest.param(320, "<style>:root { font-size: 200% }</style>", id="text of 200 % in 320 px"),
        pytest.param(320, SPACED, id="spaced text in 320 px"),
        pytest.param(1600, "", id="1600 px"),
    ],
)
@pytest.mark.parametrize("root", DIRECTIONS, ids=["ltr", "rtl"])
def test_nothing_is_cut_off_or_covered(site: ScriptedSite, page: Page, width: int, style: str, root: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    open_looks(page, site, [*LOOKS, *LONG], root=root, style=style)
    for look in [*LOOKS, *LONG]:
        assert (look.name, _bar(page, look).evaluate(LAYOUT_ERRORS)) == (look.name, [])
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


#: Whether the first letter is to the left of the last one, and whether the line ends at the right edge of its row.
ENDS = """(element) => {
  const row = element.getRootNode().host ? element : element.parentElement;
  const { right } = row.getBoundingClientRect();
  const letter = (at) => {
    const range = document.createRange();
    range.setStart(element.firstChild, at);
    range.setEnd(element.firstChild, at + 1);
    return range.getBoundingClientRect();
  };
  const last = element.textContent.length - 1;
  return [letter(0).left < letter(last).left, Math.abs(right - letter(last).right) < 1];
}"""


def test_english_in_a_right_to_left_page_is_read_from_the_left_and_aligned_to_the_right(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.reply(answer("running", poll_after=NEVER))
    bar = open_bar('dir="rtl"')
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000")
    assert part(bar, "text").evaluate(ENDS) == [True, True]
    open_without_module(site, page, 'lang="ar" dir="rtl"', [State.DONE])
    assert page.locator("dramatiq-progress > span").evaluate(ENDS) == [True, True]
    open_without_module(site, page, 'lang="ar" dir="rtl"', [State.RUNNING])
    is_from_the_left, _ = page.locator("dramatiq-progress > span").evaluate(ENDS)
    assert is_from_the_left


@pytest.mark.parametrize("width", [320, 420, 500, 640, 740])
def test_a_bar_has_the_same_height_in_every_state(site: ScriptedSite, page: Page, width: int) -> None:
    """Nothing below it moves when the state changes, or when a control is offered."""
    page.set_viewport_size({"width": width, "height": 800})
    looks = [
        dataclasses.replace(look, attributes=look.attributes if "retry" in look.attributes else 'cancel="/cancel/"')
        for look in LOOKS
        if look.name not in ("done-result", "done-download", "cancelling")
    ]
    open_looks(page, site, looks, style="<style>body { margin: 0; font: 16px sans-serif }</style>", label="Import")
    heights = {look.name: _bar(page, look).evaluate("bar => bar.getBoundingClientRect().height") for look in looks}
    assert set(heights.values()) == {64 if width > 530 else 84}, heights


def test_the_percentage_never_moves(site: ScriptedSite, page: Page) -> None:
    """It ends where the bar ends, beside long and short titles and texts."""
    shown = ["running", "cancel", "retrying", "lost", "offline", "failed", "cancelled"]
    open_looks(page, site, [look for look in LOOKS if look.name in shown])
    places = page.locator("dramatiq-progress").evaluate_all(
        """bars => bars.map((bar) => {
          const [percent, track] = ["percent", "track"]
            .map((name) => bar.shadowRoot.querySelector(`[part=${name}]`).getBoundingClientRect());
          return [percent.right - track.right, percent.top - bar.getBoundingClientRect().top];
        })"""
    )
    assert places == [places[0]] * len(shown)
    assert places[0][0] == 0


def test_print_has_track_fill_and_sign_but_no_controls(site: ScriptedSite, page: Page) -> None:
    """Browsers don't print backgrounds unless a page says so."""
    open_looks(page, site, [look for look in LOOKS if look.name == "cancel"])
    page.emulate_media(media="print")
    bar = page.locator("dramatiq-progress")
    for name in ("track", "fill", "sign"):
        expect(part(bar, name)).to_have_css("print-color-adjust", "exact")
    expect(part(bar, "cancel")).to_be_hidden()


# ---- No motion ----


def test_reduced_motion_stops_all_animations(site: ScriptedSite, page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_looks(page, site)
    assert [look.name for look in LOOKS if _bar(page, look).evaluate(MOTIONS)] == []


def test_no_animation_is_endless(site: ScriptedSite, page: Page) -> None:
    """Transitions of a change that was just drawn are allowed."""
    open_looks(page, site)
    assert {motion for look in LOOKS for motion in _bar(page, look).evaluate(MOTIONS)} <= {"CSSTransition"}


MOTIONS = "(bar) => bar.shadowRoot.getAnimations().map((each) => each.constructor.name)"


def _bar(page: Page, look: Look) -> Locator:
    return page.locator(f"#{look.name} dramatiq-progress")

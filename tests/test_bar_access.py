"""The bar for everyone: what assistive technology is told, keyboards, weak eyes, large text, little room, no motion."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.fallback import markup
from dramatiq_progress.progress import Progress, State
from tests.axe import Found
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.looks import LOOKS, NEVER, Look, open_looks
from tests.scripted_site import ScriptedSite

SCHEMES = ["light", "dark"]
#: axe takes a page that names no background for a white one.
ON_CANVAS = "<style>body { background: Canvas; color: CanvasText }</style>"
DIRECTIONS = ['lang="en"', 'lang="ar" dir="rtl"']


# ---- axe ----


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("root", DIRECTIONS, ids=["ltr", "rtl"])
def test_axe_finds_nothing_in_any_state(
    run_axe: Callable[[Page], Found], site: ScriptedSite, page: Page, scheme: Any, root: str
) -> None:
    """And leaves nothing to a person to judge."""
    page.emulate_media(color_scheme=scheme)
    open_looks(page, site, root=root, style=ON_CANVAS)
    page.clock.resume()
    found = run_axe(page)
    assert found.violations == {}
    assert found.incomplete == {}
    # It has looked into the shadow roots, at every bar.
    assert len(found.passes["aria-progressbar-name"]) == len(LOOKS)


def test_axe_would_find_something(run_axe: Callable[[Page], Found], open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("running", poll_after=NEVER))
    bar = open_bar(head="<style>dramatiq-progress::part(text) { color: #ddd }</style>")
    expect_state(bar, "running")
    part(bar, "track").evaluate("track => track.removeAttribute('aria-label')")
    assert {"aria-progressbar-name", "color-contrast"} <= set(run_axe(bar.page).violations)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_where_there_is_no_javascript(
    run_axe: Callable[[Page], Found], site: ScriptedSite, page: Page, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    show_fallback(site, page, 'lang="en"', list(State))
    found = run_axe(page)
    assert found.violations == found.incomplete == {}
    assert any("1,200 of 5,000" in html for html in found.passes["color-contrast"])


def show_fallback(site: ScriptedSite, page: Page, root: str, states: list[State]) -> None:
    """What the template tag has in a bar, in a page whose module does not come."""
    said = [
        Progress(id="m1", actor="work", queue="default", state=each, current=1200, total=5000, description="Importing")
        for each in states
    ]
    bars = "".join(f"<dramatiq-progress>{markup(each, label=each.state)}</dramatiq-progress>" for each in said)
    # A browser with JavaScript, as axe needs one, waits for the module before it shows what is there without.
    style = f"{ON_CANVAS}<style>dramatiq-progress > * {{ animation-delay: 0s }}</style>"
    head = HEAD.replace('lang="en"', root)
    page.route("**/dramatiq-progress.js", lambda route: route.abort())
    site.html = f"{head}<title>Bars</title>{style}<main><h1>Bars</h1>{bars}</main>"
    page.goto(site.url)
    expect(page.get_by_role("progressbar").first).to_be_visible()


# ---- What a screen reader is told ----


def test_each_bar_is_a_progressbar_with_a_name_and_with_a_value_only_where_one_is_known(
    site: ScriptedSite, page: Page
) -> None:
    """As the browser hands it on, not as the attributes say."""
    open_looks(page, site)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    bars = [node for node in tree if node.get("role", {}).get("value") == "progressbar"]
    told = {node["name"]["value"]: node.get("value", {}).get("value") for node in bars}
    assert told == {look.name: _percent(look) for look in LOOKS}
    for node in bars:
        limits = {each["name"]: each["value"]["value"] for each in node["properties"] if each["name"] != "valuetext"}
        assert limits == {"valuemin": 0, "valuemax": 100}
    for look in LOOKS:
        bar = _bar(page, look)
        percent = part(bar, "percent").text_content()
        said = ", ".join(filter(None, [percent, _without_link(bar)]))
        expect(part(bar, "track")).to_have_attribute("aria-valuetext", said)


def _percent(look: Look) -> float | None:
    known = [said["progress"]["percent"] for said in look.said if isinstance(said, dict)]
    return known[-1] if known else None


def _without_link(bar: Locator) -> str:
    text = part(bar, "text")
    return str(text.evaluate("text => text.querySelector('[download]') ? 'Done' : text.firstChild.data"))


def test_a_long_job_is_heard_at_its_start_its_quarters_its_troubles_and_its_end(open_bar: OpenBar, page: Page) -> None:
    """A hundred reports and more, each with news; a screen reader hears of twelve."""

    def waiting(place: int) -> Any:
        return answer("enqueued", total=None, current=0, extra={"queue_position": place, "queue_length": 9})

    def running(current: int, **values: Any) -> Any:
        return answer("running", current=current, total=100, poll_after=1, extra={"eta": 100 - current}, **values)

    said = [
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
        """async ([module, said]) => {
          const { DramatiqProgress } = await import(module);
          DramatiqProgress.prototype.fetch = async () => Response.json(said.shift());
        }""",
        ["/static/dramatiq_progress/dramatiq-progress.js", said],
    )
    for _ in range(10 * len(said)):
        page.clock.run_for(1000)
        if bar.get_attribute("state") == "done":
            break
    assert page.evaluate("spoken") == [
        "Waiting in the queue, about 9 of 9 in line",
        "0%, 0 of 100. Importing",
        "25%, 25 of 100. Importing",
        "Connection lost. Trying again…",
        "33%, 33 of 100. Importing",
        "50%, 50 of 100. Importing",
        "53%, Failed; trying again in 3 seconds (attempt 2)",
        "53%, 53 of 100. Importing",
        "56%, No contact with the worker; the task may be taken up again",
        "56%, 56 of 100. Importing",
        "75%, 75 of 100. Importing",
        "100%, Done",
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
def test_the_keyboard_reaches_links_and_buttons_and_nothing_else_and_the_focus_is_seen(
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


# ---- Weak eyes ----

GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}

#: How strongly two colours differ by WCAG 2, drawn one upon the other so that what shines through counts.
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

#: The colours of one bar: of each text that is seen, of the track, and of what is drawn on it.
COLORS = """(bar) => {
  const one = (name, pseudo) => getComputedStyle(bar.shadowRoot.querySelector(`[part=${name}]`), pseudo);
  const isSeen = (each) => each.textContent && each.getBoundingClientRect().height;
  const texts = [...bar.shadowRoot.querySelectorAll("[part=line] *, [part=note], [part=actions] *")].filter(isSeen)
    .map((each) => [each.getAttribute("part"), getComputedStyle(each).color]);
  const sign = one("text", "::before");
  const marker = one("track", "::before");
  const marks = [];
  if (parseFloat(one("fill").inlineSize)) marks.push(["fill", one("fill").backgroundColor]);
  if (marker.content !== "none") marks.push(["end", marker.backgroundColor]);
  if (one("track").boxShadow !== "none") marks.push(["frame", one("track").boxShadow.match(/^.*?\\)/)[0]]);
  const { backgroundColor: track, outlineStyle, outlineColor } = one("track");
  const signColor = sign.content === "none" ? null : sign.backgroundColor;
  return { texts, marks, track, sign: signColor, outlineStyle, outlineColor };
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_and_bar_differs_enough_from_its_ground(site: ScriptedSite, page: Page, scheme: Any) -> None:
    """4.5:1 for text, 3:1 for what says how far it is and for the signs, whatever the state."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    open_looks(page, site)
    ground = GROUNDS[scheme]
    too_weak = {}
    for look in LOOKS:
        colors = _bar(page, look).evaluate(COLORS)
        assert colors["texts"]
        assert colors["marks"]
        wanted = [(name, color, [ground], 4.5) for name, color in colors["texts"]]
        wanted += [(name, color, [ground], 3) for name, color in colors["marks"]]
        # A frame is seen against the page alone: what is inside it says nothing more.
        wanted += [(name, color, [ground, colors["track"]], 3) for name, color in colors["marks"] if name != "frame"]
        wanted += [("sign", colors["sign"], [ground], 3)] if colors["sign"] else []
        for name, color, backs, least in wanted:
            contrast = page.evaluate(CONTRAST, [color, backs])
            if contrast < least:
                too_weak[look.name, name, color, backs[-1]] = contrast
    assert too_weak == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_forced_colours_every_bar_is_told_by_the_colours_of_the_system(
    site: ScriptedSite, page: Page, scheme: Any
) -> None:
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
        assert {color for name, color in colors["texts"] if name != "link"} == {text}
        assert {color for name, color in colors["texts"] if name == "link"} <= {link}
        assert (colors["outlineStyle"], colors["outlineColor"]) == ("solid", text)
        for color in [color for name, color in colors["marks"] if name == "fill"] + [colors["sign"] or text]:
            assert page.evaluate(CONTRAST, [color, [ground]]) >= 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_forced_colours_the_length_is_seen_without_javascript(site: ScriptedSite, page: Page, scheme: Any) -> None:
    page.emulate_media(forced_colors="active", color_scheme=scheme)
    show_fallback(site, page, 'lang="en"', [State.RUNNING])
    picture = Image.open(io.BytesIO(page.locator("progress").screenshot())).convert("L")
    filled, empty = (picture.getpixel((int(picture.width * share), picture.height // 2)) for share in (0.1, 0.5))
    assert {filled, empty} == {0, 255}
    assert (filled == 0) == (scheme == "light")


# ---- Large text and little room ----

LONG_WORD = "Zusammenführungsgeschwindigkeitsüberprüfung" * 3
LONG = [
    Look(
        name="long-text",
        state="running",
        said=(answer("running", poll_after=NEVER, description=f"{LONG_WORD} and {LONG_WORD}", extra={"eta": 200_000}),),
    ),
    Look(
        name="huge-numbers",
        state="running",
        said=(answer("running", poll_after=NEVER, current=9**17, total=10**18, extra={"eta": 9**9}),),
    ),
    Look(
        name="long-result",
        state="done",
        said=(answer("done", result={"file": LONG_WORD, LONG_WORD: 10**18}),),
        attributes="show-result",
    ),
    Look(
        name="long-link",
        state="done",
        said=(answer("done", result="/x/"),),
        attributes=f'download="Download the {LONG_WORD}"',
    ),
    Look(name="long-message", state="failed", said=(answer("failed", result=LONG_WORD),), attributes='retry="/again/"'),
]
#: The spacing that WCAG 2 lets a reader ask for.
SPACED = (
    "<style>* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }"
    "dramatiq-progress::part(text), dramatiq-progress::part(note), dramatiq-progress::part(remaining)"
    "{ line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }</style>"
)


#: What is cut off, hangs out of the bar, or lies upon something else.
MISFITS = """(bar) => {
  const part = (name) => bar.shadowRoot.querySelector(`[part=${name}]`);
  const box = (element) => element.getBoundingClientRect();
  const seen = ["text", "remaining", "percent", "track", "note", "cancel", "cancel-note"].map(part)
    .filter((each) => each && box(each).height);
  const overlaps = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
    && one.top < other.bottom - 1 && other.top < one.bottom - 1;
  const found = [];
  for (const each of seen) {
    const name = each.getAttribute("part");
    if (name !== "track" && each.scrollWidth > each.clientWidth + 1) found.push([name, "is cut off"]);
    if (box(each).left < box(bar).left - 1 || box(each).right > box(bar).right + 1) found.push([name, "hangs out"]);
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
        assert (look.name, _bar(page, look).evaluate(MISFITS)) == (look.name, [])
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


#: Whether the first letter stands to the left of the second, and where the line ends, as parts of the bar's width.
ENDS = """(element) => {
  const bar = element.getRootNode().host ?? element.parentElement;
  const { left, right } = bar.getBoundingClientRect();
  const letter = (at) => {
    const range = document.createRange();
    range.setStart(element.firstChild, at);
    range.setEnd(element.firstChild, at + 1);
    return range.getBoundingClientRect();
  };
  const last = element.textContent.length - 1;
  return [letter(0).left < letter(last).left, Math.abs(right - letter(last).right) < 1];
}"""


def test_english_in_a_page_from_the_right_is_read_from_the_left_and_stands_at_the_right(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    site.say(answer("running", poll_after=NEVER))
    bar = open_bar('dir="rtl"')
    expect(part(bar, "text")).to_have_text("1,200 of 5,000. Importing")
    assert part(bar, "text").evaluate(ENDS) == [True, True]
    show_fallback(site, page, 'lang="ar" dir="rtl"', [State.DONE])
    assert page.locator("dramatiq-progress > span").evaluate(ENDS) == [True, True]
    show_fallback(site, page, 'lang="ar" dir="rtl"', [State.RUNNING])
    is_from_the_left, _ = page.locator("dramatiq-progress > span").evaluate(ENDS)
    assert is_from_the_left


# ---- No motion ----


def test_nothing_moves_for_those_who_want_no_motion(site: ScriptedSite, page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_looks(page, site)
    assert [look.name for look in LOOKS if _bar(page, look).evaluate(MOTIONS)] == []


def test_nothing_moves_for_ever(site: ScriptedSite, page: Page) -> None:
    """What has just been drawn may still be on its way."""
    open_looks(page, site)
    assert {motion for look in LOOKS for motion in _bar(page, look).evaluate(MOTIONS)} <= {"CSSTransition"}


MOTIONS = "(bar) => bar.shadowRoot.getAnimations().map((each) => each.constructor.name)"


def _bar(page: Page, look: Look) -> Locator:
    return page.locator(f"#{look.name} dramatiq-progress")

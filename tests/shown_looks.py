"""Every look of a bar in a window of an engine, as a user sees it and as a screen reader reads it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image, ImageChops, ImageStat

from tests.engines import RECORD_COMPLAINTS, Engine
from tests.looks import FIRST_ANSWER_LIMIT_MS, LOOKS, Look, write_looks
from tests.scripted_site import ScriptedSite
from tests.waiting import wait_until

#: The clock of the bars stands still, so that no text changes; timers run.
STOP_CLOCK = "window.time = 0; performance.now = () => time;"
#: All bars in one window, in three columns.
STYLE = """
  <link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress-compact.css">
  <style>
    :root { background: light-dark(#fff, #14171b); color: light-dark(#20242a, #e8eaed); font: 16px/1.5 sans-serif }
    body { margin: 0 }
    h1, h2 { display: none }
    main { display: grid; grid-template-columns: repeat(3, 1fr) }
    section { padding: 8px 12px }
  </style>
"""
#: How a page changes the appearance of its bars, one after the other.
VARIANTS = {
    "light": "",
    "dark": "document.documentElement.style.colorScheme = 'dark'",
    "right to left": "document.documentElement.dir = 'rtl'",
    # Firefox resolves these colours later than others.
    "a color of the page": "document.body.style = '--dramatiq-progress-trouble-color: color-mix(in oklab, red, blue)'",
    "compact": "for (const bar of document.querySelectorAll('dramatiq-progress')) bar.setAttribute('compact', '')",
}
LOAD_MODULES = """
  for (const name of ["cancel", "parts", "result"])
    await import(`/static/dramatiq_progress/dramatiq-progress-${name}.js`);
"""
#: The size of a sign with a margin, in pixels.
SIGN = 18
#: Minimum difference of the brightness of stripes, of 255.
CONTRAST = 40

READ_ALL = """
  const box = (element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const read = (bar) => {
    const root = bar.shadowRoot;
    const part = (name) => root.querySelector(`[part~=${name}]`);
    const shown = (elements) => [...elements].filter((each) => each.checkVisibility({ visibilityProperty: true }));
    const attributes = (element) => Object.fromEntries([...element.attributes].map(({ name, value }) => [name, value]));
    return {
      attributes: attributes(bar),
      track: attributes(part("track")),
      texts: shown(root.querySelectorAll("[part~=title], [part~=percent], [part~=text], [part~=action]")).map(
        (each) => [each.getAttribute("part"), each.textContent],
      ),
      said: part("status").textContent,
      height: Math.round(bar.getBoundingClientRect().height),
      boxes: Object.fromEntries(["sign", "track", "fill"].map((name) => [name, box(part(name))])),
    };
  };
  const sections = [...document.querySelectorAll("section")];
  return Object.fromEntries(sections.map((each) => [each.id, read(each.querySelector("dramatiq-progress"))]));
"""


def show_looks(engine: Engine, site: ScriptedSite) -> None:
    """Open a page with every look, and wait until each has its final appearance."""
    write_looks(site, style=f"<script>{RECORD_COMPLAINTS}{STOP_CLOCK}</script>{STYLE}")
    engine.open(site.url)
    # Otherwise it depends on the time that a module takes whether its text is announced.
    engine.run(LOAD_MODULES)
    by_name = {look.name: look for look in LOOKS}
    _start(engine, [by_name["not-found"]])
    advance = f"window.time += {FIRST_ANSWER_LIMIT_MS};"
    wait_until(lambda: engine.run(advance) or _is_shown(engine, by_name["not-found"]))
    # A bar without a `src` goes on waiting.
    others = [look for look in LOOKS if look.name not in ("not-found", "waiting")]
    _start(engine, others)
    for look in others:
        wait_until(lambda look=look: _is_shown(engine, look))
    # A bar that has been announced has nothing left to draw.
    engine.run("await new Promise((resolve) => setTimeout(resolve, 0))")


def _start(engine: Engine, looks: list[Look]) -> None:
    ids = json.dumps([look.name for look in looks])
    engine.run(
        f"""for (const id of {ids}) {{
          const bar = document.getElementById(id).querySelector("dramatiq-progress");
          bar.src = bar.dataset.src;
        }}"""
    )


def _is_shown(engine: Engine, look: Look) -> bool:
    shown = engine.run(
        f"""const bar = document.getElementById("{look.name}").querySelector("dramatiq-progress");
        const last = bar.shadowRoot.querySelector("[part~={look.shows}]");
        return [bar.getAttribute("state"), bar.hasAttribute("offline"), last?.textContent];"""
    )
    state, offline, text = shown
    return (state, offline) == (look.state, look.offline) and bool(text) and (not look.text or text == look.text)


def picture(engine: Engine) -> Image.Image:
    """Return a picture of the window, after all transitions have ended."""
    engine.run(
        """for (const bar of document.querySelectorAll("dramatiq-progress"))
          bar.shadowRoot.getAnimations().forEach((each) => each.finish());
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));"""
    )
    return Image.open(io.BytesIO(engine.screenshot())).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of a pixel, from 0 to 255. The size may differ by a pixel: positions are rounded."""
    return float(max(ImageStat.Stat(ImageChops.difference(one, other.resize(one.size))).mean))


def stripes(fill: Image.Image) -> int:
    """Return the number of stripes of the fill: of changes between its two colours, on the way through its middle."""
    row = [fill.convert("L").getpixel((x, fill.height // 2)) for x in range(4, fill.width - 4)]
    if max(row) - min(row) < CONTRAST:
        return 0
    middle = (min(row) + max(row)) / 2
    return sum(before < middle <= after for before, after in itertools.pairwise(row))


class Shown(NamedTuple):
    """A page with every look, in one variant: what is in it, by the name of the look, and a picture of it."""

    looks: dict[str, Any]
    boxes: dict[str, Any]
    picture: Image.Image

    def part(self, look: Look, name: str) -> Image.Image:
        return self.picture.crop([round(each) for each in self.boxes[look.name][name]])

    def sign(self, look: Look, move: tuple[int, int] = (0, 0)) -> Image.Image:
        """Return the picture of the sign, or of as many pixels beside it. A rotated one has a larger box."""
        left, top, right, bottom = self.boxes[look.name]["sign"]
        x, y = (
            round((low + high - SIGN) / 2) + by for low, high, by in ((left, right, move[0]), (top, bottom, move[1]))
        )
        return self.picture.crop((x, y, x + SIGN, y + SIGN))

    def sign_like(self, look: Look, signs: Mapping[str, Image.Image]) -> str:
        """Return the name of the sign that is most similar. Engines round its position differently."""
        places = [self.sign(look, move) for move in itertools.product((-1, 0, 1), repeat=2)]
        return min(signs, key=lambda name: min(difference(signs[name], place) for place in places))


def variants_in(engine: Engine) -> dict[str, Shown]:
    """Open a page with every look, and return its variants."""
    seen = {}
    with ScriptedSite() as site:
        show_looks(engine, site)
        for variant, change in VARIANTS.items():
            engine.run(change)
            made = picture(engine)
            looks = engine.run(READ_ALL)
            seen[variant] = Shown(looks, {name: look.pop("boxes") for name, look in looks.items()}, made)
        assert engine.run("return complaints") == []
    return seen

"""Makes the pictures of docs/states.md: each look that a bar has, light and dark, the real element in a real browser.

usage: python -m tools.pictures [FOLDER]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.browser import CHROMIUM_FLAGS, CHROMIUM_NAMES
from tests.looks import LOOKS, Look, open_looks
from tests.scripted_site import ScriptedSite
from tests.servers import ROOT, find_program

FOLDER = ROOT / "docs" / "images" / "states"
SCHEMES = ("light", "dark")
#: So many pixels for one of a page's, for screens that have as many.
SCALE = 2
#: Text in two colours and a bar in two more, with what lies between them at their edges.
COLORS = 64
STYLE = (
    "<style>body { margin: 0; font: 16px/1.4 system-ui, sans-serif } h1, h2 { display: none }"
    "section { inline-size: 340px; box-sizing: border-box; padding: 10px 14px }</style>"
)
#: At the same place, and so the same pixels, whatever other looks there are.
SHOW_ALONE = """(section) => {
  document.querySelector(".shown")?.classList.remove("shown");
  section.classList.add("shown");
}"""


def make_pictures(browser: Browser, folder: Path, looks: Sequence[Look] = LOOKS) -> list[Path]:
    """Write ``NAME-light.png`` and ``NAME-dark.png`` for each look; returns the files.

    The same machine makes the same bytes again: the clock of the page stands still, and so does all that moves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [path for scheme in SCHEMES for path in _make_pictures_in(scheme, browser, folder, looks)]


def _make_pictures_in(scheme: str, browser: Browser, folder: Path, looks: Sequence[Look]) -> list[Path]:
    paths = []
    context = browser.new_context(color_scheme=scheme, device_scale_factor=SCALE)  # type: ignore[arg-type]
    with ScriptedSite() as site:
        page = context.new_page()
        open_looks(page, site, looks, style=STYLE)
        page.add_style_tag(content="section:not(.shown) { display: none }")
        for look in looks:
            section = page.locator(f"#{look.name}")
            section.evaluate(SHOW_ALONE)
            paths.append(folder / f"{look.name}-{scheme}.png")
            _save(section.screenshot(animations="disabled"), paths[-1])
        context.close()
    return paths


def _save(png: bytes, path: Path) -> None:
    """With a palette: less than half as large, and looks the same."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_program(*CHROMIUM_NAMES), args=CHROMIUM_FLAGS)
        print(f"{len(make_pictures(browser, folder))} pictures in {folder}")
        browser.close()


if __name__ == "__main__":
    main()

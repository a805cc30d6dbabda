"""Takes the pictures of README.md and docs/states.md: each appearance of a bar, light and dark, in a real browser.

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
#: Device pixels per CSS pixel, for high-resolution screens.
SCALE = 2
#: Enough for text in two colours, a bar in two colours, and their smoothed edges.
COLORS = 64
LABEL = "Import people.csv"
STYLE = (
    "<style>body { margin: 0; font: 16px/1.5 system-ui, sans-serif } h1, h2 { display: none }"
    "section { inline-size: 340px; box-sizing: border-box; padding: 10px 14px }</style>"
)
README_PICTURE = ROOT / "docs" / "images" / "bar.png"
README_LOOK = next(look for look in LOOKS if look.name == "cancel")
README_STYLE = (
    "<style>body { margin: 0; font: 16px/1.5 system-ui, sans-serif } h1, h2 { display: none }"
    "main { inline-size: 720px; box-sizing: border-box; padding: 12px; background: #f6f7f9; color: #20242a }"
    "section { padding: 20px 24px; border: 1px solid #e1e4e8; border-radius: 12px; background: white }</style>"
)
#: Shows one look at a time, at the same position: the pixels don't depend on other looks.
SHOW_ALONE = """(section) => {
  document.querySelector(".shown")?.classList.remove("shown");
  section.classList.add("shown");
}"""


def make_pictures(browser: Browser, folder: Path, looks: Sequence[Look] = LOOKS) -> list[Path]:
    """Write ``NAME-light.png`` and ``NAME-dark.png`` for each look, and return the files.

    On one machine the bytes are reproducible, since the page's clock is paused and animations are disabled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [path for scheme in SCHEMES for path in _make_pictures_in(scheme, browser, folder, looks)]


def _make_pictures_in(scheme: str, browser: Browser, folder: Path, looks: Sequence[Look]) -> list[Path]:
    paths = []
    context = browser.new_context(color_scheme=scheme, device_scale_factor=SCALE)  # type: ignore[arg-type]
    with ScriptedSite() as site:
        page = context.new_page()
        open_looks(page, site, looks, style=STYLE, label=LABEL)
        page.add_style_tag(content="section:not(.shown) { display: none }")
        for look in looks:
            section = page.locator(f"#{look.name}")
            section.evaluate(SHOW_ALONE)
            paths.append(folder / f"{look.name}-{scheme}.png")
            _save(section.screenshot(animations="disabled"), paths[-1])
        context.close()
    return paths


def _save(png: bytes, path: Path) -> None:
    """Save with a palette: a third of the file size, and it looks the same.

    Pillow's default method would turn the green of a small sign into grey.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def make_readme_picture(browser: Browser, path: Path) -> None:
    """Write the picture of README.md: a running bar that can be cancelled, on a card."""
    with ScriptedSite() as site:
        page = browser.new_page(device_scale_factor=SCALE, viewport={"width": 800, "height": 400})
        open_looks(page, site, [README_LOOK], style=README_STYLE, label=LABEL)
        _save(page.locator("main").screenshot(animations="disabled"), path)
        page.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_program(*CHROMIUM_NAMES), args=CHROMIUM_FLAGS)
        print(f"{len(make_pictures(browser, folder))} pictures in {folder}")
        make_readme_picture(browser, folder.parent / README_PICTURE.name)
        browser.close()


if __name__ == "__main__":
    main()

"""The pictures of docs/states.md: every state has one in light and dark, and they are reproducible."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser

from dramatiq_progress.progress import State
from tests.looks import LOOKS
from tests.servers import ROOT
from tools.pictures import FOLDER, README_PICTURE, SCHEMES, make_pictures, make_readme_picture

DOCS = (ROOT / "docs" / "states.md").read_text()
NAMES = {f"{look.name}-{scheme}.png" for look in LOOKS for scheme in SCHEMES}
#: Small enough for a page with all of them.
LARGEST_BYTES = 10 * 1024


def test_every_state_has_a_look() -> None:
    """The server's states and the bar's own."""
    assert {look.state for look in LOOKS} == set(State) | {"waiting", "not-found", "expired"}
    assert any(look.offline for look in LOOKS)


def test_every_look_has_pictures_in_the_documentation() -> None:
    assert {path.name for path in FOLDER.iterdir()} == NAMES
    assert sorted(re.findall(r"images/states/([\w.-]+)", DOCS)) == sorted(NAMES)


def test_the_picture_of_the_readme_shows_the_bar_as_it_is(browser: Browser, tmp_path: Path) -> None:
    """If this fails, run `make pictures`. Fonts may differ, so only a small copy is compared."""
    make_readme_picture(browser, tmp_path / "now.png")
    now, shown = (Image.open(path).convert("L").resize((72, 12)) for path in (tmp_path / "now.png", README_PICTURE))
    assert ImageStat.Stat(ImageChops.difference(now, shown)).mean[0] < 4
    assert README_PICTURE.stat().st_size < LARGEST_BYTES
    assert f'src="{README_PICTURE.relative_to(ROOT)}"' in (ROOT / "README.md").read_text()


def test_pictures_are_small() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.stat().st_size > LARGEST_BYTES} == set()


def test_the_command_reproduces_the_pictures(browser: Browser, tmp_path: Path) -> None:
    """Including those with a countdown and with motion: they don't depend on the time that a screenshot takes."""
    looks = [look for look in LOOKS if look.name in ("running", "running-unknown", "retrying")]
    first, again = (make_pictures(browser, tmp_path / folder, looks) for folder in ("first", "again"))
    assert [path.name for path in first] == [f"{look.name}-{scheme}.png" for scheme in SCHEMES for look in looks]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    brightness = {path.name: Image.open(path).convert("L").getpixel((0, 0)) for path in first}
    assert brightness["running-light.png"] == 255
    assert brightness["running-dark.png"] == 18

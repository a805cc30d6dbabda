"""The pictures of docs/states.md: there is one of every state, light and dark, and the command makes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from dramatiq_progress.progress import State
from tests.looks import LOOKS
from tests.servers import ROOT
from tools.pictures import FOLDER, SCHEMES, make_pictures

DOCS = (ROOT / "docs" / "states.md").read_text()
NAMES = {f"{look.name}-{scheme}.png" for look in LOOKS for scheme in SCHEMES}
#: A page with all of them is still a quick one.
LARGEST_BYTES = 10 * 1024


def test_every_state_has_its_look() -> None:
    """Those of the server, and those that are the bar's own."""
    assert {look.state for look in LOOKS} == set(State) | {"waiting", "not-found", "expired"}
    assert any(look.offline for look in LOOKS)


def test_every_look_has_its_pictures_and_each_is_shown() -> None:
    assert {path.name for path in FOLDER.iterdir()} == NAMES
    assert sorted(re.findall(r"images/states/([\w.-]+)", DOCS)) == sorted(NAMES)


def test_pictures_are_small() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.stat().st_size > LARGEST_BYTES} == set()


def test_the_command_makes_the_same_pictures_again(browser: Browser, tmp_path: Path) -> None:
    """Also those whose clocks run and whose bars move: how long it took to make them does not show."""
    looks = [look for look in LOOKS if look.name in ("running", "running-unknown", "retrying")]
    first, again = (make_pictures(browser, tmp_path / folder, looks) for folder in ("first", "again"))
    assert [path.name for path in first] == [f"{look.name}-{scheme}.png" for scheme in SCHEMES for look in looks]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    brightness = {path.name: Image.open(path).convert("L").getpixel((0, 0)) for path in first}
    assert brightness["running-light.png"] == 255
    assert brightness["running-dark.png"] == 18

"""A real WebKitGTK, the engine of Safari, driven by WebDriver: https://www.w3.org/TR/webdriver2/.

It has no headless mode, so it runs on a virtual screen.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.servers import answers, find_program, free_port, process
from tests.waiting import TIMEOUT_SECONDS, wait_until

#: Debian puts the browser that the driver controls there, and not on the path.
BROWSER_FOLDERS = os.pathsep.join(map(str, Path("/usr/lib").glob("*/webkit*gtk-*")))
#: MiniBrowser's own bars: the window is larger than the page.
BARS_HEIGHT = 100


class Window:
    """A window of MiniBrowser: an `Engine`."""

    def __init__(self, driver: str, browser: str, width: int, height: int) -> None:
        self._url = driver
        options = {"binary": browser, "args": ["--automation"]}
        # With the default strategy, each command waits for a page that is being loaded.
        wanted = {"webkitgtk:browserOptions": options, "pageLoadStrategy": "none"}
        session = self._send("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        self._url = f"{driver}/session/{session}"
        self._send("POST", "/timeouts", script=int(TIMEOUT_SECONDS * 1000))
        self._send("POST", "/window/rect", x=0, y=0, width=width, height=height)
        bars = height - self.run("return innerHeight")
        self._send("POST", "/window/rect", x=0, y=0, width=width, height=height + bars)

    def open(self, url: str) -> None:
        self.run("window.isLeft = true")
        self._send("POST", "/url", url=url)
        wait_until(self._is_loaded)

    def _is_loaded(self) -> bool:
        # While one page replaces another, there is no window.
        with suppress(urllib.error.HTTPError):
            return bool(self.run("return !window.isLeft && document.readyState === 'complete'"))
        return False

    def run(self, script: str) -> Any:
        wrapped = f"const end = arguments[0]; (async () => {{ {script} }})().then(end, error => end(String(error)))"
        return self._send("POST", "/execute/async", script=wrapped, args=[])

    def screenshot(self) -> bytes:
        return base64.b64decode(self._send("GET", "/screenshot"))

    def close(self) -> None:
        self._send("DELETE", "")

    def _send(self, method: str, path: str, **parameters: Any) -> Any:
        body = json.dumps(parameters).encode() if method == "POST" else None
        request = urllib.request.Request(f"{self._url}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)["value"]


@contextmanager
def run(folder: Path, width: int, height: int) -> Iterator[Window]:
    """Run WebKit on a screen of its own."""
    driver = find_program("WebKitWebDriver")
    browser = find_program("MiniBrowser", path=BROWSER_FOLDERS)
    with _screen(folder / "xvfb.log", width, height) as display:
        port = free_port()
        log = folder / "driver.log"
        with process(driver, f"--port={port}", log=log, environment={"DISPLAY": display}, group=True) as child:
            wait_until(lambda: child.poll() is not None or answers(port))
            window = Window(f"http://127.0.0.1:{port}", browser, width, height)
            yield window
            window.close()


@contextmanager
def _screen(log: Path, width: int, height: int) -> Iterator[str]:
    """Run an X server, and yield its display. It chooses a free one and prints its number."""
    options = ("-displayfd", "1", "-screen", "0", f"{width}x{height + BARS_HEIGHT}x24", "-nolisten", "tcp")
    with process(find_program("Xvfb"), *options, log=log, environment={}) as child:
        number = wait_until(lambda: child.poll() is not None or _number_in(log))
        assert isinstance(number, str), log.read_text()
        yield f":{number}"


def _number_in(log: Path) -> str | None:
    numbers = [line for line in log.read_text().splitlines() if line.isdigit()]
    return numbers[0] if numbers else None

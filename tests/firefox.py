"""A real, headless Firefox, driven by WebDriver BiDi: https://www.w3.org/TR/webdriver-bidi/.

Firefox implements the protocol itself. Playwright's client sends a command that Firefox ESR 153 doesn't have.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import websocket

from tests.servers import find_program, process
from tests.waiting import TIMEOUT_SECONDS, wait_until

FIREFOX_NAMES = ("firefox-esr", "firefox")
#: Firefox adds the preferences that it recommends for automation.
PREFERENCES = {"browser.startup.page": 0, "dom.ipc.processPrelaunch.enabled": False}


class Window:
    """A tab of Firefox: an `Engine`."""

    def __init__(self, connection: websocket.WebSocket, width: int, height: int) -> None:
        self._connection = connection
        self._sent = 0
        self._send("session.new", capabilities={})
        self._context = self._send("browsingContext.create", type="tab")["context"]
        viewport = {"width": width, "height": height}
        self._send("browsingContext.setViewport", context=self._context, viewport=viewport)

    def open(self, url: str) -> None:
        self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def run(self, script: str) -> Any:
        expression = f"(async () => {{ {script} }})().then(result => JSON.stringify(result ?? null))"
        target = {"context": self._context}
        answer = self._send("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    def screenshot(self) -> bytes:
        return base64.b64decode(self._send("browsingContext.captureScreenshot", context=self._context)["data"])

    def _send(self, method: str, **parameters: Any) -> Any:
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        answer = json.loads(self._connection.recv())
        assert answer["type"] == "success", answer["message"]
        return answer["result"]


@contextmanager
def run(folder: Path, width: int, height: int) -> Iterator[Window]:
    """Run Firefox with a new profile in this folder."""
    profile, log = folder / "profile", folder / "firefox.log"
    profile.mkdir()
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("".join(lines))
    program = find_program(*FIREFOX_NAMES)
    options = ("--headless", "--profile", str(profile), "--remote-debugging-port", "0")
    with process(program, *options, log=log, environment={}, group=True) as child:
        url = wait_until(lambda: child.poll() is not None or _url_in(log))
        assert isinstance(url, str), log.read_text()
        # Firefox refuses a connection with the header `Origin`.
        made = websocket.create_connection(url, timeout=TIMEOUT_SECONDS, suppress_origin=True)
        with closing(made):
            yield Window(made, width, height)


def _url_in(log: Path) -> str | None:
    found = re.search(r"WebDriver BiDi listening on (ws://\S+)\n", log.read_text())
    return found and f"{found[1]}/session"

"""A site for browser tests: the package's real static files, one page, and replies that the test sets."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dramatiq_progress
from tests.waiting import wait_until

STATIC = Path(dramatiq_progress.__file__).parent / "static"
LIST = "/progress/"
CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply to a poll. `drop` closes the connection without one; `held` delays it until `ScriptedSite.release`."""

    status: int = 200
    json: Any = None
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    held: bool = False


class ScriptedSite:
    """Serves ``/`` (the page), ``/static/…`` and, for every other path, the replies set by `reply`.

    ``/progress/?id=m1&id=m2`` combines the replies of ``/progress/m1/`` and ``/progress/m2/``, unless ``/progress/``
    has replies of its own. A reply that is neither 200 nor 404 is the reply to the whole request.

    Attributes:
      html: The page.
      page_headers: Headers of the page, such as a Content Security Policy.
      static_headers: Headers of the static files.
      files: Every static file requested so far, with its query.
      polls: The path of every request below ``/progress/`` so far.
      poll_headers: The headers of each of them.
    """

    def __init__(self) -> None:
        self.html = ""
        self.page_headers: dict[str, str] = {}
        self.static_headers: dict[str, str] = {}
        self.files: list[str] = []
        self.polls: list[str] = []
        self.poll_headers: list[Mapping[str, str]] = []
        self._replies: dict[str, deque[Reply]] = {}
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.daemon_threads = False  # closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> ScriptedSite:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
        self._server.shutdown()
        # Chromium opens connections in advance, and closing the server would wait for them.
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def reply(self, *replies: Reply | dict[str, Any], path: str = "/progress/m1/") -> None:
        """Set the replies to a path: each of them once, and then always the last one. A dict is the JSON of a 200."""
        with self._lock:
            self._replies[path] = deque(reply if isinstance(reply, Reply) else Reply(json=reply) for reply in replies)

    def release(self) -> None:
        """Send all held replies."""
        self._released.set()

    def wait_for_polls(self, count: int) -> None:
        """Wait until this many requests for progress have arrived."""
        wait_until(lambda: len(self.polls) >= count)

    def reply_to(self, path: str, headers: Mapping[str, str]) -> Reply:
        """Return the next reply to the path."""
        with self._lock:
            if path.startswith("/progress/"):
                self.polls.append(path)
                self.poll_headers.append(headers)
            ids = parse_qs(urlsplit(path).query).get("id")
            if ids and LIST not in self._replies:
                reply = _combined({each: self._next(f"{LIST}{each}/") for each in ids})
            else:
                reply = self._next(LIST if ids else path)
        if reply.held:
            self._released.wait()
        return reply

    def _next(self, path: str) -> Reply:
        replies = self._replies.get(path) or deque([Reply(status=404, json={"error": "not_found"})])
        return replies[0] if len(replies) == 1 else replies.popleft()

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            # For a connection that was accepted while the site was being closed.
            timeout = 10

            def setup(self) -> None:
                super().setup()
                site._connections.add(self.connection)

            def finish(self) -> None:
                super().finish()
                site._connections.discard(self.connection)

            def do_GET(self) -> None:
                if self.path == "/":
                    self._send(200, site.html.encode(), "text/html; charset=utf-8", site.page_headers)
                elif self.path.startswith("/static/"):
                    site.files.append(self.path.removeprefix("/static/"))
                    file = STATIC / self.path.removeprefix("/static/").partition("?")[0]
                    self._send(200, file.read_bytes(), CONTENT_TYPES[file.suffix], site.static_headers)
                else:
                    self._send_reply(site.reply_to(self.path, dict(self.headers)))

            def _send_reply(self, reply: Reply) -> None:
                if reply.drop:
                    return
                content_type = "application/json" if reply.text is None else "text/html; charset=utf-8"
                body = json.dumps(reply.json) if reply.text is None else reply.text
                self._send(reply.status, body.encode(), content_type, reply.headers)

            def _send(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                if status != 304:
                    self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                # The browser may have cancelled the request.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.end_headers()
                    if status != 304:
                        self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _combined(replies: Mapping[str, Reply]) -> Reply:
    for reply in replies.values():
        if reply.status not in (200, 404) or reply.drop or reply.text is not None:
            return reply
    return Reply(
        json={
            "messages": [reply.json | {"id": each} for each, reply in replies.items() if reply.status == 200],
            "unknown": [each for each, reply in replies.items() if reply.status == 404],
        },
        held=any(reply.held for reply in replies.values()),
    )

"""The tests' site under a real ASGI server, and its store."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.redis import RedisStore
from tests import servers
from tests.store_server import Server
from tests.waiting import PATIENT

PREFIX = "dramatiq-progress:"
#: An attempt that a test begins has one heartbeat, and must be shown as running until the test's end.
NEVER_LOST = json.dumps({"LOST_AFTER": 3600})


class Site(NamedTuple):
    """A site under uvicorn, and its store."""

    url: str
    process: subprocess.Popen[bytes]
    store: Store

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.load(answer)


def begin(store: Store, message_id: str = "m1") -> Attempt:
    attempt = Attempt(message_id, "work", "default", 3)
    store.start(attempt)
    report(store, attempt, 1)
    return attempt


def report(store: Store, attempt: Attempt, current: int, **fields: str) -> None:
    store.report([(attempt, {"current": str(current), "total": "10000", **fields})])


@contextmanager
def serve(folder: Path, store_url: str, seen_as: str | None = None, **environment: str) -> Iterator[Site]:
    store = RedisStore(prefix=PREFIX, url=store_url, **PATIENT)
    environment = {"TEST_STORE_URL": seen_as or store_url, "TEST_PROGRESS": NEVER_LOST, **environment}
    with servers.asgi_site(log=folder / "uvicorn.log", environment=environment) as (url, process):
        yield Site(url, process, store)
    store.close()


@pytest.fixture
def asgi_site(server: Server, tmp_path: Path) -> Iterator[Site]:
    """A site whose store is `server`."""
    with serve(tmp_path, server.url) as made:
        yield made

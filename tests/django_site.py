"""A Django site in this process, with the pages of a test and a store that the test writes to."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.urls import include, path
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import progress_actor
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.stores import Store

ServeShop = Callable[[str, Mapping[str, str] | str, Mapping[str, str]], str]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve_shop(memory_store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServeShop]:
    """A function that serves a project called `shop`: the code of its views, its URLs, templates by name.

    The URLs are the code of ``urls.py``, or paths by view.

    `shop.tasks.import_rows` is an actor whose messages wait, until the test changes their state in the store.
    """
    # An attempt that a test begins has one heartbeat, and must be shown as running until the test's end.
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"LOST_AFTER": 3600}
    broker = StubBroker(middleware=[ProgressMiddleware()])
    servers: list[tuple[ThreadedWSGIServer, threading.Thread]] = []

    def serve(views: str, addresses: Mapping[str, str] | str, templates: Mapping[str, str]) -> str:
        tasks = _module(monkeypatch, "shop.tasks")
        tasks.import_rows = progress_actor(broker=broker, actor_name="import_rows")(lambda path: None)
        made = _module(monkeypatch, "shop.views")
        exec(compile(views, "views.py", "exec"), vars(made))  # noqa: S102 - the documentation's own code
        urls = _module(monkeypatch, "shop.urls")
        if isinstance(addresses, str):
            exec(compile(addresses, "urls.py", "exec"), vars(urls))  # noqa: S102 - the documentation's own code
        else:
            urls.urlpatterns = [path("progress/", include("dramatiq_progress.urls"))]
            urls.urlpatterns += [path(where, vars(made)[_view(name)], name=name) for name, where in addresses.items()]
        settings.ROOT_URLCONF = "shop.urls"
        loaders = [("django.template.loaders.locmem.Loader", dict(templates))]
        settings.TEMPLATES = [
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": loaders}}
        ]
        server = ThreadedWSGIServer(("127.0.0.1", 0), _QuietHandler)
        server.set_app(StaticFilesHandler(WSGIHandler()))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    yield serve
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
    broker.close()


def _module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def _view(name: str) -> str:
    # The name of a URL is that of its view, except for Python keywords.
    return {"import": "follow"}.get(name, name)

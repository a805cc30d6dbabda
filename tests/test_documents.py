"""The documentation: its links lead somewhere, and the README's code works as it is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import dramatiq
import pytest
from django.contrib.auth.models import AnonymousUser
from django.template import engines
from django.test import RequestFactory
from django.utils.module_loading import import_string
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Pipelines

from dramatiq_progress import ProgressObserver, State, get_progress, progress_actor, progress_group
from dramatiq_progress.stores import Store
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = HEADING.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def blocks(file: str, page: str = README) -> list[str]:
    """Return a page's blocks of a file, which their first line names."""
    found = re.findall(r"```[\w+]+\n(.*?)```", page, re.DOTALL)
    return [block for block in found if file in block.partition("\n")[0]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_has_each_page_of_the_documentation() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall(README)}
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


def test_the_settings_of_the_readme_name_what_exists() -> None:
    added, dramatiq_settings = blocks("settings.py")
    settings: dict[str, Any] = {"INSTALLED_APPS": [], "MIDDLEWARE": []}
    exec(dramatiq_settings + added, settings)  # noqa: S102 - our own
    assert settings["INSTALLED_APPS"] == ["django_dramatiq", "dramatiq_progress"]
    broker = settings["DRAMATIQ_BROKER"]
    for path in (*settings["MIDDLEWARE"], broker["BROKER"], *broker["MIDDLEWARE"]):
        import_string(path)


def test_the_urls_of_the_readme_work() -> None:
    [block] = blocks("urls.py")
    module: dict[str, Any] = {"urlpatterns": []}
    exec("from django.urls import include, path\n" + block, module)  # noqa: S102 - our own
    [added] = module["urlpatterns"]
    assert added.resolve("progress/m1/").url_name == "detail"


def test_the_actor_and_the_template_of_the_readme_work(
    broker: StubBroker, memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = blocks("tasks.py")
    saved: list[str] = []
    module: dict[str, Any] = {"load": lambda path: [path, path], "save": saved.append, "__name__": "shop.tasks"}
    with monkeypatch.context() as patched:
        patched.setattr("dramatiq.broker.global_broker", broker)
        exec(block, module)  # noqa: S102 - our own
    observer = ProgressObserver()
    module["import_rows"](observer, "a.csv")
    assert (observer.current, observer.total, saved) == (2, 2, ["a.csv", "a.csv"])

    message = module["import_rows"].send("a.csv")
    [template] = blocks("import.html")
    request = RequestFactory().get("/")
    html = engines["django"].from_string(template).render({"message_id": message.message_id}, request)
    assert f"/progress/{message.message_id}/" in html


@pytest.fixture
def shop(broker: StubBroker, memory_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Provide the names that the code of docs/groups.md and docs/pipelines.md uses, and run a worker."""
    monkeypatch.setattr("dramatiq.broker.global_broker", broker)
    broker.add_middleware(Pipelines())

    def sent(fan_out: str = "") -> None:
        if fan_out.endswith(".zip"):
            actors["resize"].send(1)

    actors = {
        name: progress_actor(broker=broker, actor_name=name)(lambda *_: None)
        for name in ("resize", "fetch", "convert", "store", "index")
    }
    actors["import_archive"] = progress_actor(broker=broker, actor_name="import_archive")(sent)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    yield {
        **actors,
        "Photo": SimpleNamespace(objects=SimpleNamespace(filter=lambda **_: [SimpleNamespace(pk=1)] * 2)),
        "render": lambda request, template, context: context,
        "urls": ["a", "b", "c"],
        "pages": lambda: [["a", "b"], ["c"]],
        "path": "photos.zip",
        "progress_group": progress_group,
    }
    worker.stop()


def test_the_code_of_the_pages_on_groups_and_pipelines_works(shop: dict[str, Any], rf: RequestFactory) -> None:
    groups, pipelines = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("groups", "pipelines"))
    view, pipes, archive = blocks("views.py", groups)
    [nightly], [convert] = blocks("tasks.py", groups), blocks("views.py", pipelines)
    request = rf.post("/", {"url": "https://example.com/trip.mov"})
    request.user = AnonymousUser()
    totals = []
    for block, view_name in (
        (view, "resize_photos"),
        (pipes, ""),
        (archive, ""),
        (nightly, ""),
        (convert, "convert_video"),
    ):
        exec(block, shop)  # noqa: S102 - our own
        message_id = shop[view_name](request)["message_id"] if view_name else shop["job"].message_id
        wait_until(lambda message_id=message_id: (found := get_progress(message_id)) and found.state is State.DONE)
        done = get_progress(message_id)
        assert done is not None
        totals.append(done.total)
    assert totals == [2, 3, 2, 3, 3]
    [template] = re.findall(r"```html\+django\n(.*?)```", groups, re.DOTALL)
    html = (
        engines["django"].from_string("{% load dramatiq_progress %}" + template).render({"message_id": "g1"}, request)
    )
    assert "/progress/g1/" in html

"""The documentation: its links lead somewhere, and the README's code works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from django.template import engines
from django.test import RequestFactory
from django.utils.module_loading import import_string
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import ProgressObserver
from dramatiq_progress.stores import Store

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = HEADING.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def blocks(file: str) -> list[str]:
    """Return the README's blocks of a file, which their first line names."""
    found = re.findall(r"```[\w+]+\n(.*?)```", README, re.DOTALL)
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

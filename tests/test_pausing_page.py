"""The code of docs/pausing.md, unchanged: a page with a button that pauses and resumes a job, and its permission."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.urls import clear_url_caches

from dramatiq_progress import State, get_progress, pause
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests.people import MIDDLEWARE, People
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "pausing.md").read_text(encoding="utf-8")
START, VIEWS, URLS, TEMPLATE = re.findall(r"```(?:python|html\+django)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def site(people: People, settings: Any) -> Iterator[People]:
    """The page on a site of its own."""
    shop, views, urls = (ModuleType(name) for name in ("shop", "shop.views", "shop.urls"))
    shop.views, urls.urlpatterns = views, []  # type: ignore[attr-defined]
    modules = {each.__name__: each for each in (shop, views, urls)}
    sys.modules |= modules
    progress = 'from django.urls import include\nurlpatterns += [path("progress/", include("dramatiq_progress.urls"))]'
    exec(VIEWS, views.__dict__)  # noqa: S102 - our own
    exec(URLS + progress, urls.__dict__)  # noqa: S102 - our own
    settings.ROOT_URLCONF = "shop.urls"
    settings.MIDDLEWARE = [*MIDDLEWARE, "django.contrib.messages.middleware.MessageMiddleware"]
    processors = ["django.template.context_processors.request", "django.contrib.messages.context_processors.messages"]
    loaders = [("django.template.loaders.locmem.Loader", {"job.html": TEMPLATE})]
    [backend] = settings.TEMPLATES
    options = {"context_processors": processors, "loaders": loaders}
    settings.TEMPLATES = [{"BACKEND": backend["BACKEND"], "OPTIONS": options}]
    clear_url_caches()
    yield people
    clear_url_caches()
    for name in modules:
        del sys.modules[name]


def test_the_page_pauses_and_resumes_a_job(site: People) -> None:
    message_id = site.send("owner")
    client, page = site.clients["owner"], f"/jobs/{message_id}/"
    html = client.get(page).content.decode()
    assert ">Pause</button>" in html and "Resume" not in html
    html = client.post(f"{page}pause/", {"pause": ""}, follow=True).content.decode()
    assert ">Resume</button>" in html and ">Paused</span>" in html
    assert client.get(f"/progress/{message_id}/").json()["pause_requested"] is True
    html = client.post(f"{page}pause/", {"resume": ""}, follow=True).content.decode()
    assert ">Pause</button>" in html and state_of(message_id) is State.ENQUEUED


def test_the_page_says_that_a_job_can_not_be_paused(site: People, memory_store: Store) -> None:
    message_id = site.send("owner")
    memory_store.start(Attempt(message_id, "work", "default"))
    answer = site.clients["owner"].post(f"/jobs/{message_id}/pause/", {"pause": ""}, follow=True)
    assert "<p>This job can&#x27;t be paused.</p>" in answer.content.decode()
    assert state_of(message_id) is State.RUNNING


def state_of(message_id: str) -> State:
    progress = get_progress(message_id)
    assert progress is not None
    return progress.state


ANYONE = "dramatiq_progress.permissions.anyone_with_link"
STAFF = "dramatiq_progress.permissions.staff"


@pytest.mark.parametrize(
    ("options", "owner", "may"),
    [
        ({}, "owner", {"owner", "staff"}),
        ({}, None, {"staff"}),
        ({"PERMISSION": ANYONE}, "owner", {"owner", "staff"}),
        ({"PAUSE_PERMISSION": STAFF}, "owner", {"staff"}),
        ({"PAUSE_PERMISSION": ANYONE}, "owner", {"owner", "staff"}),
        ({"PAUSE_PERMISSION": ANYONE}, None, {"anonymous", "owner", "another", "staff"}),
        ({"PAUSE_PERMISSION": ANYONE, "PERMISSION": STAFF}, "owner", {"staff"}),
        ({"CANCEL_PERMISSION": STAFF}, "owner", {"owner", "staff"}),
    ],
)
def test_a_job_is_paused_only_by_users_with_the_permission(
    site: People, settings: Any, options: dict[str, Any], owner: str | None, may: set[str]
) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | options
    message_id = site.send(owner)
    for name, client in site.clients.items():
        answer = client.post(f"/jobs/{message_id}/pause/", {"pause": ""})
        assert answer.status_code == (302 if name in may else 404)
        assert state_of(message_id) is (State.PAUSED if name in may else State.ENQUEUED)
        client.post(f"/jobs/{message_id}/pause/", {"resume": ""})


def test_a_job_that_is_unknown_is_not_found(site: People) -> None:
    for method in ("get", "post"):
        path = "/jobs/0b54e7ea-0000-4000-8000-000000000000/" + ("pause/" if method == "post" else "")
        assert getattr(site.clients["staff"], method)(path).status_code == 404


def test_the_first_lines_of_the_page_work(site: People) -> None:
    module: dict[str, Any] = {"message": (message_id := site.send())}
    exec(START, module)  # noqa: S102 - our own
    assert state_of(message_id) is State.ENQUEUED and pause(message_id)

"""``{% dramatiq_progress_schedules %}``: the table of the schedules, for staff."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.utils import translation
from playwright.sync_api import Page

from dramatiq_progress import State, scheduled
from dramatiq_progress.schedules import declaring
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.schedules import Schedules
from dramatiq_progress.web.static_files import SCHEDULES_STYLESHEET
from tests import servers, tasks
from tests.triggers import BrokenTrigger

TABLE = Template("{% load dramatiq_progress %}{% dramatiq_progress_schedules %}")
TABLE_FOR_ALL = Template("{% load dramatiq_progress %}{% dramatiq_progress_schedules staff_only=False %}")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch, memory_store: Store, settings: Any) -> Iterator[None]:
    """One schedule, in Berlin."""
    settings.TIME_ZONE = "Europe/Berlin"
    monkeypatch.setattr(declaring, "_declared", [])
    scheduled(cron="0 3 * * *", name="<nightly>")(tasks.import_rows)
    yield


@pytest.fixture
def in_store(memory_store: Store) -> Schedules:
    return Schedules(memory_store)


def request_of(*, is_staff: bool) -> HttpRequest:
    request = RequestFactory().get("/")
    request.session = {}  # type: ignore[assignment]
    request.user = SimpleNamespace(is_active=True, is_staff=is_staff, is_authenticated=False)  # type: ignore[assignment]
    return request


def render(template: Template = TABLE, *, is_staff: bool = True) -> str:
    return template.render(RequestContext(request_of(is_staff=is_staff)))


def cells(html: str) -> list[str]:
    """Return the texts of the row's cells."""
    row = html.partition("<tbody>")[2]
    return [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]


def test_staff_see_each_schedule_and_others_see_nothing() -> None:
    name, runs, next_run, last, outcome = cells(render())
    assert (name, runs, last, outcome) == ("&lt;nightly&gt;", "At 03:00 every day", "—", "—")
    assert re.search(r"3 a\.m\. CES?T$", next_run)
    assert render(is_staff=False) == ""
    assert cells(render(TABLE_FOR_ALL, is_staff=False)) == cells(render())


def test_the_last_run_has_a_live_bar_while_its_record_exists(in_store: Schedules, memory_store: Store) -> None:
    memory_store.enqueue("m1", actor="import_rows", queue="default", retries_left=3)
    in_store.confirm("<nightly>", datetime(2026, 6, 1, 1, tzinfo=UTC), "m1", ttl=60)
    html = render()
    assert 'src="/progress/m1/"' in html and " compact" in html
    assert cells(html)[3] == "06/01/2026 3 a.m. CEST"

    attempt = Attempt("m1", "import_rows", "default")
    memory_store.start(attempt)
    memory_store.finish(attempt, state=State.FAILED)
    in_store.conclude({"<nightly>": ("m1", State.FAILED)})
    memory_store._records.pop(memory_store.key("m1"))  # type: ignore[attr-defined]
    html = render()
    assert "<dramatiq-progress" not in html and cells(html)[4] == "The task failed."


def test_times_have_seconds_if_one_of_them_is_not_a_whole_minute(in_store: Schedules) -> None:
    in_store.confirm("<nightly>", datetime(2026, 6, 1, 1, 0, 7, tzinfo=UTC), "m1", ttl=60)
    assert cells(render())[3] == "06/01/2026 3:00:07 a.m. CEST"
    with translation.override("de"):
        assert cells(render())[3] == "01.06.2026 03:00:07 CEST"
        assert re.search(r" 03:00:00 CES?T$", cells(render())[2])


@pytest.mark.parametrize("width", [320, 900])
def test_the_table_is_as_wide_as_the_page(page: Page, width: int) -> None:
    scheduled(cron="*/10 9-17 * * mon-fri", name="shop.tasks.reports." + 8 * "of_each_customer_")(tasks.import_rows)
    stylesheet = finders.find(SCHEDULES_STYLESHEET)
    page.set_viewport_size({"width": width, "height": 400})
    page.set_content(f"<style>{Path(str(stylesheet)).read_text()}</style>{render()}")
    assert page.evaluate("document.scrollingElement.scrollWidth") == width
    # A narrow page has each heading in its cell.
    assert page.locator("thead").is_visible() == (width == 900)


def test_the_table_says_that_no_scheduler_is_running(in_store: Schedules) -> None:
    assert '<p role="alert">No scheduler is running, so nothing is sent.</p>' in render()
    in_store.keep_alive("host:1")
    assert "No scheduler is running" not in render()


def test_a_disabled_schedule_is_shown_as_such(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"SCHEDULES": {"<nightly>": {"enabled": False}}}
    html = render()
    assert cells(html)[2] == "Disabled" and "No scheduler is running" not in html


def test_staff_see_why_the_next_time_is_unknown() -> None:
    """The text of an exception isn't for everyone."""

    scheduled(trigger=BrokenTrigger(), name="<broken>")(tasks.import_rows)
    assert cells(render())[2] == "ValueError: no calendar for\nthis &lt;year&gt;"
    assert cells(render(TABLE_FOR_ALL, is_staff=False))[2] == "—"


def test_the_table_is_in_the_language_of_the_page() -> None:
    with translation.override("de"):
        assert "Nächster Lauf" in render() and "Es läuft kein Scheduler" in render()


def test_without_a_store_there_is_a_text_instead_of_the_table(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"redis://127.0.0.1:{servers.free_port()}/0"}}
    assert "Progress can&#x27;t be shown right now." in render()


def test_the_table_needs_the_request() -> None:
    with pytest.raises(ImproperlyConfigured, match="dramatiq_progress_schedules %} needs the request"):
        TABLE_FOR_ALL.render(Context())

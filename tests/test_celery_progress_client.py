"""The unchanged JavaScript client of celery-progress 0.5 with our view: a real site, store and browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from dramatiq_progress.progress import State
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests import servers

ATTEMPT = {"actor": "work", "queue": "default", "retries_left": 3}


@pytest.fixture
def site(redis_store: Store, settings: Any, tmp_path: Path) -> Iterator[str]:
    """The URL of the tests' site, which uses this test's store."""
    options = settings.DRAMATIQ_PROGRESS
    environment = {
        "TEST_STORE_URL": options["OPTIONS"]["url"],
        "TEST_PROGRESS": json.dumps({"PREFIX": options["PREFIX"]}),
    }
    with servers.site(log=tmp_path / "site.log", environment=environment) as url:
        yield url


@pytest.fixture
def message(page: Page) -> Locator:
    return page.locator("#progress-bar-message")


@pytest.fixture
def bar(page: Page) -> Locator:
    return page.locator("#progress-bar")


def expect_drawn(bar: Locator, percent: int, color: str) -> None:
    expect(bar).to_have_attribute("style", f"width: {percent}%; background-color: {color};")


RUNNING, DONE, FAILED = "rgb(104, 169, 239)", "rgb(118, 206, 96)", "rgb(220, 79, 99)"


def test_it_shows_a_message_from_waiting_to_done(
    site: str, page: Page, bar: Locator, message: Locator, redis_store: Store
) -> None:
    redis_store.enqueue("m1", **ATTEMPT)
    page.goto(f"{site}/celery/m1/")
    expect(message).to_have_text("Waiting for task to start...")
    attempt = Attempt("m1", **ATTEMPT)
    redis_store.start(attempt)
    expect(message).to_have_text("Task started...")
    redis_store.report([(attempt, {"current": "30", "total": "120", "description": "Importing"})])
    expect(message).to_have_text("30 of 120 processed. Importing")
    expect_drawn(bar, 25, RUNNING)
    redis_store.finish(attempt, state=State.DONE, fields={"result": json.dumps("All there")})
    expect(message).to_have_text("Success! All there")
    expect_drawn(bar, 25, DONE)


def test_it_shows_a_result(site: str, page: Page, message: Locator, redis_store: Store) -> None:
    attempt = Attempt("m1", **ATTEMPT)
    redis_store.start(attempt)
    redis_store.finish(attempt, state=State.DONE, fields={"result": json.dumps("All there")})
    page.goto(f"{site}/celery/m1/?result")
    expect(page.locator("#celery-result")).to_have_text("All there")


def test_it_shows_a_retry_as_running_and_then_a_failure(
    site: str, page: Page, bar: Locator, message: Locator, redis_store: Store
) -> None:
    attempt = Attempt("m1", **ATTEMPT)
    redis_store.start(attempt)
    redis_store.report([(attempt, {"current": "30", "total": "120"})])
    page.goto(f"{site}/celery/m1/")
    expect_drawn(bar, 25, RUNNING)
    redis_store.finish(attempt, state=State.RETRYING, retry_in=60)
    page.wait_for_event("response", lambda each: each.json()["state"] == "retrying")
    expect_drawn(bar, 25, RUNNING)
    attempt = Attempt("m1", **ATTEMPT)
    redis_store.start(attempt)
    redis_store.finish(attempt, state=State.FAILED, fields={"result": json.dumps("Row 7 has no code.")})
    expect(message).to_have_text("Uh-Oh, something went wrong! Row 7 has no code.")
    expect(bar).to_have_css("background-color", FAILED)


def test_it_shows_a_paused_job_where_it_is(
    site: str, page: Page, bar: Locator, message: Locator, redis_store: Store
) -> None:
    attempt = Attempt("m1", **ATTEMPT, resumable=True)
    redis_store.start(attempt)
    fields = {"cursor": '[1,[],"",30,null]', "current": "30", "total": "120", "description": "Importing"}
    redis_store.report([(attempt, fields)])
    redis_store.pause("m1")
    redis_store.finish(attempt, state=State.ENQUEUED, yields=True, fields=fields)
    page.goto(f"{site}/celery/m1/")
    page.wait_for_event("response", lambda each: each.json()["state"] == "paused")
    expect(message).to_have_text("30 of 120 processed. Importing")
    expect_drawn(bar, 25, RUNNING)


def test_an_unknown_id_is_an_http_error(site: str, page: Page, bar: Locator, message: Locator) -> None:
    page.goto(f"{site}/celery/never-sent/")
    expect(message).to_have_text("Uh-Oh, something went wrong! HTTP Code 404")
    expect(bar).to_have_css("background-color", FAILED)

"""The threats of docs/security.md that have no test elsewhere. Each row of its table names its tests."""

from __future__ import annotations

import ast
import asyncio
import re
import secrets
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.core import checks
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import ProgressObserver, State, StoreUnavailable, UserFacingError, get_progress, progress_actor
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.worker.observing.binding import Binding
from tests.people import People
from tests.servers import ROOT
from tests.waiting import wait_until

PASSWORD = "hunter2"
DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

#: Text that has an effect wherever it isn't treated as text.
HOSTILE = "\x1b[2J\x1b]0;title\x07\u202e</script><img src=x onerror=alert(1)>\r\nFAKE LOG LINE {{ 7|add:7 }}\0"


# ---- The document ----


def rows() -> list[tuple[str, list[str]]]:
    """Return each threat, and the tests that its row names."""
    table = DOCUMENT.partition("| threat |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]
    return [(threat, re.findall(r"`(\w+\.py)::(\w+)`", tests)) for threat, _, tests in cells]  # type: ignore[misc]


def test_each_threat_has_an_existing_test() -> None:
    assert len(rows()) >= 12
    for threat, tests in rows():
        assert tests, threat
        for file, name in tests:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, f"{file}::{name}"


# ---- Ids ----


def test_guessed_ids_are_all_unknown(people: People) -> None:
    people.send("owner")
    guessed = [secrets.token_hex(16) for _ in range(100)]
    answer = people.clients["another"].get("/progress/", {"id": guessed}).json()
    assert answer == {"messages": [], "unknown": guessed}


HOSTILE_IDS = [
    *("*", "a*", "?", "a:b", "owner:x", "queue:default", "{x}", "{}a", "a\0b", "\0", "a\nb", "a\r\nSET x 1", "\n"),
    *(
        "..",
        "../x",
        "%",
        "é",
        "\u0663",
        "\U0001d7db",
        "\ufeff",
        "a\u200b",
        "\u202e",
        "'",
        '"',
        "`",
        "$(x)",
        "; x",
        "<b>",
        "x" * 65,
    ),
]
#: Too long, too many, too many fields.
TOO_MUCH = [
    "id=" + "x" * 1_048_576,
    "token=" + "x" * 1_048_576,
    "x" * 1_048_576,
    "&" * 1_048_576,
    "&".join(f"id=m{number}" for number in range(10_000)),
    "&".join(f"token=m{number}" for number in range(10_000)),
    "&".join(f"a{number}=1" for number in range(1_001)),
]


@pytest.mark.parametrize("path", ["/progress/", "/progress/stream/", "/progress/mine/", "/progress/m1/"])
@pytest.mark.parametrize("query", TOO_MUCH, ids=lambda query: f"{query[:12]} and so on")
def test_a_hostile_query_is_refused_before_the_store_is_read(settings: Any, path: str, query: str) -> None:
    """The store is unreachable: reading it would be a 503."""
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    response = asyncio.run(AsyncClient().get(f"{path}?{query}"))
    assert (response.status_code, response.json()["error"]) == (400, "bad_request")
    assert len(response.content) < 300


@pytest.mark.parametrize("message_id", HOSTILE_IDS, ids=ascii)
def test_a_hostile_id_never_reaches_the_store(settings: Any, message_id: str) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    client = Client()
    for path in (f"/progress/?id={quote(message_id)}", f"/progress/{quote(message_id, safe='')}/"):
        response = client.get(path)
        assert response.status_code in (400, 404)
        assert not set(response.content) & {0, 0x1B}
    assert client.get("/progress/m1/").status_code == 503


# ---- Text ----


def test_hostile_text_stays_text_in_json(people: People, memory_store: Store) -> None:
    message_id = people.send()
    attempt = Attempt(message_id, "work", "default")
    memory_store.start(attempt)
    observer = ProgressObserver(Binding(attempt=attempt))
    observer.set_progress(1, 2, HOSTILE)
    observer.set_metadata(file=HOSTILE)
    observer.set_result({HOSTILE: HOSTILE})
    memory_store.finish(attempt, state=State.DONE, fields=observer._binding.final_fields(with_result=True))
    response = people.clients["anonymous"].get(f"/progress/{message_id}/")
    answer = response.json()
    kept = answer["progress"]["description"], answer["metadata"]["file"], *answer["result"]
    assert all("<img src=x onerror=alert(1)>" in each for each in kept)
    # No byte that a terminal or an event stream interprets: curl shows a body unchanged.
    assert not set(response.content) & {*range(0x20), 0x7F, *range(0x80, 0x100)}
    assert response["Content-Type"] == "application/json" and response["X-Content-Type-Options"] == "nosniff"


def test_hostile_text_is_escaped_in_log_lines(
    memory_store: Store, broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Our lines name invalid values. The messages of exceptions are logged by Dramatiq, not by us."""

    @progress_actor(broker=broker, max_retries=0)
    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(HOSTILE, 5)  # type: ignore[arg-type]
        progress_observer.set_result({HOSTILE: object()})
        raise UserFacingError(HOSTILE)

    message = work.send()
    wait_until(lambda: (found := get_progress(message.message_id)) and found.complete)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("dramatiq_progress")]
    assert ours
    for line in ours:
        assert line.isprintable(), ascii(line)


# ---- Passwords ----

#: Options with a password in every possible place, and with common mistakes.
OPTIONS: list[Any] = [
    {"url": f"redis://:{PASSWORD}@127.0.0.1:1/0"},
    {"url": f"redis://someone:{PASSWORD}@127.0.0.1:1/0?socket_timeout=1"},
    {"host": "127.0.0.1", "port": 1, "password": PASSWORD},
    {
        "sentinels": ["127.0.0.1:1"],
        "service_name": "s",
        "password": PASSWORD,
        "sentinel_kwargs": {"password": PASSWORD},
    },
    {"cluster": True, "startup_nodes": ["127.0.0.1:1"], "password": PASSWORD},
    {"cluster": True, "url": f"redis://:{PASSWORD}@127.0.0.1:1/0"},
    {"url": f"redis://:{PASSWORD}#x@127.0.0.1:1/0"},
    {"url": f"redis://:{PASSWORD}/x@127.0.0.1:1/0"},
    {"url": f"redis://:x{PASSWORD}@@127.0.0.1:port/0"},
    {"cluster": True, "url": f"redis://:{PASSWORD}#x@127.0.0.1:1/0"},
    {"url": f"http://:{PASSWORD}@127.0.0.1"},
    {"url": f"redis://:{PASSWORD}@127.0.0.1:1/0", "colour": "red"},
    {"sentinels": [f"redis://:{PASSWORD}@127.0.0.1"], "service_name": "s"},
    f"redis://:{PASSWORD}@127.0.0.1:1/0",
    [("password", PASSWORD)],
]
SETTINGS = [
    *({"OPTIONS": each} for each in OPTIONS),
    {"STORE": f"redis://:{PASSWORD}@127.0.0.1:1/0"},
    {"PREFIX": 7, "OPTIONS": {"password": PASSWORD}},
    f"redis://:{PASSWORD}@127.0.0.1:1/0",
]


@pytest.mark.parametrize("given", SETTINGS, ids=ascii)
def test_no_error_check_or_log_contains_a_password(settings: Any, given: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.DRAMATIQ_PROGRESS = given
    texts = [str(each) for each in checks.run_checks(tags=["dramatiq_progress"], include_deployment_checks=True)]
    client = Client(raise_request_exception=False)
    texts.append(str(client.get("/progress/m1/").content))
    try:
        store = get_store()
        texts.append(repr(store) + str(store))
        store.ping()
    except (ImproperlyConfigured, StoreUnavailable) as error:
        texts += traceback.format_exception(error)
    assert any("127.0.0.1" in each or "DRAMATIQ_PROGRESS" in each for each in texts)
    # A traceback quotes lines of this file; none of them contains the password itself.
    assert PASSWORD not in "\n".join([*texts, caplog.text])


# ---- A flood ----


@pytest.fixture
def limited(settings: Any) -> Iterator[None]:
    """Use the middleware from the document."""
    code = re.search(r"```python\n(# shop/middleware\.py\n.*?)```", DOCUMENT, re.DOTALL)
    assert code is not None
    module = types.ModuleType("shop_middleware")
    exec(compile(code[1], "docs/security.md", "exec"), module.__dict__)  # noqa: S102 - our own
    sys.modules["shop_middleware"] = module
    settings.MIDDLEWARE = ["shop_middleware.LimitPolls"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "polls"}}
    cache.clear()
    yield
    cache.clear()
    del sys.modules["shop_middleware"]


def test_a_flood_of_polls_is_limited_as_documented(limited: None, memory_store: Store) -> None:
    memory_store.enqueue("m1", actor="work", queue="default", retries_left=0)
    flooding, other = Client(), Client(REMOTE_ADDR="192.0.2.7")
    assert flooding.get("/progress/?id=m1").status_code == 200
    # More than the limit: on a busy machine another minute may begin meanwhile.
    assert any(flooding.get("/progress/?id=m1").status_code == 429 for _ in range(3_000))
    refused = flooding.get("/progress/m1/")
    assert refused.status_code == 429 and int(refused["Retry-After"]) > 0
    assert other.get("/progress/m1/").status_code == 200
    assert flooding.get("/").status_code == 200

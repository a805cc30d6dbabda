"""Permissions to read and to cancel, and that a denied message can't be told apart from one that doesn't exist."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core import checks
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template import RequestContext, Template
from django.test import AsyncClient, RequestFactory

from dramatiq_progress import Progress, State, get_progress
from dramatiq_progress.permissions import is_staff, may_cancel, may_read
from tests.people import NAMES, People

READY_MADE = "dramatiq_progress.permissions."
EVERYBODY = set(NAMES)


def named_another(request: HttpRequest, progress: Progress) -> bool:
    return request.user.get_username() == "another"


async def named_another_async(request: HttpRequest, progress: Progress) -> bool:
    user = await request.auser()
    return user.get_username() == "another"


def named(request: HttpRequest, progress: Progress, name: str) -> bool:
    return request.user.get_username() == name


def denied(request: HttpRequest, progress: Progress) -> bool:
    raise PermissionDenied


async def denied_async(request: HttpRequest, progress: Progress) -> bool:
    raise PermissionDenied


HERE = f"{__name__}."

#: PERMISSION, the users who may read a message of `owner`, and those who may read one without an owner.
READERS: list[tuple[Any, set[str], set[str]]] = [
    (None, {"owner", "staff"}, EVERYBODY),
    (READY_MADE + "owner_or_staff", {"owner", "staff"}, EVERYBODY),
    (READY_MADE + "owner", {"owner"}, EVERYBODY),
    (READY_MADE + "staff", {"staff"}, {"staff"}),
    (READY_MADE + "anyone_with_link", EVERYBODY, EVERYBODY),
    ((READY_MADE + "django_permission", "auth.view_user"), {"another"}, {"another"}),
    (named_another, {"another"}, {"another"}),
    (HERE + "named_another_async", {"another"}, {"another"}),
    ([HERE + "named", "another"], {"another"}, {"another"}),
    ((named, "owner"), {"owner"}, {"owner"}),
    (denied, set(), set()),
    (denied_async, set(), set()),
]


def name_of(permission: Any) -> str:
    """The id of a row, without an address in memory: pytest-xdist needs the same ids in each of its processes."""
    parts = permission if isinstance(permission, (list, tuple)) else [permission]
    return " ".join(getattr(part, "__name__", str(part)) for part in parts)


ids = [name_of(each[0]) for each in READERS]


@pytest.fixture(autouse=True)
def another_may_view_users(people: People) -> None:
    kind = ContentType.objects.get(app_label="auth", model="user")
    people.users["another"].user_permissions.add(Permission.objects.get(content_type=kind, codename="view_user"))


def use(settings: Any, **given: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, **given}


@pytest.mark.parametrize(("permission", "of_owned", "of_unowned"), READERS, ids=ids)
def test_a_permission_decides_who_may_read(
    people: People, settings: Any, permission: Any, of_owned: set[str], of_unowned: set[str]
) -> None:
    use(settings, PERMISSION=permission)
    owned, unowned = people.send("owner"), people.send()
    assert people.who_gets(f"/progress/{owned}/") == of_owned
    assert people.who_gets(f"/progress/{unowned}/") == of_unowned
    for name, client in people.clients.items():
        answer = client.get(f"/progress/?id={owned}&id={unowned}").json()
        may = [name in of_owned, name in of_unowned]
        pairs = list(zip([owned, unowned], may, strict=True))
        assert [each["id"] for each in answer["messages"]] == [each for each, is_allowed in pairs if is_allowed]
        assert answer["unknown"] == [each for each, is_allowed in pairs if not is_allowed]


def first_events(people: People, name: str, *message_ids: str) -> bytes:
    """Open a stream of these messages as a user or as a visitor, and return the events that it sends first."""

    async def read() -> bytes:
        client = AsyncClient()
        if name in people.users:
            await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get("/progress/stream/", {"id": message_ids})
            chunks: Any = response.streaming_content  # type: ignore[attr-defined]
            await anext(chunks)
            chunk: bytes = await anext(chunks)
            await asyncio.to_thread(response.close)
            return chunk

    return asyncio.run(read())


@pytest.mark.parametrize("permission", [None, HERE + "named_another_async"])
@pytest.mark.django_db(transaction=True)
def test_a_permission_is_checked_in_a_stream(people: People, settings: Any, permission: Any) -> None:
    use(settings, PERMISSION=permission)
    message_id = people.send("owner")
    may = {"owner", "staff"} if permission is None else {"another"}

    for name in NAMES:
        event = first_events(people, name, message_id)
        assert (b'"state": "enqueued"' in event) == (name in may)
        assert (b"event: unknown" in event) == (name not in may)


# ---- A permission that fails ----


def fails_for_the_owned(request: HttpRequest, progress: Progress) -> bool:
    return not progress.owner or bool(progress.metadata["owner of the shop"])


async def fails_for_the_owned_async(request: HttpRequest, progress: Progress) -> bool:
    return not progress.owner or bool(progress.metadata["owner of the shop"])


FAILING = [HERE + "fails_for_the_owned", HERE + "fails_for_the_owned_async"]


@pytest.mark.parametrize("permission", FAILING)
def test_a_failing_permission_denies_one_message_and_is_logged(
    people: People, settings: Any, permission: str, caplog: pytest.LogCaptureFixture
) -> None:
    use(settings, PERMISSION=permission)
    owned, other = people.send("owner"), people.send()
    client = people.clients["owner"]
    answer = client.get(f"/progress/?id={owned}&id={other}").json()
    assert ([each["id"] for each in answer["messages"]], answer["unknown"]) == ([other], [owned])
    [record] = [each for each in caplog.records if each.name == "dramatiq_progress.permissions"]
    assert owned in record.getMessage() and record.levelname == "ERROR" and "owner of the shop" in caplog.text
    assert everything_of(client.get(f"/progress/{owned}/")) == everything_of(client.get("/progress/never-sent/"))


@pytest.mark.parametrize("permission", FAILING)
def test_a_failing_permission_does_not_break_a_page(people: People, settings: Any, permission: str) -> None:
    use(settings, PERMISSION=permission)
    owned = people.send("owner")
    template = Template(
        "{% load dramatiq_progress %}{% dramatiq_progress owned %}{% dramatiq_progress_mine empty='-' %}"
    )
    request = RequestFactory().get("/")
    request.session, request.user = people.clients["owner"].session, people.users["owner"]
    html = template.render(RequestContext(request, {"owned": owned}))
    assert f' src="/progress/{owned}/"' in html
    assert '<div class="dramatiq-progress-mine"><p>-</p></div>' in html


@pytest.mark.parametrize("permission", FAILING)
def test_a_failing_cancel_permission_denies_the_cancel_and_not_the_progress(
    people: People, settings: Any, permission: str
) -> None:
    use(settings, CANCEL_PERMISSION=permission)
    owned, client = people.send("owner"), people.clients["owner"]
    answer = client.get(f"/progress/{owned}/")
    assert (answer.status_code, answer.json()["can_cancel"]) == (200, False)
    assert client.post(f"/progress/{owned}/cancel/").status_code == 404


@pytest.mark.parametrize("permission", FAILING)
@pytest.mark.django_db(transaction=True)
def test_a_failing_permission_does_not_end_a_stream(people: People, settings: Any, permission: str) -> None:
    use(settings, PERMISSION=permission)
    owned, other = people.send("owner"), people.send()

    events = first_events(people, "owner", owned, other)
    assert f'event: unknown\ndata: {{"unknown": ["{owned}"]}}'.encode() in events
    assert f'data: {{"id": "{other}"'.encode() in events


# ---- Not allowed and not found ----


def everything_of(response: HttpResponseBase) -> tuple[Any, ...]:
    assert not isinstance(response.headers, dict)
    cookies = sorted(morsel.OutputString() for morsel in response.cookies.values())
    return response.status_code, sorted(response.headers.items()), cookies, b"".join(response)


@pytest.mark.parametrize("name", ["anonymous", "another", "with the cookie of an expired session"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_not_allowed_and_not_found_are_the_same_response(people: People, name: str, method: str) -> None:
    client = people.clients["another" if name == "another" else "anonymous"]
    ids = [people.send("owner"), "0b54e7ea-c5d0-4b3c-8a51-0c6f2b7d1e94"]
    etag = people.clients["owner"].get(f"/progress/{ids[0]}/")["ETag"]

    def ask(path: str, **headers: str) -> tuple[Any, ...]:
        if "cookie" in name:
            client.cookies["sessionid"] = "f" * 32
        return everything_of(getattr(client, method)(path, headers=headers))

    for headers in ({}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
        not_allowed, not_found = (ask(f"/progress/{each}/", **headers) for each in ids)
        assert not_allowed == not_found and not_allowed[0] == 404
    not_allowed, not_found = (ask(f"/progress/?id={each}") for each in ids)
    if method == "get":
        assert ids[0].encode() in not_allowed[3]
        assert not_allowed[3].replace(ids[0].encode(), ids[1].encode()) == not_found[3]
    drop = [each for each in not_allowed[1] if each[0] != "ETag"], [each for each in not_found[1] if each[0] != "ETag"]
    assert drop[0] == drop[1] and (not_allowed[0], not_allowed[2]) == (not_found[0], not_found[2])


def test_a_message_without_an_owner_reads_no_session(people: People, django_assert_num_queries: Any) -> None:
    message_id = people.send()
    for client in people.clients.values():
        with django_assert_num_queries(0):
            assert "Vary" not in client.get(f"/progress/{message_id}/")


def test_anyone_with_link_reads_no_session(people: People, settings: Any, django_assert_num_queries: Any) -> None:
    use(settings, PERMISSION=READY_MADE + "anyone_with_link")
    owned = people.send("owner")
    with django_assert_num_queries(0):
        people.clients["another"].get(f"/progress/?id={owned}&id=gone")


# ---- Cancel ----

#: PERMISSION, CANCEL_PERMISSION, the users who may cancel a message of `owner`, and one without an owner.
CANCELLERS: list[tuple[Any, Any, set[str], set[str]]] = [
    (None, None, {"owner", "staff"}, {"staff"}),
    (READY_MADE + "owner", None, {"owner"}, {"staff"}),
    (READY_MADE + "anyone_with_link", None, {"owner", "staff"}, {"staff"}),
    (named_another, None, {"another"}, set()),
    (None, READY_MADE + "staff", {"staff"}, {"staff"}),
    (None, READY_MADE + "anyone_with_link", {"owner", "staff"}, EVERYBODY),
    (None, HERE + "named_another_async", set(), {"another"}),
]


@pytest.mark.parametrize(("reading", "cancelling", "of_owned", "of_unowned"), CANCELLERS)
def test_cancelling_requires_the_permission_to_read(
    people: People, settings: Any, reading: Any, cancelling: Any, of_owned: set[str], of_unowned: set[str]
) -> None:
    use(settings, PERMISSION=reading, CANCEL_PERMISSION=cancelling)
    owned, unowned = get_progress(people.send("owner")), get_progress(people.send())
    assert owned is not None and unowned is not None and owned.state is State.ENQUEUED
    for name, client in people.clients.items():
        request = RequestFactory().get("/")
        request.user = people.users.get(name, anonymous_user())
        request.session = client.session
        request.auser = as_async(request.user)  # type: ignore[method-assign]
        assert may_cancel(request, owned) == (name in of_owned)
        assert may_cancel(request, unowned) == (name in of_unowned)
        if name in of_owned:
            assert may_read(request, owned)


def anonymous_user() -> Any:
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def as_async(user: Any) -> Any:
    async def auser() -> Any:
        return user

    return auser


# ---- Invalid settings ----


@pytest.mark.parametrize("key", ["PERMISSION", "CANCEL_PERMISSION"])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("nowhere.permission", "'nowhere.permission', which can't be imported"),
        (READY_MADE + "ownr", "ownr"),
        ("dramatiq_progress.owners.OWNER_OPTION", "which isn't a function"),
        (7, "is 7; it must be a function, a dotted path, or a tuple"),
        ("", "is ''; it must be"),
        (("a.b",), "it must be"),
        (("a.b", 1, 2), "it must be"),
        ((None, 1), "it must be"),
    ],
)
def test_an_invalid_permission_is_named_by_a_check(settings: Any, key: str, given: Any, text: str) -> None:
    use(settings, **{key: given})
    [found] = checks.run_checks(tags=["dramatiq_progress"])
    assert found.id == "dramatiq_progress.E003"
    assert f'DRAMATIQ_PROGRESS["{key}"]' in found.msg and text in found.msg


def test_an_invalid_permission_denies_everything(people: People, settings: Any) -> None:
    message_id = people.send()
    use(settings, PERMISSION="nowhere.permission")
    for client in people.clients.values():
        client.raise_request_exception = False
        assert client.get(f"/progress/{message_id}/").status_code == 500


def test_a_poll_checks_each_permission_once_per_message(people: People, settings: Any) -> None:
    calls: list[str] = []

    def counting(request: HttpRequest, progress: Progress) -> bool:
        calls.append(progress.id)
        return True

    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"PERMISSION": counting}
    ids = [people.send("owner") for _ in range(5)]
    query = "&".join(f"id={each}" for each in ids)
    assert people.clients["owner"].get(f"/progress/?{query}").status_code == 200
    assert sorted(calls) == sorted(ids)


def test_async_permissions_of_a_list_are_awaited_together(people: People, settings: Any) -> None:
    """One after the other, a hundred messages would take a hundred times as long."""
    ids = [people.send("owner") for _ in range(5)]
    waiting: list[asyncio.Event] = []

    async def slow(request: HttpRequest, progress: Progress) -> bool:
        if not waiting:
            waiting.append(asyncio.Event())
        arrived.append(progress.id)
        if len(arrived) == len(ids):
            waiting[0].set()
        async with asyncio.timeout(60):
            await waiting[0].wait()
        return True

    arrived: list[str] = []
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"PERMISSION": slow}
    answer = people.clients["owner"].get("/progress/?" + "&".join(f"id={each}" for each in ids))
    assert len(answer.json()["messages"]) == 5


def test_a_user_model_without_is_staff_has_no_staff() -> None:
    """As one of a project without the admin."""

    class Plain:
        is_active = True

    request = RequestFactory().get("/")
    request.user = Plain()  # type: ignore[assignment]
    assert not is_staff(request)

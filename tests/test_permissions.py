"""Who may read and who may cancel: each permission, and that what a person may not see is not there."""

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
from django.test import AsyncClient, RequestFactory

from dramatiq_progress import Progress, State, get_progress
from dramatiq_progress.permissions import may_cancel, may_read
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

#: A setting, who may read a message of `owner`, and who one of nobody.
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

ids = [str(each[0]) for each in READERS]


@pytest.fixture(autouse=True)
def another_may_view_users(people: People) -> None:
    kind = ContentType.objects.get(app_label="auth", model="user")
    people.users["another"].user_permissions.add(Permission.objects.get(content_type=kind, codename="view_user"))


def use(settings: Any, **given: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {**settings.DRAMATIQ_PROGRESS, **given}


@pytest.mark.parametrize(("permission", "of_owned", "of_nobodys"), READERS, ids=ids)
def test_a_permission_says_who_may_read(
    people: People, settings: Any, permission: Any, of_owned: set[str], of_nobodys: set[str]
) -> None:
    use(settings, PERMISSION=permission)
    owned, nobodys = people.send("owner"), people.send()
    assert people.who_gets(f"/progress/{owned}/") == of_owned
    assert people.who_gets(f"/progress/{nobodys}/") == of_nobodys
    for name, client in people.clients.items():
        answer = client.get(f"/progress/?id={owned}&id={nobodys}").json()
        may = [name in of_owned, name in of_nobodys]
        pairs = list(zip([owned, nobodys], may, strict=True))
        assert [each["id"] for each in answer["messages"]] == [each for each, is_allowed in pairs if is_allowed]
        assert answer["unknown"] == [each for each, is_allowed in pairs if not is_allowed]


@pytest.mark.parametrize("permission", [None, HERE + "named_another_async"])
@pytest.mark.django_db(transaction=True)
def test_a_permission_is_asked_in_a_stream(people: People, settings: Any, permission: Any) -> None:
    use(settings, PERMISSION=permission)
    message_id = people.send("owner")
    may = {"owner", "staff"} if permission is None else {"another"}

    async def first_event(name: str) -> bytes:
        client = AsyncClient()
        if name in people.users:
            await client.aforce_login(people.users[name])
        async with asyncio.timeout(30):
            response = await client.get(f"/progress/stream/?id={message_id}")
            pieces: Any = response.streaming_content  # type: ignore[attr-defined]
            await anext(pieces)
            piece: bytes = await anext(pieces)
            await asyncio.to_thread(response.close)
            return piece

    for name in NAMES:
        heard = asyncio.run(first_event(name))
        assert (b'"state": "enqueued"' in heard) == (name in may)
        assert (b"event: unknown" in heard) == (name not in may)


# ---- Not allowed and not there ----


def everything_of(response: HttpResponseBase) -> tuple[Any, ...]:
    assert not isinstance(response.headers, dict)
    cookies = sorted(morsel.OutputString() for morsel in response.cookies.values())
    return response.status_code, sorted(response.headers.items()), cookies, b"".join(response)


@pytest.mark.parametrize("name", ["anonymous", "another", "with a cookie of no session"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_not_allowed_and_not_there_are_one_answer(people: People, name: str, method: str) -> None:
    client = people.clients["another" if name == "another" else "anonymous"]
    ids = [people.send("owner"), "0b54e7ea-c5d0-4b3c-8a51-0c6f2b7d1e94"]
    etag = people.clients["owner"].get(f"/progress/{ids[0]}/")["ETag"]

    def ask(path: str, **headers: str) -> tuple[Any, ...]:
        if "cookie" in name:
            client.cookies["sessionid"] = "f" * 32
        return everything_of(getattr(client, method)(path, headers=headers))

    for headers in ({}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
        not_allowed, not_there = (ask(f"/progress/{each}/", **headers) for each in ids)
        assert not_allowed == not_there and not_allowed[0] == 404
    not_allowed, not_there = (ask(f"/progress/?id={each}") for each in ids)
    if method == "get":
        assert ids[0].encode() in not_allowed[3]
        assert not_allowed[3].replace(ids[0].encode(), ids[1].encode()) == not_there[3]
    drop = [each for each in not_allowed[1] if each[0] != "ETag"], [each for each in not_there[1] if each[0] != "ETag"]
    assert drop[0] == drop[1] and (not_allowed[0], not_allowed[2]) == (not_there[0], not_there[2])


def test_a_message_of_nobody_costs_no_session(people: People, django_assert_num_queries: Any) -> None:
    message_id = people.send()
    for client in people.clients.values():
        with django_assert_num_queries(0):
            assert "Vary" not in client.get(f"/progress/{message_id}/")


def test_where_the_link_is_enough_nobody_is_asked_who_they_are(
    people: People, settings: Any, django_assert_num_queries: Any
) -> None:
    use(settings, PERMISSION=READY_MADE + "anyone_with_link")
    owned = people.send("owner")
    with django_assert_num_queries(0):
        people.clients["another"].get(f"/progress/?id={owned}&id=gone")


# ---- Cancel ----

#: PERMISSION, CANCEL_PERMISSION, who may cancel a message of `owner`, and who one of nobody.
CANCELLERS: list[tuple[Any, Any, set[str], set[str]]] = [
    (None, None, {"owner", "staff"}, {"staff"}),
    (READY_MADE + "owner", None, {"owner"}, {"staff"}),
    (READY_MADE + "anyone_with_link", None, {"owner", "staff"}, {"staff"}),
    (named_another, None, {"another"}, set()),
    (None, READY_MADE + "staff", {"staff"}, {"staff"}),
    (None, READY_MADE + "anyone_with_link", {"owner", "staff"}, EVERYBODY),
    (None, HERE + "named_another_async", set(), {"another"}),
]


@pytest.mark.parametrize(("reading", "cancelling", "of_owned", "of_nobodys"), CANCELLERS)
def test_who_may_cancel_must_be_allowed_to_read(
    people: People, settings: Any, reading: Any, cancelling: Any, of_owned: set[str], of_nobodys: set[str]
) -> None:
    use(settings, PERMISSION=reading, CANCEL_PERMISSION=cancelling)
    owned, nobodys = get_progress(people.send("owner")), get_progress(people.send())
    assert owned is not None and nobodys is not None and owned.state is State.ENQUEUED
    for name, client in people.clients.items():
        request = RequestFactory().get("/")
        request.user = people.users.get(name, client_user())
        request.session = client.session
        request.auser = as_async(request.user)  # type: ignore[method-assign]
        assert may_cancel(request, owned) == (name in of_owned)
        assert may_cancel(request, nobodys) == (name in of_nobodys)
        if name in of_owned:
            assert may_read(request, owned)


def client_user() -> Any:
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


def as_async(user: Any) -> Any:
    async def auser() -> Any:
        return user

    return auser


# ---- Mistakes in the settings ----


@pytest.mark.parametrize("key", ["PERMISSION", "CANCEL_PERMISSION"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.permission", "'nowhere.permission', which cannot be imported"),
        (READY_MADE + "ownr", "ownr"),
        ("dramatiq_progress.owners.OWNER_OPTION", "which is no function"),
        (7, "is 7; it must be a function, a dotted path, or a tuple"),
        ("", "is ''; it must be"),
        (("a.b",), "it must be"),
        (("a.b", 1, 2), "it must be"),
        ((None, 1), "it must be"),
    ],
)
def test_a_permission_that_cannot_be_asked_is_named(settings: Any, key: str, given: Any, said: str) -> None:
    use(settings, **{key: given})
    [found] = checks.run_checks(tags=["dramatiq_progress"])
    assert found.id == "dramatiq_progress.E003"
    assert f'DRAMATIQ_PROGRESS["{key}"]' in found.msg and said in found.msg


def test_a_permission_that_cannot_be_asked_lets_nobody_read(people: People, settings: Any) -> None:
    message_id = people.send()
    use(settings, PERMISSION="nowhere.permission")
    for client in people.clients.values():
        client.raise_request_exception = False
        assert client.get(f"/progress/{message_id}/").status_code == 500

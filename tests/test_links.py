"""Signed links: whoever has one may read one message until it expires, and may do nothing else."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import signing
from django.template import RequestContext, Template
from django.test import RequestFactory

from dramatiq_progress import get_progress, links, progress_url
from dramatiq_progress.permissions import may_cancel, may_read
from tests.people import NAMES, People

EVERYBODY = set(NAMES)


class Clock:
    """What `time.time` says."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(1_000_000.5)
    monkeypatch.setattr(links, "time", made)
    return made


def token(message_id: str, **options: Any) -> str:
    return progress_url(message_id, **{"signed_for": 60, **options}).partition("?token=")[2]


def test_a_plain_address_is_that_of_the_view(people: People) -> None:
    message_id = people.send("owner")
    assert progress_url(message_id) == f"/progress/{message_id}/"
    assert people.who_gets(progress_url(message_id)) == {"owner", "staff"}


@pytest.mark.parametrize("signed_for", [3600, 0.5, timedelta(minutes=5)])
def test_a_signed_address_may_be_read_by_whoever_has_it(people: People, signed_for: Any) -> None:
    address = progress_url(people.send("owner"), signed_for=signed_for)
    assert re.fullmatch(r"/progress/[\w-]+/\?token=[\w%-]+", address)
    assert people.who_gets(address) == EVERYBODY


def test_whoever_has_it_is_not_asked_who_they_are(people: People, django_assert_num_queries: Any) -> None:
    address = progress_url(people.send("owner"), signed_for=60)
    with django_assert_num_queries(0):
        assert "Vary" not in people.clients["another"].get(address)


def test_it_ends_when_it_expires(people: People, clock: Clock) -> None:
    address = progress_url(people.send("owner"), signed_for=60)
    clock.now += 59.9
    assert people.who_gets(address) == EVERYBODY
    clock.now += 1
    assert people.who_gets(address) == {"owner", "staff"}


def test_it_is_for_one_message(people: People) -> None:
    mine, other = people.send("owner"), people.send("owner")
    assert people.who_gets(f"/progress/{other}/?token={token(mine)}") == {"owner", "staff"}
    answer = people.clients["anonymous"].get(f"/progress/?id={mine}&id={other}&token={token(mine)}").json()
    assert ([each["id"] for each in answer["messages"]], answer["unknown"]) == ([mine], [other])


def test_a_list_takes_several(people: People) -> None:
    ids = [people.send("owner") for _ in range(3)]
    query = "&".join(f"id={each}&token={token(each)}" for each in ids)
    answer = people.clients["anonymous"].get(f"/progress/?{query}").json()
    assert ([each["id"] for each in answer["messages"]], answer["unknown"]) == (ids, [])


def test_it_reads_and_never_cancels(people: People) -> None:
    message_id = people.send("owner")
    request = RequestFactory().get(progress_url(message_id, signed_for=60))
    progress = get_progress(message_id)
    assert progress is not None
    assert may_read(request, progress) and not may_cancel(request, progress)


def test_what_is_not_there_is_not_there_with_a_link_either(people: People) -> None:
    answer = people.clients["anonymous"].get(progress_url("gone", signed_for=60))
    assert (answer.status_code, answer.json()) == (404, {"error": "not_found"})


def test_the_page_of_a_link_sends_no_referrer(people: People) -> None:
    address = progress_url(people.send("owner"), signed_for=60)
    for path in (address, address.replace("token=", "token=x")):
        assert people.clients["anonymous"].get(path)["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text.upper(),
        lambda text: text.replace("%3A", ":x:", 1),
        lambda text: "%00" + text,
        lambda text: "x" * 5000,
        lambda text: text + "&" + "a=1&" * 1500,
        lambda text: text + "&a=" + "x" * 10_000,
        lambda text: signing.dumps("m1"),
    ],
)
def test_a_link_that_was_changed_is_worth_nothing(people: People, change: Any) -> None:
    message_id = people.send("owner")
    path = f"/progress/{message_id}/?token={change(token(message_id))}"
    answer = people.clients["another"].get(path)
    # 400 where the whole query makes no sense.
    assert answer.json()["error"] in ("not_found", "bad_request")
    assert message_id not in answer.content.decode()


def test_one_that_was_signed_for_something_else_is_worth_nothing(people: People) -> None:
    message_id = people.send("owner")
    other = signing.Signer(salt="another").sign(f"{message_id}:zzzzzz")
    assert people.clients["another"].get(f"/progress/{message_id}/", {"token": other}).status_code == 404


def test_a_replaced_key_still_opens_what_it_signed(people: People, settings: Any) -> None:
    address = progress_url(people.send("owner"), signed_for=60)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert people.clients["anonymous"].get(address).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert people.clients["anonymous"].get(address).status_code == 404


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "60", timedelta(0)])
def test_a_time_that_is_none_is_named(bad: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"signed_for is {bad!r}")):
        progress_url("m1", signed_for=bad)


@pytest.mark.parametrize("bad", ["", "a/b", "a b", None, "x" * 65])
def test_what_is_no_message_id_is_named(bad: Any) -> None:
    with pytest.raises(ValueError, match="no message id"):
        progress_url(bad, signed_for=60)


def bar_of(message_id: str, query: str, options: str = "") -> str:
    """The bar of a page that was asked for with this query."""
    template = Template(f"{{% load dramatiq_progress %}}{{% dramatiq_progress message_id {options} %}}")
    return template.render(RequestContext(RequestFactory().get(f"/shared/?{query}"), {"message_id": message_id}))


def test_on_a_page_that_was_asked_for_with_a_link_the_bar_asks_with_it(people: People) -> None:
    message_id, other = people.send("owner"), people.send("owner")
    query = progress_url(message_id, signed_for=60).partition("?")[2]
    html = bar_of(message_id, query)
    [address] = re.findall(r' src="([^"]*)"', html)
    assert people.who_gets(address) == EVERYBODY
    # What is seen without JavaScript goes by the same link.
    assert "Waiting in the queue" in html
    assert f' src="/progress/{other}/"' in bar_of(other, query)
    assert f' src="/progress/{message_id}/"' in bar_of(message_id, "token=none")


def test_an_address_of_the_page_s_own_wins(people: People) -> None:
    message_id = people.send("owner")
    assert ' src="/elsewhere/"' in bar_of(message_id, "", "src='/elsewhere/'")

"""Signed links: they grant every client read access to one message until they expire, and nothing else."""

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
    """A clock in place of the module `time`."""

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


def test_an_unsigned_url_is_that_of_the_view(people: People) -> None:
    message_id = people.send("owner")
    assert progress_url(message_id) == f"/progress/{message_id}/"
    assert people.who_gets(progress_url(message_id)) == {"owner", "staff"}


@pytest.mark.parametrize("signed_for", [3600, 0.5, timedelta(minutes=5)])
def test_a_signed_url_grants_every_client_read_access(people: People, clock: Clock, signed_for: Any) -> None:
    url = progress_url(people.send("owner"), signed_for=signed_for)
    assert re.fullmatch(r"/progress/[\w-]+/\?token=[\w%-]+", url)
    assert people.who_gets(url) == EVERYBODY


def test_a_signed_url_reads_no_session(people: People, django_assert_num_queries: Any) -> None:
    url = progress_url(people.send("owner"), signed_for=60)
    with django_assert_num_queries(0):
        assert "Vary" not in people.clients["another"].get(url)


def test_a_signed_url_expires(people: People, clock: Clock) -> None:
    url = progress_url(people.send("owner"), signed_for=60)
    clock.now += 59.9
    assert people.who_gets(url) == EVERYBODY
    clock.now += 1
    assert people.who_gets(url) == {"owner", "staff"}


def test_a_signed_url_is_valid_for_one_message(people: People) -> None:
    mine, other = people.send("owner"), people.send("owner")
    assert people.who_gets(f"/progress/{other}/?token={token(mine)}") == {"owner", "staff"}
    answer = people.clients["anonymous"].get(f"/progress/?id={mine}&id={other}&token={token(mine)}").json()
    assert ([each["id"] for each in answer["messages"]], answer["unknown"]) == ([mine], [other])


def test_a_list_accepts_several_tokens(people: People) -> None:
    ids = [people.send("owner") for _ in range(3)]
    query = "&".join(f"id={each}&token={token(each)}" for each in ids)
    answer = people.clients["anonymous"].get(f"/progress/?{query}").json()
    assert ([each["id"] for each in answer["messages"]], answer["unknown"]) == (ids, [])


def test_a_signed_url_never_grants_cancelling(people: People) -> None:
    message_id = people.send("owner")
    request = RequestFactory().get(progress_url(message_id, signed_for=60))
    progress = get_progress(message_id)
    assert progress is not None
    assert may_read(request, progress) and not may_cancel(request, progress)


def test_an_unknown_message_is_not_found_with_a_link_either(people: People) -> None:
    answer = people.clients["anonymous"].get(progress_url("gone", signed_for=60))
    assert (answer.status_code, answer.json()) == (404, {"error": "not_found"})


def test_the_response_to_a_link_sends_no_referrer(people: People) -> None:
    url = progress_url(people.send("owner"), signed_for=60)
    for path in (url, url.replace("token=", "token=x")):
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
def test_a_modified_link_is_invalid(people: People, change: Any) -> None:
    message_id = people.send("owner")
    path = f"/progress/{message_id}/?token={change(token(message_id))}"
    answer = people.clients["another"].get(path)
    # 400 if the whole query is invalid.
    assert answer.json()["error"] in ("not_found", "bad_request")
    assert message_id not in answer.content.decode()


def test_a_signature_with_another_salt_is_invalid(people: People) -> None:
    message_id = people.send("owner")
    other = signing.Signer(salt="another").sign(f"{message_id}:zzzzzz")
    assert people.clients["another"].get(f"/progress/{message_id}/", {"token": other}).status_code == 404


def test_a_fallback_key_still_verifies_a_link(people: People, settings: Any) -> None:
    url = progress_url(people.send("owner"), signed_for=60)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert people.clients["anonymous"].get(url).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert people.clients["anonymous"].get(url).status_code == 404


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "60", timedelta(0)])
def test_an_invalid_lifetime_is_named(bad: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"signed_for is {bad!r}")):
        progress_url("m1", signed_for=bad)


@pytest.mark.parametrize("bad", ["", "a/b", "a b", "x" * 65])
def test_an_invalid_message_id_is_named(bad: Any) -> None:
    with pytest.raises(ValueError, match="not a message id"):
        progress_url(bad, signed_for=60)


def bar_of(message_id: str, query: str, options: str = "") -> str:
    """Render the bar of a page whose URL has this query."""
    template = Template(f"{{% load dramatiq_progress %}}{{% dramatiq_progress message_id {options} %}}")
    return template.render(RequestContext(RequestFactory().get(f"/shared/?{query}"), {"message_id": message_id}))


def test_a_bar_uses_the_token_in_the_url_of_its_page(people: People) -> None:
    message_id, other = people.send("owner"), people.send("owner")
    query = progress_url(message_id, signed_for=60).partition("?")[2]
    html = bar_of(message_id, query)
    [url] = re.findall(r' src="([^"]*)"', html)
    assert people.who_gets(url) == EVERYBODY
    # The content without JavaScript uses the same token.
    assert "Next in the queue" in html
    assert f' src="/progress/{other}/"' in bar_of(other, query)
    assert f' src="/progress/{message_id}/"' in bar_of(message_id, "token=none")


def test_an_explicit_src_has_precedence(people: People) -> None:
    message_id = people.send("owner")
    assert ' src="/elsewhere/"' in bar_of(message_id, "", "src='/elsewhere/'")

"""Every look that a bar has: what a server says and what the page sets. For the tests, and for docs/images/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from playwright.sync_api import Page, expect

from tests.bars import HEAD, NOT_FOUND, UNAVAILABLE, answer
from tests.scripted_site import LIST, Reply, ScriptedSite

#: No second poll comes before a test is over.
NEVER = 3600
#: How long a message is waited for that nobody knows.
FIRST_ANSWER_LIMIT_MS = 121_000


@dataclass(frozen=True, kw_only=True)
class Look:
    """One bar to look at.

    Attributes:
      name: What it is called, in a test and as a picture.
      state: The state that the bar is in, at last.
      said: What the server says, one after the other.
      attributes: What the page sets.
      offline: Whether the last request failed.
      shows: The part that is seen when all is there: some are drawn by modules of their own.
    """

    name: str
    state: str
    said: tuple[Reply | dict[str, Any], ...]
    attributes: str = ""
    offline: bool = False
    shows: str = "track"

    @property
    def path(self) -> str:
        return f"{LIST}{self.name}/"

    @property
    def list_attribute(self) -> str:
        """Where all that the server knows and says once is asked for together; trouble comes alone."""
        return f'list="{LIST}"' if len(self.said) == 1 and isinstance(self.said[0], dict) else ""


def _said(state: str, **values: Any) -> dict[str, Any]:
    said: dict[str, Any] = answer(state, **{"poll_after": NEVER, **values})
    return said


def _look(state: str, name: str = "", attributes: str = "", shows: str = "track", **values: Any) -> Look:
    return Look(name=name or state, state=state, said=(_said(state, **values),), attributes=attributes, shows=shows)


_RUNNING = _said("running", current=3100, extra={"eta": 9.2})
_BEGUN = _RUNNING | {"poll_after": 0.1}
_PLACE = {"queue_position": 3, "queue_length": 12}

LOOKS = [
    Look(name="waiting", state="waiting", said=(NOT_FOUND,)),
    _look("enqueued", total=None, current=0, extra=_PLACE),
    _look("delayed", total=None, current=0),
    Look(name="running", state="running", said=(_RUNNING,)),
    _look("running", "running-unknown", total=None, version=3),
    _look("running", "cancel", 'cancel="/cancel/"', "cancel", extra={"can_cancel": True}),
    _look("running", "cancelling", 'cancel="/cancel/"', "cancel-note", cancel_requested=True),
    _look("retrying", retry_in=12, retries_left=3),
    _look("lost"),
    Look(name="offline", state="running", said=(_BEGUN, UNAVAILABLE), offline=True),
    _look("done", current=5000),
    _look("done", "done-unknown", total=None, current=0),
    _look("done", "done-result", "show-result", "note", current=5000, result={"imported": 4988, "left_out": 12}),
    _look("done", "done-download", 'download="Download the ZIP"', "link", current=5000, result="/exports/7.zip"),
    _look("failed", result="Row 1,201: there is no airport “XQZ”."),
    _look("failed", "failed-unknown", total=None, current=0),
    _look("failed", "failed-retry", 'retry="/again/"', "link", result="Row 1,201: there is no airport “XQZ”."),
    _look("cancelled"),
    _look("skipped", total=None, current=0),
    Look(name="not-found", state="not-found", said=(NOT_FOUND,)),
    Look(name="denied", state="not-found", said=(Reply(status=403, json={}),)),
    Look(name="expired", state="expired", said=(_BEGUN, NOT_FOUND)),
]


def open_looks(
    page: Page, site: ScriptedSite, looks: Sequence[Look] = LOOKS, *, root: str = 'lang="en"', style: str = ""
) -> None:
    """Open a page with these bars, each below its name, and wait until each is what it is to be.

    The page's clock stands still then: no text changes any more.
    """
    for look in looks:
        site.say(*look.said, path=look.path)
    head = HEAD.replace('lang="en"', root)
    bars = "".join(
        f'<section id="{look.name}"><h2>{look.name}</h2><dramatiq-progress data-src="{escape(look.path)}" '
        f'label="{look.name}" {look.list_attribute} {look.attributes}></dramatiq-progress></section>'
        for look in looks
    )
    site.html = f"{head}<title>Looks</title>{style}<body><main><h1>Looks</h1>{bars}</main>"
    page.clock.install(time=0)
    page.goto(site.url)
    page.clock.pause_at(1_000_000)
    _wait_in_vain(page, [look for look in looks if look.name == "not-found"])
    _begin(page, [look for look in looks if look.name != "not-found"])


def _wait_in_vain(page: Page, looks: Sequence[Look]) -> None:
    for look in looks:
        with page.expect_response(f"**{look.path}"):
            _ask(page, [look])
        expect_look(page, look, state="waiting")
        page.clock.fast_forward(FIRST_ANSWER_LIMIT_MS)
        expect_look(page, look)


def _begin(page: Page, looks: Sequence[Look]) -> None:
    _ask(page, looks)
    for look in looks:
        if len(look.said) > 1:
            expect_look(page, look, state="running", offline=False)
    # The second poll comes 100 ms after the first was answered.
    page.clock.run_for(100)
    for look in looks:
        expect_look(page, look)


def _ask(page: Page, looks: Sequence[Look]) -> None:
    for look in looks:
        page.locator(f"#{look.name} dramatiq-progress").evaluate("bar => { bar.src = bar.dataset.src }")
    # A poll is sent by a timer, also if it is due at once.
    page.clock.run_for(1)


def expect_look(page: Page, look: Look, *, state: str = "", offline: bool | None = None) -> None:
    bar = page.locator(f"#{look.name} dramatiq-progress")
    expect(bar).to_have_attribute("state", state or look.state)
    offline = look.offline if offline is None else offline
    expect(page.locator(f"#{look.name} dramatiq-progress[offline]")).to_have_count(int(offline))
    expect(bar.locator(f"[part={look.shows}]")).to_be_visible()

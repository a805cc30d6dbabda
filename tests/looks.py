"""Every appearance of a bar, with the server's replies and the page's attributes. For tests and docs/images/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from typing import Any

from playwright.sync_api import Page, expect

from dramatiq_progress.progress import Parts, StepProgress, UsualTimes
from tests.bars import HEAD, NOT_FOUND, answer
from tests.scripted_site import LIST, Reply, ScriptedSite
from tests.waiting import wait_until

#: Seconds until a poll that never happens in a test.
NEVER = 3600
#: How long a bar waits for an unknown message.
FIRST_ANSWER_LIMIT_MS = 5_000


@dataclass(frozen=True, kw_only=True)
class Look:
    """One appearance of a bar.

    Attributes:
      name: Its name in tests and of its pictures.
      state: The final state of the bar.
      replies: The server's replies, in this order.
      attributes: The attributes that the page sets.
      offline: Whether the bar shows that the connection is lost.
      shows: The part that is drawn last. Some are drawn by modules of their own.
      text: The last text of the bar, if a module of its own draws it.
      title: Its label in the documentation's pictures, instead of theirs.
    """

    name: str
    state: str
    replies: tuple[Reply | dict[str, Any], ...]
    attributes: str = ""
    offline: bool = False
    shows: str = "text"
    text: str = ""
    title: str = ""

    @property
    def path(self) -> str:
        return f"{LIST}{self.name}/"

    @property
    def list_attribute(self) -> str:
        """The attribute `list` of a bar with one answer: these share a request. Errors need their own."""
        return f'list="{LIST}"' if len(self.replies) == 1 and isinstance(self.replies[0], dict) else ""


def _answer(state: str, **values: Any) -> dict[str, Any]:
    made: dict[str, Any] = answer(state, **{"poll_after": NEVER, **values})
    return made


def _look(state: str, name: str = "", attributes: str = "", shows: str = "text", text: str = "", **values: Any) -> Look:
    replies = (_answer(state, **values),)
    return Look(name=name or state, state=state, replies=replies, attributes=attributes, shows=shows, text=text)


def _group(state: str, name: str, text: str, overall: float, *, title: str = "Resize 50 photos", **values: Any) -> Look:
    """Return a look of a group or a pipeline, from the numbers of its members by state."""
    counts = {each.name: values.pop(each.name, 0) for each in fields(Parts) if each.name != "total"}
    parts = Parts(total=sum(counts.values()), **counts)
    ended = parts.done + parts.failed + parts.cancelled + parts.skipped
    values = {"current": ended, "total": parts.total, "description": "Resizing", "parts": parts, **values}
    made = _look(state, name, text=text, has_steps=True, overall=overall, **values)
    return replace(made, title=title)


_RUNNING = _answer("running", current=3100, extra={"eta": 9.2})
_STARTED = _RUNNING | {"poll_after": 0.1}
#: Shown at the first failure, since the retry is far away.
_OUTAGE = Reply(status=503, json={}, headers={"Retry-After": str(NEVER)})
_POSITION = {"queue_position": 3, "queue_length": 12}

LOOKS = [
    Look(name="waiting", state="waiting", replies=(NOT_FOUND,)),
    _look("enqueued", total=None, current=0, extra=_POSITION),
    _look(
        "enqueued",
        "wait",
        text="In the queue: about number 3 of 12, begins in about 40 seconds",
        total=None,
        current=0,
        usual=UsualTimes(180, 240, 40),
        extra=_POSITION,
    ),
    _look(
        "enqueued",
        "usual",
        text="Next in the queue, usually takes about 3 minutes",
        total=None,
        current=0,
        usual=UsualTimes(180, 240, None),
        extra=_POSITION | {"queue_position": 1},
    ),
    _look("delayed", total=None, current=0),
    _look(
        "enqueued",
        "continuing",
        text="Waiting to continue: 3,100 of 5,000",
        current=3100,
        continues=True,
        extra=_POSITION,
    ),
    _look("paused", text="Paused: 3,100 of 5,000", current=3100, continues=True, pause_requested=True),
    Look(name="running", state="running", replies=(_RUNNING,)),
    _look("running", "running-unknown", total=None, version=3),
    _look(
        "running",
        "step",
        text="Step 2 of 3: Checking. 3,100 of 5,000",
        current=3100,
        description="",
        has_steps=True,
        overall=0.26,
        step=StepProgress(2, 3, "Checking", 62.0),
    ),
    _look(
        "running",
        "usual-running",
        text="Running, usually takes 2 to 10 minutes",
        total=None,
        current=0,
        description="",
        usual=UsualTimes(120, 600, None),
    ),
    _group(
        "running",
        "group",
        "Resizing: 7 of 50, 1 failed, about 2 minutes left",
        0.16,
        **{"waiting": 40, "running": 3, "done": 6, "failed": 1, "extra": {"eta": 110.0}},
    ),
    _group(
        "running",
        "pipeline",
        "Step 2 of 3. Converting",
        0.48,
        title="Convert holiday.mov",
        **{"waiting": 1, "running": 1, "done": 1, "description": "Converting", "step": StepProgress(2, 3, "")},
    ),
    _look("running", "cancel", 'cancel="/cancel/"', "cancel", current=3100, extra={"can_cancel": True, "eta": 9.2}),
    _look("running", "cancelling", 'cancel="/cancel/"', text="Cancelling…", cancel_requested=True),
    _look("running", "pausing", text="Pausing: 3,100 of 5,000", current=3100, pause_requested=True),
    _look("retrying", retry_in=12, retries_left=3),
    _look("lost"),
    Look(name="offline", state="running", replies=(_STARTED, _OUTAGE), offline=True),
    _look("done", current=5000),
    _look("done", "done-unknown", total=None, current=0),
    _look(
        "done",
        "done-result",
        "show-result",
        text="imported: 4,988, left out: 12",
        current=5000,
        result={"imported": 4988, "left_out": 12},
    ),
    _look("done", "done-download", 'download="Download the ZIP"', "link", current=5000, result="/exports/7.zip"),
    _look("failed", result="Row 1,201: there is no airport “XQZ”."),
    _look("failed", "failed-unknown", total=None, current=0),
    _look("failed", "failed-retry", 'retry="/again/"', "retry", result="Row 1,201: there is no airport “XQZ”."),
    _group("failed", "group-failed", "49 of 50 done, 1 failed", 1.0, done=49, failed=1, result="1 of 50 failed."),
    _look("cancelled"),
    _group(
        "cancelled",
        "group-cancelled",
        "The task was cancelled: 30 of 50 done, 1 failed",
        0.62,
        **{"done": 30, "failed": 1, "cancelled": 4, "waiting": 15, "result": "The task was cancelled."},
    ),
    _look("skipped", total=None, current=0),
    Look(name="not-found", state="not-found", replies=(NOT_FOUND,)),
    Look(name="denied", state="not-found", replies=(Reply(status=403, json={}),)),
    Look(name="expired", state="expired", replies=(_STARTED, NOT_FOUND)),
]


def write_looks(
    site: ScriptedSite,
    looks: Sequence[Look] = LOOKS,
    *,
    root: str = 'lang="en"',
    style: str = "",
    label: str = "",
) -> None:
    """Set a page with these bars, each below its name, and the server's replies. A bar polls once it has a `src`.

    The label of each is its name, unless another is given.
    """
    for look in looks:
        site.reply(*look.replies, path=look.path)
    head = HEAD.replace('lang="en"', root)
    bars = "".join(
        f'<section id="{look.name}"><h2>{look.name}</h2><dramatiq-progress data-src="{escape(look.path)}" '
        f'label="{_label(look, label)}" {look.list_attribute} {look.attributes}></dramatiq-progress></section>'
        for look in looks
    )
    site.html = f"{head}<title>Looks</title>{style}<body><main><h1>Looks</h1>{bars}</main>"


def _label(look: Look, label: str) -> str:
    return (look.title or label) if label else look.name


def open_looks(page: Page, site: ScriptedSite, looks: Sequence[Look] = LOOKS, **of_page: str) -> None:
    """Open a page of `write_looks`, and wait until all bars have their final appearance.

    The page's clock is paused then, so that no text changes.
    """
    write_looks(site, looks, **of_page)
    page.clock.install(time=0)
    page.goto(site.url)
    page.clock.pause_at(1_000_000)
    _wait_for_not_found(page, [look for look in looks if look.name == "not-found"])
    _start(page, [look for look in looks if look.name != "not-found"])


def _wait_for_not_found(page: Page, looks: Sequence[Look]) -> None:
    for look in looks:
        with page.expect_response(f"**{look.path}"):
            _poll(page, [look])
        expect_look(page, look, state="waiting")
        page.clock.fast_forward(FIRST_ANSWER_LIMIT_MS)
        expect_look(page, look)


def _start(page: Page, looks: Sequence[Look]) -> None:
    _poll(page, looks)
    for look in looks:
        if len(look.replies) > 1:
            expect_look(page, look, state="running", offline=False)
    # The second poll is sent 100 ms after the first answer.
    page.clock.run_for(100)
    for look in looks:
        if look.offline:
            # Trouble is drawn by a timer.
            wait_until(lambda: page.clock.run_for(1) or page.locator("dramatiq-progress[offline]").count())
        expect_look(page, look)


def _poll(page: Page, looks: Sequence[Look]) -> None:
    for look in looks:
        page.locator(f"#{look.name} dramatiq-progress").evaluate("bar => { bar.src = bar.dataset.src }")
    # A poll is sent by a timer, even if it is due immediately.
    page.clock.run_for(1)


def expect_look(page: Page, look: Look, *, state: str = "", offline: bool | None = None) -> None:
    bar = page.locator(f"#{look.name} dramatiq-progress")
    expect(bar).to_have_attribute("state", state or look.state)
    offline = look.offline if offline is None else offline
    expect(page.locator(f"#{look.name} dramatiq-progress[offline]")).to_have_count(int(offline))
    expect(bar.locator(f"[part~={look.shows}]")).to_be_visible()
    if look.text:
        expect(bar.locator("[part=text]")).to_have_text(look.text)

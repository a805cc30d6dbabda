"""Steps, members and usual times, which a module of its own draws: dramatiq-progress-parts.js."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest
from django.template import Context, Template
from django.utils import translation
from playwright.sync_api import Locator, Page, Route, expect

from dramatiq_progress.progress import Parts, Progress, State, StepProgress, UsualTimes
from dramatiq_progress.web.describing import describe
from dramatiq_progress.web.noscript import markup
from dramatiq_progress.web.texts import PARTS_TEXTS
from tests.bars import HEAD, OpenBar, answer, part, run_until_poll, settle
from tests.looks import NEVER
from tests.scripted_site import Reply, ScriptedSite
from tests.streaming_site import Site, begin, report
from tests.waiting import wait_until

MODULE = "dramatiq_progress/dramatiq-progress-parts.js"
PLAIN = "Importing: 1,200 of 5,000"
NAMES = ("Reading", "Checking", "Writing")


def in_step(index: int = 2, state: str = "running", **values: Any) -> Any:
    """Return a server's answer for a message in one of three steps."""
    step = StepProgress(index, 3, NAMES[index - 1], 24.0)
    return answer(state, **{"has_steps": True, "overall": 0.4, "step": step, **values})


def downloads(site: ScriptedSite) -> list[str]:
    return [each for each in site.files if "parts" in each]


# ---- The text ----


def running(name: str = "Checking", **values: Any) -> Progress:
    values = {"current": 1200, "total": 5000, "description": "", "overall": 0.4, "attempt": 1} | values
    values = {"state": State.RUNNING, "step": StepProgress(2, 3, name)} | values
    return Progress(id="m", actor="work", queue="default", has_steps=True, **values)


RECORDS = [
    running(),
    running(description="Checking"),
    running("Checking…", description="File…"),
    running(total=None),
    running(total=None, current=0),
    running(total=None, current=0, description="Opening…"),
    running(eta=7200),
    running(""),
    running("…", description="Opening…", current=0, total=None),
    running("<b>{text} {index}", description="{step}"),
    running("فحص", description="ملف"),
    running(current=1250.5, total=12_000_000),
]


def members(state: State = State.RUNNING, *, total: int = 50, description: str = "Resizing", **values: Any) -> Progress:
    """Return the progress of a group, with these numbers of its members by state."""
    counts = {each.name: values.pop(each.name, 0) for each in fields(Parts)} | {"total": total}
    parts = Parts(**counts)
    ended = {"current": counts["done"] + counts["failed"], "total": total, "has_steps": True, "overall": 0.16}
    values = ended | {"id": "m", "actor": "group", "queue": "", "description": description} | values
    return Progress(state=state, parts=parts, **values)


RECORDS += [
    members(done=7),
    members(done=6, failed=1),
    members(done=6, failed=1, eta=110.0),
    members(done=6, failed=1, description="{failed} {text}"),
    members(done=6, failed=1, description=""),
    members(State.ENQUEUED),
    members(State.LOST, done=6, failed=1),
    members(State.DONE, done=50),
    members(State.FAILED, done=49, failed=1, result="1 of 50 failed."),
    members(State.FAILED, total=5000, done=3766, failed=1234, result="1,234 of 5,000 failed."),
    members(State.CANCELLED, done=30, cancelled=5, result="The task was cancelled."),
    members(State.CANCELLED, done=30, failed=1, cancelled=5, result="The task was cancelled."),
    members(State.SKIPPED, done=49, skipped=1, result="The task was skipped."),
    # A pipeline.
    members(total=3, done=1, step=StepProgress(2, 3, "")),
    members(total=3, done=1, step=StepProgress(2, 3, ""), description="", eta=7200),
    members(State.FAILED, total=3, done=1, failed=1, step=StepProgress(2, 3, ""), result="1 of 3 failed."),
]


def usual(run: float | None, most: float | None, wait: float | None = None, **values: Any) -> Progress:
    """Return the progress of a message that waits, of an actor with past runs."""
    values = {"state": State.ENQUEUED, "usual": UsualTimes(run, most, wait)} | values
    return Progress(id="m", actor="work", queue="default", **values)


RECORDS += [
    usual(118, 300),
    usual(90, 269),
    usual(150, 450),
    usual(150, 451),
    usual(60, 5399),
    usual(59.7, 601),
    usual(30, 120),
    usual(5400, 18_000),
    usual(40_000, 130_000),
    usual(None, None, 300),
    usual(120, 130, 300, queue_position=1, queue_length=3),
    usual(None, None, 300, queue_position=1, queue_length=3),
    usual(120, 130, 300, queue_position=2, queue_length=1200),
    usual(120, 130, state=State.DELAYED),
    usual(120, 130, state=State.RUNNING, attempt=1, elapsed=129.0),
    usual(120, 130, state=State.RUNNING, attempt=1, elapsed=131.0),
    usual(120, 500, state=State.RUNNING, attempt=1, elapsed=131.0, current=3, description="Opening…"),
    usual(120, 130, state=State.RUNNING, attempt=1, elapsed=9.0, current=3, total=50, eta=600.0),
    usual(120, 130, state=State.RUNNING, attempt=1, elapsed=9.0, step=StepProgress(2, 3, "Checking")),
    usual(120, 130, state=State.RETRYING, attempt=1, retry_in=900.0),
]

RECORDS += [
    running(state=State.ENQUEUED, continues=True),
    *(
        Progress(id="m", actor="work", queue="default", attempt=1, continues=True, **values)
        for values in (
            {"state": State.ENQUEUED, "current": 6200, "total": 10_000, "description": "Reading"},
            {"state": State.ENQUEUED, "current": 6200, "queue_position": 3, "queue_length": 12},
            {"state": State.DELAYED, "usual": UsualTimes(118, 300, 90)},
        )
    ),
]

RECORDS += [
    Progress(id="m", actor="work", queue="default", pause_requested=True, **values)
    for values in (
        {"state": State.PAUSED},
        {"state": State.PAUSED, "attempt": 1, "current": 6200, "total": 10_000},
        {"state": State.PAUSED, "attempt": 1, "continues": True, "current": 6200, "total": 10_000},
        {"state": State.PAUSED, "attempt": 1, "continues": True, "current": 6200, "description": "Reading"},
        {"state": State.PAUSED, "attempt": 1, "continues": True},
        {"state": State.PAUSED, "attempt": 1, "continues": True, "step": StepProgress(2, 3, "Checking"), "current": 5},
        {"state": State.RUNNING, "attempt": 1, "current": 6200, "total": 10_000, "description": "Reading"},
        {"state": State.RUNNING, "attempt": 1, "usual": UsualTimes(118, 300, 90)},
        {"state": State.RUNNING, "attempt": 1, "step": StepProgress(2, 3, "Checking"), "current": 5, "total": 9},
        {"state": State.RETRYING, "attempt": 1, "retry_in": 900.0},
        {"state": State.LOST, "attempt": 1, "current": 6200, "total": 10_000},
        {"state": State.DONE, "attempt": 1, "current": 10, "total": 10},
    )
]


def ungrouped(text: str) -> str:
    """Return a text with ordinary spaces, and its numbers without separators: Django's differ from the browser's."""
    return re.sub(r"(?<=\d)[\s.](?=\d{3})", "", " ".join(text.split()))


@pytest.mark.parametrize("language", ["en", "de", "es"])
def test_it_has_the_words_of_the_page_without_javascript(site: ScriptedSite, page: Page, language: str) -> None:
    with translation.override(language):
        head = Template("{% load dramatiq_progress %}{% dramatiq_progress_script %}").render(Context())
        texts = [describe(record) for record in RECORDS]
    for number, record in enumerate(RECORDS):
        site.reply(record.as_dict() | {"poll_after": 3600}, path=f"/progress/m{number}/")
    bars = "".join(
        f'<dramatiq-progress src="/progress/m{number}/"></dramatiq-progress>' for number in range(len(texts))
    )
    site.html = f'<!doctype html><meta charset="utf-8">{head}<body>{bars}'
    page.goto(site.url)
    expect(page.locator("dramatiq-progress:not([state=waiting])")).to_have_count(len(texts))
    wanted = [ungrouped(each) for each in texts]

    def shown() -> list[str]:
        return [ungrouped(each) for each in page.locator("dramatiq-progress [part=text]").all_text_contents()]

    # The module for steps and parts is loaded at the first answers.
    with suppress(AssertionError):
        wait_until(lambda: shown() == wanted)
    assert shown() == wanted
    assert len(set(texts)) >= len(RECORDS) - 7, texts
    assert downloads(site) == [MODULE]


def test_english_texts_are_those_of_the_module(site: ScriptedSite, page: Page) -> None:
    site.html = "<!doctype html><title>Texts</title>"
    page.goto(site.url)
    assert page.evaluate(f"import('/static/{MODULE}').then(({{ TEXTS }}) => TEXTS)") == PARTS_TEXTS


def test_a_page_can_set_the_texts_of_a_bar(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(in_step())
    bar = open_bar('text-step="Part {index}/{count}" text-stepped="{text} ({step})"')
    expect(part(bar, "text")).to_have_text("Importing: 1,200 of 5,000 (Part 2/3: Checking)")


def test_only_a_running_message_says_its_step(open_bar: OpenBar, site: ScriptedSite) -> None:
    """The other states have texts of their own, and percentages of the whole."""
    site.reply(in_step())
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(f"Step 2 of 3: Checking. {PLAIN}")
    expect(part(bar, "percent")).to_have_text("40%")
    site.reply(in_step(state="lost"))
    expect(part(bar, "text")).to_have_text("The task stopped responding. It may restart automatically.")
    site.reply(in_step(state="done"))
    expect(part(bar, "text")).to_have_text("Done")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_values_of_another_kind_of_server_are_ignored(open_bar: OpenBar, site: ScriptedSite, state: str) -> None:
    text = "The task failed." if state == "failed" else PLAIN
    for value in (3, True, "Checking", {"index": 1}, {"total": "x", "run": "y"}, []):
        for name in ("step", "parts", "usual"):
            site.reply(answer(state, extra={name: value, "poll_after": NEVER, "id": f"{name}{value}"}))
            bar = open_bar()
            expect(part(bar, "text")).to_have_text(text)
            expect(part(bar, "percent")).to_have_text("stopped at 24%" if state == "failed" else "24%")
            expect(part(bar, "failed")).to_be_hidden()


def test_in_a_right_to_left_page_the_step_is_read_from_the_right(open_bar: OpenBar, site: ScriptedSite) -> None:
    """Also if its name is left-to-right: docs/bar.md says which mark the translation needs."""
    site.reply(in_step(description=""))
    head = "<script>document.documentElement.dir = 'rtl'</script>"
    texts = {"step": "الخطوة {index} من {count}", "stepped": "{step}.\u200f {text}", "amount": "{current} من {total}"}
    bar = open_bar("".join(f'text-{name}="{text}" ' for name, text in texts.items()), head=head)
    expect(part(bar, "text")).to_have_text("الخطوة 2 من 3: Checking.\u200f 1,200 من 5,000")
    words = ["الخطوة", "Checking", "1,200", "5,000"]
    positions = bar.evaluate(
        """(bar, words) => {
          const [text, track, fill] = ["text", "track", "fill"].map((name) =>
            bar.shadowRoot.querySelector(`[part=${name}]`));
          const rightOf = (word) => {
            const range = document.createRange();
            const start = text.textContent.indexOf(word);
            range.setStart(text.firstChild, start);
            range.setEnd(text.firstChild, start + word.length);
            return range.getBoundingClientRect().right;
          };
          const [end, filled] = [track, fill].map((each) => each.getBoundingClientRect().right);
          return [...words.map(rightOf), end - filled];
        }""",
        words,
    )
    *starts, gap = positions
    assert starts == sorted(starts, reverse=True)
    assert gap == 0


def test_a_bar_whose_job_is_interrupted_stays_where_it_is(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """The page says it from the start. Users with low vision see the end of the bar, and screen readers say it once."""
    interrupted = Progress(
        **{"id": "m1", "actor": "import_rows", "queue": "default", "state": State.ENQUEUED, "attempt": 1},
        **{"current": 6200, "total": 10_000, "description": "Importing", "continues": True},
        **{"queue_position": 3, "queue_length": 12, "title": "Import"},
    )
    site.reply(Reply(json=interrupted.as_dict() | {"poll_after": 0.1}, held=True))
    bar = open_bar("", str(markup(interrupted)))
    text = "Waiting to continue: 6,200 of 10,000"
    shown = """bar => {
      const [track, fill] = ["track", "fill"].map((name) => bar.shadowRoot.querySelector(`[part=${name}]`));
      const isMarked = getComputedStyle(track, "::before").content !== "none";
      const values = [track.ariaValueNow, track.ariaValueText, fill.style.inlineSize, isMarked];
      return [bar.getAttribute("state"), ...values];
    }"""
    waiting = ["enqueued", "62", f"62%, {text}", "62%", True]
    assert bar.evaluate(shown) == waiting
    site.release()
    page.wait_for_function("events.length")
    assert bar.evaluate(shown) == waiting
    assert page.evaluate("announced") == [f"Import, 62%, {text}"]
    site.reply(answer("running", current=6300, total=10_000, attempt=2, title="Import"))
    expect(part(bar, "text")).to_have_text("Importing: 6,300 of 10,000")
    site.reply(interrupted.as_dict() | {"poll_after": NEVER})
    expect(part(bar, "text")).to_have_text(text)
    assert bar.evaluate(shown) == waiting
    assert page.evaluate("announced.at(-1)") == f"Import, 62%, {text}"


def test_a_bar_whose_job_is_paused_stays_where_it_is_and_goes_on(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    """Screen readers say each state once, and nothing while its last item ends."""
    running = {"current": 6200, "total": 10_000, "title": "Import", "poll_after": 0.1}
    site.reply(answer("running", **running))
    bar = open_bar("", "")
    expect(part(bar, "text")).to_have_text("Importing: 6,200 of 10,000")
    site.reply(answer("running", pause_requested=True, **running))
    expect(part(bar, "text")).to_have_text("Pausing: 6,200 of 10,000")
    said = page.evaluate("announced.length")
    site.reply(answer("paused", continues=True, pause_requested=True, **running))
    expect(part(bar, "text")).to_have_text("Paused: 6,200 of 10,000")
    expect(bar).to_have_attribute("state", "paused")
    expect(part(bar, "percent")).to_have_text("62%")
    wait_until(lambda: page.evaluate("announced.at(-1)") == "Import, 62%, Paused: 6,200 of 10,000")
    assert page.evaluate("announced.length") == said + 1
    site.reply(answer("enqueued", continues=True, **running))
    expect(part(bar, "text")).to_have_text("Waiting to continue: 6,200 of 10,000")
    site.reply(answer("running", current=6300, total=10_000, attempt=2, title="Import"))
    expect(part(bar, "text")).to_have_text("Importing: 6,300 of 10,000")


# ---- Loading ----


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        (in_step(), f"Step 2 of 3: Checking. {PLAIN}"),
        (members(done=6, failed=1).as_dict(), "Resizing: 7 of 50, 1 failed"),
        (members(State.FAILED, done=6, failed=1).as_dict(), "6 of 50 done, 1 failed"),
        (usual(120, 130).as_dict(), "Waiting in the queue, usually takes about 2 minutes"),
    ],
)
def test_it_is_loaded_only_for_an_answer_that_needs_it(
    open_bar: OpenBar, site: ScriptedSite, needs: Any, text: str
) -> None:
    site.reply(answer("running"))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(PLAIN)
    settle(bar, site)
    assert downloads(site) == []
    site.reply(needs)
    expect(part(bar, "text")).to_have_text(text)
    assert downloads(site) == [MODULE]


def test_a_message_that_has_ended_in_a_step_needs_no_module(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(in_step(state="failed", result="Row 7 has no code."))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text("Row 7 has no code.")
    settle(bar, site)
    assert downloads(site) == []


def test_it_is_loaded_from_the_url_of_the_page(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(in_step())
    bar = open_bar(f'parts-module="/static/{MODULE}?0b54"')
    expect(part(bar, "text")).to_have_text(f"Step 2 of 3: Checking. {PLAIN}")
    assert downloads(site) == [f"{MODULE}?0b54"]


@pytest.fixture
def held(page: Page) -> Iterator[list[Route]]:
    """The requests for the module, none of which is answered."""
    routes: list[Route] = []
    page.route(f"**/{MODULE}", lambda route: routes.append(route))
    yield routes


def test_while_it_is_slow_the_text_is_the_plain_one(
    open_bar: OpenBar, site: ScriptedSite, page: Page, held: list[Route]
) -> None:
    """From the next answer on, or after two seconds. Screen readers read the step as soon as it is known."""
    site.reply(in_step(poll_after=3600))
    bar = open_bar('label="Import"')
    expect(part(bar, "text")).to_have_text(PLAIN)
    expect(part(bar, "percent")).to_have_text("40%")
    assert page.evaluate("announced") == [f"Import, 40%, {PLAIN}"]
    assert len(site.polls) == 1
    held[0].continue_()
    expect(part(bar, "text")).to_have_text(f"Step 2 of 3: Checking. {PLAIN}")
    expect(part(bar, "track")).to_have_attribute("aria-valuetext", f"40%, Step 2 of 3: Checking. {PLAIN}")
    assert page.evaluate("announced") == [f"Import, 40%, {each}{PLAIN}" for each in ("", "Step 2 of 3: Checking. ")]
    assert (len(site.polls), page.evaluate("events.length")) == (1, 1)


@pytest.mark.parametrize("then", ["done", "retrying", "removed", "another message"])
def test_a_bar_that_shows_something_else_by_then_is_not_drawn_again(
    open_bar: OpenBar, site: ScriptedSite, page: Page, held: list[Route], then: str
) -> None:
    site.reply(in_step())
    bar = open_bar('show-result id="bar"')
    expect(part(bar, "text")).to_have_text(PLAIN)
    page.evaluate("window.shown = document.querySelector('#bar')")
    if then == "done":
        site.reply(in_step(state="done", result="All there"))
    elif then == "retrying":
        site.reply(in_step(state="retrying", retry_in=900))
    elif then == "removed":
        bar.evaluate("bar => bar.remove()")
    else:
        site.reply(Reply(json={}, held=True), path="/progress/m2/")
        bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    text = {
        "done": "All there",
        "retrying": "This attempt failed. Retrying in 15 minutes… (attempt 2)",
        "removed": PLAIN,
        "another message": "Checking progress…",
    }[then]
    shown = "() => window.shown.shadowRoot.querySelector('[part=text]').textContent"
    wait_until(lambda: page.evaluate(shown) == text)
    held[0].continue_()
    # It has been evaluated after this.
    page.evaluate(f"import('/static/{MODULE}').then(() => new Promise((resolve) => setTimeout(resolve)))")
    assert page.evaluate(shown) == text


def test_without_it_the_bar_is_complete(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """It is requested once for each step, not at each answer."""
    site.reply(in_step(1))
    # The site has no such file, and counts the requests.
    bar = open_bar('parts-module="/progress/missing.js"')
    for index in (1, 2, 3):
        site.reply(in_step(index))
        site.wait_for_polls(len(site.polls) + 6)
        expect(part(bar, "text")).to_have_text(PLAIN)
        assert site.polls.count("/progress/missing.js") == index
    site.reply(in_step(3, state="done"))
    expect(part(bar, "text")).to_have_text("Done")
    assert page.evaluate("announced") == [f"Import rows, 40%, {PLAIN}", "Import rows, 40%, Done"]


def test_after_a_failure_the_next_step_loads_it(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    page.route(f"**/{MODULE}", lambda route: route.abort(), times=1)
    site.reply(in_step(1))
    bar = open_bar()
    expect(part(bar, "text")).to_have_text(PLAIN)
    site.wait_for_polls(3)
    expect(part(bar, "text")).to_have_text(PLAIN)
    site.reply(in_step(2))
    expect(part(bar, "text")).to_have_text(f"Step 2 of 3: Checking. {PLAIN}")


@pytest.mark.parametrize("size", ["", "compact"])
def test_a_time_left_makes_a_narrow_bar_higher_only_once(open_bar: OpenBar, site: ScriptedSite, size: str) -> None:
    """It needs a third line, and its room stays until the end."""
    compact = '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress-compact.css">'
    style = "<style>dramatiq-progress { width: 280px; font: 16px sans-serif }</style>"
    site.reply(in_step(description=""))
    bar = open_bar(f'cancel="/cancel/" {size}', head=compact + style)
    heights = []
    for reply, end in [
        (in_step(description=""), "5,000"),
        (in_step(description="", extra={"eta": 11.0}), "11 seconds left"),
        (in_step(description=""), "5,000"),
        (in_step(state="done"), "Done"),
    ]:
        site.reply(reply)
        expect(part(bar, "text")).to_have_text(re.compile(f"{end}$"))
        heights.append(bar.evaluate("bar => bar.getBoundingClientRect().height"))
    assert heights == ([24, 24, 24, 24] if size else [84, 104, 104, 104])
    bar.evaluate("bar => { bar.src = '/progress/m2/' }")
    expect(part(bar, "text")).to_have_text("Checking progress…")
    assert bar.evaluate("bar => bar.getBoundingClientRect().height") == heights[0]


@pytest.mark.parametrize("reserve", ["", '--dramatiq-progress-reserve: "";'])
def test_the_sign_is_in_the_first_line_of_the_text(open_bar: OpenBar, site: ScriptedSite, reserve: str) -> None:
    """As it was before the module was loaded."""
    site.reply(answer("enqueued"))
    bar = open_bar(head=f"<style>dramatiq-progress {{ width: 280px; {reserve} }}</style>")
    expect(part(bar, "text")).to_have_text("Waiting in the queue")
    before = part(bar, "sign").bounding_box()
    site.reply(usual(None, None, 300).as_dict())
    expect(part(bar, "text")).to_have_text("Waiting in the queue, begins in about 5 minutes")
    assert part(bar, "sign").bounding_box() == pytest.approx(before, abs=0.01)


# ---- The members ----

BOXES = """bar => {
  const [track, fill, failed] = ["track", "fill", "failed"].map((name) =>
    bar.shadowRoot.querySelector(`[part=${name}]`)?.getBoundingClientRect());
  const isRtl = getComputedStyle(bar).direction === "rtl";
  const start = (box) => Math.round(isRtl ? track.right - box.right : box.left - track.left);
  const span = (box) => box?.width ? [start(box), start(box) + Math.round(box.width)] : null;
  return [Math.round(track.width), span(fill), span(failed)];
}"""
#: Ten pixels per member.
WIDE = "<style>dramatiq-progress { width: 500px; --dramatiq-progress-transition-duration: 0s }</style>"


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_failed_members_are_a_hollow_part_at_the_end_of_the_fill(
    open_bar: OpenBar, site: ScriptedSite, direction: str
) -> None:
    """With a gap: not by colour alone. Fill and part end at the percentage, and never behind the end of the track."""
    site.reply(members(done=5, overall=0.16).as_dict())
    bar = open_bar(f'dir="{direction}"', head=WIDE)
    expect(part(bar, "text")).to_have_text("Resizing: 5 of 50")
    assert bar.evaluate(BOXES) == [500, [0, 80], None]
    site.reply(members(done=5, failed=2, overall=0.16).as_dict())
    expect(part(bar, "text")).to_have_text("Resizing: 7 of 50, 2 failed")
    assert bar.evaluate(BOXES) == [500, [0, 60], [62, 82]]
    expect(part(bar, "failed")).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    expect(part(bar, "failed")).to_have_css("border", "2px solid rgb(220, 38, 38)")
    # A retry.
    site.reply(members(done=5, overall=0.14).as_dict())
    expect(part(bar, "text")).to_have_text("Resizing: 5 of 50")
    assert bar.evaluate(BOXES) == [500, [0, 70], None]
    site.reply(members(State.FAILED, done=49, failed=1, overall=1.0).as_dict())
    expect(part(bar, "text")).to_have_text("49 of 50 done, 1 failed")
    assert bar.evaluate(BOXES) == [500, [0, 488], [490, 500]]
    # What has succeeded stays green, and nothing was stopped.
    expect(part(bar, "fill")).to_have_css("background-color", "rgb(21, 128, 61)")
    expect(part(bar, "percent")).to_have_text("")
    expect(part(bar, "track")).to_have_attribute("aria-valuetext", "49 of 50 done, 1 failed")


def test_a_thousandth_that_failed_is_visible(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(members(done=999, failed=1, total=1000, overall=0.5).as_dict())
    bar = open_bar("compact", head=WIDE)
    expect(part(bar, "failed")).to_be_visible()
    _, _, (begin, end) = bar.evaluate(BOXES)
    assert end - begin == 8


def test_an_outcome_is_drawn_and_announced_once(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Also on a page that is opened afterwards, where the module isn't loaded yet."""
    record = members(State.FAILED, done=49, failed=1, overall=1.0, result="1 of 50 failed.", title="Photos")
    site.reply(record.as_dict())
    page.add_init_script(RECORD_TEXTS)
    bar = open_bar('retry="/again/"', str(markup(record)))
    expect(part(bar, "retry")).to_be_visible()
    assert page.evaluate("announced") == ["Photos, 100%, 49 of 50 done, 1 failed"]
    assert set(page.evaluate("texts")) == {"49 of 50 done, 1 failed"}


#: Records every text of a bar.
RECORD_TEXTS = """
  window.texts = [];
  customElements.whenDefined("dramatiq-progress").then(() => {
    const text = document.querySelector("dramatiq-progress").shadowRoot.querySelector("[part=text]");
    texts.push(text.textContent);
    new MutationObserver(() => texts.push(text.textContent)).observe(text, { childList: true });
  });
"""


@pytest.mark.parametrize(
    "record",
    [members(done=6, failed=1, title="Photos"), usual(120, 130, title="Photos"), running(title="Photos")],
    ids=["members", "usual", "step"],
)
def test_the_text_of_the_page_stays_until_the_module_is_there(
    open_bar: OpenBar, site: ScriptedSite, page: Page, record: Progress
) -> None:
    site.reply(record.as_dict() | {"poll_after": NEVER})
    page.add_init_script(RECORD_TEXTS)
    open_bar("", str(markup(record)))
    page.wait_for_function("events.length")
    assert {ungrouped(each) for each in page.evaluate("texts")} == {ungrouped(describe(record))}
    assert len(page.evaluate("announced")) == 1


def test_a_handler_gets_the_numbers_of_a_failed_group(site: ScriptedSite, page: Page) -> None:
    site.reply(members(State.FAILED, done=49, failed=1, result="1 of 50 failed.").as_dict())
    site.html = "<!doctype html><p id=progress-bar-message>"
    page.goto(site.url)
    text = page.evaluate(
        """async () => {
          const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
          return new Promise((onTaskError) => new ProgressBar("/progress/m1/", {
            onTaskError: (bar, message, text) => onTaskError(text),
          }));
        }"""
    )
    assert text == "49 of 50 done, 1 failed"


# ---- Usual times ----


def test_usual_times_never_move_the_bar_and_give_way_to_the_time_left(open_bar: OpenBar, site: ScriptedSite) -> None:
    run = {"state": State.RUNNING, "attempt": 1, "total": 50}
    site.reply(usual(120, 130, **run, current=10, elapsed=60.0).as_dict())
    bar = open_bar(head=WIDE)
    expect(part(bar, "text")).to_have_text("10 of 50, usually takes about 2 minutes")
    expect(part(bar, "percent")).to_have_text("20%")
    assert bar.evaluate(BOXES) == [500, [0, 100], None]
    site.reply(usual(120, 130, **run, current=11, elapsed=60.0, eta=7200.0).as_dict())
    expect(part(bar, "text")).to_have_text("11 of 50, about 2 hours left")


def test_a_run_gets_longer_than_usual_without_a_new_answer(
    open_bar: OpenBar, site: ScriptedSite, patient_page: Page
) -> None:
    """The server answers 304 as long as nothing but clocks has changed."""
    record = usual(120, 130, state=State.RUNNING, attempt=1, elapsed=129.0)
    site.reply(Reply(json=record.as_dict() | {"poll_after": 0.1}, headers={"ETag": '"1"'}), Reply(status=304))
    bar = open_bar()
    run_until_poll(patient_page, site, 1)
    expect(part(bar, "text")).to_have_text("Running, usually takes about 2 minutes")
    for number in range(2, 20):
        run_until_poll(patient_page, site, number)
    expect(part(bar, "text")).to_have_text("Running, longer than usual")
    assert patient_page.evaluate("events.length") == 1


# ---- Screen readers ----


def test_the_members_of_a_group_are_announced_at_each_quarter(
    open_bar: OpenBar, site: ScriptedSite, page: Page
) -> None:
    replies = [members(done=done, failed=1, overall=(done + 1) / 50, title="Photos") for done in range(1, 50, 8)]
    for record in replies:
        # The module that draws them may be slow to load.
        site.reply(record.as_dict() | {"poll_after": NEVER})
        if site.polls:
            page.evaluate("dispatchEvent(new Event('online'))")
        else:
            open_bar()
        bar = page.locator("dramatiq-progress")
        expect(part(bar, "text")).to_have_text(f"Resizing: {record.current} of 50, 1 failed")
    assert page.evaluate("announced") == [
        f"Photos, {percent}%, Resizing: {ended} of 50, 1 failed"
        for ended, percent in ((2, 4), (18, 36), (26, 52), (42, 84), (50, 100))
    ]


def test_each_step_is_announced_once_after_the_title(open_bar: OpenBar, page: Page) -> None:
    """A note (here a lost connection) is announced instead, and not again at each step."""

    def at(index: int, overall: float, **values: Any) -> Any:
        return in_step(index, overall=overall, poll_after=1, **values)

    second_plan = StepProgress(3, 3, "Cleaning up")
    replies = [
        *[at(1, share) for share in (0.01, 0.02, 0.03)],
        *[at(2, share) for share in (0.1, 0.11, 0.12, 0.3)],
        *[at(3, share) for share in (0.31, 0.32)],
        *[at(3, share, step=second_plan) for share in (0.33, 0.34)],
        at(3, 1, state="done"),
    ]
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    bar = open_bar('label="Import"')
    page.evaluate(
        f"""async (replies) => {{
          await import("/static/{MODULE}");
          const {{ DramatiqProgress }} = await import("/static/dramatiq_progress/dramatiq-progress.js");
          DramatiqProgress.prototype.fetch = async () => Response.json(replies.shift());
        }}""",
        replies,
    )
    for _ in range(10 * len(replies)):
        page.clock.run_for(1000)
        if bar.get_attribute("state") == "done":
            break
    assert [each for each in page.evaluate("announced") if "Step" not in each] in (
        ["Import, 1%, Importing: 1,200 of 5,000", "Import, 100%, Done"],
        ["Import, 100%, Done"],
    )
    assert [each.replace(PLAIN, "…") for each in page.evaluate("announced") if "Step" in each] == [
        "Import, 1%, Step 1 of 3: Reading. …",
        "Import, 10%, Step 2 of 3: Checking. …",
        "Import, 30%, Step 2 of 3: Checking. …",
        "Import, 31%, Step 3 of 3: Writing. …",
        "Import, 33%, Step 3 of 3: Cleaning up. …",
    ]


def test_a_step_is_not_announced_while_another_text_is_shown(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Here "Cancelling…", which was announced already."""
    site.reply(in_step(1))
    bar = open_bar('cancel="/cancel/"')
    expect(part(bar, "text")).to_have_text(f"Step 1 of 3: Reading. {PLAIN}")
    site.reply(in_step(1, cancel_requested=True))
    expect(part(bar, "text")).to_have_text("Cancelling…")
    announced = page.evaluate("announced")
    assert announced[-1] == "Import rows, Cancelling…"
    site.reply(in_step(2, cancel_requested=True))
    site.wait_for_polls(len(site.polls) + 3)
    assert page.evaluate("announced") == announced


# ---- Each kind of bar ----


def test_a_list_loads_it_once(site: ScriptedSite, page: Page) -> None:
    for index, each in enumerate(("m1", "m2", "m3"), start=1):
        site.reply(in_step(index), path=f"/progress/{each}/")
    site.reply(answer("running"), path="/progress/m4/")
    bars = [f'<dramatiq-progress list="/progress/" src="/progress/m{each}/"></dramatiq-progress>' for each in "1234"]
    site.html = f"{HEAD}<body>{''.join(bars)}"
    page.goto(site.url)
    steps = [f"Step {index} of 3: {name}. {PLAIN}" for index, name in enumerate(NAMES, start=1)]
    expect(page.locator("dramatiq-progress [part=text]")).to_have_text([*steps, PLAIN])
    assert downloads(site) == [MODULE]


START = """async (options) => {
  const { ProgressBar } = await import("/static/dramatiq_progress/dramatiq-progress.js");
  window.calls = 0;
  if (options.onProgress) options.onProgress = () => calls++;
  window.bar = new ProgressBar("/progress/m1/", options);
}"""


def start(site: ScriptedSite, page: Page, **options: Any) -> Locator:
    site.html = "<!doctype html><p id=progress-bar-message>"
    page.goto(site.url)
    page.evaluate(START, options)
    return page.locator("#progress-bar-message")


def test_progress_bar_has_the_same_text(site: ScriptedSite, page: Page) -> None:
    site.reply(in_step(poll_after=3600))
    options = {"partsModule": f"/static/{MODULE}?0b54", "defaultMessages": {"step": "Part {index}"}}
    message = start(site, page, **options)
    expect(message).to_have_text(f"Part 2: Checking. {PLAIN}")
    assert downloads(site) == [f"{MODULE}?0b54"]


def test_a_handler_that_draws_is_called_once_for_each_answer(site: ScriptedSite, page: Page) -> None:
    """The module isn't needed then."""
    site.reply(*[in_step()] * 2, in_step(poll_after=3600))
    start(site, page, onProgress=True)
    page.wait_for_function("calls === 3")
    page.evaluate("fetch('/after-all-others/')")
    assert (page.evaluate("calls"), downloads(site)) == (3, [])


def test_a_stream_says_the_step(asgi_site: Site, page: Page) -> None:
    """With the real template tag and a real store."""
    attempt = begin(asgi_site.store)
    opened: list[str] = []
    page.on("request", lambda request: opened.append(request.url))
    page.goto(f"{asgi_site.url}/bars/?id=m1")
    bar = page.locator("dramatiq-progress")
    expect(part(bar, "text")).to_have_text("1 of 10,000")
    wait_until(lambda: page.wait_for_timeout(10) or any("/stream/" in url for url in opened))
    report(asgi_site.store, attempt, 1200, overall="0.4", step=json.dumps([2, 3, "Checking", 0.2, 0.6]))
    expect(part(bar, "text")).to_have_text("Step 2 of 3: Checking. 1,200 of 10,000")
    assert bar.get_attribute("parts-module") == f"/static/{MODULE}"

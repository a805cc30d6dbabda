"""The children of a bar for pages without JavaScript: rendered by the server, with what the request may see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.utils import translation
from django.utils.safestring import mark_safe

from dramatiq_progress import Progress, State
from dramatiq_progress.progress import Parts, StepProgress, UsualTimes
from dramatiq_progress.stores import Store
from dramatiq_progress.web.elements import bar
from dramatiq_progress.web.noscript import markup
from dramatiq_progress.web.texts import RESULTS, BarTexts
from tests.people import People
from tests.servers import free_port

NO_VALUES = (
    '<progress max="100" aria-label="Progress"></progress><span>Checking progress…</span> <a href="">Refresh</a>'
)


def make_progress(state: State = State.RUNNING, **values: Any) -> Progress:
    """Return a progress. The default is 1,200 of 5,000."""
    values = {
        "title": "Import people",
        "current": 1200,
        "total": 5000,
        "description": "Importing",
        "attempt": 1,
    } | values
    return Progress(id="m1", actor="import_rows", queue="default", state=state, **values)


def children(html: str) -> str:
    """Return the children of the only bar of a page."""
    return html.partition("<dramatiq-progress")[2].partition(">")[2].partition("</dramatiq-progress>")[0]


def page_of(message: object, request: HttpRequest | None) -> str:
    context = {"message": message}
    made = Context(context) if request is None else RequestContext(request, context)
    return Template("{% load dramatiq_progress %}{% dramatiq_progress message %}").render(made)


RESIZED = Parts(total=50, waiting=40, running=3, retrying=0, done=6, failed=1, cancelled=0, skipped=0)
STATES: list[tuple[Progress, str, str | None]] = [
    (make_progress(State.ENQUEUED, total=None, current=0), "Waiting in the queue", "0"),
    (
        make_progress(State.ENQUEUED, current=0, total=None, queue_position=3, queue_length=1200),
        "In the queue: about number 3 of 1,200",
        "0",
    ),
    (make_progress(State.ENQUEUED, current=0, total=None, queue_position=1, queue_length=12), "Next in the queue", "0"),
    (make_progress(State.DELAYED, total=None, current=0), "Scheduled", "0"),
    # A retry, with the values of the attempt that failed.
    (make_progress(State.ENQUEUED, attempt=2), '<span data-state="enqueued">Waiting in the queue<', "0"),
    *(
        (make_progress(state, continues=True, queue_position=3, queue_length=12, **values), text, value)
        for state, values, text, value in [
            (
                State.ENQUEUED,
                {},
                '<span data-percent="24" data-state="enqueued">Waiting to continue: 1,200 of 5,000<',
                "24",
            ),
            (State.DELAYED, {"usual": UsualTimes(118, 300, 90)}, ">Waiting to continue: 1,200 of 5,000<", "24"),
            (
                State.ENQUEUED,
                {"current": 0},
                '<span data-percent="0" data-state="enqueued">Waiting to continue: 0 of 5,000<',
                "0",
            ),
            (State.ENQUEUED, {"total": None}, '<span data-state="enqueued">Waiting to continue: 1,200<', "0"),
            (State.ENQUEUED, {"total": None, "current": 0}, '<span data-state="enqueued">Waiting to continue…<', "0"),
            (
                State.ENQUEUED,
                {"has_steps": True, "overall": 0.4, "step": StepProgress(2, 3, "Checking"), "description": ""},
                ">Waiting to continue. Step 2 of 3: Checking. 1,200 of 5,000<",
                "40",
            ),
        ]
    ),
    (make_progress(State.PAUSED, current=0, total=None), '<span data-state="paused">Paused<', "0"),
    (
        make_progress(State.PAUSED, continues=True),
        '<span data-percent="24" data-state="paused">Paused: 1,200 of 5,000<',
        "24",
    ),
    (
        make_progress(pause_requested=True),
        '<span data-percent="24" data-state="running">Pausing: 1,200 of 5,000<',
        "24",
    ),
    (make_progress(), "Importing: 1,200 of 5,000", "24"),
    (
        make_progress(current=1, total=3, eta=119.3, description=""),
        "1 of 3, about 2\N{NO-BREAK SPACE}minutes left",
        "33.3",
    ),
    (make_progress(eta=59.0), "Importing: 1,200 of 5,000, less than a minute left", "24"),
    (make_progress(total=None), "Importing: 1,200 so far", "none"),
    (make_progress(description="Importing…"), "Importing: 1,200 of 5,000", "24"),
    (make_progress(description="{amount} {current}"), "{amount} {current}: 1,200 of 5,000", "24"),
    (make_progress(total=None, current=0, description="Opening…"), "Opening…", "none"),
    (make_progress(total=None, current=0, description=""), "Running", "none"),
    *(
        (make_progress(has_steps=True, overall=0.4, step=StepProgress(2, 3, name), **values), text, "40")
        for name, values, text in [
            ("Checking", {"description": ""}, ">Step 2 of 3: Checking. 1,200 of 5,000<"),
            ("Checking", {"description": "Checking"}, ">Step 2 of 3: Checking. 1,200 of 5,000<"),
            ("Checking…", {"description": "File"}, ">Step 2 of 3: Checking. File: 1,200 of 5,000<"),
            ("Checking", {"total": None, "current": 0, "description": ""}, ">Step 2 of 3: Checking<"),
            ("Checking", {"eta": 59.0}, "Step 2 of 3: Checking. Importing: 1,200 of 5,000, less than a minute left<"),
            ("", {"description": ""}, ">Step 2 of 3. 1,200 of 5,000<"),
            ("…", {"description": ""}, ">Step 2 of 3. 1,200 of 5,000<"),
            ("<b>{text}", {"description": ""}, ">Step 2 of 3: &lt;b&gt;{text}. 1,200 of 5,000<"),
        ]
    ),
    (
        make_progress(State.RETRYING, retry_in=5400, retries_left=3),
        "Retrying in 2\N{NO-BREAK SPACE}hours… (attempt 2 of 4)",
        "24",
    ),
    (
        make_progress(State.RETRYING, retry_in=3.1, retries_left=3),
        'data-text="This attempt failed. Retrying in 4\N{NO-BREAK SPACE}s… (attempt 2 of 4)">'
        "This attempt failed. Retrying within a minute… (attempt 2 of 4)",
        "24",
    ),
    (
        make_progress(State.RETRYING, retry_in=0, attempt=3, retries_left=0),
        "This attempt failed. Retrying now… (attempt 4)",
        "24",
    ),
    *(
        (make_progress(state, parts=parts, title="Photos", has_steps=True, overall=0.4, **values), text, "40")
        for state, parts, values, text in [
            (State.RUNNING, RESIZED, {"current": 7, "total": 50}, ">Importing: 7 of 50, 1 failed<"),
            (
                State.RUNNING,
                RESIZED,
                {"current": 7, "total": 50, "eta": 59.0},
                "Importing: 7 of 50, 1 failed, less than a minute left<",
            ),
            (State.RUNNING, RESIZED, {"step": StepProgress(2, 3, "")}, ">Step 2 of 3. Importing, 1 failed<"),
            (State.FAILED, RESIZED, {"result": "1 of 50 failed."}, ">6 of 50 done, 1 failed<"),
            (State.CANCELLED, RESIZED, {}, ">The task was cancelled: 6 of 50 done, 1 failed<"),
            (State.DONE, RESIZED, {}, ">Done<"),
        ]
    ),
    *(
        (make_progress(State.ENQUEUED, total=None, current=0, usual=UsualTimes(*usual), **values), text, "0")
        for usual, values, text in [
            ((118, 300, None), {}, "Waiting in the queue, usually takes about 2\N{NO-BREAK SPACE}minutes<"),
            ((118, 600, None), {}, "Waiting in the queue, usually takes 2 to 10\N{NO-BREAK SPACE}minutes<"),
            ((20, 600, None), {}, "Waiting in the queue, usually takes up to 10\N{NO-BREAK SPACE}minutes<"),
            (
                (20, 21, None),
                {},
                'data-text="Waiting in the queue">Waiting in the queue, usually takes less than a minute<',
            ),
            ((10, 50, None), {}, "Waiting in the queue, usually takes less than a minute<"),
            ((None, None, 40), {}, 'data-text="Waiting in the queue">Waiting in the queue, begins within a minute<'),
            (
                (118, 300, 90),
                {"queue_position": 3, "queue_length": 12},
                "In the queue: about number 3 of 12, begins in about 2\N{NO-BREAK SPACE}minutes<",
            ),
        ]
    ),
    (make_progress(State.LOST), "The task stopped responding. It may restart automatically.", "24"),
    (make_progress(State.DONE), "Done", "24"),
    (make_progress(State.DONE, total=None, result="All there"), "Done", None),
    (make_progress(State.FAILED, result="<b>Row 7</b> has no code."), "&lt;b&gt;Row 7&lt;/b&gt; has no code.", "24"),
    (make_progress(State.FAILED, result={"no": "text"}), "The task failed.", "24"),
    (make_progress(State.CANCELLED, result="The task was cancelled."), "The task was cancelled.", "24"),
    (make_progress(State.SKIPPED), "The task was skipped.", "24"),
]


@pytest.mark.parametrize(("progress", "text", "value"), STATES)
def test_each_state_is_shown(progress: Progress, text: str, value: str | None) -> None:
    html = markup(progress, label="")
    assert text in html
    assert ("<progress" in html) is (value is not None)
    assert (f' value="{value}"' in html) is (value not in (None, "none"))
    # A final state needs no refresh.
    assert ("Refresh" in html) is not progress.complete


def test_every_state_is_tested_above() -> None:
    assert {progress.state for progress, *_ in STATES} == set(State)


def test_a_page_in_a_language_without_translation_is_english() -> None:
    with translation.override("fr"):
        html = markup(make_progress(eta=7200, current=1250.5), label="Import")
    assert "Importing: 1,250.5 of 5,000, about 2\N{NO-BREAK SPACE}hours left" in html


@pytest.mark.parametrize(
    ("current", "total", "text"),
    [(0.1 + 0.2, 5.0, "0.3 of 5"), (5.0, 10, "5 of 10"), (12.345678, 73.4, "12.346 of 73.4"), (0.0004, 1, "0 of 1")],
)
def test_amounts_have_at_most_three_digits_as_in_the_bar(current: float, total: float, text: str) -> None:
    assert f">Importing: {text}<" in markup(make_progress(current=current, total=total), label="")


def test_it_is_in_the_language_of_the_page() -> None:
    with translation.override("de"):
        html = markup(make_progress(eta=7200, current=1250.5), label="Einfuhr")
        assert "Importing: 1.250,5 von 5.000, noch etwa 2\N{NO-BREAK SPACE}Stunden" in html
        assert html.startswith('<b>Einfuhr</b><progress max="100" value="25" aria-label="Einfuhr">')
        assert html.endswith(' <a href="">Aktualisieren</a>')
        in_steps = make_progress(step=StepProgress(2, 3, "Prüfung"), description="")
        assert "Schritt 2 von 3: Prüfung. 1.200 von 5.000" in markup(in_steps, label="")
        assert ">Importing: 1.200 von 5.000, 1 fehlgeschlagen<" in markup(make_progress(parts=RESIZED), label="")
        usual = make_progress(State.DELAYED, usual=UsualTimes(120, 600, None))
        continued = make_progress(State.ENQUEUED, continues=True)
        assert ">Wartet auf Fortsetzung: 1.200 von 5.000<" in markup(continued, label="")
        paused = make_progress(State.PAUSED, continues=True)
        assert ">Pausiert: 1.200 von 5.000<" in markup(paused, label="")
        assert ">Geplant, dauert meist 2 bis 10\N{NO-BREAK SPACE}Minuten<" in markup(usual, label="")
        assert "Das hat auch nach mehreren Versuchen nicht geklappt." in markup(
            make_progress(State.FAILED, result=RESULTS[-1]), label=""
        )


@pytest.mark.parametrize(
    ("arguments", "title", "name"),
    [
        ({}, "<b>Import people</b>", "Import people"),
        ({"label": "people.csv"}, "<b>people.csv</b>", "people.csv"),
        ({"name": "Rows"}, "<b>Import people</b>", "Rows"),
        ({"label": ""}, "", "Progress"),
    ],
)
def test_the_title_is_the_label_or_the_message_s(arguments: Any, title: str, name: str) -> None:
    html = markup(make_progress(), **arguments)
    assert html.startswith(f'{title}<progress max="100" value="24" aria-label="{name}"></progress><span')


NEXT = make_progress(State.ENQUEUED, current=0, total=None, queue_position=1, queue_length=12)


@pytest.mark.parametrize(
    ("progress", "attributes", "text"),
    [
        (NEXT, {"text_first": "You are next"}, ">You are next<"),
        (NEXT, {"text_enqueued": "Please wait", "text_done": None}, ">Next in the queue<"),
        (NEXT, {"text_first": mark_safe('"Next" &amp; <b>')}, ">&quot;Next&quot; &amp; &lt;b&gt;<"),
        (make_progress(), {"text_amount": "{total}: {current}"}, ">Importing: 5,000: 1,200<"),
        (make_progress(State.DONE), {"text_done": "", "text_enqueued": "Wait"}, "></span>"),
        (make_progress(State.CANCELLED, result="The task was cancelled."), {"text_cancelled": "Stopped"}, ">Stopped<"),
        (make_progress(State.FAILED, result="Row 7 is empty."), {"text_failed": "Sorry"}, ">Row 7 is empty.<"),
        (make_progress(State.RETRYING, retry_in=0), {"text_retryNow": "Again"}, ">Again (attempt 2)<"),
        (
            make_progress(State.RETRYING, retry_in=9),
            {"text_retryIn": "Again in {time}"},
            'data-text="Again in 9\N{NO-BREAK SPACE}s (attempt 2)"',
        ),
        (
            make_progress(step=StepProgress(2, 3, "Checking"), description=""),
            {"text_step": "{index}/{count}"},
            ">2/3: Checking. 1,200 of 5,000<",
        ),
        (None, {"text_waiting": "One moment"}, "<span>One moment</span>"),
        (None, {"text_label": "Imports"}, '<progress max="100" aria-label="Imports">'),
    ],
)
def test_a_bar_has_texts_of_its_own(
    memory_store: Store, settings: Any, progress: Progress | None, attributes: dict[str, str], text: str
) -> None:
    settings.DRAMATIQ_PROGRESS |= {"PERMISSION": "dramatiq_progress.permissions.anyone_with_link"}
    assert text in children(bar(progress or "m1", RequestFactory().get("/"), **attributes))


def test_a_bar_of_an_invalid_id_has_a_text_of_its_own() -> None:
    assert children(bar("a b", text_not_found="Gone")) == '<span data-state="not-found">Gone</span>'


def test_numbers_next_to_a_text_of_its_own_are_in_the_language_of_the_page() -> None:
    with translation.override("de"):
        html = markup(make_progress(), texts=BarTexts({"text-amount": "{current} / {total}"}))
    assert ">Importing: 1.200 / 5.000<" in html


# ---- Permissions ----


@pytest.mark.parametrize("name", ["anonymous", "owner", "another", "staff"])
def test_values_are_shown_only_to_users_who_may_read_the_message(people: People, name: str) -> None:
    message_id = people.send("owner")
    html = people.clients[name].get(f"/import/{message_id}/").content.decode()
    assert ("Next in the queue" in children(html)) is (name in ("owner", "staff"))
    assert (children(html) == NO_VALUES) is (name in ("anonymous", "another"))


def test_a_progress_from_a_view_is_not_read_again_but_its_permission_is_checked(
    people: People, memory_store: Store, settings: Any
) -> None:
    [progress] = memory_store.read([people.send("owner")])
    settings.DRAMATIQ_PROGRESS = {"STORE": "no.such.store"}
    request = RequestFactory().get("/")
    request.user = people.users["owner"]
    request.session = people.clients["owner"].session
    assert "Next in the queue" in page_of(progress, request)
    request.user = people.users["another"]
    request.session = people.clients["another"].session
    assert children(page_of(progress, request)) == NO_VALUES


def test_an_unknown_message_has_no_values(memory_store: Store) -> None:
    assert children(page_of("m1", RequestFactory().get("/"))) == NO_VALUES


def test_without_a_request_there_are_no_values(memory_store: Store) -> None:
    assert children(page_of("m1", None)) == NO_VALUES
    assert children(page_of(make_progress(), None)) == NO_VALUES


def test_a_bar_can_have_no_children() -> None:
    template = Template('{% load dramatiq_progress %}{% dramatiq_progress "m1" fallback=False %}')
    assert children(template.render(Context())) == ""


def test_a_template_in_an_event_loop_does_not_read_the_store(settings: Any) -> None:
    """The store doesn't exist, so reading it would raise an error."""
    settings.DRAMATIQ_PROGRESS = {"STORE": "no.such.store"}

    async def view() -> str:
        return page_of("m1", RequestFactory().get("/"))

    assert children(asyncio.run(view())) == NO_VALUES


def test_an_unavailable_store_only_removes_the_values(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once for any number of bars and pages."""
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": f"redis://127.0.0.1:{free_port()}/0"}}
    for _ in range(50):
        assert children(page_of("m1", RequestFactory().get("/"))) == NO_VALUES
    assert len([record for record in caplog.records if record.name.startswith("dramatiq_progress")]) == 1

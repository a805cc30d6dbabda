"""The public names as users write them: never run, only type-checked (``make types``, mypy --strict)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from dramatiq import Actor, Message, group

from dramatiq_progress import (
    Cancellation,
    Cancelled,
    CancelOutcome,
    Progress,
    ProgressObserver,
    State,
    UserFacingError,
    acancel,
    aget_progress,
    cancel,
    current_observer,
    get_progress,
    get_schedules,
    owned_by,
    progress_actor,
    progress_group,
    progress_pipeline,
    progress_url,
    scheduled,
)
from dramatiq_progress.progress import StepProgress, UsualTimes


@progress_actor
def bare(progress_observer: ProgressObserver, path: str, limit: int = 5) -> int:
    for number in progress_observer.track([1, 2], description="Counting"):
        assert_type(number, int)
    progress_observer.set_progress(1, None)
    progress_observer.set_progress(description="text")
    progress_observer.set_progress(1.5, 3, "text")
    progress_observer.increment_progress(2, "text")
    progress_observer.set_title(path)
    progress_observer.set_metadata(file=path)
    reading, writing = progress_observer.steps("Reading", "Writing", weights=(1, 2.5))
    with reading, writing as step:
        assert_type(step.name, str)
    assert_type(progress_observer.percent, float | None)
    assert_type(progress_observer.step, StepProgress | None)
    progress_observer.set_result({"limit": limit})
    assert_type(progress_observer.total, int | float | None)
    assert_type(progress_observer.cancel_requested, bool)
    if limit == 0:
        raise Cancelled
    return limit


@progress_actor(
    title=gettext_lazy("Import people"), max_retries=3, publish_result=True, cancellable=False, throws=UserFacingError
)
def with_options(progress_observer: ProgressObserver, path: str) -> None: ...


@progress_actor(queue_name="slow")
async def asynchronous(progress_observer: ProgressObserver, path: str) -> str:
    return path


@progress_actor
def untold(path: str) -> None: ...


@progress_actor
def elsewhere(path: str, progress_observer: ProgressObserver | None = None) -> None: ...


@scheduled(cron="0 3 * * *", timezone="Europe/Berlin", args=("a.csv",), missed="all", grace=60, overlap="skip")
@scheduled(every=timedelta(minutes=5), name="often", kwargs={"path": "a.csv"})
@progress_actor
def nightly(progress_observer: ProgressObserver, path: str) -> int:
    return 1


assert_type(nightly.send("a.csv"), Message[int])
scheduled(cron="@daily", missed="twice")  # type: ignore[arg-type]


assert_type(bare.send("a.csv", limit=3), Message[int])
assert_type(with_options.send("a.csv"), Message[None])
assert_type(asynchronous.send("a.csv"), Message[str])
assert_type(bare.send_with_options(args=("a.csv",), delay=5), Message[int])
untold.send("a.csv")
elsewhere.send("a.csv")
assert_type(progress_group([bare.message("a.csv")], with_children=True).run().message_id, str)
assert_type(progress_group.of("id").add([bare.message("a.csv")], delay=1_000), progress_group)
assert_type(progress_pipeline([bare.message("a.csv")]) | bare.message("a.csv"), progress_pipeline)
group([bare.message("a.csv")]).run()  # type: ignore[no-untyped-call]  # Dramatiq's group has no annotations

bare.send(5)  # type: ignore[arg-type]
bare.send()  # type: ignore[call-arg]
asynchronous.send("a", "b")  # type: ignore[call-arg]

actor: Actor[Any, Any] = bare


async def read(message: Message[int]) -> None:
    assert_type(get_progress(message), Progress | None)
    assert_type(get_progress(UUID(message.message_id)), Progress | None)
    assert_type(await aget_progress(message.message_id), Progress | None)
    progress = get_progress(message.message_id)
    if progress is not None:
        assert_type(progress.state, State)
        assert_type(progress.percent, float | None)
        assert_type(progress.step, StepProgress | None)
        assert_type(progress.usual, UsualTimes | None)
        assert_type(progress.success, bool | None)
        assert_type(progress.can_cancel, bool)
    for schedule in get_schedules():
        assert_type(schedule.next_at, datetime | None)
        assert_type(schedule.last_progress, Progress | None)
        assert_type(schedule.last_message_id, str | None)
    assert_type(current_observer(), ProgressObserver | None)
    assert_type(cancel(message), Cancellation)
    cancel(7)  # type: ignore[arg-type]
    assert_type((await acancel(message.message_id)).outcome, CancelOutcome)


def owners(request: HttpRequest, user: User) -> None:
    with owned_by(request), owned_by(user), owned_by(None):
        message = bare.send("path")
    assert_type(progress_url(message), str)
    assert_type(progress_url(message.message_id, signed_for=timedelta(hours=1)), str)
    assert_type(progress_url(message.message_id, signed_for=3600), str)

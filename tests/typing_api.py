"""The public names as users write them: never run, only type-checked (``make types``, mypy --strict)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from django.contrib.auth.models import User
from django.http import HttpRequest
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
    owned_by,
    progress_actor,
    progress_url,
)


@progress_actor
def bare(progress_observer: ProgressObserver, path: str, limit: int = 5) -> int:
    for number in progress_observer.track([1, 2], description="Counting"):
        assert_type(number, int)
    progress_observer.set_progress(1, None)
    progress_observer.set_progress(1.5, 3, "text")
    progress_observer.increment_progress(2, "text")
    progress_observer.set_metadata(file=path)
    progress_observer.set_result({"limit": limit})
    assert_type(progress_observer.total, int | float | None)
    assert_type(progress_observer.cancel_requested, bool)
    if limit == 0:
        raise Cancelled
    return limit


@progress_actor(max_retries=3, publish_result=True, cancellable=False, throws=UserFacingError)
def with_options(progress_observer: ProgressObserver, path: str) -> None: ...


@progress_actor(queue_name="slow")
async def asynchronous(progress_observer: ProgressObserver, path: str) -> str:
    return path


@progress_actor
def untold(path: str) -> None: ...


@progress_actor
def elsewhere(path: str, progress_observer: ProgressObserver | None = None) -> None: ...


assert_type(bare.send("a.csv", limit=3), Message[int])
assert_type(with_options.send("a.csv"), Message[None])
assert_type(asynchronous.send("a.csv"), Message[str])
assert_type(bare.send_with_options(args=("a.csv",), delay=5), Message[int])
untold.send("a.csv")
elsewhere.send("a.csv")
group([bare.message("a.csv")]).run()  # type: ignore[no-untyped-call]  # Dramatiq's group has no annotations

bare.send(5)  # type: ignore[arg-type]
bare.send()  # type: ignore[call-arg]
asynchronous.send("a", "b")  # type: ignore[call-arg]

actor: Actor[Any, Any] = bare


async def read(message: Message[int]) -> None:
    assert_type(get_progress(message.message_id), Progress | None)
    assert_type(await aget_progress(message.message_id), Progress | None)
    progress = get_progress(message.message_id)
    if progress is not None:
        assert_type(progress.state, State)
        assert_type(progress.percent, float | None)
        assert_type(progress.success, bool | None)
        assert_type(progress.can_cancel, bool)
    assert_type(current_observer(), ProgressObserver | None)
    assert_type(cancel(message.message_id), Cancellation)
    assert_type((await acancel(message.message_id)).outcome, CancelOutcome)


def owners(request: HttpRequest, user: User) -> None:
    with owned_by(request), owned_by(user), owned_by(None):
        message = bare.send("path")
    assert_type(progress_url(message), str)
    assert_type(progress_url(message.message_id, signed_for=timedelta(hours=1)), str)
    assert_type(progress_url(message.message_id, signed_for=3600), str)

"""`TaskRun`: the private data of a task's message, from `enqueue` to the last signal."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import format_exception
from typing import Any

from django.dispatch import Signal, receiver
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTaskBackend
from django.tasks.signals import task_enqueued, task_finished
from django.utils.json import normalize_json

from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.progress import STATES, State
from dramatiq_progress.signals import call_receivers, message_cancelled
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.companion import Companion
from dramatiq_progress.stores.outcomes import Change
from dramatiq_progress.worker.recording.best_effort import with_store
from dramatiq_progress.worker.tracking import AnyMessage, count_retries

from .results import DERIVED_ERRORS, last_attempt, make_result, path_of, update_result
from .task import ProgressResult

#: The message option with everything about a task but its arguments.
TASK_OPTION = "progress_task"

#: Limits of the JSON of the arguments, of the return value, and of the private metadata.
MAX_ARGUMENTS_BYTES = 256 * 1024
MAX_VALUE_BYTES = 256 * 1024
MAX_METADATA_BYTES = 16 * 1024
#: How much of a traceback is kept: the end.
MAX_TRACEBACK_CHARACTERS = 16 * 1024

logger = logging.getLogger(__name__)


class _Thread(threading.local):
    """The runs whose messages this thread is sending, by id: `enqueue` and the middleware share one."""

    def __init__(self) -> None:
        self.sending: dict[str, TaskRun] = {}


#: Of each thread: two may send messages with the same id, by `enqueue_as`.
_this_thread = _Thread()


class TaskRun(Companion):
    """The private data of a task's message.

    Parameters:
      message: The message. Its arguments are the task's path, arguments and keyword arguments; in a pipeline the return
        value of the task before follows.

    Attributes:
      result: The result, which this process keeps up to date while the task runs here. None before that.
    """

    def __init__(self, message: AnyMessage) -> None:
        path, args, kwargs, *piped = message.args
        option = message.options[TASK_OPTION]
        about = {
            "path": path,
            "args": [*args, *piped],
            "kwargs": kwargs,
            "sent_at": message.message_timestamp / 1000,
            **option,
        }
        super().__init__(
            name=path,
            about=json.dumps(about),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            finished_ttl=option["keep"],
            metadata=json.dumps(given) if (given := option["options"].get("metadata")) else "",
        )
        self.message_id = message.message_id
        self._min_attempt = 1 + count_retries(message)
        self.result: ProgressResult | None = None
        self._about = about
        self._exception: BaseException | None = None
        self._error: str | None = None
        self._value = "null"

    def make_result(self) -> ProgressResult:
        """Return the result of a task that has just been sent."""
        return make_result(self.message_id, self._about, State.ENQUEUED, self.stored)

    def begin(self) -> ProgressResult:
        """Return the result of a task that starts now."""
        now = time.time()
        if not last_attempt(self.stored):
            # Without an answer of the store, the time is this host's, and the number Dramatiq's.
            self.stored |= {f"worker:{self._min_attempt}": self.worker, "started_at": str(now)}
        moment = self.attempted_at or now
        self.result = make_result(self.message_id, self._about, State.RUNNING, self.stored, attempted_at=moment)
        return self.result

    def note_value(self, value: Any) -> Any:
        """Keep the return value, and return it as JSON has it.

        Raises:
          TypeError: It isn't JSON.
          ValueError: It is too large.
        """
        normal = normalize_json(value)
        self._value = encode(normal, MAX_VALUE_BYTES, "the return value")
        return normal

    def note_exception(self, error: BaseException) -> None:
        """Keep the exception of the attempt."""
        self._exception = error
        traceback = "".join(format_exception(error))[-MAX_TRACEBACK_CHARACTERS:]
        self._error = json.dumps({"exception_class_path": path_of(type(error)), "traceback": traceback})

    def save_metadata(self, attempt: Attempt, metadata: Mapping[str, Any]) -> None:
        """Store the private metadata now, or when the store is available again.

        Raises:
          TypeError: A value isn't JSON.
          ValueError: It is too large.
        """
        self.metadata = encode(normalize_json(metadata), MAX_METADATA_BYTES, "the metadata")

        def write(store: Store, age: float) -> None:
            store.keep(attempt, {"metadata": text})

        text = self.metadata
        with_store(self.message_id, write, defer=True, size=len(text))

    def outcome(self, state: State, exception: BaseException | None) -> dict[str, str]:
        """Return what the end of an attempt stores: its return value or its error, and the metadata."""
        if state is State.FAILED and exception is not None and self._error is None:
            # A time limit has ended before the task's function was called, or after it.
            self.note_exception(exception)
        ends: dict[str, str] = {}
        if state is State.DONE:
            ends["value"] = self._value
        elif self._error is not None:
            ends["error:"] = self._error
        if self.result is not None and self.result.metadata:
            try:
                self.metadata = encode(normalize_json(self.result.metadata), MAX_METADATA_BYTES, "the metadata")
            except (TypeError, ValueError) as error:
                logger.warning("Not saving the metadata of task %s: %s", self.message_id, error)
            ends["metadata"] = self.metadata
        return ends

    def note_end(self, state: State, change: Change | None) -> None:
        """Send `task_finished`, unless the task is retried or another attempt goes on with it."""
        exception, self._exception = self._exception, None
        if change is not None:
            if not change.written:
                return
            state = change.state or state
        if not state.is_final:
            return
        ended_at = time.time() if change is None or change.moment is None else change.moment
        self.stored["value"] = self._value
        if self._error is not None:
            self.stored[f"error:{last_attempt(self.stored)}"] = self._error
        if self.result is None:
            # It ended without running.
            self.result = make_result(self.message_id, self._about, state, self.stored, attempted_at=self.attempted_at)
        update_result(self.result, state, self.stored, ended_at)
        send_finished(self.result, state, exception)


def make_run(message: AnyMessage) -> TaskRun:
    """Return the private data of a message: the option of the actors in dispatch.py."""
    return _this_thread.sending.get(message.message_id) or TaskRun(message)


@contextmanager
def sending(run: TaskRun) -> Iterator[None]:
    """Let the middleware use this run while the block sends its message."""
    # Another one with this id may be sent inside, by a receiver of `state_changed`.
    outer = _this_thread.sending
    _this_thread.sending = {**outer, run.message_id: run}
    try:
        yield
    finally:
        _this_thread.sending = outer


def is_sending(message_id: str) -> bool:
    """Return whether `enqueue` is sending this message in this thread."""
    return message_id in _this_thread.sending


def send_enqueued(message: AnyMessage) -> None:
    """Send `task_enqueued` for a message that was sent otherwise than by `enqueue`: in a group or a pipeline."""
    run = TaskRun(message)
    result = run.make_result()
    try:
        sender = type(task_backends[result.backend])
    except InvalidTaskBackend:
        return
    send_signal(task_enqueued, "task_enqueued", sender, result)


def send_signal(
    signal: Signal, name: str, sender: type, result: ProgressResult, exception: BaseException | None = None
) -> None:
    """Send one of Django's signals of tasks.

    Parameters:
      name: The signal's name, for the log.
      exception: Send it while this exception is handled: Django's receiver logs the traceback.
    """

    def send() -> None:
        if exception is None:
            signal.send_robust(sender, task_result=result)
            return
        try:
            raise exception
        except BaseException:
            signal.send_robust(sender, task_result=result)

    if signal.has_listeners(sender):
        call_receivers(send, name)


def encode(value: Any, limit: int, what: str) -> str:
    """Return JSON.

    Parameters:
      value: A value that `normalize_json` has returned.
      what: The value's name in the error, with its article.

    Raises:
      ValueError: It is larger than this many bytes.
    """
    text = json.dumps(value)
    if len(text) > limit:
        raise ValueError(f"The JSON of {what} has {len(text):,} bytes; the limit is {limit:,}.")
    return text


def read_result(result_id: str) -> tuple[ProgressResult, State] | None:
    """Return the stored result of a task and the state of its message; None if it isn't stored, or isn't a task's.

    Raises:
      StoreUnavailable: The store can't be reached.
    """
    record, beside = get_store().read_kept(result_id)
    if "about" not in beside or record.get("state") not in STATES:
        return None
    state = STATES[record["state"]]
    attempted_at, ended_at = (record.get(name) for name in ("started_at", "ended_at"))
    result = make_result(
        result_id,
        json.loads(beside["about"]),
        state,
        beside,
        attempted_at=None if attempted_at is None else float(attempted_at),
        ended_at=None if ended_at is None else float(ended_at),
    )
    return result, state


def send_finished(result: ProgressResult, state: State, exception: BaseException | None) -> None:
    """Send `task_finished`, with the exception if the task failed."""
    try:
        sender = type(task_backends[result.backend])
    except InvalidTaskBackend:
        logger.warning("Not sending task_finished for task %s: TASKS has no %r.", result.id, result.backend)
        return
    if state is not State.FAILED or exception is None:
        kind, text = DERIVED_ERRORS.get(state, (None, ""))
        exception = None if kind is None else kind(text)
    send_signal(task_finished, "task_finished", sender, result, exception)


@receiver(message_cancelled)
def _on_cancel(sender: object, message_id: str, **kwargs: Any) -> None:
    # A waiting task has no worker that could send its last signal.
    try:
        found = read_result(message_id)
    except StoreUnavailable as error:
        logger.warning("Not sending task_finished for task %s: its result could not be read. %s", message_id, error)
        return
    if found is not None:
        result, state = found
        send_finished(result, state, None)

"""The middleware: real brokers and workers process messages, and their states are recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, Middleware, MiddlewareError, Pipelines, Retries, SkipMessage, TimeLimit

from dramatiq_progress import (
    Progress,
    ProgressObserver,
    State,
    UserFacingError,
    get_progress,
    progress_actor,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.progress import GIVEN_UP
from dramatiq_progress.signals import state_changed
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from tests.reading import read, when
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("store")

Work = Callable[..., Any]


class SkipsEverything(Middleware):
    """Skips each message before it is processed, as a deduplicating middleware might."""

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        raise SkipMessage("not today")


class Site:
    """A broker and its worker."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.broker = broker
        self._worker: dramatiq.Worker | None = None

    def actor(self, fn: Work, **options: Any) -> dramatiq.Actor[..., Any]:
        return progress_actor(broker=self.broker, **options)(fn)

    def work(self) -> None:
        # As the command line does. TimeLimit starts its timer only then.
        self.broker.emit_after("process_boot")
        self._worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=2)
        self._worker.start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self.broker.close()


@pytest.fixture
def changes() -> Iterator[list[Progress]]:
    """The progress after each change of state: on a busy machine a state may be over before it is read."""
    told: list[Progress] = []

    def receive(progress: Progress, **_: Any) -> None:
        told.append(progress)

    state_changed.connect(receive)
    yield told
    state_changed.disconnect(receive)


def first(changes: list[Progress], state: State) -> Progress:
    """Wait until a message has changed to a state, and return its progress then."""
    return wait_until(lambda: next((each for each in changes if each.state is state), None))


Factory = Callable[..., Site]


@pytest.fixture(params=["first", "middle", "last"])
def site(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Creates sites with our middleware before, between or after that of Dramatiq."""
    made: list[Site] = []

    def make(*others: Middleware, broker: dramatiq.Broker | None = None) -> Site:
        others = others or (AgeLimit(), TimeLimit(), Pipelines(), Retries(min_backoff=1, max_backoff=1))
        place = {"first": 0, "middle": len(others) // 2, "last": len(others)}[request.param]
        chosen = broker or StubBroker(middleware=[])
        for each in (*others[:place], ProgressMiddleware(), *others[place:]):
            chosen.add_middleware(each)
        made.append(Site(chosen))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_success_is_done(site: Factory) -> None:
    here = site()

    def work(progress_observer: ProgressObserver, rows: int) -> None:
        for _ in progress_observer.track(range(rows), description="Working"):
            pass
        progress_observer.set_result({"rows": rows})

    message = here.actor(work, max_retries=3).send(5)
    waiting = read(message)
    assert (waiting.state, waiting.attempt, waiting.retries_left) == (State.ENQUEUED, 0, 3)
    assert (waiting.actor, waiting.queue) == ("work", "default")

    here.work()
    done = when(message, State.DONE)
    assert (done.current, done.total, done.description, done.attempt) == (5, 5, "Working", 1)
    assert done.result == {"rows": 5}


def test_a_running_message_is_running_with_what_it_reported(site: Factory) -> None:
    here = site()
    go_on = threading.Event()

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(3, 4, "Waiting")
        go_on.wait(20)

    message = here.actor(work).send()
    here.work()
    wait_until(lambda: read(message).current == 3)
    assert read(message).state is State.RUNNING
    go_on.set()
    assert when(message, State.DONE).current == 3


def test_a_failure_with_retries_left_is_retrying_and_then_done(site: Factory, changes: list[Progress]) -> None:
    here = site()
    failed, seen = threading.Event(), []

    def work(progress_observer: ProgressObserver) -> None:
        seen.append(progress_observer.attempt)
        if not failed.is_set():
            failed.set()
            progress_observer.set_progress(2, 9, "First try")
            raise RuntimeError("broken")
        progress_observer.set_progress(9, 9)

    message = here.actor(work, min_backoff=300, max_backoff=300, max_retries=2).send()
    here.work()
    retrying = first(changes, State.RETRYING)
    assert (retrying.current, retrying.total, retrying.description) == (2, 9, "First try")
    assert (retrying.attempt, retrying.retries_left, retrying.complete) == (1, 2, False)
    assert retrying.retry_in is not None and 0 <= retrying.retry_in <= 0.5
    done = when(message, State.DONE)
    assert (done.attempt, done.current, done.description) == (2, 9, "")
    assert seen == [1, 2]


def test_a_failure_is_final_when_retries_are_exhausted(site: Factory) -> None:
    here = site()

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1, 3)
        raise RuntimeError("secret")

    message = here.actor(work, max_retries=2).send()
    here.work()
    failed = when(message, State.FAILED)
    assert (failed.attempt, failed.retries_left, failed.current) == (3, 0, 1)
    assert failed.result == "The task failed."


@pytest.mark.parametrize("options", [{"max_retries": 0}, {"throws": RuntimeError}, {"retry_when": lambda *_: False}])
def test_a_failure_that_is_not_retried_is_final_immediately(site: Factory, options: dict[str, Any]) -> None:
    here = site()

    def work() -> None:
        raise RuntimeError("broken")

    message = here.actor(work, **options).send()
    here.work()
    assert when(message, State.FAILED).attempt == 1


def test_without_retries_middleware_any_exception_is_final(site: Factory) -> None:
    here = site(AgeLimit(), Pipelines())

    def work() -> None:
        raise RuntimeError("broken")

    message = here.actor(work).send()
    assert read(message).retries_left == 0
    here.work()
    assert when(message, State.FAILED).attempt == 1


def test_a_retry_has_the_delay_that_the_actor_asks_for(site: Factory) -> None:
    here = site()

    def work() -> None:
        raise dramatiq.errors.Retry("later", delay=600_000)

    message = here.actor(work).send()
    here.work()
    retry_in = when(message, State.RETRYING).retry_in
    assert retry_in is not None and 590 < retry_in <= 600


def test_a_retry_that_cannot_be_sent_has_failed(site: Factory) -> None:
    """Dramatiq acknowledges and drops such a message, so it must not be shown as retrying."""

    class Full(StubBroker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            result = super().enqueue
            if delay is not None:
                self.emit_before("enqueue", message, delay)
                raise RuntimeError("no room")
            return result(message, delay=delay)

    here = site(broker=Full(middleware=[]))

    def work() -> None:
        raise RuntimeError("broken")

    message = here.actor(work).send()
    here.work()
    assert when(message, State.FAILED).attempt == 1


def test_a_message_for_the_user_is_shown_and_other_text_is_not(site: Factory) -> None:
    here = site()

    def work(public: bool) -> None:
        raise UserFacingError("Line 7 has 3 columns.") if public else ValueError("password=hunter2")

    actor = here.actor(work, max_retries=1, min_backoff=10)
    public, secret = actor.send(True), actor.send(False)
    here.work()
    assert when(public, State.FAILED).result == "Line 7 has 3 columns."
    assert when(secret, State.FAILED).result == "The task failed."


@pytest.mark.parametrize("throws", [None, KeyError, (KeyError, LookupError), [KeyError]])
@pytest.mark.parametrize("raised", [UserFacingError, KeyError, ValueError])
def test_a_message_for_the_user_is_final_and_so_are_the_exceptions_in_throws(
    site: Factory, throws: Any, raised: type[Exception]
) -> None:
    here = site()

    def work() -> None:
        raise raised("No such file.")

    message = here.actor(work, throws=throws, min_backoff=600_000, max_backoff=600_000).send()
    here.work()
    is_final = raised is UserFacingError or (raised is KeyError and throws is not None)
    progress = when(message, State.FAILED, State.RETRYING)
    assert (progress.state, progress.attempt) == (State.FAILED if is_final else State.RETRYING, 1)
    assert (progress.result == "No such file.") == (raised is UserFacingError)


def test_a_result_of_an_attempt_that_failed_is_not_shown(site: Factory) -> None:
    here = site()

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_result("early")
        raise RuntimeError("broken")

    message = here.actor(work, max_retries=0).send()
    here.work()
    assert when(message, State.FAILED).result == "The task failed."


def test_a_delayed_message_is_delayed_then_enqueued_then_done(site: Factory) -> None:
    here = site()
    actor = here.actor(lambda: None, actor_name="work")
    message = actor.send_with_options(delay=300)
    delayed = read(message)
    assert (delayed.state, delayed.queue) == (State.DELAYED, "default")
    here.work()
    assert when(message, State.DONE).attempt == 1


def test_a_message_that_is_too_old_is_skipped(site: Factory) -> None:
    here = site()
    actor = here.actor(lambda: None, actor_name="work", max_age=1)
    message = actor.message().copy()
    object.__setattr__(message, "message_timestamp", 0)
    here.broker.enqueue(message)
    here.work()
    skipped = when(message, State.SKIPPED)
    assert (skipped.attempt, skipped.result) == (0, "The task was skipped.")


def test_a_message_that_another_middleware_skips_is_skipped(site: Factory) -> None:
    here = site(Pipelines(), SkipsEverything())
    message = here.actor(lambda: None, actor_name="work").send()
    here.work()
    assert when(message, State.SKIPPED).attempt == 0


def test_a_message_that_its_actor_skips_is_skipped(site: Factory) -> None:
    here = site()

    def work() -> None:
        raise SkipMessage("nothing to do")

    message = here.actor(work).send()
    here.work()
    assert when(message, State.SKIPPED).attempt == 1


def test_an_actor_that_exceeds_its_time_limit_is_retried(site: Factory) -> None:
    here = site(TimeLimit(interval=10), Retries(min_backoff=600_000, max_backoff=600_000))

    def work() -> None:
        while True:
            threading.Event().wait(0.01)

    # A short limit may be over before the start is written.
    message = here.actor(work, time_limit=2_000).send()
    here.work()
    assert when(message, State.RETRYING).attempt == 1


def test_a_cancelled_message_is_not_run(site: Factory, store: Store) -> None:
    here = site()
    ran = threading.Event()
    message = here.actor(ran.set, actor_name="work").send()
    store.finish(Attempt(message.message_id, "work", "default"), state=State.CANCELLED, started=False)
    here.work()
    here.broker.join("default")
    assert not ran.is_set()
    assert read(message).state is State.CANCELLED


def test_a_message_for_an_unknown_actor_has_failed(site: Factory) -> None:
    sender, receiver = site(), site()
    message = sender.actor(lambda: None, actor_name="gone").send()
    receiver.broker.declare_queue("default")
    receiver.work()
    receiver.broker.enqueue(message)
    assert when(message, State.FAILED).attempt == 0


def test_a_failed_message_that_is_sent_again_by_hand_starts_over(site: Factory) -> None:
    here = site()
    broken = threading.Event()
    broken.set()

    def work() -> None:
        if broken.is_set():
            raise RuntimeError("broken")

    message = here.actor(work, max_retries=0).send()
    here.work()
    when(message, State.FAILED)
    broken.clear()
    here.broker.enqueue(message)
    assert when(message, State.DONE).attempt == 2


def test_a_duplicate_of_a_message_that_is_done_stays_done(site: Factory) -> None:
    here = site()
    runs: list[int] = []
    actor = here.actor(lambda: runs.append(1), actor_name="work")
    message = actor.send()
    here.work()
    done = when(message, State.DONE)
    # The broker delivers it again, without an enqueue of ours.
    here.broker.queues["default"].put(message.encode())
    wait_until(lambda: len(runs) == 2)
    here.broker.join("default")
    assert (read(message).state, read(message).version) == (State.DONE, done.version)


def test_a_skipped_copy_does_not_change_the_running_message(site: Factory) -> None:
    go_on, begun = threading.Event(), threading.Event()

    class OnlyOnce(Middleware):
        """Skips a message that is being processed."""

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if begun.is_set():
                raise SkipMessage("a copy")

    here = site(OnlyOnce(), Retries())

    def work(progress_observer: ProgressObserver) -> None:
        begun.set()
        go_on.wait(20)
        progress_observer.set_progress(1, 1)

    message = here.actor(work).send()
    here.work()
    assert begun.wait(20)
    assert isinstance(here.broker, StubBroker)
    here.broker.queues["default"].put(message.encode())
    wait_until(lambda: here.broker.queues["default"].unfinished_tasks == 1)
    assert read(message).state is State.RUNNING
    go_on.set()
    assert when(message, State.DONE).current == 1


def test_a_retry_before_the_actor_was_called_is_a_retry(site: Factory, changes: list[Progress]) -> None:
    refusals = threading.Semaphore(1)

    class Refuses(Middleware):
        """Fails the first time, before the actor is called."""

        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if refusals.acquire(blocking=False):
                raise MiddlewareError("not yet")

    here = site(Refuses(), Retries(min_backoff=300, max_backoff=300))
    message = here.actor(lambda: None, actor_name="work").send()
    here.work()
    assert when(message, State.DONE).attempt in (1, 2)
    assert first(changes, State.DONE)
    states = [each.state for each in changes]
    assert State.RETRYING in states and State.FAILED not in states


def test_an_actor_that_sends_its_own_message_again_is_delayed(site: Factory, changes: list[Progress]) -> None:
    here = site()
    runs: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        runs.append(progress_observer.attempt)
        if len(runs) == 1:
            here.broker.enqueue(sent[0], delay=300)

    actor = here.actor(work)
    sent = [actor.message()]
    here.broker.enqueue(sent[0])
    here.work()
    assert first(changes, State.DONE).attempt == 2
    assert State.DELAYED in [each.state for each in changes]


def test_a_message_that_kills_its_worker_each_time_is_rejected(site: Factory, settings: Any, store: Store) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"MAX_DELIVERIES": 2}
    here = site()
    ran = threading.Event()
    message = here.actor(ran.set, actor_name="work").send()
    for _ in range(2):  # as two workers that are killed while they process it
        killed = Attempt(message.message_id, "work", "default")
        store.start(killed)
        store.report([(killed, {"current": "4", "total": "5"})])
    here.work()
    failed = when(message, State.FAILED)
    assert not ran.is_set()
    assert (failed.attempt, failed.result, failed.percent) == (3, GIVEN_UP, 80.0)
    assert isinstance(here.broker, StubBroker)
    wait_until(lambda: [each.message_id for each in here.broker.dead_letters] == [message.message_id])  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["", "   ", "broken"])
def test_an_unusable_message_for_the_user_is_replaced_by_the_default(site: Factory, text: str) -> None:
    class Broken(UserFacingError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    here = site()

    def work() -> None:
        raise Broken() if text == "broken" else UserFacingError(text)

    message = here.actor(work, max_retries=0).send()
    here.work()
    assert when(message, State.FAILED).result == "The task failed."


def test_an_actor_class_may_choose_another_name(site: Factory) -> None:
    class Prefixed(dramatiq.Actor[..., Any]):
        def __init__(self, fn: Any, *, actor_name: str, **options: Any) -> None:
            super().__init__(fn, actor_name=f"site.{actor_name}", **options)

    here = site()

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1, 1)

    message = here.actor(work, actor_class=Prefixed).send()
    here.work()
    done = when(message, State.DONE)
    assert (done.actor, done.current, done.attempt) == ("site.work", 1, 1)


def test_messages_of_a_pipeline_each_have_their_own_record(site: Factory) -> None:
    here = site()
    double = here.actor(lambda number: number * 2, actor_name="double")
    add = here.actor(lambda number, more: number + more, actor_name="add", publish_result=True)
    pipe = dramatiq.pipeline([double.message(4), add.message(5)], broker=here.broker)
    first, second = pipe.messages
    pipe.run()
    assert get_progress(second.message_id) is None
    here.work()
    assert when(first, State.DONE).result is None
    wait_until(lambda: get_progress(second.message_id) is not None)
    # The result of the first, 8, becomes the last argument of the second.
    assert when(second, State.DONE).result == 13


def test_plain_actors_are_not_tracked(site: Factory) -> None:
    here = site()

    def work() -> None:
        raise RuntimeError("broken")

    plain = dramatiq.actor(broker=here.broker, max_retries=1)(work)
    message = plain.send()
    here.work()
    here.broker.join("default", fail_fast=False)
    assert get_progress(message.message_id) is None


def test_the_redis_broker_has_the_same_states(site: Factory, valkey: str) -> None:
    here = site(broker=RedisBroker(url=f"{valkey}/2", middleware=[], namespace=f"test-{id(site)}"))
    attempts: list[int] = []

    def work(progress_observer: ProgressObserver) -> None:
        attempts.append(progress_observer.attempt)
        if len(attempts) < 2:
            raise RuntimeError("broken")

    message = here.actor(work, min_backoff=100, max_backoff=100).send()
    delayed = here.actor(lambda: None, actor_name="later").send_with_options(delay=100)
    assert read(delayed).state is State.DELAYED
    here.work()
    assert when(message, State.DONE).attempt == 2
    assert when(delayed, State.DONE).attempt == 1


def test_a_store_that_is_down_fails_no_job(settings: Any, site: Factory, caplog: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"OPTIONS": {"url": "redis://127.0.0.1:1/0"}}
    here = site()
    reported: list[Any] = []

    def work(progress_observer: ProgressObserver) -> None:
        progress_observer.set_progress(1, 2)
        reported.append((progress_observer.attempt, progress_observer.current))

    here.actor(work).send()
    here.work()
    here.broker.join("default")
    assert reported == [(1, 1)]
    assert caplog.text.count("jobs continue") == 1


@pytest.mark.parametrize("resumes", [False, True])
def test_an_error_in_the_settings_fails_no_job(resumes: bool, settings: Any, site: Factory, caplog: Any) -> None:
    here = site()
    ran = threading.Event()

    def work(progress_observer: ProgressObserver) -> None:
        if resumes:
            list(progress_observer.track(range(2), resume=True))
            progress_observer.once("mail", list)
            assert not progress_observer.resumed
            assert not progress_observer.steps("Reading")[0].done
        ran.set()

    actor = here.actor(work, actor_name="work")
    settings.DRAMATIQ_PROGRESS = {"COLOUR": "red"}
    actor.send()
    here.work()
    here.broker.join("default")
    assert ran.is_set()
    wait_until(lambda: "COLOUR" in caplog.text)

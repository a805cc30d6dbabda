"""Steps, and loops inside loops: one percentage for the whole, which never falls in an attempt."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any

import dramatiq
import pytest
from django.utils.translation import gettext_lazy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO

from dramatiq_progress import (
    Cancelled,
    InvalidReport,
    Progress,
    ProgressObserver,
    State,
    get_progress,
    progress_actor,
)
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.progress import StepProgress
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.attempt import Attempt
from dramatiq_progress.stores.decoding import decode
from dramatiq_progress.stores.speed import MIN_SAMPLES, MIN_SECONDS
from dramatiq_progress.worker.observing.binding import Binding
from dramatiq_progress.worker.recording.recorder import get_recorder
from tests.waiting import wait_until

RANDOM_TREES = 3_000


@pytest.fixture
def observer() -> ProgressObserver:
    return ProgressObserver()


@pytest.fixture
def lenient(memory_store: Store) -> ProgressObserver:
    """An observer as in a worker with DEBUG off. (Without a store, the recorder's thread would not end.)"""
    return ProgressObserver(Binding(attempt=Attempt("m1", "work", "default"), strict=False))


def shown(observer: ProgressObserver) -> Progress:
    """Return what a reader sees of the observer's values."""
    record = {"actor": "work", "queue": "q", "state": "running", "heartbeat": "0", "version": "1"}
    progress = decode("m1", record | observer._binding.final_fields(with_result=False), now=0, lost_after=15)
    assert (progress.percent, progress.step) == (observer.percent, observer.step)
    assert (progress.current, progress.total) == (observer.current, observer.total)
    json.dumps(progress.as_dict(), allow_nan=False)
    return progress


def values(observer: ProgressObserver) -> tuple[Any, Any, Any]:
    return observer.percent, observer.current, observer.total


# ---- Loops inside loops ----


def test_a_loop_in_a_loop_moves_the_percentage_of_the_outer_one(observer: ProgressObserver) -> None:
    seen = []
    for _ in observer.track(range(3)):
        for _ in observer.track(range(4)):
            seen.append(values(observer))
        seen.append(values(observer))
    assert seen == [
        *((0.0, 0, 4), (8.3, 1, 4), (16.6, 2, 4), (25.0, 3, 4), (33.3, 0, 3)),
        *((33.3, 0, 4), (41.6, 1, 4), (50.0, 2, 4), (58.3, 3, 4), (66.6, 1, 3)),
        *((66.6, 0, 4), (75.0, 1, 4), (83.3, 2, 4), (91.6, 3, 4), (100.0, 2, 3)),
    ]
    assert values(observer) == (100.0, 3, 3)
    assert shown(observer).overall == 1.0
    assert observer.step is None


def test_the_percentage_is_100_at_the_end_only(observer: ProgressObserver) -> None:
    count = 1000
    for _ in observer.track(range(count)):
        for item in observer.track(range(count)):
            if item == count - 1 and observer.current == count - 1 and observer._binding.levels.fraction > 0.999:
                assert 99.8 < shown(observer).percent < 100
    assert shown(observer).percent == 100


@pytest.mark.parametrize("options", [{}, {"resume": True}], ids=["plain", "resume"])
def test_a_loop_in_the_body_of_a_batch_moves_the_percentage_by_the_batch(
    observer: ProgressObserver, options: Any
) -> None:
    percents = []
    for batch in observer.track(range(10), batch=4, **options):
        for _ in observer.track(batch):
            percents.append(observer.percent)
    assert percents == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]
    assert observer.percent == 100.0


def test_steps_in_the_body_of_a_batch_divide_the_batch(observer: ProgressObserver) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    async def work() -> list[float | None]:
        percents = []
        async for _ in observer.track(numbers(), 10, batch=5):
            for step in observer.steps("Read", "Write"):
                with step:
                    percents.append(observer.percent)
        return percents

    assert asyncio.run(work()) == [0.0, 25.0, 50.0, 75.0]


def test_a_loop_after_one_with_batches_counts_single_items(observer: ProgressObserver) -> None:
    for _ in observer.track(range(4), batch=4):
        pass
    percents = []
    for _ in observer.track(range(4)):
        for _ in observer.track(range(2)):
            percents.append(observer.percent)
    assert percents == [0.0, 12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5]


def test_an_inner_loop_has_the_outer_description_unless_it_has_its_own(observer: ProgressObserver) -> None:
    for _ in observer.track([1], description="File"):
        for _ in observer.track([1]):
            assert observer.description == "File"
        for _ in observer.track([1], description="Row"):
            assert observer.description == "Row"
        assert observer.description == "File"


def test_an_inner_loop_that_is_left_is_not_complete(observer: ProgressObserver) -> None:
    for _ in observer.track(range(2)):
        for number in observer.track(range(4)):
            if number == 2:
                break
        assert values(observer) == (25.0, 0, 2)
        break
    assert observer.percent == 25.0


def test_a_loop_whose_iterator_is_kept_ends_with_the_outer_item(observer: ProgressObserver) -> None:
    kept = []
    for _ in observer.track(range(4)):
        kept.append(observer.track(range(10)))
        for number in kept[-1]:
            if number == 5:
                break
    assert values(observer) == (100.0, 4, 4)
    assert shown(observer).percent == 100.0


def test_a_loop_that_never_begins_changes_nothing(observer: ProgressObserver) -> None:
    for _ in observer.track(range(4)):
        iterator = observer.track(range(10))
        assert values(observer)[1:] == (observer.current, 4)
    del iterator
    assert values(observer) == (100.0, 4, 4)


def test_loops_side_by_side_are_not_nested(observer: ProgressObserver) -> None:
    for _ in zip(observer.track(range(3)), observer.track(range(3)), strict=True):
        pass
    assert not shown(observer).has_steps


def test_a_loop_over_another_one_is_not_nested(observer: ProgressObserver) -> None:
    def numbers() -> Iterator[int]:
        yield from observer.track(range(3))

    counted = [values(observer) for _ in observer.track(numbers())]
    assert counted == [(0.0, 0, 3), (33.3, 1, 3), (66.6, 2, 3)]
    assert not shown(observer).has_steps


def test_a_loop_over_several_others_can_have_loops_inside(observer: ProgressObserver) -> None:
    for _ in observer.track(chain(observer.track([1]), observer.track([1])), total=2):
        for _ in observer.track(range(2)):
            assert observer.total == 2
    assert observer.percent == 100.0


def test_loops_after_each_other_are_not_nested(observer: ProgressObserver) -> None:
    for _ in range(2):
        for _ in observer.track(range(2)):
            pass
        with suppress(KeyError):
            for _ in observer.track(range(2)):
                raise KeyError
    assert not shown(observer).has_steps


def test_an_outer_loop_without_a_total_has_no_percentage(observer: ProgressObserver) -> None:
    for _ in observer.track(iter(range(3))):
        for number in observer.track(range(4)):
            assert values(observer) == (None, number, 4)
    progress = shown(observer)
    assert (progress.percent, progress.current, progress.has_steps) == (None, 3, True)


def test_the_loop_of_another_thread_is_not_nested(observer: ProgressObserver) -> None:
    def work() -> None:
        for _ in observer.track(range(5)):
            pass

    for _ in observer.track(range(2)):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
    assert not shown(observer).has_steps


def test_a_loop_of_another_thread_takes_no_item_from_the_outer_one(observer: ProgressObserver) -> None:
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        for _ in observer.track([1]):
            begun.set()
            assert end.wait(60)

    with ThreadPoolExecutor(1) as pool:
        for _ in observer.track(range(2)):
            other = pool.submit(work)
            assert begun.wait(60)
            for _ in observer.track(range(2)):
                assert observer._binding.levels.top.parent is not None
            end.set()
            other.result()


def test_the_loop_of_another_task_is_not_nested(observer: ProgressObserver) -> None:
    async def work() -> None:
        for _ in observer.track(range(3)):
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(work(), work())

    asyncio.run(both())
    assert not shown(observer).has_steps


def test_a_loop_of_the_same_task_is_nested(observer: ProgressObserver) -> None:
    async def inner() -> None:
        for _ in observer.track(range(2)):
            await asyncio.sleep(0)

    async def outer() -> list[Any]:
        seen = []
        for _ in observer.track(range(2)):
            await inner()
            seen.append(values(observer))
        return seen

    assert asyncio.run(outer()) == [(50.0, 0, 2), (100.0, 1, 2)]


# ---- Steps ----


def test_each_step_has_its_weight_of_the_whole(observer: ProgressObserver) -> None:
    read, check, write = observer.steps("Reading", "Checking", "Writing", weights=(3, 1, 6))
    assert (shown(observer).percent, observer.step) == (0.0, None)
    with read:
        seen = [observer.percent for _ in observer.track(range(3))]
    assert (seen, observer.percent) == ([0.0, 10.0, 20.0], 30.0)
    with check:
        assert shown(observer).step == StepProgress(2, 3, "Checking")
        observer.set_progress(7)
        assert (observer.percent, observer.current, observer.total) == (30.0, 7, None)
    assert shown(observer).step == StepProgress(2, 3, "Checking", 100.0)
    with write:
        seen = []
        for _ in observer.track(range(2), description="File"):
            for _ in observer.track(range(2)):
                seen.append((observer.percent, shown(observer).step))
    assert seen == [
        (each, StepProgress(3, 3, "Writing", part))
        for each, part in zip((40.0, 55.0, 70.0, 85.0), (0.0, 25.0, 50.0, 75.0), strict=True)
    ]
    assert shown(observer).percent == 100.0
    assert observer._binding.final_fields(with_result=False)["overall"] == "1"


def test_the_values_of_a_step_stay_until_the_next_one_begins(observer: ProgressObserver) -> None:
    first, second = observer.steps("First", "Second")
    with first:
        observer.set_progress(3, 3, "Reading")
    assert (observer.current, observer.total, observer.description) == (3, 3, "Reading")
    assert observer.step == StepProgress(1, 2, "First", 100.0)
    with second:
        assert (observer.current, observer.total, observer.description) == (0, None, "")


def test_an_outer_loop_has_its_values_again_after_each_step(observer: ProgressObserver) -> None:
    seen = []
    for _ in observer.track(range(2), description="File"):
        for step in observer.steps("Reading", "Writing"):
            with step:
                observer.set_progress(5, 10, "Row")
                seen.append((observer.percent, observer.current))
        assert (observer.total, observer.description) == (2, "File")
    assert seen == [(12.5, 5), (37.5, 5), (62.5, 5), (87.5, 5)]
    assert values(observer) == (100.0, 2, 2)


def test_steps_that_are_made_before_a_loop_divide_each_item(observer: ProgressObserver) -> None:
    read, write = observer.steps("Reading", "Writing")
    seen = []
    for _ in observer.track(range(2)):
        with read:
            seen.append(observer.percent)
        with write:
            seen.append(observer.percent)
    assert (seen, observer.percent) == ([0.0, 25.0, 50.0, 75.0], 100.0)


def test_steps_inside_a_step_divide_it_and_the_outer_one_is_shown(observer: ProgressObserver) -> None:
    _, outer = observer.steps("Reading", "Writing", weights=(1, 4))
    with outer:
        # Equal to the outer ones, and yet others.
        first, second = observer.steps("Reading", "Writing", weights=(1, 4))
        with first:
            observer.set_progress(1, 2, "inside")
            assert (observer.percent, observer.current) == (28.0, 1)
            assert shown(observer).step == StepProgress(2, 2, "Writing", 10.0)
        with second:
            assert observer.percent == 36.0
    assert observer.percent == 100.0


def test_a_step_that_is_left_out_is_over_when_a_later_one_begins(observer: ProgressObserver) -> None:
    _, _, last = observer.steps("a", "b", "c", weights=(1, 1, 2))
    with last:
        assert observer.percent == 50.0


def test_an_exception_completes_no_step(observer: ProgressObserver) -> None:
    first, second, _ = observer.steps("a", "b", "c", weights=(1, 1, 2))
    with suppress(KeyError), first:
        for number in observer.track(range(5)):
            if number == 4:
                raise KeyError
    # What was done until then stays.
    assert shown(observer).percent == 20.0
    with second:
        assert observer.percent == 25.0


def test_a_second_loop_and_a_total_that_grows_leave_the_percentage(observer: ProgressObserver) -> None:
    step, _ = observer.steps("a", "b")
    with step:
        for _ in observer.track(range(4)):
            pass
        for number in observer.track(range(4)):
            assert values(observer) == (50.0, number, 4)
    observer = ProgressObserver()
    step, _ = observer.steps("a", "b")
    with step:
        observer.set_progress(1, 2)
        assert observer.percent == 25.0
        observer.set_progress(2, 100)
        assert observer.percent == 25.0


def test_steps_that_begin_when_all_is_done_are_an_invalid_report(
    observer: ProgressObserver, lenient: ProgressObserver, caplog: pytest.LogCaptureFixture
) -> None:
    for each in (observer, lenient):
        for step in each.steps("Download", "Unpack"):
            with step:
                pass
        assert each.percent == 100.0
    with pytest.raises(InvalidReport, match=r"steps.*name all steps in one call"):
        observer.steps("Check", "Save")
    check, _ = lenient.steps("Check", "Save")
    assert "name all steps in one call" in caplog.text
    with check:
        assert (lenient.percent, lenient.step) == (100.0, StepProgress(1, 2, "Check", None))


def test_reports_outside_any_step_are_shown_without_a_percentage_of_their_own(observer: ProgressObserver) -> None:
    [step, _] = observer.steps("a", "b")
    with step:
        pass
    observer.set_progress(9, 10, "Cleaning up")
    assert (shown(observer).percent, observer.current, observer.description) == (50.0, 9, "Cleaning up")


def test_a_step_that_is_entered_again_leaves_the_percentage(observer: ProgressObserver) -> None:
    first, second = observer.steps("a", "b")
    with first, suppress(KeyError):
        raise KeyError
    with second:
        observer.set_progress(1, 2)
    with first:
        observer.set_progress(1, 2)
        # Of this step nothing is known.
        assert (shown(observer).percent, observer.step) == (100.0, StepProgress(1, 2, "a"))


def test_code_that_knows_no_steps_reports_in_the_current_one_from_any_thread(observer: ProgressObserver) -> None:
    _, step = observer.steps("a", "b")
    with step:
        observer.set_progress(0, 200)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(100):
                pool.submit(observer.increment_progress)
        assert values(observer) == (75.0, 100, 200)


def test_a_step_that_was_left_open_ends_with_the_outer_one(observer: ProgressObserver) -> None:
    outer, after = observer.steps("a", "b")
    with outer:
        first, _ = observer.steps("c", "d")
        first.__enter__()
        observer.set_progress(1, 2)
        assert observer.percent == 12.5
    assert observer.percent == 50.0
    with after:
        observer.set_progress(1, 2)
        assert observer.percent == 75.0


def test_steps_that_were_left_open_in_a_loop_do_not_pile_up(observer: ProgressObserver) -> None:
    for _ in observer.track(range(100)):
        observer.steps("c", "d")[0].__enter__()
        observer.set_progress(1, 2)
    assert values(observer) == (100.0, 100, 100)
    depth, level = 0, observer._binding.levels.top
    while level.parent is not None:
        depth, level = depth + 1, level.parent
    assert depth == 0


def test_a_generator_that_is_left_in_a_step_completes_nothing(observer: ProgressObserver) -> None:
    def rows() -> Iterator[int]:
        with observer.steps("a", "b")[0]:
            yield from observer.track(range(4))

    for number in rows():
        if number == 2:
            break
    assert shown(observer).percent == 25.0


def test_steps_of_an_async_actor(observer: ProgressObserver) -> None:
    async def work() -> list[Any]:
        seen = []
        for step in observer.steps("a", "b"):
            with step:
                for _ in observer.track(range(2)):
                    await asyncio.to_thread(observer.set_metadata, file="a.csv")
                    seen.append(observer.percent)
        return seen

    assert asyncio.run(work()) == [0.0, 25.0, 50.0, 75.0]
    assert observer.percent == 100.0


@pytest.mark.parametrize("seed", range(10))
def test_the_percentage_of_any_tree_never_falls_and_ends_at_the_whole(seed: int) -> None:
    for number in range(seed, RANDOM_TREES, 10):
        tree = Tree(number)
        tree.grow()
        assert tree.observer._binding.levels.fraction == 1.0, number
        assert shown(tree.observer).percent == 100.0, number


class Tree:
    """Random work: nested steps and loops, left out, entered again, of unknown and wrong totals."""

    def __init__(self, seed: int) -> None:
        self.observer, self.seed, self.random = ProgressObserver(), seed, random.Random(seed)
        self.percent, self.is_over = -1.0, False

    def grow(self) -> None:
        if self.seed % 3:
            self.divide(4, is_whole=True)
        else:
            for _ in self.observer.track(range(self.random.randint(1, 5))):
                self.divide(3)

    def divide(self, depth: int, *, is_whole: bool = False) -> None:
        count = self.random.randint(1, 4)
        weights = [self.random.choice([1, 2, 0.1, 1e-9, 70]) for _ in range(count)]
        steps = self.observer.steps(*["name"] * count, weights=self.random.choice([weights, None]))
        for index, step in enumerate(steps):
            # The whole is only over after its last step.
            if self.random.random() < 0.2 and not (is_whole and index == count - 1):
                continue
            with suppress(KeyError), step:
                self.work(depth - 1)
                if not is_whole and self.random.random() < 0.1:
                    raise KeyError
            self.check()

    def work(self, depth: int) -> None:
        self.check()
        for _ in range(self.random.randint(0, 2)):
            self.random.choice([self.report, self.loop, self.divide])(depth) if depth > 0 else self.report(depth)
            self.check()

    def report(self, depth: int) -> None:
        for current in range(self.random.randint(0, 3)):
            self.observer.set_progress(current, self.random.choice([None, 0, 1, 3, 2.5, 10**400 // 10**395]))
            self.check()

    def loop(self, depth: int) -> None:
        total = self.random.choice([None, 0, 2, 5])
        for item in self.observer.track(range(self.random.randint(0, 4)), total):
            self.check()
            self.work(depth - 1)
            if item == 2 and self.random.random() < 0.3:
                break

    def check(self) -> None:
        percent = self.observer.percent
        assert percent is not None or self.percent <= 0, self.seed
        assert self.percent <= (percent or 0.0) <= 100, self.seed
        self.percent = percent or 0.0


# ---- Wrong use ----


@pytest.mark.parametrize(
    "weights", [(1, -1), (0, 0), (1, float("nan")), (1, float("inf")), (1e308, 1e308), (1,), (1, 2, 3), "ab", 5]
)
def test_invalid_weights_are_refused_or_equal(
    observer: ProgressObserver, lenient: ProgressObserver, weights: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidReport, match="reported weights="):
        observer.steps("a", "b", weights=weights)
    assert not shown(observer).has_steps
    _, second = lenient.steps("a", "b", weights=weights)
    assert "Ignoring an invalid report from work (message m1): weights=" in caplog.text
    with second:
        assert lenient.percent == 50.0
    lenient._binding.release()


def test_names_are_cut_and_may_be_lazy_translations(observer: ProgressObserver, lenient: ProgressObserver) -> None:
    lazy: Any = gettext_lazy("Checking")
    first, second, third = observer.steps(lazy, "x" * 1000, "\ud800")
    assert (first.name, second.name, third.name) == ("Checking", "x" * 100, "\ufffd")

    class Broken:
        def __str__(self) -> str:
            raise KeyError

    broken: Any = Broken()
    with pytest.raises(InvalidReport, match="reported step="):
        observer.steps(broken)
    [unnamed] = lenient.steps(broken)
    assert unnamed.name == ""
    assert observer.steps() == ()
    lenient._binding.release()


def test_names_in_a_list_are_refused_or_taken_from_it(
    observer: ProgressObserver, lenient: ProgressObserver, caplog: pytest.LogCaptureFixture
) -> None:
    names: Any = ["Reading", "Saving"]
    for given in (names, tuple(names), iter(names)):
        with pytest.raises(InvalidReport, match=r"reported steps=.*: pass each name on its own, .* steps\(\*names\)"):
            observer.steps(given)
    assert not shown(observer).has_steps
    assert [step.name for step in lenient.steps(names, weights=(1, 3))] == names
    assert "steps=['Reading', 'Saving'] (pass each name on its own" in caplog.text
    with pytest.raises(InvalidReport, match=r"reported step=\['Reading', 'Saving'\]: it must be a text"):
        observer.steps("Copying", names)
    lenient._binding.release()


def enter_in_two_threads(observer: ProgressObserver) -> tuple[Any, Any]:
    """Enter a step while another thread is in one of the same steps, and return what is shown then and afterwards."""
    first, second = observer.steps("a", "b")
    with first:
        with ThreadPoolExecutor(1) as pool:

            def work() -> Any:
                with second:
                    observer.set_progress(1, 2)
                    return values(observer)

            inside = pool.submit(work).result()
        observer.set_progress(3, 4)
        return inside, values(observer)


def test_steps_in_two_threads_are_refused_or_the_later_one_is_current(
    observer: ProgressObserver, lenient: ProgressObserver, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidReport, match="another thread or task is in a step"):
        enter_in_two_threads(observer)
    assert enter_in_two_threads(lenient) == ((75.0, 1, 2), (100.0, 3, 4))
    assert "another thread or task is in a step" in caplog.text
    lenient._binding.release()


def test_a_step_of_another_thread_stays_when_the_outer_one_ends(lenient: ProgressObserver) -> None:
    first, second = lenient.steps("a", "b")
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with second:
            entered.set()
            leave.wait(60)
            lenient.set_progress(1, 2)
            assert values(lenient) == (75.0, 1, 2)

    with ThreadPoolExecutor(1) as pool:
        with first:
            other = pool.submit(work)
            assert entered.wait(60)
        leave.set()
        other.result()
    assert lenient.percent == 100.0
    lenient._binding.release()


# ---- In a job ----


@pytest.fixture
def attempt(store: Store) -> Iterator[Attempt]:
    """An attempt that has started."""
    made = Attempt("m1", "work", "default")
    store.start(made)
    yield made
    # While its store can still be used.
    get_recorder().stop()


def read(message_id: str = "m1") -> Progress:
    progress = get_progress(message_id)
    assert progress is not None
    return progress


def flush(store: Store, attempt: Attempt, observer: ProgressObserver) -> dict[str, str]:
    """Write the changes of a detached observer, as the recorder does with others, and return them."""
    fields = observer._binding.take_changes()
    store.report([(attempt, fields)])
    observer._binding.confirm(fields)
    return fields


def test_the_fields_are_written_once_steps_are_used(store: Store, attempt: Attempt) -> None:
    observer = ProgressObserver()
    observer.set_progress(1, 2)
    assert {"overall", "step"}.isdisjoint(flush(store, attempt, observer))
    assert read().percent == 50.0
    first, second = observer.steps("Reading", "Writing")
    with first:
        observer.set_progress(1, 4)
        assert flush(store, attempt, observer)["step"] == '[1, 2, "Reading", 0.0, 0.5]'
        assert (read().percent, read().step) == (12.5, StepProgress(1, 2, "Reading", 25.0))
        observer.set_progress(2, 4)
        assert flush(store, attempt, observer) == {"current": "2", "overall": "0.25"}
    with second:
        observer.set_progress(1, 4)
        flush(store, attempt, observer)
    assert read().as_dict()["step"] == {"index": 2, "count": 2, "name": "Writing", "percent": 25.0}


def test_a_retry_begins_at_0(store: Store, attempt: Attempt) -> None:
    observer = ProgressObserver(Binding(attempt=attempt))
    with observer.steps("a", "b")[0]:
        observer.set_progress(1, 2)
        observer._binding.release()
        store.finish(
            attempt, state=State.RETRYING, fields=observer._binding.final_fields(with_result=False), retry_in=9
        )
    assert (read().percent, read().step) == (25.0, StepProgress(1, 2, "a", 50.0))
    store.start(Attempt("m1", "work", "default"))
    assert (read().percent, read().step, read().has_steps) == (None, None, False)


def test_a_store_that_lost_the_record_gets_all_of_it_again(store: Store, attempt: Attempt) -> None:
    observer = ProgressObserver()
    with observer.steps("a", "b")[1]:
        observer.set_progress(1, 2)
        flush(store, attempt, observer)
        observer._binding.forget_stored()
        assert {"overall": "0.75", "step": '[2, 2, "b", 0.5, 1.0]'}.items() <= observer._binding.take_changes().items()


def test_a_start_that_was_late_is_followed_by_the_steps(store: Store) -> None:
    observer = ProgressObserver(
        Binding(attempt=(late := Attempt("m1", "work", "default")), start=lambda store, age: store.start(late, age=age))
    )
    with observer.steps("a", "b")[1]:
        get_recorder().open(observer._binding)
        observer.set_progress(1, 2)
        wait_until(lambda: get_progress("m1") is not None and read().percent == 75.0)
        assert read().step == StepProgress(2, 2, "b", 50.0)
    get_recorder().close(observer._binding)
    get_recorder().stop()


def test_the_time_left_is_that_of_the_whole() -> None:
    observer = ProgressObserver()
    began = time.monotonic()
    first, second = observer.steps("a", "b", weights=(1, 9))
    with first:
        for number in range(1, 6):
            observer.set_progress(number, 5)
            observer._binding.levels.sample(began + number)
    with second:
        for number in range(1, 6):
            observer.set_progress(number * 1000, 90_000)
            observer._binding.levels.sample(began + 5 + number)
        progress = shown(observer)
    # Every second 2 % and later 1 % of the whole, which is at 15 %.
    assert progress.rate is None
    assert progress.eta is not None
    assert 42 < progress.eta < 85
    assert progress.overall_rate is not None


@pytest.mark.parametrize(("overall", "eta", "poll_after"), [("0.5", 100.0, 2.5), ("null", None, 0.5)])
def test_polls_follow_the_whole(overall: str, eta: float | None, poll_after: float) -> None:
    record = {"state": "running", "actor": "a", "queue": "q", "version": "1", "heartbeat": "0", "started_at": "0"}
    values = {"current": "9", "total": "10", "rate": "0.005", "reported_at": "0", "overall": overall}
    progress = decode("m1", record | values, now=0, lost_after=15)
    assert (progress.rate, progress.eta, progress.poll_after) == (None, eta, poll_after)


def test_the_speed_is_measured_again_when_steps_begin() -> None:
    observer = ProgressObserver()
    began = time.monotonic()
    for number in range(MIN_SAMPLES + int(MIN_SECONDS)):
        observer.set_progress(number, 100)
        observer._binding.levels.sample(began + number)
    assert shown(observer).rate is not None
    observer.steps("a")
    assert (shown(observer).rate, shown(observer).overall_rate) == (None, None)


def test_a_cancel_interrupts_at_the_begin_of_a_step(lenient: ProgressObserver) -> None:
    first, second = lenient.steps("a", "b")
    with first:
        pass
    lenient._binding.note_cancel_request()
    with pytest.raises(Cancelled), second:
        pytest.fail("the block is not entered")
    # Only once: the actor may clean up, in steps too.
    assert lenient.percent == 50.0
    with second:
        lenient.set_progress(1, 2)
    assert lenient.percent == 100.0
    lenient._binding.release()


def test_a_cancel_inside_a_step_completes_nothing(lenient: ProgressObserver) -> None:
    first, _ = lenient.steps("a", "b")
    with pytest.raises(Cancelled), first:
        for number in lenient.track(range(4)):
            for _ in lenient.track(range(2)):
                if number == 2:
                    lenient._binding.note_cancel_request()
    assert lenient.percent == 31.2
    lenient._binding.release()


def test_an_error_in_a_step_is_not_replaced_by_a_cancel(lenient: ProgressObserver) -> None:
    with pytest.raises(KeyError), lenient.steps("a")[0]:
        lenient._binding.note_cancel_request()
        raise KeyError
    lenient._binding.release()


def test_a_forked_child_can_use_steps_and_changes_nothing(store: Store, attempt: Attempt) -> None:
    observer = ProgressObserver(Binding(attempt=attempt))
    get_recorder().open(observer._binding)
    first, second = observer.steps("a", "b")
    with first:
        observer.set_progress(1, 2)
        wait_until(lambda: read().percent == 25.0)
        observer._binding.levels.lock.acquire()
        child = os.fork()
        if not child:
            status = 1
            with suppress(BaseException):
                with second:
                    for _ in observer.track(range(4)):
                        pass
                status = 0 if observer.percent == 100.0 else 2
            os._exit(status)
        observer._binding.levels.lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (read().percent, read().version) == (25.0, read().version)
    get_recorder().close(observer._binding)


def test_another_process_gets_steps_that_report_nothing(lenient: ProgressObserver) -> None:
    step = pickle.loads(pickle.dumps(lenient.steps("a", "b")[1]))  # noqa: S301 - its own
    with step:
        pass
    assert (step.name, lenient.percent) == ("b", 0.0)
    lenient._binding.release()


def test_an_observer_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        observer = ProgressObserver()
        for step in observer.steps("a", "b"):
            with step:
                for _ in observer.track(range(2)):
                    for _ in observer.track(range(2)):
                        break
        step.__enter__()
        freed = weakref.ref(observer)
        del observer, step
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_worker_writes_the_steps_of_an_actor(memory_store: Store, is_async: bool) -> None:
    broker = StubBroker(middleware=[AsyncIO(), ProgressMiddleware()])

    def work(progress_observer: ProgressObserver) -> None:
        for step in progress_observer.steps("Reading", "Writing"):
            with step:
                for _ in progress_observer.track(range(2)):
                    for _ in progress_observer.track(range(3), description="Row"):
                        pass

    async def work_async(progress_observer: ProgressObserver) -> None:
        work(progress_observer)

    actor = progress_actor(broker=broker, actor_name="work")(work_async if is_async else work)
    worker = dramatiq.Worker(broker, worker_timeout=100)
    worker.start()
    try:
        message = actor.send()
        broker.join("default", fail_fast=False)
        worker.join()
    finally:
        worker.stop()
        broker.close()
    progress = read(message.message_id)
    assert (progress.state, progress.percent, progress.step) == (
        State.DONE,
        100.0,
        StepProgress(2, 2, "Writing", 100.0),
    )

"""Groups and pipelines under the faults that a single message survives: each equals the ledger in the end."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from dramatiq_progress import State, progress_group, progress_pipeline
from dramatiq_progress.message_ids import HasMessageId
from dramatiq_progress.progress import Parts
from dramatiq_progress.stores import get_store
from tests import topologies
from tests.faults import tasks
from tests.faults.middleware import SharedGroupCallbacks
from tests.faults.scene import Scene, SceneFactory, dead_letter
from tests.waiting import TIMEOUT_SECONDS, wait_until

BOTH_BROKERS = pytest.mark.parametrize("scene", ["redis", "rabbitmq"], indirect=True)


NONE = Parts(total=0, waiting=0, running=0, retrying=0, done=0, failed=0, cancelled=0, skipped=0)


def group(scene: Scene, members: Iterable[Any], **options: Any) -> progress_group:
    return progress_group(members, broker=scene.broker, **options)


def pipeline(scene: Scene, *stages: dramatiq.Message[Any]) -> dramatiq.pipeline:
    return dramatiq.pipeline(stages, broker=scene.broker)


class Sent(Middleware):
    """The messages as they were sent, with the options that say of which composite they are members."""

    def __init__(self) -> None:
        self.messages: dict[str, dramatiq.Message[Any]] = {}

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        self.messages[message.message_id] = message


def parts_now(job: HasMessageId) -> Parts:
    """Return the members that the store has, which the scene's reader may not have read yet."""
    [progress] = get_store().read([job.message_id])
    return progress.parts if progress is not None and progress.parts is not None else NONE


def parts(scene: Scene, job: HasMessageId) -> Parts:
    """Return the members by state, as read last."""
    progress = scene.now(job)
    return progress.parts if progress and progress.parts else NONE


@BOTH_BROKERS
def test_a_worker_that_is_killed_in_the_middle_of_a_group(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    members = [tasks.report_for.message(0.05) for _ in range(6)]
    members += [tasks.wait_for.message(str(go_on)) for _ in range(4)]
    job = group(scene, members)
    scene.run(job)
    with scene.worker("-p", "1", "-t", "4") as first:
        scene.when(job, State.RUNNING, percent=80.0)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert scene.when(job, State.LOST).percent == 80.0
    go_on.touch()
    with scene.worker("-p", "1", "-t", "4"):
        assert scene.when(job, State.DONE).current == 10
        scene.heal()


def test_a_store_that_is_emptied_in_the_middle_of_a_group(scene: Scene, tmp_path: Path) -> None:
    """Each process contributes again the ends that it remembers."""
    go_on = tmp_path / "go-on"
    # The last ones end after the loss, even if it comes late: the record of a finished group isn't written again.
    members = [tasks.report_for.message(0.2) for _ in range(44)]
    members += [tasks.wait_for.message(str(go_on)) for _ in range(4)]
    job = group(scene, members)
    scene.run(job)
    with scene.worker("-p", "2", "-t", "2"):
        wait_until(lambda: parts(scene, job).done >= 16)
        with scene.reader.between_looks, scene.store.client() as client:
            client.flushall()
            # After it: a member may end in between.
            scene.lost_records()
        go_on.touch()
        done = scene.when(job, State.DONE)
        assert done.parts is not None and done.parts.done == 48
        scene.heal()


@pytest.mark.parametrize("steady_scene", ["redis", "rabbitmq"], indirect=True)
def test_two_copies_of_a_member_count_once(steady_scene: Scene, tmp_path: Path) -> None:
    scene = steady_scene
    go_on = tmp_path / "go-on"
    member = tasks.wait_for.message(str(go_on))
    job = group(scene, [member, tasks.report_for.message(0.05)])
    sent = Sent()
    scene.broker.add_middleware(sent)
    scene.run(job)
    copy = sent.messages[member.message_id]
    with scene.worker("-p", "1", "-t", "4"):
        scene.when(member, State.RUNNING, current=1)
        scene.deliver_again(copy)
        wait_until(lambda: len(scene.deeds(member, "began")) >= 2)
        go_on.touch()
        done = scene.when(job, State.DONE)
        wait_until(lambda: len(scene.deeds(member, "ended")) >= 2)
        # And one that comes after the end.
        scene.deliver_again(copy)
        wait_until(lambda: len(scene.deeds(member, "ended")) >= 3)
        scene.heal()
    assert scene.now(job) == done


@pytest.mark.parametrize("patient_scene", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_that_dies_between_the_outcome_of_a_member_and_its_contribution(patient_scene: Scene) -> None:
    scene = patient_scene
    job = group(scene, [tasks.report_for.message(0.05), tasks.report_for.message(0.05)])
    scene.run(job)
    dying = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.DiesBetweenWrites"])}
    with scene.worker("-p", "1", "-t", "1", environment=dying) as worker:
        worker.wait(TIMEOUT_SECONDS)
    wait_until(lambda: State.DONE in [each.state for each in map(scene.now, job.children) if each is not None])
    assert parts_now(job).done == 0
    with scene.worker("-p", "1", "-t", "1"):
        assert scene.when(job, State.DONE).current == 2
        scene.heal()


def test_a_group_that_is_sent_while_the_store_is_down(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    scene.kill_store()
    job = group(scene, [tasks.wait_for.message(str(go_on)) for _ in range(4)], description="Waiting")
    scene.run(job)
    with scene.worker("-p", "1", "-t", "2"):
        wait_until(lambda: sum(len(scene.deeds(each, "began")) for each in job.children) == 2)
        scene.store.start()
        wait_until(lambda: (parts(scene, job).waiting, parts(scene, job).running) == (2, 2))
        go_on.touch()
        assert scene.when(job, State.DONE).current == 4
        scene.heal()


@BOTH_BROKERS
def test_a_member_that_fails_and_is_retried_is_never_counted_as_failed(scene: Scene, tmp_path: Path) -> None:
    failed, go_on = tmp_path / "failed", tmp_path / "go-on"
    job = group(scene, [tasks.fail_first.message(str(failed)), tasks.wait_for.message(str(go_on))])
    scene.run(job)
    with scene.worker("-p", "1", "-t", "2"):
        wait_until(lambda: (parts(scene, job).done, parts(scene, job).running) == (1, 1))
        go_on.touch()
        scene.when(job, State.DONE)
        scene.heal()
    assert State.FAILED not in scene.states(job)
    assert all(each.parts is None or each.parts.failed == 0 for each in scene.progresses(job))


def test_a_callback_comes_after_a_failed_member_was_sent_again(scene: Scene, tmp_path: Path) -> None:
    good = tmp_path / "good"
    scene.broker.add_middleware(SharedGroupCallbacks(scene.environment["TEST_BROKER_URL"]))
    bad = tasks.fail_unless.message(str(good))
    job = group(scene, [bad, tasks.report_for.message(0.05)])
    job.add_completion_callback(tasks.report_for.message(0.05))
    scene.run(job)
    shared = {"TEST_BROKER_MIDDLEWARE": json.dumps(["tests.faults.middleware.SharedGroupCallbacks"])}
    with scene.worker("-p", "1", "-t", "2", environment=shared):
        scene.when(job, State.FAILED)
        # The callback stays waiting, and isn't awaited: Dramatiq doesn't send it.
        shown = parts(scene, job)
        assert (shown.total, shown.done, shown.failed, shown.waiting) == (3, 1, 1, 1)
        letter = wait_until(lambda: dead_letter(scene.broker))
        good.touch()
        scene.open_again(bad)
        scene.deliver_again(letter)
        assert scene.when(job, State.DONE).current == 3
        scene.heal()


def test_a_running_group_that_is_cancelled(scene: Scene) -> None:
    job = group(scene, [tasks.report_for.message(30.0) for _ in range(20)])
    scene.run(job)
    with scene.worker("-p", "1", "-t", "4"):
        wait_until(lambda: parts(scene, job).running == 4)
        scene.cancel(job)
        scene.when(job, State.CANCELLED)
        # The others are skipped as they come.
        wait_until(lambda: parts(scene, job).cancelled == 20)
        scene.heal()


def test_the_first_failure_cancels_the_rest_of_a_group(scene: Scene, tmp_path: Path) -> None:
    bad = tasks.fail_unless.message(str(tmp_path / "no"))
    others = [tasks.report_for.message(30.0) for _ in range(12)]
    scene.history.cancelled |= {each.message_id for each in others}
    job = group(scene, [*others[:3], bad, *others[3:]], fail_fast=True)
    scene.run(job)
    with scene.worker("-p", "1", "-t", "4"):
        scene.when(job, State.FAILED)
        wait_until(lambda: (parts(scene, job).failed, parts(scene, job).cancelled) == (1, 12))
        scene.heal()


@BOTH_BROKERS
def test_a_pipeline_ends_with_the_stage_that_fails(scene: Scene, tmp_path: Path) -> None:
    bad = tasks.fail_unless.message(str(tmp_path / "no")).copy(options={"pipe_ignore": True})
    job = progress_pipeline([tasks.report_for.message(0.05), bad, tasks.report_for.message(0.05)], broker=scene.broker)
    scene.run(job)
    with scene.worker("-p", "1", "-t", "2"):
        failed = scene.when(job, State.FAILED)
        assert (failed.current, failed.percent) == (2, 66.6)
        scene.heal()


@BOTH_BROKERS
def test_pipelines_in_a_group_whose_worker_is_killed(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    ignoring = {"pipe_ignore": True}
    pipes = [
        pipeline(
            scene,
            tasks.report_for.message(0.05),
            tasks.wait_for.message(str(go_on)).copy(options=ignoring),
            tasks.report_for.message(0.05).copy(options=ignoring),
        )
        for _ in range(3)
    ]
    never = tasks.report_for.message(0.05)
    bad = pipeline(scene, tasks.fail_unless.message(str(tmp_path / "no")), never)
    job = group(scene, [*pipes, bad])
    scene.run(job)
    with scene.worker("-p", "1", "-t", "4") as first:
        wait_until(lambda: (parts(scene, job).running, parts(scene, job).failed) == (3, 1))
        wait_until(lambda: all(len(scene.deeds(each.messages[1], "began")) == 1 for each in pipes))
        # A start is contributed to its group with the next flush. Until then the pipelines wait.
        wait_until(lambda: parts_now(job).running == 3)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        scene.when(job, State.LOST)
    go_on.touch()
    with scene.worker("-p", "1", "-t", "4"):
        scene.when(job, State.FAILED)
        assert (parts(scene, job).done, parts(scene, job).failed) == (3, 1)
        scene.heal()


def test_groups_in_a_group_whose_worker_is_killed(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    inner = group(scene, [tasks.report_for.message(0.05), *(tasks.wait_for.message(str(go_on)) for _ in range(2))])
    job = group(scene, [inner, group(scene, [tasks.report_for.message(0.05)]), tasks.wait_for.message(str(go_on))])
    scene.run(job)
    with scene.worker("-p", "1", "-t", "4") as first:
        scene.when(inner, State.RUNNING, percent=66.6)
        wait_until(lambda: (parts(scene, job).running, parts(scene, job).done) == (2, 1))
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        scene.when(inner, State.LOST)
        scene.when(job, State.LOST)
    go_on.touch()
    with scene.worker("-p", "1", "-t", "4"):
        assert scene.when(job, State.DONE).current == 3
        assert scene.when(inner, State.DONE).current == 3
        scene.heal()


@BOTH_BROKERS
def test_a_worker_that_is_killed_after_its_message_has_sent_others(scene: Scene, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    children = [f"child-{secrets.token_hex(8)}" for _ in range(4)]
    job = group(scene, [tasks.fan_out.message(children, str(go_on))], with_children=True)
    scene.run(job, children)
    with scene.worker("-p", "1", "-t", "4") as first:
        wait_until(lambda: (parts(scene, job).done, parts(scene, job).running) == (4, 1))
        assert scene.when(job, State.RUNNING, current=4).total is None
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        scene.when(job, State.LOST)
    go_on.touch()
    with scene.worker("-p", "1", "-t", "4"):
        assert scene.when(job, State.DONE).total == 5
        scene.heal()


def test_a_full_node_of_a_cluster_counts_the_members_on_others(make_scene: SceneFactory, tmp_path: Path) -> None:
    with topologies.cluster(tmp_path) as cluster:
        # A node that is silent on a busy machine isn't replaced, which would lose writes.
        cluster.never_fail_over()
        scene = make_scene(store=cluster)
        job = group(scene, [tasks.report_for.message(0.5) for _ in range(8)])
        node = cluster.master(get_store().key(job.message_id))
        assert node is not None
        with node.client() as client:
            client.config_set("maxmemory", "1")
            scene.run(job)
            with scene.worker("-p", "1", "-t", "4"):
                wait_until(lambda: all(scene.deeds(each, "ended") for each in job.children))
                client.config_set("maxmemory", "0")
                assert scene.when(job, State.DONE).current == 8
                scene.heal()

"""Workers that are killed or frozen in the middle of a job: `lost` and not slow, and then the truth."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dramatiq_progress import State
from tests import tasks
from tests.waiting import wait_until
from tests.worker_site import Site, read, when


def test_a_job_whose_worker_was_killed_is_lost_and_then_done_by_another(site: Site, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    message = site.send(tasks.wait_for_file, str(go_on))
    with site.worker("-p", "1", "-t", "2") as first:
        wait_until(lambda: read(message).current == 1)
        assert read(message).state is State.RUNNING
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        lost = when(message, State.LOST)
        # What it reported is still there, and it is not said to have ended.
        assert (lost.current, lost.total, lost.description, lost.complete) == (1, 2, "Waiting", False)

    with site.worker("-p", "1", "-t", "2"):
        wait_until(lambda: read(message).attempt == 2)
        assert when(message, State.RUNNING).attempt == 2
        go_on.touch()
        done = when(message, State.DONE)
    assert (done.attempt, done.current) == (2, 2)


def test_a_silent_job_is_running_and_not_lost(site: Site, tmp_path: Path) -> None:
    """It reports nothing for several times LOST_AFTER; its worker's heartbeats say that it lives."""
    go_on = tmp_path / "go-on"
    with site.worker("-p", "1", "-t", "2"):
        message = site.send(tasks.wait_for_file, str(go_on))
        wait_until(lambda: read(message).current == 1)
        states = set()

        def long_enough() -> bool:
            progress = read(message)
            states.add(progress.state)
            return progress.elapsed is not None and progress.elapsed > 5

        wait_until(long_enough)
        assert states == {State.RUNNING}
        go_on.touch()
        when(message, State.DONE)


@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_that_wakes_up_too_late_cannot_move_the_bar(site: Site, tmp_path: Path) -> None:
    """Frozen until another worker had taken and finished its message, it wakes up and goes on with it."""
    go_on = tmp_path / "go-on"
    message = site.send(tasks.wait_for_file, str(go_on))
    with site.worker("-p", "1", "-t", "1") as frozen:
        wait_until(lambda: read(message).current == 1)
        os.killpg(frozen.pid, signal.SIGSTOP)
        try:
            when(message, State.LOST)
            with site.worker("-p", "1", "-t", "1"):
                wait_until(lambda: read(message).attempt == 2)
                go_on.touch()
                done = when(message, State.DONE)
        finally:
            os.killpg(frozen.pid, signal.SIGCONT)
        frozen.terminate()
        frozen.wait(30)
    after = read(message)
    assert (after.state, after.attempt, after.version) == (State.DONE, 2, done.version)

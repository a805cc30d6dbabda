"""Real worker processes, of every kind that Dramatiq starts, on Redis and on RabbitMQ."""

from __future__ import annotations

from pathlib import Path

import pytest

from dramatiq_progress import State, get_progress
from tests import tasks
from tests.waiting import wait_until
from tests.worker_site import Site, read, when


def test_every_broker_tells_the_same_story(site: Site) -> None:
    waiting, next_one = site.send(tasks.asynchronous), site.send(tasks.asynchronous)
    assert read(waiting).state is State.ENQUEUED
    before, behind = read(waiting).queue_position, read(next_one).queue_position
    assert before is not None and behind == before + 1 == read(next_one).queue_length
    with site.worker("-p", "1", "-t", "2"):
        assert when(waiting, State.DONE).current == 1

        failing = site.send(tasks.fail_once)
        retrying = when(failing, State.RETRYING)
        assert (retrying.attempt, retrying.current, retrying.retries_left) == (1, 1, 2)
        done = when(failing, State.DONE)
        assert (done.attempt, done.current) == (2, 2)

        plain = site.send(tasks.plain)
        assert get_progress(plain.message_id) is None


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("dramatiq", ["-p", "2", "-t", "4"]),
        ("dramatiq", ["-p", "2", "-t", "4", "--use-spawn"]),
        ("dramatiq-gevent", ["-p", "1", "-t", "4"]),
    ],
    ids=["fork", "spawn", "gevent"],
)
@pytest.mark.parametrize("site", ["redis"], indirect=True)
def test_a_worker_that_is_told_to_stop_finishes_and_tells_so(
    site: Site, program: str, options: list[str], tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    messages = [site.send(tasks.wait_for_file, str(go_on)) for _ in range(4)]
    with site.worker(*options, program=program) as child:
        for message in messages:
            wait_until(lambda message=message: read(message).current == 1)
            assert read(message).state is State.RUNNING
        child.terminate()
        go_on.touch()
        child.wait(30)
    assert [(read(each).state, read(each).current) for each in messages] == [(State.DONE, 2)] * 4

"""``manage.py runscheduler``: real schedulers, a real store and a real broker."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dramatiq_progress.schedules.times import Every
from dramatiq_progress.stores import Store, get_store
from dramatiq_progress.stores.schedules import Declared, Schedules
from tests import servers
from tests.waiting import PATIENT, wait_until

# Each starts a scheduler.
pytestmark = pytest.mark.slow(2)

MANAGE = (sys.executable, "-m", "django")
READY = re.compile(r"Scheduler (\S+) starts with")
SENT = re.compile(r"Sent (\S+) for (.+?)(?:, \d+ s late)?: message (\S+)\.$", re.MULTILINE)


class Project:
    """A project with schedules in its settings, a store and a broker."""

    def __init__(self, folder: Path, valkey: str, settings: Any) -> None:
        self.folder = folder
        self.prefix = f"test-{secrets.token_hex(4)}:"
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_BROKER_URL": f"{valkey}/6",
            "TEST_BROKER_OPTIONS": json.dumps({"namespace": self.prefix}),
        }
        self.options = {"OPTIONS": {"url": f"{valkey}/1", **PATIENT}, "PREFIX": self.prefix}
        self.declare()
        settings.DRAMATIQ_PROGRESS = self.options
        self.store: Store = get_store()

    def declare(self, **schedules: dict[str, Any]) -> None:
        """Set the schedules; all send the same actor."""
        given = {name: {"send": "tests.tasks.import_rows", **options} for name, options in schedules.items()}
        self.environment["TEST_PROGRESS"] = json.dumps({**self.options, "SCHEDULES": given})

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [*MANAGE, "runscheduler", *options],
            env=os.environ | self.environment | environment,
            cwd=servers.ROOT,
            capture_output=True,
            text=True,
        )

    @contextmanager
    def scheduler(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a scheduler, with its log in ``.log``."""
        log = self.folder / f"scheduler-{secrets.token_hex(2)}.log"
        with servers.process(*MANAGE, "runscheduler", log=log, environment=self.environment) as child:
            child.log = log  # type: ignore[attr-defined]
            wait_until(lambda: child.poll() is not None or READY.search(log.read_text()))
            assert child.poll() is None, log.read_text()
            yield child

    def sent(self) -> list[tuple[str, str, str]]:
        """Return the schedule, the time and the message of everything that any scheduler has sent."""
        return [found for log in self.folder.glob("scheduler-*.log") for found in SENT.findall(log.read_text())]


@pytest.fixture
def project(tmp_path: Path, valkey: str, settings: Any) -> Iterator[Project]:
    made = Project(tmp_path, valkey, settings)
    yield made
    made.store.close()


def test_two_schedulers_send_each_tick_once(project: Project) -> None:
    project.declare(first={"every": 1}, second={"every": 1, "missed": "all"})
    with project.scheduler(), project.scheduler():
        wait_until(lambda: len(project.sent()) >= 10)
    sent = project.sent()
    assert len({(name, tick) for name, tick, _ in sent}) == len(sent)
    assert len({message_id for _, _, message_id in sent}) == len(sent)


def test_a_message_of_a_schedule_has_progress_and_no_owner(project: Project) -> None:
    project.declare(each_second={"every": 1, "args": ["a.csv"]})
    with project.scheduler():
        [(_, _, message_id), *_] = wait_until(project.sent)
    progress = wait_until(lambda: project.store.read([message_id])[0])
    assert progress is not None
    assert (progress.actor, progress.state, progress.owner) == ("import_rows", "enqueued", "")


def test_sigterm_and_ctrl_c_end_a_scheduler_with_0_and_its_log_says_so(project: Project) -> None:
    project.declare(each_second={"every": 1})
    for number in (signal.SIGTERM, signal.SIGINT):
        with project.scheduler() as child:
            wait_until(lambda child=child: Schedules(project.store).live() and child.log)
            child.send_signal(number)
            assert child.wait(60) == 0
            assert "has stopped." in child.log.read_text()
            assert "Traceback" not in child.log.read_text()
        assert Schedules(project.store).live() == []


def test_the_list_is_one_that_a_person_can_read(project: Project) -> None:
    project.declare(
        nightly={"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
        often={"every": 300},
        off={"cron": "@daily", "enabled": False},
    )
    lines = project.run("--list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "RUNS", "NEXT", "LAST", "RUN"]
    assert re.fullmatch(r"nightly +At 03:00 every day +\d{4}-\d\d-\d\d 03:00 CES?T +-", lines[1])
    assert re.fullmatch(r"off +disabled \(At 00:00 every day\) +- +-", lines[2])
    assert re.fullmatch(r"often +Every 5 minutes +\d{4}-\d\d-\d\d \d\d:\d[05] C[SD]T +-", lines[3])
    assert lines[-1] == "No scheduler is running, so nothing is sent."

    # Sent by hand, at any second: all times are as long as each other.
    Schedules(project.store).confirm("often", datetime(2026, 6, 1, 1, 0, 7, tzinfo=UTC), "m1", ttl=60)
    lines = project.run("--list").stdout.splitlines()
    assert re.fullmatch(r"nightly +At 03:00 every day +\d{4}-\d\d-\d\d 03:00:00 CES?T +-", lines[1])
    assert lines[3].endswith(":07 CDT: sent")


def test_one_schedule_is_sent_by_hand(project: Project) -> None:
    project.declare(nightly={"cron": "0 3 * * *", "args": ["a.csv"]})
    sent = re.fullmatch(r"Sent nightly: message (\S+)\n", project.run("--once", "nightly").stdout)
    assert sent is not None
    [progress] = project.store.read([sent[1]])
    assert progress is not None and progress.state == "enqueued"
    assert re.search(r"nightly .*: enqueued$", project.run("--list").stdout, re.MULTILINE)

    answer = project.run("--once", "weekly")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "No schedule has the name 'weekly'. The schedules are: nightly." in answer.stderr


def test_a_schedule_that_is_sent_by_hand_without_a_store_is_no_error(project: Project) -> None:
    """A script that retries would send it twice."""
    project.options = {"OPTIONS": {"url": f"redis://127.0.0.1:{servers.free_port()}/0"}}
    project.declare(nightly={"cron": "0 3 * * *", "args": ["a.csv"]})
    answer = project.run("--once", "nightly")
    assert answer.returncode == 0 and re.fullmatch(r"Sent nightly: message (\S+)\n", answer.stdout)
    assert "The message was sent, but --list won't show this run: the progress store is unavail" in answer.stderr


def test_a_scheduler_whose_schedules_are_all_disabled_runs_and_says_so(project: Project) -> None:
    project.declare(nightly={"cron": "@daily", "enabled": False})
    with project.scheduler() as child:
        assert "starts with 0 schedules: all are disabled, so nothing is sent." in child.log.read_text()
        wait_until(lambda: any(each.endswith(f":{child.pid}") for each in Schedules(project.store).live()))
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0 and "Traceback" not in child.log.read_text()


def test_the_health_check_is_that_of_this_host(project: Project) -> None:
    project.declare(nightly={"cron": "0 3 * * *"})

    def check() -> subprocess.CompletedProcess[str]:
        # It counts for a time in which a busy machine may not even start a process.
        Schedules(project.store).keep_alive("elsewhere:1")
        return project.run("--check")

    answer = wait_until(lambda: (answer := check()) and "On other hosts: elsewhere:1." in answer.stderr and answer)
    assert answer.returncode == 1
    with project.scheduler() as child:
        wait_until(lambda: any(each.endswith(f":{child.pid}") for each in Schedules(project.store).live()))
        answer = check()
        assert answer.returncode == 0 and f":{child.pid}\n" in answer.stdout


@pytest.mark.parametrize(
    ("schedules", "text"),
    [
        ({}, "There are no schedules. Declare one with @scheduled"),
        ({"nightly": {"cron": "61 * * * *"}}, "the first field, the minute, is 0-59"),
        ({"nightly": {"cron": "@daily", "send": "shop.tasks.gone"}}, "sends 'shop.tasks.gone'"),
    ],
)
def test_a_mistake_in_the_schedules_ends_the_command_with_1(
    project: Project, schedules: dict[str, Any], text: str
) -> None:
    project.declare(**schedules)
    for options in ((), ("--skip-checks",)):
        answer = project.run(*options)
        assert answer.returncode == 1 and text in answer.stderr and "Traceback" not in answer.stderr


def test_an_import_error_ends_the_command_and_shows_where_it_is(project: Project) -> None:
    project.declare(nightly={"cron": "@daily"})
    # Celery isn't installed.
    answer = project.run(TEST_IGNORED_MODULES="[]")
    assert answer.returncode == 1
    assert "celery_progress/tasks.py" in answer.stderr and "No module named 'celery'" in answer.stderr


def test_a_store_in_memory_is_refused(project: Project) -> None:
    project.options = {"STORE": "dramatiq_progress.stores.memory.MemoryStore"}
    project.declare(nightly={"cron": "@daily"})
    answer = project.run()
    assert answer.returncode == 1 and "is the memory of one process" in answer.stderr


def test_without_a_store_the_command_waits_for_it_and_the_others_say_so(project: Project) -> None:
    port = servers.free_port()
    project.options = {"OPTIONS": {"url": f"redis://127.0.0.1:{port}/0"}}
    project.declare(nightly={"cron": "@daily"})
    for option in ("--list", "--check"):
        answer = project.run(option)
        assert answer.returncode == 1 and "The progress store is unavailable" in answer.stderr
    with project.scheduler() as child:
        wait_until(lambda: "Nothing is sent until the progress store answers" in child.log.read_text())


def test_missed_ticks_are_sent_by_their_policies(project: Project, not_held: None) -> None:
    """No scheduler has run for ten minutes."""
    policies = ("once", "all")
    project.declare(**{missed: {"every": 60, "missed": missed} for missed in policies})
    in_store = Schedules(project.store)
    ten_minutes_ago = in_store.read(["once"])[0].now - timedelta(minutes=10)
    in_store.declare([Declared(missed, Every(60).fingerprint, 60.0, ten_minutes_ago) for missed in policies])
    with project.scheduler() as child:
        wait_until(lambda: {name for name, _, _ in project.sent()} == set(policies) and len(project.sent()) >= 11)
        log = child.log.read_text()
    assert "once missed its ticks from" in log and 'the latest is sent (missed="once", grace=3600)' in log

"""``manage.py runscheduler``: sends what is scheduled, and shows what was sent."""

from __future__ import annotations

import logging
import signal
import socket
from argparse import ArgumentParser
from datetime import datetime
from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError

from dramatiq_progress.error_texts import described
from dramatiq_progress.errors import StoreUnavailable
from dramatiq_progress.scheduler.targets import send
from dramatiq_progress.schedules import Schedule, ScheduleStatus, get_schedules, have_seconds, live_schedulers
from dramatiq_progress.schedules.declaring import find_schedules
from dramatiq_progress.stores import get_store
from dramatiq_progress.stores.memory import MemoryStore
from dramatiq_progress.stores.schedules import RECORD_SECONDS, Schedules

_COLUMNS = ("NAME", "RUNS", "NEXT", "LAST RUN")


class Command(BaseCommand):
    """Sends actors and tasks on time. Start as many as you like."""

    help = "Sends what is scheduled, until it is stopped by SIGTERM or Ctrl+C. Any number of schedulers may run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options, of which one may be given."""
        options = parser.add_mutually_exclusive_group()
        options.add_argument("--list", action="store_true", help="show all schedules and how their last runs went")
        options.add_argument(
            "--check", action="store_true", help="exit with 1 unless a scheduler is running on this host"
        )
        options.add_argument("--once", metavar="NAME", help="send the message of one schedule now")

    def handle(self, *, list: bool, check: bool, once: str | None, verbosity: int, **options: Any) -> None:
        """Run the scheduler, or do what an option says."""
        schedules, problems = find_schedules()
        if problems:
            raise CommandError("\n".join(f"{each.text} {each.hint}" for each in problems))
        try:
            if list:
                self._list()
            elif check:
                self._check()
            elif once is not None:
                self._send(schedules, once)
            else:
                self._run(schedules, verbosity)
        except StoreUnavailable as error:
            raise CommandError(f"The progress store is unavailable: {error}") from error

    def _run(self, schedules: list[Schedule], verbosity: int) -> None:
        # Here, so that APScheduler is only imported by what needs it.
        from dramatiq_progress.scheduler.runner import Runner

        store = get_store()
        if isinstance(store, MemoryStore):
            raise CommandError(
                "The progress store is the memory of one process, where no other scheduler sees what was sent. Set "
                'DRAMATIQ_PROGRESS["OPTIONS"] to a Redis or Valkey server.'
            )
        if not schedules:
            raise CommandError(
                'There are no schedules. Declare one with @scheduled(cron="0 3 * * *") above an actor or a task, or in '
                'DRAMATIQ_PROGRESS["SCHEDULES"].'
            )
        _show_logs(verbosity)
        runner = Runner(schedules, store)

        def on_signal(number: int, frame: object) -> None:
            # A second one ends the process at once.
            signal.signal(number, signal.SIG_DFL)
            runner.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        runner.run()

    def _send(self, schedules: list[Schedule], name: str) -> None:
        schedule = next((each for each in schedules if each.name == name), None)
        if schedule is None:
            names = ", ".join(each.name for each in schedules) or "none"
            raise CommandError(f"No schedule has the name {name!r}. The schedules are: {names}.")
        try:
            message_id = send(schedule.target, schedule.args, schedule.kwargs, str(uuid4()))
        except Exception as error:  # the broker's, or of arguments that can't be encoded
            raise CommandError(
                f"Could not send {name}: {described(error)}. Check the broker, and the schedule's args."
            ) from error
        self.stdout.write(f"Sent {name}: message {message_id}")
        try:
            Schedules(get_store()).confirm(name, None, message_id, ttl=RECORD_SECONDS)
        except StoreUnavailable as error:
            # Not an exit code other than 0, after which a script would send it again.
            self.stderr.write(
                f"The message was sent, but --list won't show this run: the progress store is unavailable: {error}"
            )

    def _check(self) -> None:
        live, host = live_schedulers(), socket.gethostname()
        here = [each for each in live if each.rpartition(":")[0] == host]
        if not here:
            raise CommandError(f"No scheduler is running on {host}. On other hosts: {', '.join(live) or 'none'}.")
        self.stdout.write(f"Running: {', '.join(here)}")

    def _list(self) -> None:
        statuses = get_schedules()
        shape = f"%Y-%m-%d {'%H:%M:%S' if have_seconds(statuses) else '%H:%M'} %Z"
        rows = [_COLUMNS, *(_row(each, shape) for each in statuses)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        for row in rows:
            self.stdout.write("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        live = live_schedulers()
        running = f"Running: {', '.join(live)}" if live else "No scheduler is running, so nothing is sent."
        self.stdout.write(f"\n{running}")


def _row(status: ScheduleStatus, shape: str) -> tuple[str, ...]:
    runs = status.runs if status.enabled else f"disabled ({status.runs})"
    return (status.name, runs, _next(status, shape), _last_run(status, shape))


def _next(status: ScheduleStatus, shape: str) -> str:
    return " ".join(status.error.split()) or _moment(status.next_at, shape)


def _moment(moment: datetime | None, shape: str) -> str:
    return "-" if moment is None else moment.strftime(shape)


def _last_run(status: ScheduleStatus, shape: str) -> str:
    if status.last_at is None:
        return "-"
    text = f"{_moment(status.last_at, shape)}: {status.last_state or 'sent'}"
    progress = status.last_progress
    if progress is not None and progress.percent is not None and not progress.complete:
        text += f", {progress.percent:g} %"
    return text


def _show_logs(verbosity: int) -> None:
    """Write this package's log to the terminal, unless the project's settings say where it goes."""
    package = logging.getLogger("dramatiq_progress")
    if package.hasHandlers() or not verbosity:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)

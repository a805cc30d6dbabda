"""Schedules that code and settings declare, and the checks of both."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from dramatiq.brokers.stub import StubBroker

from dramatiq_progress import get_schedules, scheduled
from dramatiq_progress.middleware import ProgressMiddleware
from dramatiq_progress.schedules import declaring
from dramatiq_progress.schedules.declaring import find_schedules, valid_schedules
from dramatiq_progress.schedules.options import Schedule
from dramatiq_progress.stores import Store
from dramatiq_progress.stores.schedules import Schedules
from tests import tasks
from tests.checking import run_checks
from tests.triggers import BrokenTrigger

Declare = Callable[..., Any]


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The declarations of this test only."""
    own: list[Any] = []
    monkeypatch.setattr(declaring, "_declared", own)
    return own


@pytest.fixture(autouse=True)
def own_settings(memory_store: Store, settings: Any) -> Iterator[None]:
    """A store of this test's own, and a time zone with two times."""
    settings.TIME_ZONE = "Europe/Berlin"
    settings.MIDDLEWARE = ["dramatiq_progress.requests.OwnerMiddleware"]
    yield


@pytest.fixture
def plain_actor() -> Iterator[dramatiq.Actor[..., Any]]:
    """An actor without progress."""
    broker = dramatiq.get_broker()

    @dramatiq.actor
    def plain() -> None: ...

    yield plain
    del broker.actors["plain"]


def override(settings: Any, **schedules: Any) -> None:
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {
        "SCHEDULES": {name.replace("_", "-"): options for name, options in schedules.items()}
    }


def only() -> Schedule:
    [found] = valid_schedules()
    return found


def test_an_actor_is_declared_with_its_defaults(plain_actor: dramatiq.Actor[..., Any]) -> None:
    assert scheduled(cron="0 3 * * *")(tasks.import_rows) is tasks.import_rows
    found = only()
    assert (found.name, found.target, found.args, found.kwargs) == ("import_rows", tasks.import_rows, (), {})
    assert (found.missed, found.grace, found.overlap, found.enabled) == ("once", 3600.0, "allow", True)
    # In TIME_ZONE.
    assert found.times.after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 1, 1, 2, tzinfo=UTC)


def test_one_actor_has_several_schedules_with_a_name_for_each(plain_actor: dramatiq.Actor[..., Any]) -> None:
    decorate = scheduled(every=timedelta(minutes=5), name="refresh-eu", args=["eu"], missed="skip", grace=60)
    scheduled(cron="@daily", timezone="America/New_York", name="refresh-us", kwargs={"a": 1}, grace=timedelta(hours=2))(
        decorate(plain_actor)
    )
    eu, us = valid_schedules()
    assert (eu.name, eu.args, eu.missed, eu.grace) == ("refresh-eu", ("eu",), "skip", 60.0)
    assert (us.name, us.kwargs, str(us.zone), us.grace) == ("refresh-us", {"a": 1}, "America/New_York", 7200.0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "Use exactly one of cron, every, at, trigger; given: none"),
        ({"cron": "@daily", "every": timedelta(hours=1)}, "given: cron, every"),
        ({"cron": "0 25 * * *"}, "cron='0 25 \\* \\* \\*' is invalid: the second field, the hour, is 0-23"),
        ({"every": 0.5}, "every=0.5 is not a whole number of seconds"),
        ({"every": "1h"}, r"every='1h' is not .*, such as every=3600, nor .* every=timedelta\(hours=1\)"),
        *[({"every": each}, "every=.* is not a whole number of seconds from 1 to") for each in (float("inf"), 10**12)],
        ({"at": "2030-01-01"}, r"at='2030-01-01' is not a datetime, such as at=datetime\(2030, 1, 1, 3, 0\)"),
        ({"at": date(2030, 1, 1)}, "is not a datetime, such as"),
        ({"trigger": "daily"}, "trigger='daily' is not a trigger .*, such as trigger=CronTrigger"),
        ({"at": datetime.max, "timezone": "America/New_York"}, "outside the years 1 to 9999"),
        ({"cron": "@daily", "timezone": "Berlin"}, "timezone='Berlin' is not an IANA name such as \"Europe/Berlin\""),
        ({"cron": "@daily", "missed": "twice"}, "missed='twice' is not one of 'once', 'all', 'skip'"),
        ({"cron": "@daily", "overlap": "wait"}, "overlap='wait' is not one of 'allow', 'skip'"),
        *[
            ({"cron": "@daily", "grace": each}, "grace=.* is not a positive number of seconds up to")
            for each in (0, float("inf"), float("nan"), 10**12)
        ],
        ({"cron": "@daily", "grace": "10m"}, "grace='10m' is not .*, such as grace=600, nor such a timedelta"),
        ({"cron": "@daily", "args": "us"}, "args='us' and kwargs={} must be a tuple or list, and a dict, as in"),
        ({"cron": "@daily", "name": "a b"}, "name='a b' has white space.* Use one such as name=\"nightly-report\""),
    ],
)
def test_an_invalid_option_is_an_error_at_its_decorator(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scheduled(**options)(tasks.import_rows)


def test_a_function_below_the_wrong_decorator_is_an_error_that_says_the_order() -> None:
    with pytest.raises(TypeError, match=r"Put @scheduled.* above @progress_actor"):
        scheduled(cron="@daily")(lambda: None)


def test_settings_declare_what_a_project_does_not_own(settings: Any) -> None:
    override(settings, clear_sessions={"send": "tests.tasks.import_rows", "cron": "@daily", "args": ["a.csv"]})
    assert (only().name, only().target, only().args) == ("clear-sessions", tasks.import_rows, ("a.csv",))
    assert run_checks() == {}


def test_settings_override_what_code_declares(settings: Any) -> None:
    scheduled(cron="@daily", name="nightly", args=("a",), missed="all")(tasks.import_rows)
    override(settings, nightly={"every": timedelta(hours=1), "enabled": False})
    found = only()
    assert (found.times.words, found.args, found.missed, found.enabled) == ("Every hour", ("a",), "all", False)
    assert found.fingerprint == "disabled"


def test_two_with_one_name_are_an_error(plain_actor: dramatiq.Actor[..., Any]) -> None:
    for actor, args in ((tasks.import_rows, ["a.csv"]), (plain_actor, [])):
        scheduled(cron="@daily", name="nightly", args=args)(actor)
    found = run_checks()
    assert set(found) == {"E008"}
    assert "'nightly': one sends import_rows, the other plain" in found["E008"] and 'name="…"' in found["E008"]
    with pytest.raises(ImproperlyConfigured, match="Two schedules have the name 'nightly'"):
        get_schedules()


@pytest.mark.parametrize(
    ("options", "id_", "text"),
    [
        (
            {"send": "shop.tasks.gone", "cron": "@daily"},
            "E009",
            "sends 'shop.tasks.gone', which can't be imported: No module",
        ),
        ({"send": "tests.tasks.gone", "cron": "@daily"}, "E009", 'does not define a "gone"'),
        ({"send": "tests.tasks.time", "cron": "@daily"}, "E009", "sends 'tests.tasks.time', which is neither"),
        ({"send": 5, "cron": "@daily"}, "E009", "sends 5"),
        ({"cron": "@daily"}, "E009", 'has no "send", and no @scheduled(…) has that name'),
        ({"send": "tests.tasks.import_rows", "cron": "61 * * * *"}, "E010", "the first field, the minute, is 0-59"),
        ({"send": "tests.tasks.import_rows"}, "E010", "Use exactly one of cron, every, at, trigger"),
        ({"send": "tests.tasks.import_rows", "cron": "@daily", "crom": 1}, "E010", "has no option 'crom'"),
        ({"send": "tests.tasks.import_rows", "cron": "@daily", "enabled": 0}, "E010", "enabled=0 is not True or False"),
        ("@daily", "E010", "is not a dict"),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_that_names_the_schedule(
    settings: Any, options: Any, id_: str, text: str
) -> None:
    override(settings, nightly=options)
    found = run_checks()
    assert set(found) == {id_}
    assert "DRAMATIQ_PROGRESS[\"SCHEDULES\"]['nightly']" in found[id_] and text in found[id_]


def test_schedules_that_are_no_dict_are_an_error_of_the_settings(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"SCHEDULES": ["nightly"]}
    assert set(run_checks()) == {"E003"}


def test_a_name_that_is_no_string_is_an_error(settings: Any) -> None:
    settings.DRAMATIQ_PROGRESS = {"SCHEDULES": {1: {"cron": "@daily"}, "b": {"enabled": "no"}}}
    found, problems = find_schedules()
    assert found == [] and [each.id for each in problems] == ["E010", "E009"]
    assert "1 is not a name" in problems[0].text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "missing a required argument: 'path'"),
        ({"args": ["a", "b"]}, "too many positional arguments"),
        ({"args": ["a"], "kwargs": {"b": 1}}, "got an unexpected keyword argument 'b'"),
        ({"args": [date(2026, 1, 1)]}, "Object of type date is not JSON serializable"),
        # The observer is no argument of a message.
        ({"args": [], "kwargs": {"path": "a"}}, None),
    ],
)
def test_arguments_that_the_actor_does_not_take_are_a_warning(options: Any, reason: str | None) -> None:
    scheduled(cron="@daily", **options)(tasks.import_rows)
    found = run_checks()
    assert (reason is None and not found) or (reason is not None and reason in found["W008"])


@pytest.fixture
def vendor_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with two actors, which workers don't import."""
    actor = "@dramatiq.actor\ndef {}(): ...\n"
    (tmp_path / "vendor_jobs.py").write_text("import dramatiq\n" + actor.format("clear") + actor.format("report"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(declaring, "_unknown_to_workers", {})
    yield
    sys.modules.pop("vendor_jobs", None)
    for name in ("clear", "report"):
        dramatiq.get_broker().actors.pop(name, None)


def test_an_actor_that_workers_do_not_import_is_a_warning(settings: Any, vendor_jobs: None) -> None:
    override(
        settings,
        clear={"send": "vendor_jobs.clear", "cron": "@daily"},
        report={"send": "vendor_jobs.report", "cron": "@daily"},
        rows={"send": "tests.tasks.import_rows", "cron": "@daily", "args": ["a.csv"]},
    )
    # The second time, the first one has imported the module.
    for _ in range(2):
        found = [each for each in checks.run_checks(tags=["dramatiq_progress"]) if each.level >= checks.WARNING]
        assert [each.id for each in found] == ["dramatiq_progress.W009"] * 2
        assert "'clear': they don't import vendor_jobs, so they don't know the actor clear" in found[0].msg
        assert "'report'" in found[1].msg and 'Add "import vendor_jobs"' in str(found[1].hint)


def test_an_actor_that_workers_import_from_another_module_is_no_warning(settings: Any, vendor_jobs: None) -> None:
    importlib.import_module("vendor_jobs")
    override(settings, clear={"send": "vendor_jobs.clear", "cron": "@daily"})
    assert run_checks() == {}


def test_a_message_that_cannot_be_sent_at_once_is_an_error() -> None:
    scheduled(cron="@daily", args=(date(2026, 1, 1),))(tasks.import_rows)
    with pytest.raises(CommandError, match="Could not send import_rows: TypeError: Object of type date is not JSON"):
        call_command("runscheduler", once="import_rows")


def test_skipping_overlaps_of_an_untracked_actor_is_an_error(plain_actor: dramatiq.Actor[..., Any]) -> None:
    scheduled(cron="@daily", overlap="skip", args=("a.csv",))(tasks.import_rows)
    assert run_checks() == {}
    scheduled(cron="@daily", overlap="skip")(plain_actor)
    assert "'plain'" in run_checks()["E011"]


def test_schedules_without_a_running_scheduler_are_a_deployment_warning(memory_store: Store) -> None:
    assert run_checks(deploy=True) == {}
    scheduled(cron="@daily", args=("a.csv",))(tasks.import_rows)
    assert run_checks() == {}
    assert "no scheduler is running" in run_checks(deploy=True)["W006"]
    Schedules(memory_store).keep_alive("host:1")
    assert run_checks(deploy=True) == {}


def test_a_module_that_cannot_be_imported_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(declaring, "_import_tasks", fail)
    assert "ModuleNotFoundError: No module named 'torch'" in run_checks()["W007"]
    with pytest.raises(ModuleNotFoundError):
        find_schedules()


def test_the_status_of_a_schedule_has_its_last_message(memory_store: Store) -> None:
    scheduled(cron="0 3 * * *")(tasks.import_rows)
    [before] = get_schedules()
    assert (before.name, before.sends, before.runs) == ("import_rows", "import_rows", "At 03:00 every day")
    assert before.next_at is not None and before.next_at.hour == 3
    assert (before.last_at, before.last_message_id, before.last_state, before.sent) == (None, None, None, 0)

    memory_store.enqueue("m1", actor="import_rows", queue="default", retries_left=3)
    tick = datetime(2026, 1, 1, 2, tzinfo=UTC)
    Schedules(memory_store).confirm("import_rows", tick, "m1", ttl=60)
    [after] = get_schedules()
    assert after.last_at == tick and str(after.last_at.tzinfo) == "Europe/Berlin"
    assert after.last_progress is not None and after.last_progress.state == after.last_state == "enqueued"
    assert (after.last_message_id, after.sent) == ("m1", 1)


def test_the_time_zone_of_a_trigger_is_its_own(settings: Any) -> None:
    trigger = CronTrigger(hour=3, timezone="America/New_York")
    reason = (
        r"timezone='Europe/Berlin' has no effect on trigger=<.*>, which has a time zone of its own, "
        r"America/New_York\. Give .* CronTrigger\(…, timezone=\"Europe/Berlin\"\)"
    )
    for each in (trigger, OrTrigger([trigger, CronTrigger(hour=4, timezone="Europe/Berlin")])):
        with pytest.raises(ValueError, match=reason):
            scheduled(trigger=each, timezone="Europe/Berlin")
    # Debian calls the zone of a server Etc/UTC.
    scheduled(trigger=CronTrigger(hour=3, timezone="Etc/UTC"), timezone="UTC")
    scheduled(trigger=trigger, timezone="America/New_York", name="same")(tasks.import_rows)
    scheduled(trigger=trigger, name="own")(tasks.import_rows)
    assert [str(each.zone) for each in valid_schedules()] == ["America/New_York"] * 2
    assert [each.next_at.strftime("%H:%M") for each in get_schedules() if each.next_at] == ["03:00", "03:00"]
    assert all(each.local(datetime(2026, 7, 1, tzinfo=UTC)).endswith(" EDT") for each in valid_schedules())
    override(settings, own={"timezone": "Europe/Berlin"})
    assert re.search(reason, run_checks()["E010"])


@pytest.mark.parametrize(
    ("trigger", "zone"),
    [
        # In TIME_ZONE: none of its own, or several.
        (DateTrigger(datetime(2030, 1, 1, tzinfo=UTC)), "Europe/Berlin"),
        (OrTrigger([CronTrigger(hour=3, timezone=each) for each in ("Asia/Tokyo", "UTC")]), "Europe/Berlin"),
        (OrTrigger([CronTrigger(hour=each, timezone="Asia/Tokyo") for each in (3, 4)]), "Asia/Tokyo"),
        (IntervalTrigger(hours=1, start_date=datetime(2026, 1, 1, tzinfo=UTC)), "UTC"),
    ],
    ids=["date", "several", "equal", "of-the-start"],
)
def test_the_times_of_a_trigger_are_shown_in_its_time_zone(trigger: Any, zone: str) -> None:
    scheduled(trigger=trigger)(tasks.import_rows)
    assert str(only().zone) == zone


def test_a_trigger_in_the_settings_replaces_the_declared_time_zone_too(settings: Any) -> None:
    scheduled(cron="@daily", timezone="America/New_York", name="nightly")(tasks.import_rows)
    trigger = CronTrigger(hour=3, timezone="Asia/Tokyo")
    override(settings, nightly={"trigger": trigger})
    assert str(only().zone) == "Asia/Tokyo"
    override(settings, nightly={"trigger": trigger, "timezone": "America/New_York"})
    assert "has no effect on trigger=" in run_checks()["E010"]
    override(settings, nightly={"cron": "@hourly"})
    assert str(only().zone) == "America/New_York"


def test_the_list_shows_the_error_of_a_trigger_and_all_other_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    scheduled(trigger=BrokenTrigger(), name="bad")(tasks.import_rows)
    scheduled(cron="0 3 * * *", name="good")(tasks.import_rows)
    bad, good = get_schedules()
    assert (bad.next_at, bad.error) == (None, "ValueError: no calendar for\nthis <year>")
    assert good.next_at is not None and good.error == ""
    call_command("runscheduler", list=True)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch("bad +<BrokenTrigger> +ValueError: no calendar for this <year> +-", lines[1])
    assert re.fullmatch(r"good +At 03:00 every day +.* 03:00 CES?T +-", lines[2])


def test_the_code_of_the_documentation_declares_what_it_says(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "schedules.md").read_text(encoding="utf-8")
    code, setting = re.findall(r"```python\n# (?:tasks|settings)\.py\n(.*?)```", text, re.DOTALL)
    broker = StubBroker(middleware=[ProgressMiddleware()])
    monkeypatch.setattr("dramatiq.broker.global_broker", broker)
    module: dict[str, Any] = {"__name__": "shop.tasks"}
    exec(code, module)  # noqa: S102 - our own
    exec(setting, module)  # noqa: S102 - our own
    given = module["DRAMATIQ_PROGRESS"]["SCHEDULES"]
    given["clear-sessions"]["send"] = "tests.tasks.import_rows"
    settings.DRAMATIQ_PROGRESS = settings.DRAMATIQ_PROGRESS | {"SCHEDULES": given}
    found = {each.name: (each.times.words, each.enabled, each.args) for each in valid_schedules()}
    assert found == {
        "clear-sessions": ("At 00:00 every day", True, ()),
        "nightly_report": ("At 03:00 every day", True, ()),
        "refresh-eu": ("Every 5 minutes", True, ("eu",)),
        "refresh-us": ("Every 10th minute from 09:00 through 17:59 on Monday through Friday", False, ("us",)),
    }
    broker.close()


@pytest.mark.parametrize("given", ["0 3 * * *", lambda: None])
def test_options_must_be_named(given: Any) -> None:
    with pytest.raises(TypeError, match=r'name its options, as in @scheduled\(cron="0 3 \* \* \*"\)'):
        scheduled(given)

"""The order of the tests, and the marks that select some of them.

Slow tests mostly wait. They are spread over the run, the slowest first: some processes of pytest-xdist wait while
others compute, and no slow test is left alone at the end. All others stay as pytest-randomly has shuffled them, module
by module, so that a fixture of a module is set up once for each process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from coverage import Coverage

FAULTS = Path(__file__).with_name("faults")
#: Fixtures of stores that need servers of their own.
TOPOLOGIES = {"old_redis_store", "sentinel_store", "cluster_store"}
#: Duration of a test with a scene that has no mark of its own.
SCENE_SECONDS = 6.0
#: Slow tests that are shorter than this stay in their modules.
SPREAD_FROM_SECONDS = 5.0


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "slow(seconds): about how long the test takes on an idle machine; `make quick` omits it",
        "faults: a test in tests/faults (set for all of them)",
        "browser: a test that needs a browser (set for all of them)",
        "topology: a test of a store on an old Redis, with Sentinels or on a cluster (set for all of them)",
    ):
        config.addinivalue_line("markers", line)
    # `coverage run` measures pytest and the processes of pytest-xdist. The workers and the servers that a test starts
    # aren't measured: some tests depend on their speed, and they are killed.
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # pytest-xdist kills a process that takes more than 10 s to exit, as one with a test's threads may. Coverage would
    # save its data only then.
    if hasattr(session.config, "workerinput") and (measuring := Coverage.current()) is not None:
        measuring.stop()
        measuring.save()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = [item for item in items if seconds(item) >= SPREAD_FROM_SECONDS]
    slow.sort(key=seconds, reverse=True)
    items[:] = spread(slow, [item for item in items if seconds(item) < SPREAD_FROM_SECONDS])


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    if FAULTS in item.path.parents:
        item.add_marker("faults")
    fixtures = getattr(item, "fixturenames", ())
    if "chromium" in fixtures or "engine" in fixtures:
        item.add_marker("browser")
    chosen = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    if TOPOLOGIES & {*fixtures, *(each for each in chosen if isinstance(each, str))}:
        item.add_marker("topology")
    if "make_scene" in fixtures and not item.get_closest_marker("slow"):
        item.add_marker(pytest.mark.slow(SCENE_SECONDS))


def seconds(item: pytest.Item) -> float:
    """Return about how long a slow test takes, and 0 for any other."""
    mark = item.get_closest_marker("slow")
    return float(mark.args[0]) if mark else 0


def spread(slow: list[pytest.Item], others: list[pytest.Item]) -> list[pytest.Item]:
    """Put other tests after each slow test, in proportion to its seconds."""
    total = sum(map(seconds, slow))
    ordered: list[pytest.Item] = []
    passed, begin = 0.0, 0
    for item in slow:
        passed += seconds(item)
        end = round(len(others) * passed / total)
        ordered += [item, *others[begin:end]]
        begin = end
    return ordered + others[begin:]

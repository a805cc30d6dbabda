"""The settings: they are read at each use, and an error names the value and the repair."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dramatiq_progress.conf import configuration


def test_settings_have_defaults(settings: Any) -> None:
    del settings.DRAMATIQ_PROGRESS
    found = configuration()
    assert (found.store, found.options, found.prefix) == (None, {}, "dramatiq-progress:")
    assert (found.flush_interval, found.heartbeat_interval, found.lost_after) == (0.1, 5.0, 15.0)
    assert (found.finished_ttl, found.unfinished_ttl) == (3600, 604_800)


def test_settings_are_read_live() -> None:
    with override_settings(DRAMATIQ_PROGRESS={"FLUSH_INTERVAL": 2}):
        assert configuration().flush_interval == 2
        with override_settings(DRAMATIQ_PROGRESS={"FLUSH_INTERVAL": 3, "PREFIX": "p:"}):
            assert (configuration().flush_interval, configuration().prefix) == (3, "p:")
    assert configuration().flush_interval == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"FLUSH_INTERVALL": 1}, "has no key 'FLUSH_INTERVALL'. Its keys are STORE, OPTIONS, PREFIX"),
        ({"flush_interval": 1}, "has no key 'flush_interval'"),
        ([], "DRAMATIQ_PROGRESS must be a dict, not a list"),
        ({"STORE": 5}, r'\["STORE"\] is 5; it must be the dotted path'),
        ({"OPTIONS": "redis://"}, r'\["OPTIONS"\] is \'redis://\'; it must be a dict'),
        ({"PREFIX": ""}, r'\["PREFIX"\] is \'\'; it must be a string of at least one'),
        ({"PREFIX": "a{b:"}, "it must be a string without braces"),
        ({"PREFIX": "{}a:"}, "it must be a string without braces"),
        ({"PREFIX": "a}b:"}, "it must be a string without braces"),
        ({"FLUSH_INTERVAL": 0}, r'\["FLUSH_INTERVAL"\] is 0; it must be from 0.001 to 315,360,000 seconds'),
        ({"FLUSH_INTERVAL": True}, "is True; it must be a number"),
        ({"FINISHED_TTL": "1h"}, r'\["FINISHED_TTL"\] is \'1h\''),
        ({"UNFINISHED_TTL": float("inf")}, "is inf; it must be from"),
        ({"UNFINISHED_TTL": float("nan")}, "is nan; it must be from"),
        ({"UNFINISHED_TTL": 1e17}, "it must be from 0.001 to"),
        ({"MAX_DELIVERIES": -1}, r'\["MAX_DELIVERIES"\] is -1; it must be a whole number'),
        ({"CANCELLABLE": "yes"}, r'\["CANCELLABLE"\] is \'yes\'; it must be True or False'),
        ({"ESTIMATES": 1}, r'\["ESTIMATES"\] is 1; it must be True or False'),
        ({"TRUSTED_PROXIES": -1}, r'\["TRUSTED_PROXIES"\] is -1; it must be the number of proxies, 0 for none'),
        ({"TRUSTED_PROXIES": True}, "is True; it must be the number of proxies"),
        ({"TRUSTED_PROXIES": ["10.0.0.1"]}, "is a list; it must be the number of proxies"),
        ({"LOST_AFTER": 5}, "more than HEARTBEAT_INTERVAL"),
    ],
)
def test_an_error_names_the_value_and_the_repair(settings: Any, given: Any, message: str) -> None:
    settings.DRAMATIQ_PROGRESS = given
    with pytest.raises(ImproperlyConfigured, match=message):
        configuration()

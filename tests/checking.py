"""The package's system checks, as ``manage.py check`` runs them."""

from __future__ import annotations

from django.core import checks


def run_checks(*, deploy: bool = False) -> dict[str, str]:
    """Return the messages and hints of our checks by id."""
    found = checks.run_checks(tags=["dramatiq_progress"], include_deployment_checks=deploy)
    return {str(each.id).removeprefix("dramatiq_progress."): f"{each.msg} {each.hint}" for each in found}

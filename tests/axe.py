"""axe-core, from npm: the accessibility checks of a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from playwright.sync_api import Page

from tests import npm

AXE = "axe-core@4.14.1"
#: The first requires a contrast of 7:1, which isn't promised. The second only reports that something is hidden.
DISABLED_RULES = ["color-contrast-enhanced", "hidden-content"]

RUN = """async (disabled) => {
  const rules = axe.getRules().map(({ ruleId }) => [ruleId, { enabled: !disabled.includes(ruleId) }]);
  const { violations, incomplete, passes } = await axe.run(document, { rules: Object.fromEntries(rules) });
  const brief = (found) => Object.fromEntries(found.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]));
  return [brief(violations), brief(incomplete), brief(passes)];
}"""

Nodes = dict[str, list[str]]


class Found(NamedTuple):
    """axe's results, by rule: the elements that violate it, that need a manual check, and that pass."""

    violations: Nodes
    incomplete: Nodes
    passes: Nodes


@pytest.fixture(scope="session")
def axe_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (npm.install(AXE, tmp_path_factory.mktemp("axe")) / "axe.min.js").read_text()


@pytest.fixture
def run_axe(axe_source: str) -> Callable[[Page], Found]:
    """A function that checks a page by every rule, including best practices and experimental ones."""

    def run(page: Page) -> Found:
        page.evaluate(axe_source)
        return Found(*page.evaluate(RUN, DISABLED_RULES))

    return run

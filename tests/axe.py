"""axe-core, from npm: what it finds on a page that keeps people out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from playwright.sync_api import Page

from tests import npm

AXE = "axe-core@4.14.1"
#: The one asks for a contrast of 7:1, which is more than is promised; the other only says that something is hidden.
LEFT_OUT = ["color-contrast-enhanced", "hidden-content"]

RUN = """async (leftOut) => {
  const rules = axe.getRules().map(({ ruleId }) => [ruleId, { enabled: !leftOut.includes(ruleId) }]);
  const { violations, incomplete, passes } = await axe.run(document, { rules: Object.fromEntries(rules) });
  const brief = (found) => Object.fromEntries(found.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]));
  return [brief(violations), brief(incomplete), brief(passes)];
}"""

Nodes = dict[str, list[str]]


class Found(NamedTuple):
    """What axe says of a page: by rule, the elements that it broke, that a person has to judge, and that kept it."""

    violations: Nodes
    incomplete: Nodes
    passes: Nodes


@pytest.fixture(scope="session")
def axe_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (npm.install(AXE, tmp_path_factory.mktemp("axe")) / "axe.min.js").read_text()


@pytest.fixture
def run_axe(axe_source: str) -> Callable[[Page], Found]:
    """Runs every rule on a page, those of best practice and those on trial too."""

    def run(page: Page) -> Found:
        page.evaluate(axe_source)
        return Found(*page.evaluate(RUN, LEFT_OUT))

    return run

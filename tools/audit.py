"""Checks the package's installed dependencies for known vulnerabilities with pip-audit: ``make audit``.

If the database can't be reached, it prints that and succeeds: a machine without a network can't do more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "dramatiq-progress"

#: Parts of pip-audit's error message if the database didn't answer.
UNREACHED = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError", "Max retries exceeded")


def dependencies_of(name: str, extras: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the names and installed versions of all direct and indirect dependencies of a package."""
    found: dict[str, str] = {}
    waiting = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        installed = distribution(each[0])
        found[canonicalize_name(each[0])] = installed.version
        for text in installed.requires or []:
            requirement = Requirement(text)
            chosen = [""] if not each[1] else sorted(each[1])
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in chosen):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    del found[canonicalize_name(name)]
    return found


def evaluate(output: str, error: str) -> tuple[bool, str]:
    """Evaluate pip-audit's JSON and error message. Return whether the audit passed, and a text to print."""
    if not output.strip():
        if any(each in error for each in UNREACHED):
            return True, "pip-audit: the database could not be reached; nothing was audited."
        return False, f"pip-audit failed:\n{error}"
    dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
    weak = [f"{each['name']} {each['version']}: {_ids(each)}" for each in dependencies if each.get("vulns")]
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if weak:
        return False, "pip-audit: known vulnerabilities.\n" + "\n".join(weak)
    if len(skipped) == len(dependencies):
        return True, "pip-audit: the database could not be reached; nothing was audited."
    unknown = f"; not in the database: {', '.join(skipped)}" if skipped else ""
    return True, f"pip-audit: no known vulnerability in {len(dependencies) - len(skipped)} packages{unknown}."


def _ids(dependency: dict[str, Any]) -> str:
    return ", ".join(
        f"{each['id']} (fixed in {', '.join(each['fix_versions']) or 'no version'})" for each in dependency["vulns"]
    )


def main() -> None:
    with TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in sorted(dependencies_of(PACKAGE).items())))
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
        command += ["--no-deps", "--disable-pip", "--requirement", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    has_passed, text = evaluate(done.stdout, done.stderr)
    print(text)
    sys.exit(not has_passed)


if __name__ == "__main__":
    main()

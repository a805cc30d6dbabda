"""Asks pip-audit for known weaknesses of what the package needs, in the versions that are installed here.

Where its database cannot be reached, that is said and no failure: a machine without a network has none.
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

#: What a pip-audit that got no answer has in its complaint.
UNREACHED = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError", "Max retries exceeded")


def needed(name: str, extras: frozenset[str] = frozenset()) -> dict[str, str]:
    """Everything that a package needs to run, and what that needs: name and installed version."""
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


def verdict(output: str, complaint: str) -> tuple[bool, str]:
    """What pip-audit's JSON and its complaint come to: whether all is well, and what to say."""
    if not output.strip():
        if any(each in complaint for each in UNREACHED):
            return True, "pip-audit: its database was not reached; nothing was audited."
        return False, f"pip-audit failed:\n{complaint}"
    dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
    weak = [f"{each['name']} {each['version']}: {_ids(each)}" for each in dependencies if each.get("vulns")]
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if weak:
        return False, "pip-audit: known weaknesses.\n" + "\n".join(weak)
    if len(skipped) == len(dependencies):
        return True, "pip-audit: its database was not reached; nothing was audited."
    left_out = f"; not known there: {', '.join(skipped)}" if skipped else ""
    return True, f"pip-audit: no known weakness in {len(dependencies) - len(skipped)} packages{left_out}."


def _ids(dependency: dict[str, Any]) -> str:
    return ", ".join(
        f"{each['id']} (mended in {', '.join(each['fix_versions']) or 'no version'})" for each in dependency["vulns"]
    )


def main() -> None:
    with TemporaryDirectory() as folder:
        pinned = Path(folder) / "needed.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in sorted(needed(PACKAGE).items())))
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
        command += ["--no-deps", "--disable-pip", "--requirement", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    is_well, said = verdict(done.stdout, done.stderr)
    print(said)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()

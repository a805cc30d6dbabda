"""Packages from npm, installed for the tests that need one and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers import find_program


def install(package: str, folder: Path, *others: str) -> Path:
    """Install a package and some others, given as ``name@version``, below a folder; returns where the first one is."""
    options = ("--silent", "--no-save", "--no-audit", "--no-fund")
    command = [find_program("npm"), "install", *options, "--prefix", str(folder), package, *others]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "node_modules" / package.rpartition("@")[0]

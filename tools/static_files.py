"""Makes the static files of the wheel smaller: the build hook of pyproject.toml, and ``make wheel``.

esbuild shortens them if it is on the PATH. Otherwise comments and indentation are removed, so that a build needs no
Node.js and no network. Each file gets a source map with the original.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The npm package, for `make wheel` and the tests.
ESBUILD = "esbuild@0.28.2"
STATIC = Path("dramatiq_progress", "static", "dramatiq_progress")
SUFFIXES = (".js", ".css")
#: How a file refers to its source map.
REFERENCES = {".js": "//# sourceMappingURL={}\n", ".css": "/*# sourceMappingURL={} */\n"}
_VLQ_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class StaticFilesHook(BuildHookInterface[Any]):
    """Replaces the scripts and stylesheets of a wheel. An editable installation keeps the originals."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard":
            return
        self.folder = Path(tempfile.mkdtemp())
        for source in sorted((Path(self.root) / STATIC).iterdir()):
            if source.suffix in SUFFIXES:
                for path in shrink(source, self.folder, shutil.which("esbuild")):
                    build_data["force_include"][str(path)] = str(STATIC / path.name)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version == "standard":
            shutil.rmtree(self.folder)


def shrink(source: Path, folder: Path, esbuild: str | None) -> tuple[Path, Path]:
    """Write the smaller file and its source map into a folder, and return both.

    Parameters:
      source: A .js or .css file.
      folder: Where to write.
      esbuild: The path of esbuild. None: only comments and indentation are removed.
    """
    path, source_map = folder / source.name, folder / f"{source.name}.map"
    if esbuild:
        options = ("--minify", "--sourcemap", "--log-level=warning", f"--outfile={path}")
        subprocess.run([esbuild, str(source), *options], check=True)  # noqa: S603 - fixed arguments
    else:
        text = source.read_text(encoding="utf-8")
        kept = list(_kept_lines(text))
        reference = REFERENCES[source.suffix].format(source_map.name)
        path.write_text("".join(f"{line}\n" for _, line in kept) + reference, encoding="utf-8")
        mappings = _mappings([number for number, _ in kept])
        content = {"version": 3, "sources": [source.name], "sourcesContent": [text], "names": [], "mappings": mappings}
        source_map.write_text(json.dumps(content), encoding="utf-8")
    return path, source_map


def _kept_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number (from 0) and text of each line that isn't blank or a comment. A comment has lines of its own."""
    is_comment = False
    for number, line in enumerate(text.splitlines()):
        stripped = line.strip()
        is_comment = is_comment or stripped.startswith("/*")
        if is_comment:
            is_comment = not stripped.endswith("*/")
        elif stripped and not stripped.startswith("//"):
            yield number, stripped


def _mappings(numbers: list[int]) -> str:
    """Return the mappings of a source map: each line of the file is one of the source, at column 0.

    A segment has four differences: column, source, line of the source, and its column (https://tc39.es/ecma426/).
    """
    previous = [0, *numbers]
    return ";".join(f"AA{_vlq(number - before)}A" for before, number in zip(previous, numbers, strict=False))


def _vlq(difference: int) -> str:
    """Encode a difference of 0 or more, in digits of five bits with the least significant first."""
    rest = difference << 1
    digits = []
    while rest > 31:
        digits.append(rest & 31 | 32)
        rest >>= 5
    return "".join(_VLQ_DIGITS[digit] for digit in [*digits, rest])

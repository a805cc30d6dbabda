"""The prose of this project: phrases that no docstring, comment, text, name or page of the documentation contains.

They are those of rule 4 of the project's style. A name counts as prose: its underscores are read as spaces.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("dramatiq_progress", "tests", "docs", "example", "benchmarks", "tools")
SUFFIXES = {".py", ".lua", ".js", ".css", ".ts", ".md", ".html", ".sh", ".toml"}
TOP_FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "noxfile.py", "pyproject.toml")

#: The phrases, as regular expressions in which a space is any white space.
PHRASES = (
    r"anew",
    r"in vain",
    r"heed(?:s|ed|ing|less)?",
    r"belie[sd]?|belying",
    r"t?hither",
    r"for good(?! reasons?\b| measure\b)",
    # Not "so long as", nor a consequence: "so many that …".
    r"so (?:long|many|often)(?! as\b)(?!(?: [\w'-]+){0,5} that\b)",
    r"at the (?:most|least)",
    r"what (?:becomes?|became|comes?|came|has become|has come) of",
    r"signs? of life",
    # "Else" for "otherwise", where that is certain: not "anything else", nor a keyword.
    r"(?:and|or|is|are|was|be|will|would|could|can|may|must|that|which) else",
    r"(?<=,) else",
    r"(?<=\() ?else",
    r"(?-i:Else) \w+",
)
PHRASE = re.compile("|".join(rf"(?<!\w)(?:{each})\b" for each in PHRASES).replace(" ", r"\s+"), re.IGNORECASE)

#: A docstring begins with a noun phrase or an imperative verb, and not with one of these.
FIRST_WORDS = {"What", "Whose", "How", "Who", "Those"}

#: Stands for everything that isn't prose.
CODE = "\0"


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (each for each in (ROOT / folder).rglob("*") if each.suffix in SUFFIXES and each.is_file())
    yield from (ROOT / each for each in TOP_FILES)


def prose(path: Path) -> str:
    """Return the prose of a file, each part on its own line, and other text replaced by `CODE`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return python_prose(text)
    if path.suffix in {".js", ".css", ".ts"}:
        return comments(text, r"/\*.*?\*/|(?<![:\"'`\w])//[^\n]*")
    if path.suffix == ".lua":
        return comments(text, r"--[^\n]*")
    if path.suffix in {".md", ".html"}:
        return text
    return comments(text, r"(?:(?<=\s)|\A)#[^\n]*")


def comments(text: str, pattern: str) -> str:
    """Return the comments of a text; those on consecutive lines are one."""
    kept, end = [], 0
    for found in re.finditer(pattern, text, re.DOTALL):
        kept += [re.sub(r"\S", CODE, text[end : found.start()]), re.sub(r"//|--|[/*#]", " ", found[0])]
        end = found.end()
    return "".join([*kept, re.sub(r"\S", CODE, text[end:])])


def python_prose(text: str) -> str:
    """Return the comments, strings and names of a module. Implicitly concatenated strings are one."""
    lines = [re.sub(r"\S", CODE, line) for line in text.splitlines(keepends=True)]
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            put(lines, token, token.string.replace("#", " "))
        elif token.type in strings:
            put(lines, token, re.sub(r"\A\w*['\"]+|['\"]+\Z", lambda found: " " * len(found[0]), token.string))
        elif token.type == tokenize.NAME and "_" in token.string:
            put(lines, token, token.string.replace("_", " "))
    return "".join(lines)


def put(lines: list[str], token: tokenize.TokenInfo, text: str) -> None:
    row, column = token.start
    for part in text.split("\n"):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + part + line[column + len(part) :]
        row, column = row + 1, 0


def phrases(path: Path) -> list[str]:
    text = prose(path)
    name = path.relative_to(ROOT)
    return [
        f"{name}:{text.count(chr(10), 0, found.start()) + 1}: {' '.join(found[0].split())}"
        for found in PHRASE.finditer(text)
    ]


def relative_clauses(path: Path) -> list[str]:
    """Return the docstrings that begin with a relative clause."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        words = (ast.get_docstring(node) or "").split() if isinstance(node, documented) else []
        if words and words[0] in FIRST_WORDS:
            found.append(f"{path.relative_to(ROOT)}:{node.body[0].lineno}: {' '.join(words[:4])} …")
    return found


def test_no_file_contains_a_phrase_that_reads_as_if_translated() -> None:
    found = [each for path in files() if path != Path(__file__) for each in phrases(path)]
    assert not found, "\n".join(found)


def test_no_docstring_begins_with_a_relative_clause() -> None:
    modules = [path for path in files() if path.suffix == ".py"]
    found = [each for path in modules for each in relative_clauses(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", 'x = 1  # written anew\ny = "in " "vain"\n', ["a.py:1: anew", "a.py:2: in vain"]),
        (
            "a.py",
            '"""Waits for\ngood."""\n\ndef lives_so_long() -> None: ...\n',
            ["a.py:1: for good", "a.py:4: so long"],
        ),
        ("a.py", "if a:\n    pass\nelse:  # so many that it stops; as long as it runs; anything else\n    pass\n", []),
        ("a.py", "# Where it may,\n# else not.\n", ["a.py:1: else"]),
        ("a.js", "if (a) b(); else c(); // at the most\nd('anew');\n", ["a.js:1: at the most"]),
        ("a.css", "/* a sign\n * of life */\n", ["a.css:1: sign of life"]),
        ("a.lua", "-- Else it is new.\nif a then b() else c() end\n", ["a.lua:1: Else it"]),
        ("a.md", "What came of it, for good reasons, or else nothing.\n", ["a.md:1: What came of", "a.md:1: or else"]),
        ("Makefile", "# Makes them anew.\nall:\n\techo anew\n", ["Makefile:1: anew"]),
    ],
    ids=["strings", "docstring", "keyword", "comments", "js", "css", "lua", "markdown", "makefile"],
)
def test_phrases_are_found_in_prose_and_not_in_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: list[str]
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert phrases(tmp_path / name) == expected

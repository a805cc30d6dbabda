"""The Lua scripts: the only writers of records, each atomic.

Each file starts with its flags and its purpose. A preamble is generated here: the script's arguments as local variables
(see `encoding.ARGUMENTS`), ``FIELDS`` as the position in ``ARGV`` where trailing fields and values start, and the
functions of prelude.lua for scripts that write a record.

With ``#!lua`` a server that is full refuses a script before it starts. Without it, one that has written anything (an
HDEL of nothing is enough) may continue and write beyond maxmemory: measured on Valkey 9.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

from dramatiq_progress.stores.encoding import ARGUMENTS, Call

#: What stands before the body of a script that writes records: the functions that it uses. ``part`` and ``gather`` have
#: no body of their own.
PRELUDES = {
    **dict.fromkeys(("enqueue", "start", "report", "finish", "cancel", "pause", "keep"), ("prelude",)),
    **dict.fromkeys(("part", "gather"), ("prelude", "composite")),
}

#: A command as its words. Those of scripts are EVALSHA or EVAL, the script, the number of keys, keys, arguments.
Command = Sequence[Any]


class Script(NamedTuple):
    """A script as the server knows it: its text, and the SHA-1 by which EVALSHA calls it."""

    text: str
    digest: str


def command(call: Call) -> Command:
    """Return the command that runs a script by its digest.

    EVALSHA also for scripts that only read, since the script's flags say so. A client for a cluster would have to ask
    a node which words of an EVALSHA_RO are keys.
    """
    return ("EVALSHA", SCRIPTS[call.script].digest, len(call.keys), *call.keys, *call.arguments)


def command_by_text(words: Command) -> Command:
    """Return the command that runs the same script by its text, from which a server learns it."""
    return ("EVAL", _TEXTS[words[1]], *words[2:])


def teaching(commands: Sequence[Command]) -> list[Command]:
    """Return the same commands for a server that doesn't know their scripts: the first of each has the text."""
    known: set[str] = set()
    found: list[Command] = []
    for words in commands:
        found.append(words if words[1] in known else command_by_text(words))
        known.add(words[1])
    return found


def first_key(words: Command) -> str:
    """Return the first key of a command, which determines the node of a cluster."""
    return str(words[3])


def _load(name: str, arguments: Sequence[str]) -> Script:
    flags, _, body = _read(name).partition("\n")
    text = "\n".join([flags, _preamble(arguments), *map(_read, PRELUDES.get(name, ())), body])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _preamble(arguments: Sequence[str]) -> str:
    if not arguments:
        return ""
    count = len(arguments)
    return f"local {', '.join(arguments)} = unpack(ARGV, 1, {count})\nlocal FIELDS = {count + 1}"


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


SCRIPTS = {name: _load(name, arguments) for name, arguments in ARGUMENTS.items()}
_TEXTS = {script.digest: script.text for script in SCRIPTS.values()}

#!/bin/sh
# Creates the virtual environment DIR with this project (editable) and one dependency group of pyproject.toml.
# usage: make-venv.sh DIR GROUP [PYTHON]
set -eu
directory=$1 group=$2 python=${3:-}

new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ -z "$python" ]; then
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if new_enough "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ] || ! new_enough "$python"; then
    echo "dramatiq-progress needs Python 3.11 or newer${python:+ ($python is older or missing)}." >&2
    echo "Install one, or pass its path: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

if [ ! -x "$directory/bin/pip" ]; then
    rm -rf "$directory"
    if ! "$python" -m venv "$directory"; then
        # Debian and Ubuntu have ensurepip in a separate package.
        rm -rf "$directory"
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq --no-install-recommends "python$version-venv"
            "$python" -m venv "$directory"
        else
            echo "This Python cannot create virtual environments. On Debian or Ubuntu: apt install python$version-venv" >&2
            exit 1
        fi
    fi
fi

# Dependency groups (PEP 735) need pip 25.1 or newer.
"$directory/bin/pip" install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
"$directory/bin/pip" install --quiet --disable-pip-version-check --editable . --group "$group"

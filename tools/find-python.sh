#!/bin/sh
# Prints the path of an interpreter with this version, from pyenv or the PATH. Fails if there is none.
# usage: find-python.sh 3.13
set -eu
version=$1

if command -v pyenv >/dev/null 2>&1; then
    for candidate in "$(pyenv root)"/versions/"$version".*/bin/python; do
        [ -x "$candidate" ] && echo "$candidate" && exit 0
    done
fi
# pyenv also puts a wrapper on the PATH, which fails if its version isn't selected.
"python$version" -c '' 2>/dev/null && command -v "python$version"

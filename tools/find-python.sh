#!/bin/sh
# Prints the path of an interpreter of a version, among pyenv's or on the PATH; fails where there is none.
# usage: find-python.sh 3.13
set -eu
version=$1

if command -v pyenv >/dev/null 2>&1; then
    for candidate in "$(pyenv root)"/versions/"$version".*/bin/python; do
        [ -x "$candidate" ] && echo "$candidate" && exit 0
    done
fi
# pyenv also puts a program on the PATH that fails unless its version is chosen.
"python$version" -c '' 2>/dev/null && command -v "python$version"

#!/bin/sh
# Sees to the programs that the tests use and pip cannot install: Chromium for the browser tests, RabbitMQ for the
# broker tests, Redis (Debian 12 has 7.0, the oldest that is supported) for the store's, libfaketime for machines
# whose clocks differ, and npm for TypeScript. Installs them as root on Debian and Ubuntu; elsewhere says what is
# missing, and those tests skip (with CI=true nothing may skip, and this fails).
# usage: system-packages.sh [PACKAGE …]; with packages, sees to these (their programs have the same names) instead.
set -eu

# Where Debian keeps the programs of RabbitMQ.
PATH=$PATH:/usr/lib/rabbitmq/bin
missing=
if [ $# -gt 0 ]; then
    for package in "$@"; do command -v "$package" >/dev/null 2>&1 || missing="$missing $package"; done
else
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 \
        || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
    command -v rabbitmq-server >/dev/null 2>&1 || missing="$missing rabbitmq-server"
    command -v faketime >/dev/null 2>&1 || missing="$missing faketime"
    command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$missing …"
    apt-get update -qq
    # The tests start servers of their own: with this run level the packages start none.
    # shellcheck disable=SC2086
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "Missing:$missing. What needs them will be skipped." >&2
    if [ "${CI:-}" = true ]; then
        echo "With CI=true nothing may be skipped." >&2
        exit 1
    fi
fi

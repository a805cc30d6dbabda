#!/bin/sh
# Installs the programs that the tests need and pip can't install: Chromium for the browser tests, Firefox and WebKitGTK
# (with Xvfb, since it has no headless mode) for those that compare engines, RabbitMQ for the broker tests, Redis (Debian
# 12 has 7.0, the oldest supported version) for the store tests, PostgreSQL and MariaDB for tests of querysets, libfaketime
# for tests with wrong clocks, and npm for TypeScript. It needs root on Debian or Ubuntu. Elsewhere it prints the missing
# packages, and their tests are skipped. With CI=true no test may be skipped, and it fails.
# usage: system-packages.sh [PACKAGE …]; with packages, installs these instead (their programs have the same names).
set -eu

# Debian installs the programs of RabbitMQ, MariaDB and each version of PostgreSQL there.
PATH=$PATH:/usr/lib/rabbitmq/bin:/usr/sbin
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
missing=
if [ $# -gt 0 ]; then
    for package in "$@"; do command -v "$package" >/dev/null 2>&1 || missing="$missing $package"; done
else
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 \
        || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
    command -v firefox-esr >/dev/null 2>&1 || command -v firefox >/dev/null 2>&1 || missing="$missing firefox-esr"
    command -v WebKitWebDriver >/dev/null 2>&1 || missing="$missing webkit2gtk-driver"
    command -v Xvfb >/dev/null 2>&1 || missing="$missing xvfb"
    command -v rabbitmq-server >/dev/null 2>&1 || missing="$missing rabbitmq-server"
    command -v faketime >/dev/null 2>&1 || missing="$missing faketime"
    command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
    command -v mariadbd >/dev/null 2>&1 || missing="$missing mariadb-server-core mariadb-client-core"
    command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$missing …"
    apt-get update -qq
    # With this run level the packages don't start their services. The tests start their own.
    # shellcheck disable=SC2086
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # The browser tests take less time with it, and can do without it: not every release has it.
    case $missing in *chromium*)
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell \
            >/dev/null 2>&1 || true ;;
    esac
else
    echo "Missing:$missing. The tests that need them will be skipped." >&2
    if [ "${CI:-}" = true ]; then
        echo "With CI=true no test may be skipped." >&2
        exit 1
    fi
fi

#!/usr/bin/env bash
# Goes through the web console with a real browser and real clusters: tests-interop/console. A journey fails if the page has
# an error of a script, breaks its content security policy, or asks another server for anything.
#
#   scripts/console.sh                       # every journey; installs missing packages
#   scripts/console.sh --only members        # those with this text in their name
#   scripts/console.sh --synodkv PROGRAM     # an existing program
#   scripts/console.sh --web crates/kv-server/src/admin/console/web  # its files from there, to try a change without a build
#   scripts/console.sh --shots docs/console  # makes the pictures of docs/CONSOLE.md instead
#
# Needs, and installs if missing: Debian's chromium (CHROMIUM names another one), node and npm; playwright-core of npm, which
# brings no browser of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

sources=$PWD/tests-interop/console
build="$CARGO_TARGET_DIR/console"
synodkv=
options=()

while [ "$#" -gt 0 ]; do
    case "$1" in
    --synodkv) synodkv=$(realpath "${2:?--synodkv: which program?}") ;;
    --only) options+=(--only "${2:?--only: which journeys?}") ;;
    --web) CONSOLE_WEB=$(realpath "${2:?--web: which folder?}"); export CONSOLE_WEB ;;
    --shots) options+=(--shots "$(realpath "${2:?--shots: which folder?}")") ;;
    *) die "unknown option $1; allowed: --synodkv, --only, --web and --shots" ;;
    esac
    shift 2
done

install_system_packages node
export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
[ -x "$CHROMIUM" ] || apt_install chromium

if [ -z "$synodkv" ]; then
    require_cargo
    cargo build --quiet --locked -p synodkv
    synodkv=$CARGO_TARGET_DIR/debug/synodkv
fi

mkdir -p "$build"
cp "$sources"/package.json "$sources"/*.js "$build"
if [ ! -d "$build/node_modules/playwright-core" ] || ! cmp -s "$sources/package.json" "$build/installed.json"; then
    (cd "$build" && npm install --silent --no-audit --no-fund --no-package-lock)
    cp "$sources/package.json" "$build/installed.json"
fi
cd "$build"
exec node run.js "$synodkv" ${options[@]+"${options[@]}"}

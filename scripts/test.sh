#!/usr/bin/env bash
# Runs every check: format, lints, circles of imports, the language of comments and documentation, links, dependency rules,
# unit and cluster tests, tests of the benchmarks, stock Thrift clients of Python and Node.js, and journeys through the web
# console. It installs missing packages, but for the browser. Arguments are passed to `cargo test`, and then nothing else runs:
#
#   scripts/test.sh                    # everything
#   scripts/test.sh failover           # the tests whose name contains "failover"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

run_tests() {
    say "cargo test --release --workspace"
    cargo test --release --workspace --locked
}

check_format() {
    say "cargo fmt --check"
    cargo fmt --all --check
}

check_lints() {
    say "cargo clippy"
    cargo clippy --release --workspace --all-targets --locked -- -D warnings
}

# Advisories need the network; licences, bans and sources do not.
check_dependencies() {
    if ! command -v cargo-deny >/dev/null; then
        say "skipped: cargo deny (not installed; cargo install cargo-deny)"
        return 0
    fi
    say "cargo deny check bans licenses sources"
    cargo deny check bans licenses sources
}

check_scripts() {
    if ! command -v shellcheck >/dev/null; then
        say "skipped: shellcheck (not installed)"
        return 0
    fi
    say "shellcheck"
    shellcheck -x scripts/*.sh .ci/run
}

# Circles of imports between modules.
check_circles() {
    say "check-circles"
    scripts/check-circles.py --self-test
    scripts/check-circles.py
}

# Limits for the English of the comments, words that are retired, and links that lead nowhere.
check_texts() {
    say "scripts/english.py --check, scripts/check-links.py"
    python3 scripts/english.py --check
    python3 scripts/check-links.py
}

# The arithmetic of the benchmarks, and the load generator of other systems, which is a workspace of its own.
check_benchmarks() {
    say "bench/selftest.py; cargo fmt, clippy and test in bench/peers"
    python3 bench/selftest.py
    local manifest=bench/peers/Cargo.toml
    cargo fmt --check --manifest-path "$manifest"
    cargo clippy --release --all-targets --locked --manifest-path "$manifest" -- -D warnings
    cargo test --release --locked --manifest-path "$manifest"
}

# A check that visits hardly any state fails, too.
check_model() {
    say "the small bounds of the model check"
    cargo test --release --package proof --features model --test model --locked
}

# C++ and Rust clients are left to scripts/interop.sh alone: they need some 150 MB of packages and a minute to compile.
check_interoperability() {
    local clients=python
    if { command -v node && command -v npm; } >/dev/null; then
        clients+=,node
    else
        say "skipped: clients of Node.js (node or npm is not installed)"
    fi
    scripts/interop.sh --clients "$clients" --synodkv "$CARGO_TARGET_DIR/release/synodkv"
}

check_backups() {
    scripts/backup-s3.sh --synodkv "$CARGO_TARGET_DIR/release/synodkv"
}

# In a real browser, which this script does not install: it brings some 300 MB.
check_console() {
    local need missing=()
    for need in "${CHROMIUM:-/usr/bin/chromium}" node npm; do
        command -v "$need" >/dev/null || missing+=("$need")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        say "skipped: journeys through the web console (not installed: ${missing[*]})"
        return 0
    fi
    say "scripts/console.sh"
    scripts/console.sh --synodkv "$CARGO_TARGET_DIR/release/synodkv"
}

install_system_packages build python thrift
require_cargo
if [ "$#" -gt 0 ]; then
    build_with_rocksdb cargo test --release --workspace --locked "$@"
    exit 0
fi
check_format
check_scripts
check_circles
check_texts
check_dependencies
build_release
check_lints
run_tests
check_model
check_benchmarks
check_interoperability
check_backups
check_console
say "all checks passed"

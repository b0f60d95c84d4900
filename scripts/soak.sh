#!/usr/bin/env bash
# Runs three real processes with few open files and little memory, under clients that behave badly: slow readers, half-open
# connections, huge ranges, pipelines, reconnect storms, wrong protocols, abandoned pins. Exit status 1 if a process ended, an
# acknowledged write is missing, a process took more memory than its limit, or a well-behaved client waited more than ten
# times as long (p99) as alone.
#
#   scripts/soak.sh                              # 30 minutes at 1,024 open files and 1 GiB for each process
#   scripts/soak.sh --minutes 5 --files 512 --memory-mb 768
#
# All servers listen on 127.0.0.1. The data lies in a folder of its own, which is removed after success (not with --keep).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

require_cargo
install_system_packages build
build_release
# The clients need as many connections as they open.
ulimit -n "$(ulimit -H -n)"
exec "$CARGO_TARGET_DIR/release/soak" --program "$CARGO_TARGET_DIR/release/synodkv" "$@"

#!/usr/bin/env bash
# Runs three real processes, with RocksDB and a synchronised log, under kill -9, SIGSTOP, cut and slow links, full and
# hanging disks, while clients work; at the end it judges their histories. Exit status 1 if a guarantee was broken.
#
#   scripts/chaos.sh                            # 15 minutes, a fresh seed
#   scripts/chaos.sh --minutes 5 --seed 7       # the schedule of seed 7 (the timing is never the same)
#   scripts/chaos.sh --seed 7 --schedule        # only print what would happen
#
# Each replica has its own file system: in a file, if loop devices can be mounted (root); otherwise a tmpfs; otherwise the
# script leaves out full and hanging disks, and says so. All servers listen on 127.0.0.1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

require_cargo
install_system_packages build
build_release
exec "$CARGO_TARGET_DIR/release/chaos" --program "$CARGO_TARGET_DIR/release/synodkv" "$@"

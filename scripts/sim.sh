#!/usr/bin/env bash
# Simulates whole clusters with faults: see docs/TESTING.md.
#
#   scripts/sim.sh --seed N [--verbose]     one seed, twice, with the hash of everything that happened
#   scripts/sim.sh --minutes M              fresh seeds on all cores
#   scripts/sim.sh --seeds N
#
# Further options: --replicas 1|3|5|mix, --first-seed N, --threads N, --require-coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${SYNODKV_TARGET_DIR:-$HOME/.cache/synodkv/target}"
cargo build --release --quiet --package proof --features coverage --bin sim
exec "$CARGO_TARGET_DIR/release/sim" "$@"

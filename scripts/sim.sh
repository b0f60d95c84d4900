#!/usr/bin/env bash
# Simulates whole clusters with faults: see docs/TESTING.md.
#
#   scripts/sim.sh --seed N [--verbose]     one seed, twice, with the hash of all events
#   scripts/sim.sh --minutes M              fresh seeds on all cores
#   scripts/sim.sh --seeds N
#   scripts/sim.sh --hours H --summary FILE all modes in turn, half of the seeds steered by coverage
#   scripts/sim.sh --help                   all options
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${SYNODKV_TARGET_DIR:-$HOME/.cache/synodkv/target}"
cargo build --release --quiet --package proof --features coverage --bin sim
exec "$CARGO_TARGET_DIR/release/sim" "$@"

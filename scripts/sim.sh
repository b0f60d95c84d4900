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
# Whole crates are compiled in one piece, which takes longer and makes the simulator a tenth faster; and memory stays with the
# process between two runs.
one_piece=()
for crate in rsml kv-store kv-server proof; do
    one_piece+=(--config "profile.release.package.$crate.codegen-units=1")
done
export MIMALLOC_PURGE_DELAY="${MIMALLOC_PURGE_DELAY:--1}"
cargo build "${one_piece[@]}" --release --quiet --package proof --features coverage --bin sim
exec "$CARGO_TARGET_DIR/release/sim" "$@"

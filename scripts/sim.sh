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
# Everything is compiled in one piece and for this processor, in a folder of its own: it takes two minutes more, and a run
# takes a fifth less. Memory stays with the process between two runs.
export CARGO_TARGET_DIR="$CARGO_TARGET_DIR/sim"
export RUSTFLAGS="${RUSTFLAGS:-} -C target-cpu=native"
export MIMALLOC_PURGE_DELAY="${MIMALLOC_PURGE_DELAY:--1}"
cargo build --config 'profile.release.lto="fat"' --config profile.release.codegen-units=1 --release --quiet \
    --package proof --features coverage --bin sim
exec "$CARGO_TARGET_DIR/release/sim" "$@"

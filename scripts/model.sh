#!/usr/bin/env bash
# Visits every state of small clusters of the shipped consensus core, and prints the number of states.
#
#   scripts/model.sh                                     # the row of bounds in docs/TESTING.md, several minutes
#   scripts/model.sh --quick                             # bounds small enough for every commit, under a minute
#   scripts/model.sh --views 2 --entries 1 --reads 1     # bounds of your own; --help lists them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

require_cargo
if [[ "${1:-}" == --quick ]]; then
    exec cargo test --release -p proof --features model --test model --locked
fi
cargo build --release -p proof --features model --bin model --locked
program="${CARGO_TARGET_DIR:-target}/release/model"
if [[ $# -gt 0 ]]; then
    exec "$program" "$@"
fi

# Completely, if the time allows: otherwise it prints "not complete", and fails only if a check fails.
run() {
    say "model $*"
    "$program" --seconds 900 "$@"
}
run --views 2 --entries 0 --ticks 0 --disks writes
run --views 3 --entries 0 --ticks 0
run --views 4 --entries 0 --ticks 0 --disks instant
run --views 2 --entries 1 --ticks 0 --disks instant
run --views 2 --entries 0 --ticks 0 --reads 1 --disks instant
run --views 1 --entries 0 --ticks 0 --restarts 1
run --views 2 --entries 0 --ticks 0 --restarts 1 --disks instant
# Voters change: of three to two, to two others, and from one to two others; the numbers are sums of 2^N.
run --founders 7 --successors 3 --seals 1 --views 1 --entries 0 --ticks 0 --disks instant
run --founders 7 --successors 6 --seals 1 --views 2 --entries 0 --ticks 0 --disks instant
run --founders 3 --successors 6 --seals 2 --views 3 --entries 0 --ticks 0 --reads 1 --disks instant
run --founders 1 --successors 6 --seals 2 --views 3 --entries 0 --ticks 0 --restarts 1 --disks instant
say "random walks within bounds that are too wide for a complete visit"
"$program" --order walk --seed "$RANDOM" --seconds 120 --views 7 --entries 4 --reads 3 --restarts 3 --ticks 9 \
    --probes 4 --pipeline 4 --disks writes --clients-everywhere
"$program" --order walk --seed "$RANDOM" --seconds 120 --replicas 5 --founders 7 --successors 28 --seals 3 --views 7 \
    --entries 4 --reads 3 --restarts 3 --ticks 9 --probes 4 --pipeline 4 --disks writes --clients-everywhere

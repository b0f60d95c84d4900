#!/usr/bin/env bash
# The benchmark behind docs/BENCHMARKS.md: the disk, raw RocksDB, a standalone server and a cluster of three processes take
# turns in one run, because a machine is not equally fast at all times. Prints the medians.
#
#   scripts/bench.sh [ROUNDS [SECONDS]]      puts; 3 rounds of 5 seconds each by default; about 5 minutes
#   scripts/bench.sh --ycsb [ROUNDS [SECONDS]]
#                                            YCSB A to F and transactions; about 6 minutes
#   scripts/bench.sh --against PATH          this build and another one in turns, with their ratios
#   scripts/bench.sh --cpu-quota 0.4         each server process with that much of a processor; needs root
#   scripts/bench.sh --help                  all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

[[ " $* " =~ \ (--help|-h)\  ]] && exec python3 bench/bench.py --help
if ! [[ " $* " =~ \ --binary[\ =] ]]; then
    require_cargo
    install_system_packages build
    build_release
fi
exec python3 bench/bench.py "$@"

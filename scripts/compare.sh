#!/usr/bin/env bash
# Compares this server with etcd, ZooKeeper and Redis on this machine, in turns, and prints medians and ratios.
#
#   scripts/compare.sh                                     # everything: some 45 minutes
#   scripts/compare.sh --systems synodkv,etcd --workloads put --clients 1,64 --rounds 1
#   scripts/compare.sh --binary PATH                       # with this program, instead of building ours
#   scripts/compare.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

[[ " $* " =~ \ (--help|-h)\  ]] && exec python3 bench/compare.py --help
require_cargo
if ! [[ " $* " =~ \ --binary[\ =] ]]; then
    install_system_packages build
    build_release
fi
say "building the load generator of the others (bench/peers)"
cargo build --release --locked --quiet --manifest-path bench/peers/Cargo.toml
exec python3 bench/compare.py "$@"

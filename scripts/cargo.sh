#!/usr/bin/env bash
# Runs cargo as all scripts do: with their target directory, and with the RocksDB that was compiled before.
#
#   scripts/cargo.sh test --release --workspace failover
#   scripts/cargo.sh check --workspace --all-targets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

install_system_packages build
require_cargo
build_with_rocksdb cargo "$@"

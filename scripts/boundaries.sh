#!/usr/bin/env bash
# Changes single comparisons, sums and conditions of a crate, one at a time, in a copy of the tree, and lists the changes that
# no test notices: see docs/TESTING.md, "Boundary mutations".
#
#   scripts/boundaries.sh kv-store                     comparisons of versions, times and bytes in the database
#   scripts/boundaries.sh rsml                         the consensus core and its log
#   scripts/boundaries.sh kv-store gc/window.rs        these files only
#   scripts/boundaries.sh kv-store --survivors         only the changes that survived the last run, for instance with new tests
#   scripts/boundaries.sh --help
#
# Needs cargo-mutants: cargo install cargo-mutants --locked
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

require_cargo
exec python3 mutations/boundaries.py "$@"

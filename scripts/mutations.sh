#!/usr/bin/env bash
# Plants known bugs, one at a time, in a copy of the tree, and prints the check that finds each: see docs/TESTING.md.
#
#   scripts/mutations.sh                       every patch in mutations/, until a check finds it
#   scripts/mutations.sh --only NAME...        these only
#   scripts/mutations.sh --patch FILE...       patches from outside
#   scripts/mutations.sh --sample 3            three, drawn at random
#   scripts/mutations.sh --all --markdown      the simulator tries all of them, five times; the table for the manual
#   scripts/mutations.sh --glue                tests of whole servers must find the rest
#   scripts/mutations.sh --help                the other options
#
# Exit status 1 if a mutation survives, or can't be planted.
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/../mutations/run.py" "$@"

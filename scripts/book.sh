#!/usr/bin/env bash
# Makes a book of the documentation, with mdBook (cargo install mdbook), and checks it: the links of its pages, the excerpts of
# code in the tutorials, the diagrams. The last line on standard output is the first page.
#
#   scripts/book.sh                 # into $CARGO_TARGET_DIR/book
#   scripts/book.sh --output DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

output="$CARGO_TARGET_DIR/book"
if [ "${1:-}" = --output ]; then
    output="${2:?--output needs a folder}"
elif [ "$#" -gt 0 ]; then
    die "unknown argument $1; allowed: --output DIR"
fi
output="$(realpath -m "$output")"

command -v mdbook >/dev/null || die "mdbook not found: cargo install mdbook"
python3 scripts/diagrams.py --check
python3 scripts/book.py excerpts
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 scripts/book.py stage "$work"
mdbook build --dest-dir "$output" "$work" >&2
python3 scripts/book.py links "$output"
echo "$output/index.html"

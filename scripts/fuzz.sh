#!/usr/bin/env bash
# Fuzzes every reader of bytes from outside: Thrift messages, messages of peers, stored records, the files of the log.
# libFuzzer is guided by coverage; the stable toolchain is enough.
#
#   scripts/fuzz.sh                              # every target, 60 seconds each
#   scripts/fuzz.sh --target wal_damage --seconds 600
#   scripts/fuzz.sh --target wal_damage --input FILE   # one input again
#
# New inputs that reach further are kept in fuzz/corpus/TARGET, reduced to a minimal set. A failing input is kept in
# fuzz/artifacts/TARGET; put it into fuzz/regressions/TARGET together with the fix. `cargo test -p fuzz-targets` replays
# both folders, with random mutations, without libFuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

# A directory apart from the other builds: everything here is compiled with other flags.
export CARGO_TARGET_DIR="${SYNODKV_FUZZ_TARGET_DIR:-$HOME/.cache/synodkv/fuzz-target}"
TRIPLE="$(rustc -vV | sed -n 's/^host: //p')"
readonly MAX_LENGTH_BYTES=8192
# Kept inputs are part of every clone, so they must be short.
readonly MAX_KEPT_BYTES=4096

targets=() seconds=60 input=""
while [ "$#" -gt 0 ]; do
    case "$1" in
    --target) targets+=("${2:?--target needs a name}") && shift 2 ;;
    --seconds) seconds="${2:?--seconds needs a number}" && shift 2 ;;
    --input) input="${2:?--input needs a file}" && shift 2 ;;
    *) die "unknown argument $1; usage: scripts/fuzz.sh [--target NAME] [--seconds S] [--input FILE]" ;;
    esac
done

build() {
    local flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
    flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
    say "building the fuzzers"
    # The versions of the product; only libFuzzer is added.
    cp Cargo.lock fuzz/Cargo.lock
    RUSTFLAGS="$flags" cargo build --release --target "$TRIPLE" --manifest-path fuzz/Cargo.toml "${targets[@]/#/--bin=}"
}

fuzzer() { echo "$CARGO_TARGET_DIR/$TRIPLE/release/$1"; }

# The last number that follows a word in a log of libFuzzer.
last_number() { sed -n "s/^\(#.* \|stat::\)$1: *\([0-9]*\).*/\2/p" "$2" | tail -n 1; }

# fuzz TARGET: status 1 if an input failed.
fuzz() {
    local target="$1" work status=0
    work="$(mktemp -d)"
    mkdir -p "$work/seeds" "$work/new" "fuzz/corpus/$target" "fuzz/regressions/$target" "fuzz/artifacts/$target"
    FUZZ_SEED_FOLDER="$work/seeds" "$(fuzzer "$target")" -runs=0 >"$work/log" 2>&1
    "$(fuzzer "$target")" -max_total_time="$seconds" -max_len="$MAX_LENGTH_BYTES" -timeout=20 -rss_limit_mb=2048 \
        -use_value_profile=1 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" \
        "$work/new" "fuzz/corpus/$target" "fuzz/regressions/$target" "$work/seeds" >"$work/log" 2>&1 || status=1
    printf '%-20s %12s executions %8s edges %8s features\n' "$target" \
        "$(last_number 'number_of_executed_units' "$work/log")" "$(last_number 'cov' "$work/log")" \
        "$(last_number 'ft' "$work/log")"
    if [ "$status" -ne 0 ]; then
        local failed
        failed="$(sed -n 's/.*Test unit written to //p' "$work/log" | tail -n 1)"
        grep -vE '^#|^INFO|^WARNING|NEW_FUNC' "$work/log" | head -n 40 >&2
        say "$target failed; replay: scripts/fuzz.sh --target $target --input $failed"
        say "or without libFuzzer: cargo run --release -p fuzz-targets -- run $target $failed"
    else
        keep "$target" "$work"
    fi
    rm -rf "$work"
    return "$status"
}

# The smallest set of short inputs that, together with the seeds, reaches as far as all of them.
keep() {
    local target="$1" work="$2"
    mkdir -p "$work/kept"
    "$(fuzzer "$target")" -set_cover_merge=1 -use_counters=0 -max_len="$MAX_KEPT_BYTES" "$work/kept" "$work/seeds" "fuzz/corpus/$target" \
        "$work/new" >/dev/null 2>&1
    local seed name
    for seed in "$work/seeds"/*; do
        name="$(sha1sum "$seed" | cut -d' ' -f1)"
        rm -f "$work/kept/$name"
    done
    rm -rf "fuzz/corpus/$target"
    mv "$work/kept" "fuzz/corpus/$target"
}

require_cargo
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
fi
build
if [ -n "$input" ]; then
    exec "$(fuzzer "${targets[0]}")" "$input"
fi
failed=0
for target in "${targets[@]}"; do
    fuzz "$target" || failed=1
done
exit "$failed"

# shellcheck shell=bash
# Sourced by prepare.sh: the compiled RocksDB, which is most of a first build.
#
# The build that compiles it (343 files of C++) leaves it in SYNODKV_CACHE_DIR, by default ~/.cache/synodkv, under a key of
# everything that decides its content: the version of the crate, the compiler, the flags. Later builds find it there,
# whatever their target directory, profile and features. A folder of an older key may be deleted.

# How many files the crate's build script compiles; only for the estimate of the time that is left.
ROCKSDB_FILES=343

rocksdb_kept() {
    local version key
    version="$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)"
    key="$({
        "${CXX:-c++}" --version
        uname -m
        echo "${CXXFLAGS:-} ${RUSTFLAGS:-}"
    } | sha256sum | cut -c1-12)"
    echo "${SYNODKV_CACHE_DIR:-$HOME/.cache/synodkv}/rocksdb/${version//+/-}-$key"
}

# The library that a build has compiled into the target directory, if one has.
rocksdb_compiled() {
    local found=()
    mapfile -t found < <(compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a")
    [ "${#found[@]}" -gt 0 ] || return 1
    # The newest: another version may have been compiled there before.
    find "${found[@]}" -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2-
}

# Lets cargo use a kept library. ROCKSDB_LIB_DIR names another one of the same version; ROCKSDB_COMPILE=1 asks for a compilation.
use_rocksdb() {
    local kept
    [ -z "${ROCKSDB_LIB_DIR:-}" ] && [ "${ROCKSDB_COMPILE:-}" != 1 ] || return 0
    kept="$(rocksdb_kept)"
    if [ -e "$kept/librocksdb.a" ]; then
        say "RocksDB was compiled before: $kept"
        export ROCKSDB_LIB_DIR="$kept" ROCKSDB_STATIC=1
    else
        say "first build: RocksDB is compiled from source, about 20 minutes on two cores; later builds find it in $kept"
    fi
}

# Keeps the library for later builds. A failure costs only the next compilation.
keep_rocksdb() {
    local kept compiled
    [ -z "${ROCKSDB_LIB_DIR:-}" ] || return 0
    compiled="$(rocksdb_compiled)" || return 0
    kept="$(rocksdb_kept)"
    if [ -e "$kept/librocksdb.a" ]; then return 0; fi
    if mkdir -p "$kept" && cp "$compiled" "$kept/librocksdb.a.$$" && mv "$kept/librocksdb.a.$$" "$kept/librocksdb.a"; then
        say "kept the compiled RocksDB in $kept"
    else
        say "cannot keep the compiled RocksDB in $kept; the next target directory compiles it again"
    fi
}

# Says every half minute how far the compilation of RocksDB is, as long as there is one. Runs until it is stopped.
watch_rocksdb() {
    local began="$SECONDS" first='' now left
    while sleep "${1:-30}"; do
        # At first the folder does not exist.
        now="$({ find "$CARGO_TARGET_DIR/release/build" -path '*/librocksdb-sys-*/out/*.o' -newer "$2" 2>/dev/null || true; } | wc -l)"
        if [ "$now" -eq 0 ] || [ "$now" -ge "$ROCKSDB_FILES" ]; then continue; fi
        # Reckoned from the first look on: what was compiled before is no measure of the time.
        if [ -z "$first" ]; then first="$now" began="$SECONDS"; continue; fi
        if [ "$now" -eq "$first" ]; then continue; fi
        left=$(((SECONDS - began) * (ROCKSDB_FILES - now) / (now - first)))
        say "RocksDB: $now of $ROCKSDB_FILES files compiled, about $((left / 60 + 1)) minutes left"
    done
}

# build_with_rocksdb COMMAND…: runs a build with a kept library, or with reports on the compilation of one, and keeps it.
build_with_rocksdb() {
    local start watcher status=0
    use_rocksdb
    start="$(mktemp)"
    watch_rocksdb 30 "$start" &
    watcher=$!
    "$@" || status=$?
    # Its `sleep` ends by itself.
    kill "$watcher" 2>/dev/null || true
    rm -f "$start"
    [ "$status" -eq 0 ] || return "$status"
    keep_rocksdb
}

#!/usr/bin/env bash
# Compiles RocksDB to a library that every later build uses, whatever its target directory, profile and features, and prints
# the folder of that library. scripts/prepare.sh calls this; a build by hand uses the library with
#
#   export ROCKSDB_LIB_DIR="$(scripts/rocksdb.sh)" ROCKSDB_STATIC=1
#
# The library is kept in SYNODKV_CACHE_DIR (by default ~/.cache/synodkv), under a key of everything that decides its content:
# the version of the crate, the compiler, the flags. A folder of an older key may be deleted.
#
# Compiled are the sources and the definitions of the crate's own build script, but several sources at a time as one: most
# of the time goes into the same headers again and again. RocksDB is tested that way upstream (its target `unity`). A group
# that does not compile as one is compiled source by source.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${SYNODKV_CACHE_DIR:-$HOME/.cache/synodkv}/rocksdb"
# Sources in a group: more are faster to compile, need more memory (600 MB each), and leave less to do in parallel.
group=8
jobs="${CARGO_BUILD_JOBS:-$(nproc)}"
compiler="${CXX:-c++}"

say() { printf '==> %s\n' "$*" >&2; }

# The folder of a crate's source, as Cargo.lock chooses it. Downloads it if necessary.
source_of() {
    local manifest
    manifest="$(cargo metadata --locked --format-version 1 --filter-platform "$host" |
        grep -o "\"manifest_path\":\"[^\"]*/$1-[0-9][^\"]*Cargo.toml\"" | head -n 1 | cut -d'"' -f4)"
    dirname "$manifest"
}

host="$(rustc -vV | sed -n 's/^host: //p')"
crate="$(source_of librocksdb-sys)"
lz4="$(source_of lz4-sys)/liblz4/lib"
flags=(
    -O3 -fPIC -std=c++20 -w -include cstdint -ffunction-sections -fdata-sections
    -DNDEBUG=1 -DLZ4=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
    -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX
    -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
)
read -ra more <<<"${CXXFLAGS:-}"
flags+=("${more[@]}")
key="$(basename "$crate" | tr '+' '-')-$({
    "$compiler" --version
    uname -m
    echo "${flags[@]}" "$group"
} | sha256sum | cut -c1-12)"
folder="$cache/$key"

if [ -e "$folder/librocksdb.a" ]; then
    echo "$folder"
    exit 0
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/objects"

# One file of includes for each group, in the order of the crate's list, which keeps folders together.
grep -v '^util/build_version.cc$' "$crate/rocksdb_lib_sources.txt" | split --lines="$group" - "$work/group-"
for list in "$work"/group-*; do
    sed 's|.*|#include "&"|' "$list" >"$list.cc"
done
export CRATE="$crate" WORK="$work" COMPILER="$compiler"
export FLAGS="${flags[*]} -I$crate/rocksdb/include -I$crate/rocksdb -I$crate -I$lz4"

# shellcheck disable=SC2016
compile_group='
set -eu
list="$1" name="$(basename "$1")"
if ! $COMPILER $FLAGS -c "$list.cc" -o "$WORK/objects/$name.o" 2>"$list.errors"; then
    while read -r source; do
        $COMPILER $FLAGS -c "$CRATE/rocksdb/$source" -o "$WORK/objects/$(echo "$source" | tr / -).o"
    done <"$list"
fi
echo "$name"
'
total="$(find "$work" -name 'group-*.cc' | wc -l)"
began="$SECONDS"
report() {
    local done=0 left
    while read -r _; do
        done=$((done + 1))
        left=$(((SECONDS - began) * (total - done) / done))
        say "RocksDB: $done of $total groups compiled, about $((left / 60)) min $((left % 60)) s left"
    done
}
say "compiling RocksDB, once ($(basename "$crate"), $jobs at a time); later builds find it in $folder"
# The largest groups have names in between, so the order of the list is as good as any.
find "$work" -name 'group-*' ! -name '*.cc' | sort | xargs -P "$jobs" -n 1 bash -c "$compile_group" compile | report
[ "${PIPESTATUS[0]}" -eq 0 ]
# shellcheck disable=SC2086
"$compiler" $FLAGS -c "$crate/build_version.cc" -o "$work/objects/build_version.o"
mkdir -p "$folder"
ar crs "$folder/librocksdb.a.new" "$work"/objects/*.o
mv "$folder/librocksdb.a.new" "$folder/librocksdb.a"
say "RocksDB took $((SECONDS - began)) s"
echo "$folder"

# shellcheck shell=bash
# Sourced by the other scripts: prepares a machine for a build.
#
# Owns the system packages, and the one target directory and profile of all builds, outside the clone, where a fresh checkout
# finds them again. So it does RocksDB: see scripts/rocksdb.sh.

export CARGO_TARGET_DIR="${SYNODKV_TARGET_DIR:-$HOME/.cache/synodkv/target}"

# shellcheck source=scripts/rocksdb.sh
source scripts/rocksdb.sh

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "need root to run: $* (no sudo here; run it as root, then start this script again)"
    fi
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}

# The compiler's own headers (stddef.h), which libclang reads while it generates the bindings to RocksDB.
have_clang_headers() {
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null ||
        compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

# Debian 12 has libclang 14 in two small packages; elsewhere libclang-dev brings the available version.
clang_packages() {
    if apt-cache show libclang1-14 libclang-common-14-dev >/dev/null 2>&1; then
        echo libclang1-14 libclang-common-14-dev
    else
        echo libclang-dev
    fi
}

apt_install() {
    say "installing system packages: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

# install_system_packages [build] [python] [thrift] [node] [libthrift]: installs the named ones that are missing.
install_system_packages() {
    local -a missing=()
    local need need_clang=no
    for need in "$@"; do
        case "$need" in
        build)
            command -v c++ >/dev/null || missing+=(g++)
            { have_libclang && have_clang_headers; } || need_clang=yes
            ;;
        python) python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv) ;;
        thrift) command -v thrift >/dev/null || missing+=(thrift-compiler) ;;
        node) { command -v node && command -v npm; } >/dev/null || missing+=(nodejs npm) ;;
        libthrift)
            command -v g++ >/dev/null || missing+=(g++)
            [ -e /usr/include/thrift/Thrift.h ] || missing+=(libthrift-dev)
            [ -e /usr/include/boost/version.hpp ] || missing+=(libboost-dev)
            ;;
        *) die "install_system_packages: unknown need $need" ;;
        esac
    done
    if [ "${#missing[@]}" -eq 0 ] && [ "$need_clang" = no ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        die "missing: ${missing[*]:-} $([ "$need_clang" = no ] || echo 'libclang with its headers');" \
            "this system has no apt-get, so please install them by hand"
    fi
    say "refreshing the list of system packages (apt-get update)"
    as_root apt-get update -q >&2
    if [ "$need_clang" = yes ]; then
        local -a clang
        read -ra clang <<<"$(clang_packages)"
        missing+=("${clang[@]}")
    fi
    apt_install "${missing[@]}"
}

require_cargo() {
    command -v cargo >/dev/null || die "cargo not found: install Rust 1.89 or later (https://rustup.rs), then start this script again"
}

# For `synodkv --version --verbose`. Only packages name the commit: another one would be another build.
name_commit() {
    SYNODKV_COMMIT="$(git rev-parse --short=12 HEAD 2>/dev/null)" || return 0
    export SYNODKV_COMMIT
}

# Always builds the whole workspace: a part of it may choose other features, and RocksDB would be built again.
build_release() {
    say "building (cargo build --release --workspace)"
    build_with_rocksdb cargo build --release --workspace --locked
}

#!/usr/bin/env bash
# Runs the scenario of tests-interop/SCENARIO.md with stock Thrift clients of four languages. Their code is made by the stock
# compiler, from the present interface and from the one of existing clients. The servers are a standalone one, one with TLS,
# three replicas in one process, three processes, and three processes with TLS and authentication. Ends with a table; exit
# status 1 if a step failed.
#
#   scripts/interop.sh                                   # everything; installs missing packages
#   scripts/interop.sh --clients python,node             # of python, node, cpp, rust
#   scripts/interop.sh --modes standalone,cluster        # of standalone, encrypted, replicated, cluster, guarded
#   scripts/interop.sh --synodkv PROGRAM --engine memory # an existing program, perhaps without RocksDB
#   scripts/interop.sh -- -x -k "range"                  # options after -- go to pytest
#
# Needs, and installs if missing: Debian's thrift-compiler and python3-venv; node and npm for node; libthrift-dev,
# libboost-dev and g++ for cpp; packages of PyPI, npm and crates.io.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

sources=$PWD/tests-interop
current=$PWD/crates/kv-api/thrift/kvstore.thrift
legacy=$sources/legacy.thrift
build="$CARGO_TARGET_DIR/interop"

clients=python,node,cpp,rust
modes=standalone,encrypted,replicated,cluster,guarded
synodkv=
engine=rocksdb

parse_options() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --clients) clients=${2:?--clients: which?} ;;
        --modes) modes=${2:?--modes: which?} ;;
        --synodkv) synodkv=${2:?--synodkv: which program?} ;;
        --engine) engine=${2:?--engine: rocksdb or memory?} ;;
        --) shift; pytest_options=("$@"); return ;;
        *) die "unknown option $1; allowed: --clients, --modes, --synodkv, --engine, and -- before options of pytest" ;;
        esac
        shift 2
    done
}

wants() { case ",$clients," in *",$1,"*) true ;; *) false ;; esac; }

install_needs() {
    local -a needs=(python thrift)
    local client
    for client in ${clients//,/ }; do
        case "$client" in
        python) ;;
        node) needs+=(node) ;;
        cpp) needs+=(libthrift) ;;
        rust) require_cargo ;;
        *) die "--clients $client; allowed: python, node, cpp, rust" ;;
        esac
    done
    install_system_packages "${needs[@]}"
}

# in_new_folder FOLDER INPUTS… -- COMMAND…: runs the command in an empty folder, unless it has run there with equal inputs.
in_new_folder() {
    local folder=$1 digest
    local -a inputs=()
    shift
    while [ "$1" != -- ]; do
        inputs+=("$1")
        shift
    done
    shift
    digest=$({ thrift --version; echo "$*"; find "${inputs[@]}" -type f -print0 | sort -z | xargs -0 cat; } | sha256sum)
    if [ "$digest" != "$(cat "$folder/made-from" 2>/dev/null)" ]; then
        say "making $folder"
        rm -rf "$folder"
        mkdir -p "$folder"
        (cd "$folder" && "$@")
        echo "$digest" >"$folder/made-from"
    fi
}

generate() { # LANGUAGE INTERFACE FOLDER
    mkdir -p "$3"
    thrift --strict --gen "$1" -out "$3" "$2"
}

make_venv() {
    python3 -m venv .
    bin/pip install --quiet --disable-pip-version-check -r "$sources/requirements.txt"
}

make_node_modules() {
    cp "$sources/node/package.json" .
    npm install --silent --no-audit --no-fund --no-package-lock
}

make_python() { generate py:dynamic,slots "$1" .; }

make_node() {
    cp "$sources"/node/*.js .
    generate js:node,es6 "$1" generated
}

make_cpp() {
    local -a flags=(-std=c++17 -O0 -Wall -Wextra -I generated -I "$sources/cpp")
    local -a files=("$sources/cpp" generated -name '*.cpp')
    generate cpp:no_skeleton "$1" generated
    if [ "$1" = "$legacy" ]; then
        flags+=(-DLEGACY)
        files+=(! -name extensions.cpp)
    fi
    find "${files[@]}" -print0 | xargs -0 -P "$(nproc)" -n 1 g++ "${flags[@]}" -c
    g++ ./*.o -lthrift -lssl -lcrypto -o client
}

make_rust() {
    local -a features=()
    cp -r "$sources/rust/." .
    generate rs "$1" .
    # The compiler names its file after the interface file.
    mv "$(basename "$1" .thrift).rs" src/generated.rs
    if [ "$1" = "$current" ]; then
        features=(--features extensions)
    fi
    cargo build --quiet --locked --target-dir target "${features[@]}"
}

# All generated files lie outside the clone.
make_clients() {
    local interface idl client
    in_new_folder "$build/venv" "$sources/requirements.txt" -- make_venv
    if wants node; then
        in_new_folder "$build/node" "$sources/node/package.json" -- make_node_modules
    fi
    for interface in current legacy; do
        idl=${!interface}
        in_new_folder "$build/python/$interface" "$idl" -- make_python "$idl"
        for client in node cpp rust; do
            if wants "$client"; then
                in_new_folder "$build/$client/$interface" "$idl" "$sources/$client" -- "make_$client" "$idl"
            fi
        done
    done
}

declare -a pytest_options=()
parse_options "$@"
install_needs
if [ -z "$synodkv" ]; then
    require_cargo
    install_system_packages build
    build_release
    synodkv="$CARGO_TARGET_DIR/release/synodkv"
fi
make_clients
say "clients $clients against $modes"
exec "$build/venv/bin/python" -m pytest -q -p no:cacheprovider "$sources" --synodkv "$synodkv" --engine "$engine" \
    --build "$build" --clients "$clients" --modes "$modes" "${pytest_options[@]}"

#!/usr/bin/env bash
# Builds SynodKV and starts a replicated server: three replicas in this process, Thrift on 127.0.0.1:9090, admin HTTP on
# 127.0.0.1:9190, data in ./data. Ctrl-C stops it. Arguments are passed on to `synodkv serve`.
#
#   scripts/run.sh                             # three replicas
#   scripts/run.sh --data-dir /var/lib/synodkv
#   REPLICATED_MODE=false scripts/run.sh       # one database, no consensus
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

install_system_packages build
require_cargo
build_release
say "the command-line client is $CARGO_TARGET_DIR/release/synodkv; to put it on your path: export PATH=\"$CARGO_TARGET_DIR/release:\$PATH\""
export REPLICATED_MODE="${REPLICATED_MODE:-true}"
exec "$CARGO_TARGET_DIR/release/synodkv" serve "$@"

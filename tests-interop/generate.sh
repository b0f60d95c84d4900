#!/usr/bin/env bash
# Generates the classes of the Apache Thrift client with the Apache Thrift compiler (Debian: thrift-compiler). The result
# is checked in, so that a test run needs no compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
rm -rf generated
mkdir generated
thrift --strict --gen py:dynamic,slots -out generated ../crates/kv-api/thrift/kvstore.thrift
rm -f generated/__init__.py generated/kvstore/TransactionalKV-remote

#!/usr/bin/env bash
# Backs up a server to a real S3 server (moto of PyPI), through a proxy that answers with errors, cuts replies and is slow,
# archives changes, and restores from there, also points in time. Ends with a line that begins with "ok"; exit status 1 if
# something is not as it should be.
#
#   scripts/backup-s3.sh                       # builds, if necessary
#   scripts/backup-s3.sh --synodkv PROGRAM     # an existing program
#
# Needs, and installs if missing: Debian's python3-venv, and moto of PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

synodkv=
while [ "$#" -gt 0 ]; do
    case "$1" in
    --synodkv) synodkv=${2:?--synodkv: which program?} ;;
    *) die "unknown option $1; allowed: --synodkv" ;;
    esac
    shift 2
done
install_system_packages python
if [ -z "$synodkv" ]; then
    require_cargo
    install_system_packages build
    build_release
    synodkv="$CARGO_TARGET_DIR/release/synodkv"
fi
venv="$CARGO_TARGET_DIR/interop/moto"
if ! [ -x "$venv/bin/moto_server" ]; then
    say "installing moto"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]>=5.2,<6'
fi
exec "$venv/bin/python" tests-interop/s3/backup_to_s3.py --synodkv "$synodkv"

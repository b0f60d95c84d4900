#!/usr/bin/env bash
# Makes the Debian package: the program, systemd units, man pages, completions, a configuration. It needs cargo-deb
# (cargo install cargo-deb). Beside the package it puts the list of its parts (SBOM): scripts/sbom.py. The last line on
# standard output is the path of the package.
#
#   scripts/package.sh                     # builds the release, packs it into $CARGO_TARGET_DIR/debian
#   scripts/package.sh --program FILE      # packs a program that is built already
#   scripts/package.sh --output DIR
#
# SYNODKV_MAINTAINER="Name <address>" names who answers for the package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

program=
output=
while [ "$#" -gt 0 ]; do
    case "$1" in
    --program) program="${2:?--program needs a file}" && shift 2 ;;
    --output) output="${2:?--output needs a folder}" && shift 2 ;;
    *) die "unknown argument $1; allowed: --program FILE and --output DIR" ;;
    esac
done
output="$(realpath -m "${output:-$CARGO_TARGET_DIR/debian}")"

# Everything that the program itself makes, beside a copy of it, in a target directory of its own.
stage() {
    local release="$1/release" page
    mkdir -p "$release/package/completion"
    cp "$program" "$release/synodkv"
    # Without the variables of the environment, which help texts show.
    env -i "$program" man "$release/package/man" >/dev/null
    for page in "$release"/package/man/*.1; do
        gzip -9n "$page"
    done
    env -i "$program" completion bash >"$release/package/completion/synodkv"
    env -i "$program" completion zsh >"$release/package/completion/_synodkv"
    env -i "$program" completion fish >"$release/package/completion/synodkv.fish"
    gzip -9nc CHANGELOG.md >"$release/package/changelog.gz"
}

check_version() {
    local packaged version
    packaged="$(sed -n '1s/^synodkv (\(.*\)-[0-9]*) .*/\1/p' deploy/debian/changelog)"
    version="$(env -i "$program" --version | cut -d' ' -f2)"
    [ "$packaged" = "$version" ] ||
        die "deploy/debian/changelog begins with version ${packaged:-?}, and the program has $version: add an entry"
}

require_cargo
command -v cargo-deb >/dev/null || die "cargo-deb not found: cargo install cargo-deb"
command -v dpkg-shlibdeps >/dev/null || apt_install dpkg-dev
if [ -z "$program" ]; then
    install_system_packages build
    name_commit
    build_release >&2
    program="$CARGO_TARGET_DIR/release/synodkv"
fi
[ -x "$program" ] || die "$program: no program"
check_version
staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT
stage "$staging"
mkdir -p "$output"
arguments=(--no-build --strip --package synodkv --output "$output/")
[ -z "${SYNODKV_MAINTAINER:-}" ] || arguments+=(--maintainer "$SYNODKV_MAINTAINER")
python3 scripts/sbom.py >"$staging/sbom"
mv "$staging/sbom" "$output/synodkv_$(env -i "$program" --version | cut -d' ' -f2).cdx.json"
CARGO_TARGET_DIR="$staging" cargo deb "${arguments[@]}"

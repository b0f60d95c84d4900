#!/usr/bin/env bash
# Makes the container image from nothing but the program, the libraries that it links, and four small files. Needs root and
# umoci (installed if missing). Equal inputs give an equal image. The last line on standard output is the path of the image,
# an archive of the OCI layout: `podman load -i FILE`, `docker load -i FILE`, `skopeo copy oci-archive:FILE …`.
#
#   scripts/image.sh                       # builds the release, and the image in $CARGO_TARGET_DIR/image
#   scripts/image.sh --program FILE        # from a program that is built already
#   scripts/image.sh --output DIR
#   scripts/image.sh --root DIR            # only the file system of the image; deploy/Dockerfile uses this
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

# The user in the image; it has no name on the host.
user=10001

program=
output=
root=
while [ "$#" -gt 0 ]; do
    case "$1" in
    --program) program="${2:?--program needs a file}" && shift 2 ;;
    --output) output="${2:?--output needs a folder}" && shift 2 ;;
    --root) root="${2:?--root needs a folder}" && shift 2 ;;
    *) die "unknown argument $1; allowed: --program FILE, --output DIR and --root DIR" ;;
    esac
done
output="$(realpath -m "${output:-$CARGO_TARGET_DIR/image}")"
# All files have this time.
epoch="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"

# The paths of the shared libraries that the program links, the loader included.
libraries() { ldd "$1" | sed -n 's|^\t\([^ ]* => \)\?\(/[^ ]*\) (0x.*|\2|p'; }

make_root() {
    local root="$1" library
    mkdir -p "$root"/{usr/bin,etc,data,tmp}
    install -m 0755 "$program" "$root/usr/bin/synodkv"
    strip "$root/usr/bin/synodkv"
    for library in $(libraries "$program"); do
        install -D -m 0755 "$(realpath "$library")" "$root$library"
    done
    printf 'root:x:0:0:root:/:/sbin/nologin\nsynodkv:x:%s:%s:SynodKV:/data:/sbin/nologin\n' "$user" "$user" >"$root/etc/passwd"
    printf 'root:x:0:\nsynodkv:x:%s:\n' "$user" >"$root/etc/group"
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
    install -D -m 0644 LICENSE "$root/usr/share/doc/synodkv/LICENSE"
    chmod 1777 "$root/tmp"
    chown "$user:$user" "$root/data"
    chmod 0700 "$root/data"
    find "$root" -exec touch --no-dereference --date="@$epoch" {} +
}

configure() {
    local created="$1" image="$2" version
    version="$(env -i "$program" --version | cut -d' ' -f2)"
    umoci config --image "$image" --created "$created" --history.created "$created" --architecture "$(go_architecture)" --os linux \
        --config.user "$user:$user" --config.workingdir /data --config.volume /data --config.stopsignal SIGTERM \
        --config.entrypoint /usr/bin/synodkv --config.cmd serve \
        --config.env SYNODKV_STORAGE_DATA_DIR=/data \
        --config.env SYNODKV_SERVER_THRIFT_ADDR=0.0.0.0:9090 --config.env SYNODKV_SERVER_ADMIN_ADDR=0.0.0.0:9190 \
        --config.exposedports 9090/tcp --config.exposedports 9190/tcp --config.exposedports 6001/tcp \
        --config.label org.opencontainers.image.title=SynodKV \
        --config.label "org.opencontainers.image.version=$version" \
        --config.label org.opencontainers.image.licenses=Apache-2.0
}

go_architecture() {
    case "$(uname -m)" in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
    esac
}

make_image() {
    local work created layout
    work="$(mktemp -d)"
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    make_root "$work/root"
    layout="$work/layout"
    created="$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
    umoci init --layout "$layout"
    umoci new --image "$layout:latest"
    umoci insert --image "$layout:latest" --history.created "$created" "$work/root" /
    configure "$created" "$layout:latest"
    umoci gc --layout "$layout"
    mkdir -p "$output"
    tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --directory "$layout" \
        --file "$output/synodkv-oci.tar" .
}

[ "$(id -u)" -eq 0 ] || die "the files of the image belong to root and to user $user: run this as root"
if [ -z "$program" ]; then
    require_cargo
    install_system_packages build
    name_commit
    build_release >&2
    program="$CARGO_TARGET_DIR/release/synodkv"
fi
[ -x "$program" ] || die "$program: no program"
if [ -n "$root" ]; then
    make_root "$(realpath -m "$root")"
    exit 0
fi
command -v umoci >/dev/null || apt_install umoci
make_image >&2
echo "$output/synodkv-oci.tar"

#!/usr/bin/env bash
# Unpacks the container image and starts it as a container runtime would: its user, its environment and its command, on a
# file system that cannot be written. Needs root, umoci and python3.
#
#   scripts/image-test.sh synodkv-oci.tar
set -euo pipefail
image="$(realpath "${1:?usage: scripts/image-test.sh FILE}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

# Compressed, as it is stored and transferred; and unpacked.
most_bytes=$((60 * 1000 * 1000))

[ "$(id -u)" -eq 0 ] || die "this test changes its root directory and its user: run it as root"
command -v umoci >/dev/null || apt_install umoci
work="$(mktemp -d)"
server=
cleanup() {
    [ -z "$server" ] || { kill -KILL "$server" && wait "$server"; } 2>/dev/null || true
    umount "$work/mounted/data" "$work/mounted/proc" "$work/mounted/dev/null" "$work/mounted" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/layout"
tar --extract --file "$image" --directory "$work/layout"
umoci unpack --image "$work/layout:latest" "$work/bundle"
expect() { [ "$2" = "$3" ] || die "$1: \`$2\`, expected \`$3\`"; }

say "what the image says of itself"
# Prints one value of the configuration that a runtime gets.
of_runtime() { python3 -c 'import json, sys; print(eval(sys.argv[2], {"c": json.load(open(sys.argv[1]))}))' "$work/bundle/config.json" "$1"; }
expect "the user" "$(of_runtime 'c["process"]["user"]["uid"]')" 10001
expect "the command" "$(of_runtime '" ".join(c["process"]["args"])')" "/usr/bin/synodkv serve"
readarray -t environment < <(of_runtime '"\n".join(c["process"]["env"])' | grep SYNODKV_)

size="$(stat -c %s "$image")"
unpacked="$(du -sb "$work/bundle/rootfs" | cut -f1)"
say "size: $size bytes compressed, $unpacked bytes unpacked"
[ "$unpacked" -lt "$most_bytes" ] || die "the image unpacks to $unpacked bytes; at most $most_bytes"
listed="$(cd "$work/bundle/rootfs" && find . -type f | grep -v '\.so' | sort | tr '\n' ' ')"
expect "the files besides libraries" "$listed" \
    "./etc/group ./etc/nsswitch.conf ./etc/passwd ./usr/bin/synodkv ./usr/share/doc/synodkv/LICENSE "

# A root that cannot be written, with a volume at /data.
mkdir "$work/mounted" "$work/volume"
mkdir -p "$work/bundle/rootfs/proc" "$work/bundle/rootfs/dev"
touch "$work/bundle/rootfs/dev/null"
# A runtime brings this file.
echo "127.0.0.1 localhost" >"$work/bundle/rootfs/etc/hosts"
chown 10001:10001 "$work/volume"
mount --bind "$work/bundle/rootfs" "$work/mounted"
mount -o remount,bind,ro "$work/mounted"
mount --bind "$work/volume" "$work/mounted/data"
mount -t proc proc "$work/mounted/proc"
mount --bind /dev/null "$work/mounted/dev/null"
inside() { env -i "${environment[@]}" "$@"; }
confined=("$(command -v chroot)" --userspec=10001:10001 "$work/mounted" /usr/bin/synodkv)

say "without TLS it does not serve a network"
if inside "${confined[@]}" serve >"$work/out" 2>"$work/err"; then die "it served"; fi
grep -q 'allow_insecure = true' "$work/err" || die "the refusal names no setting: $(cat "$work/err")"

say "it serves, and keeps its data in the volume"
start() {
    # No function, so that the process to stop is the server itself.
    env -i "${environment[@]}" SYNODKV_SERVER_THRIFT_ADDR=127.0.0.1:0 SYNODKV_SERVER_ADMIN_ADDR=127.0.0.1:0 "${confined[@]}" serve \
        >"$work/out" 2>"$work/err" &
    server=$!
    local deadline=$((SECONDS + 30))
    until grep -q '^ready' "$work/out"; do
        if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$server"; then die "not ready: $(cat "$work/err")"; fi
        sleep 0.1
    done
    thrift="$(sed -n 's/^ready.*Thrift on \([^,]*\),.*/\1/p' "$work/out")"
    admin="$(sed -n 's|^ready.*http://\([^,]*\),.*|\1|p' "$work/out")"
}
stop() {
    kill -TERM "$server"
    wait "$server" || die "it did not stop in good order: $(cat "$work/err")"
    server=
}
start
inside "${confined[@]}" set hello world --addr "$thrift"
inside "${confined[@]}" health --live --admin "$admin"
inside "${confined[@]}" health --writes --admin "$admin"
stop
start
expect "the value after a restart" "$(inside "${confined[@]}" get hello --addr "$thrift")" world
# Names are looked up, with the libraries in the image alone.
expect "the value at a name" "$(inside "${confined[@]}" get hello --addr "localhost:${thrift##*:}")" world
stop
say "the image works"

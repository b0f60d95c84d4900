#!/usr/bin/env bash
# Installs the Debian package on a small Debian of its own, boots that with systemd, and uses the service: start, reload,
# watchdog, kill, upgrade, removal, purge. Needs root, debootstrap and systemd-nspawn (installed if missing).
#
#   scripts/package-test.sh PACKAGE.deb
#
# The small Debian is made once (a minute) and kept in SYNODKV_TEST_DEBIAN, by default ~/.cache/synodkv/debian.
set -euo pipefail
package="$(realpath "${1:?usage: scripts/package-test.sh PACKAGE.deb}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh

base="${SYNODKV_TEST_DEBIAN:-$HOME/.cache/synodkv/debian}"
[ "$(id -u)" -eq 0 ] || die "this test makes a root file system and boots it: run it as root"

missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
command -v lintian >/dev/null || missing+=(lintian)
[ "${#missing[@]}" -eq 0 ] || apt_install "${missing[@]}"

if [ ! -e "$base/etc/debian_version" ]; then
    say "making a small Debian in $base"
    rm -rf "$base.new"
    mkdir -p "$(dirname "$base")"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,libstdc++6 bookworm "$base.new" >&2
    mv "$base.new" "$base"
fi

work="$(mktemp -d)"
machine="$work/machine"
leader=
nspawn=
cleanup() {
    [ -z "$nspawn" ] || { kill -KILL "$nspawn" 2>/dev/null && wait "$nspawn"; } 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
cp -a --reflink=auto "$base" "$machine"
cp "$package" "$machine/opt/synodkv.deb"

inside() { nsenter --target "$leader" --all -- "$@"; }
property() { inside systemctl show --property "$1" --value synodkv; }

# eventually SECONDS WHAT COMMAND…: until the command succeeds.
eventually() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || die "never happened: $what"
        sleep 0.2
    done
}

# expect WHAT ACTUAL EXPECTED
expect() { [ "$2" = "$3" ] || die "$1: \`$2\`, expected \`$3\`"; }

boot() {
    # Its output goes to a file, and its input is empty: no terminal of ours belongs to it.
    systemd-nspawn --quiet --directory "$machine" --boot --register=no --keep-unit --private-network \
        </dev/null >"$work/console" 2>&1 &
    nspawn=$!
    eventually 30 "the machine boots" has_booted
}
has_booted() {
    leader="$(pgrep --parent "$nspawn" | head -n 1)"
    [ -n "$leader" ] && [ "$(inside systemctl is-system-running 2>/dev/null || true)" != "" ] &&
        inside systemctl is-active --quiet multi-user.target 2>/dev/null
}

is_other_process() { [ "$(property MainPID)" != "$1" ] && [ "$(property SubState)" = running ]; }
has_status() { property StatusText | grep -q "$1"; }

say "lintian"
lintian --fail-on error,warning "$package"

say "installing"
chroot "$machine" dpkg -i /opt/synodkv.deb >&2
expect "the owner of the data" "$(chroot "$machine" stat -c '%U:%G %a' /var/lib/synodkv)" "synodkv:synodkv 700"
expect "the rights of the configuration" "$(chroot "$machine" stat -c '%U:%G %a' /etc/synodkv)" "root:synodkv 750"
chroot "$machine" synodkv serve --print-config --config /etc/synodkv/synodkv.toml >"$work/config"
grep -q 'data_dir = "/var/lib/synodkv"' "$work/config" || die "the packaged configuration has another data directory"
[ -e "$machine/usr/share/man/man1/synodkv-serve.1.gz" ] || die "no man page"
bash -n "$machine/usr/share/bash-completion/completions/synodkv"

say "booting"
boot
expect "enabled by the installation" "$(inside systemctl is-enabled synodkv || true)" disabled
inside systemctl enable --now synodkv 2>/dev/null
# `start` has returned, so the server listens.
inside synodkv set hello world
expect "the value" "$(inside synodkv get hello)" world
eventually 10 "the status" has_status '^standalone$'

say "reload: the log level changes without a restart"
process="$(property MainPID)"
inside sh -c 'printf "\n[log]\nlevel = \"debug\"\n" >> /etc/synodkv/synodkv.toml'
inside systemctl reload synodkv
eventually 10 "the server reads its configuration again" \
    inside sh -c 'journalctl --unit synodkv | grep -q "SIGHUP: read the configuration again"'
expect "the process after a reload" "$(property MainPID)" "$process"

say "watchdog: a process that stands still is replaced (30 s)"
inside sh -c "kill -STOP $process"
eventually 60 "systemd replaces it" is_other_process "$process"
expect "the value after the watchdog" "$(inside synodkv get hello)" world

say "kill -9: started again, with the data"
process="$(property MainPID)"
inside sh -c "kill -KILL $process"
eventually 20 "systemd starts it again" is_other_process "$process"
expect "the value after kill -9" "$(inside synodkv get hello)" world

say "upgrade: the running server goes on"
process="$(property MainPID)"
inside dpkg -i /opt/synodkv.deb >&2
expect "the process after an upgrade" "$(property MainPID)" "$process"
inside systemctl restart synodkv
expect "the value after the restart" "$(inside synodkv get hello)" world

say "wrong configuration: no loop of restarts"
inside sh -c 'cp /etc/synodkv/synodkv.toml /opt/good.toml; echo "no_such = 1" >> /etc/synodkv/synodkv.toml'
inside systemctl restart synodkv 2>/dev/null && die "it started with a wrong configuration"
expect "the state" "$(property ActiveState) $(property ExecMainStatus) $(property NRestarts)" "failed 2 0"
inside sh -c 'cp /opt/good.toml /etc/synodkv/synodkv.toml'

say "three more servers on the same machine, as replicas: synodkv@NAME.service"
{
    echo 'mode = "replicated"'
    for n in 0 1 2; do
        printf '[[replication.replicas]]\nid = %s\npeer = "127.0.0.1:600%s"\nthrift = "127.0.0.1:910%s"\nadmin = "127.0.0.1:920%s"\n' \
            "$n" "$n" "$n" "$n"
    done
} >"$work/cluster.toml"
for n in 0 1 2; do
    cp "$work/cluster.toml" "$machine/etc/synodkv/r$n.toml"
    printf 'SYNODKV_REPLICATION_NODE_ID=%s\nSYNODKV_STORAGE_DATA_DIR=/var/lib/synodkv-r%s\n' "$n" "$n" >"$machine/etc/default/synodkv-r$n"
    inside systemctl start "synodkv@r$n"
done
replicas=127.0.0.1:9200,127.0.0.1:9201,127.0.0.1:9202
eventually 30 "the replicas serve" inside synodkv health --writes --admin "$replicas"
inside synodkv upgrade plan --admin "$replicas" >&2
for n in 0 1 2; do
    inside systemctl restart "synodkv@r$n"
    inside synodkv upgrade wait --node "$n" --admin "$replicas" >&2
done
inside synodkv verify --addr 127.0.0.1:9100 --admin "$replicas" >&2
inside systemctl stop 'synodkv@*'

say "stop, removal, purge: the data stay"
inside systemctl start synodkv
inside systemctl stop synodkv
expect "the end" "$(property Result)" success
inside dpkg --remove synodkv >&2
inside dpkg --purge synodkv >&2
[ ! -e "$machine/etc/synodkv/synodkv.toml" ] || die "the configuration is still there after a purge"
[ -e "$machine/var/lib/synodkv/identity.json" ] || die "a purge removed the data"
inside dpkg -i /opt/synodkv.deb >&2
inside systemctl start synodkv
expect "the value after purge and installation" "$(inside synodkv get hello)" world

inside systemctl poweroff || true
wait "$nspawn" || true
nspawn=
say "the package works"

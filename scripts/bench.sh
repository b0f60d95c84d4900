#!/usr/bin/env bash
# The benchmark behind docs/BENCHMARKS.md: the disk, raw RocksDB, a standalone server and a cluster of three processes take
# turns in one run, because a machine is not equally fast at all times. Prints every figure and the medians.
#
#   scripts/bench.sh [ROUNDS [SECONDS]]      3 rounds of 5 seconds each by default; about 5 minutes
#   scripts/bench.sh --ycsb [ROUNDS [SECONDS]]
#                                            YCSB A to F and transactions instead, on the server and on the cluster;
#                                            3 rounds of 5 seconds each by default; about 6 minutes
#
# SYNODKV_BENCH_RECORDS sets the number of records for YCSB and transactions (100000).
set -euo pipefail
cd "$(dirname "$0")/.."

suite=puts
if [ "${1:-}" = --ycsb ]; then
    suite=ycsb
    shift
fi
rounds=${1:-3}
seconds=${2:-5}
concurrencies=(1 16 64 256)
records=${SYNODKV_BENCH_RECORDS:-100000}
export CARGO_TARGET_DIR="${SYNODKV_TARGET_DIR:-$HOME/.cache/synodkv/target}"
synodkv="$CARGO_TARGET_DIR/release/synodkv"
cargo build --release --workspace --quiet

work=$(mktemp -d "${SYNODKV_BENCH_DIR:-$CARGO_TARGET_DIR}/bench.XXXXXX")
servers=()
finish() {
    stop_servers
    rm -rf "$work"
}
trap finish EXIT

stop_servers() {
    local pid
    for pid in "${servers[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    servers=()
}

# start NAME ARGUMENTS…: starts a server and waits until it is ready.
start() {
    local name=$1
    shift
    "$synodkv" serve "$@" >"$work/$name.out" 2>"$work/$name.log" &
    servers+=($!)
    until grep -q '^ready' "$work/$name.out"; do
        kill -0 "${servers[-1]}" 2>/dev/null || { cat "$work/$name.log" >&2; exit 1; }
        sleep 0.05
    done
}

cat >"$work/cluster.toml" <<TOML
mode = "replicated"
[[replication.replicas]]
id = 0
peer = "127.0.0.1:16001"
thrift = "127.0.0.1:19090"
admin = "127.0.0.1:19190"
[[replication.replicas]]
id = 1
peer = "127.0.0.1:16002"
thrift = "127.0.0.1:19091"
admin = "127.0.0.1:19191"
[[replication.replicas]]
id = 2
peer = "127.0.0.1:16003"
thrift = "127.0.0.1:19092"
admin = "127.0.0.1:19192"
TOML

# put WHAT CONCURRENCY: one measurement, as a line of JSON.
put() {
    local connections=$(($2 < 8 ? $2 : 8))
    "$synodkv" bench --addr 127.0.0.1:19090 --workload put --concurrency "$2" --connections "$connections" \
        --seconds "$seconds" --key-size 16 --value-size 100 --format json |
        jq -c --arg what "$1" --argjson concurrency "$2" '{what: $what, concurrency: $concurrency, throughput, p50_us, p99_us, errors}' |
        tee -a "$work/results"
}

disk() {
    local list
    list=$(IFS=,; echo "${concurrencies[*]}")
    "$synodkv" bench-disk --data-dir "$work/disk" --seconds "$seconds" --concurrency "$list" --format json |
        jq -c '.[]' | tee -a "$work/results"
}

# workload WHAT ADDRESSES NAME OPTIONS…: one measurement of YCSB or of transactions, as a line of JSON.
workload() {
    local what=$1 addresses=$2 name=$3
    shift 3
    "$synodkv" bench --addr "$addresses" --workload "$name" --no-load --concurrency 64 --seconds "$seconds" \
        --format json "$@" |
        jq -c --arg what "$what" '
            . as $run
            | {operation: "all", throughput, p50_us, p99_us, conflicts},
              (.by_operation // {} | to_entries[] | {operation: .key} + .value)
            | {what: $what, workload: $run.workload, keys: $run.keys, errors: $run.errors} + .' |
        tee -a "$work/results"
}

# The order that the authors of YCSB prescribe: workloads that insert come last, on freshly loaded records.
workloads() {
    local what=$1 addresses=$2 name
    "$synodkv" bench load --addr "$addresses" --records "$records" >&2
    for name in ycsb-a ycsb-b ycsb-c ycsb-f ycsb-d; do
        workload "$what" "$addresses" "$name" --records "$records"
    done
    "$synodkv" txn --addr "$addresses" -e 'clear --prefix user' >&2
    "$synodkv" bench load --addr "$addresses" --records "$records" >&2
    workload "$what" "$addresses" ycsb-e --records "$records"
    "$synodkv" bench load --addr "$addresses" --workload txn --records "$records" >&2
    workload "$what" "$addresses" txn --records "$records"
    workload "$what" "$addresses" txn --records 1000
}

start_standalone() {
    start standalone --mode standalone --data-dir "$work/standalone-$1" \
        --thrift-addr 127.0.0.1:19090 --admin-addr 127.0.0.1:19190
}

start_cluster() {
    local id
    for id in 0 1 2; do
        start "replica-$id" --config "$work/cluster.toml" --node-id "$id" --data-dir "$work/replica-$1-$id"
    done
    "$synodkv" set --addr 127.0.0.1:19090 first write
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    [ "$suite" = ycsb ] || disk
    start_standalone "$round"
    case $suite in
        puts) for c in "${concurrencies[@]}"; do put standalone "$c"; done ;;
        ycsb) workloads standalone 127.0.0.1:19090 ;;
    esac
    stop_servers
    start_cluster "$round"
    case $suite in
        puts) for c in "${concurrencies[@]}"; do put 'three processes' "$c"; done ;;
        ycsb) workloads 'three processes' 127.0.0.1:19090,127.0.0.1:19091,127.0.0.1:19092 ;;
    esac
    stop_servers
    rm -rf "$work"/standalone-* "$work"/replica-*-*
done

echo
if [ "$suite" = ycsb ]; then
    echo 'Medians (per second, p50 and p99 in ms; for transactions: attempts that met a conflict)'
    jq -rs '
        def median: map(select(. != null)) | if length == 0 then "-" else sort | .[length / 2 | floor] end;
        group_by([.workload, .keys, .operation, .what])[]
        | [.[0].workload, .[0].keys, .[0].operation, .[0].what, (map(.throughput) | median | round? // .),
           (map(.p50_us) | median / 1000), (map(.p99_us) | median / 1000), (map(.conflicts) | median)]
        | @tsv' "$work/results" | column -t -s "$(printf '\t')"
    exit
fi
echo 'Medians (per second, p50 and p99 in ms)'
jq -rs '
    def median: sort | .[length / 2 | floor];
    group_by([.what, .concurrency])[]
    | [.[0].what, .[0].concurrency, (map(.throughput) | median | round), (map(.p50_us) | median / 1000),
       (map(.p99_us) | median / 1000)]
    | @tsv' "$work/results" | column -t -s "$(printf '\t')"

#!/usr/bin/env bash
# Starts a Redis and a sidecache before it and shows, with redis-cli and /metrics alone, what it does: a read that
# misses and then hits, a write from outside that is seen, a storm of reads. Then stays up to be tried.
#
# UPSTREAM=sentinel  a master, two replicas and three Sentinels instead of one Redis; in the end the master is killed.
# UPSTREAM=cluster   three masters that share the slots; in the end a slot moves while a client counts.
# RUN_SECONDS=5      ends by itself after so long; everything it started ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

sidecache=${SIDECACHE_BIN:-${CARGO_TARGET_DIR:-target}/release/sidecache}
upstream=${UPSTREAM:-standalone}
folder=$(mktemp -d)
upstream_pids=() cache_pid=''
end() {
    trap - EXIT INT TERM
    for pid in $cache_pid "${upstream_pids[@]}"; do
        { kill "$pid" && wait "$pid"; } 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 0' INT TERM

say() { printf '%s\n' "$*"; }
title() { printf '\n── %s\n' "$*"; }
fail() {
    say "demo: $*" >&2
    [ ! -s "$folder/sidecache.log" ] || tail -n 20 "$folder/sidecache.log" >&2
    exit 1
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The port that was asked for, or, with a word about it, the next free one.
port_near() {
    local port=$1
    while listens "$port"; do port=$((port + 1)); done
    [ "$port" = "$1" ] || say "port $1 is taken, so $2 is on $port" >&2
    echo "$port"
}

until_it() {
    local what=$1
    shift
    for _ in $(seq 500); do
        "$@" && return
        for pid in "${upstream_pids[@]}"; do
            kill -0 "$pid" 2>/dev/null || fail "a redis-server has ended: $(tail -qn 3 "$folder"/*.log)"
        done
        [ -z "$cache_pid" ] || kill -0 "$cache_pid" 2>/dev/null || fail "sidecache has ended"
        sleep 0.02
    done
    fail "not within 10 s: $what"
}

# GET /metrics without curl, which a bare machine lacks.
metrics() {
    exec 3<>"/dev/tcp/127.0.0.1/$admin"
    printf 'GET /metrics HTTP/1.0\r\nHost: sidecache\r\nConnection: close\r\n\r\n' >&3
    cat <&3
    exec 3>&-
}

# How many cacheable reads ended so: `reads hit`.
reads() {
    metrics | awk -v outcome="outcome=\"$1\"" '
        /^sidecache_commands_total\{/ && index($0, "class=\"read\"") && index($0, outcome) { n += $NF } END { printf "%d\n", n }'
}

# What goes past sidecache, straight to the server that serves.
direct() { redis-cli ${cluster:+-c} -p "$redis" "$@"; }
through() { redis-cli -p "$port" "$@"; }
# It has looked at what pushes do not tell, before which nothing is served from memory.
hits_come() { local before; before=$(reads hit) && through GET warm >/dev/null && [ "$(reads hit)" -gt "$before" ]; }
answers() { [ "$(redis-cli -p "$1" PING 2>/dev/null)" = PONG ]; }
upstream_gets() {
    local at
    for at in "${masters[@]}"; do redis-cli -p "$at" INFO commandstats; done |
        awk -F '[=,]' '/^cmdstat_get:/ { n += $2 } END { print n + 0 }'
}

# One read through sidecache, with what became of it by its own count; with a second argument, the first read
# that gives that value.
read_and_tell() {
    local hits value
    for _ in $(seq 200); do
        hits=$(reads hit)
        value=$(through GET "$1")
        [ "$value" != "${2-$value}" ] || break
    done
    [ "$value" = "${2-$value}" ] || fail "GET $1 is still $value, not $2"
    if [ "$(reads hit)" -gt "$hits" ]; then say "   GET $1 → $value   hit, from memory"; else say "   GET $1 → $value   fetched from Redis"; fi
}

# A redis-server on a port, with further arguments; in the background, until the end.
start_redis() {
    local at=$1
    shift
    mkdir "$folder/$at"
    redis-server --port "$at" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder/$at" "$@" >"$folder/$at.log" 2>&1 &
    upstream_pids+=($!)
    until_it "redis-server answers on port $at" answers "$at"
}

start_standalone() {
    redis=$(port_near 6379 redis-server)
    start_redis "$redis"
    masters=("$redis")
    url=redis://127.0.0.1:$redis
}

start_sentinel() {
    redis=$(port_near 6379 "the master")
    start_redis "$redis"
    masters=("$redis")
    local at seeds='' next=$((redis + 1))
    for _ in 1 2; do
        at=$(port_near "$next" "a replica")
        next=$((at + 1))
        start_redis "$at" --replicaof 127.0.0.1 "$redis" --repl-diskless-sync-delay 0
    done
    until_it "the replicas are there" replicas_are 2
    next=26379
    for _ in 1 2 3; do
        at=$(port_near "$next" "a Sentinel")
        next=$((at + 1))
        printf '%s\n' "port $at" "bind 127.0.0.1" "sentinel monitor mymaster 127.0.0.1 $redis 2" \
            "sentinel down-after-milliseconds mymaster 1000" "sentinel failover-timeout mymaster 5000" >"$folder/$at.conf"
        redis-server "$folder/$at.conf" --sentinel >"$folder/$at.log" 2>&1 &
        upstream_pids+=($!)
        until_it "a Sentinel answers on port $at" answers "$at"
        seeds+=${seeds:+,}127.0.0.1:$at
        sentinel=$at
    done
    until_it "the Sentinels know each other" sentinels_are 2
    url=redis-sentinel://$seeds/mymaster
}
replicas_are() { [ "$(direct INFO replication | grep -c state=online)" = "$1" ]; }
sentinels_are() { redis-cli -p "$sentinel" SENTINEL MASTER mymaster | grep -A 1 '^num-other-sentinels$' | grep -qx "$1"; }

# The master is killed, and commands go on with the one that the Sentinels make.
show_sentinel() {
    title "The master is killed; three Sentinels agree on another"
    through SET greeting "from before" >/dev/null
    through WAIT 1 1000 >/dev/null
    local begun=${EPOCHREALTIME/./} master=${upstream_pids[0]}
    upstream_pids=("${upstream_pids[@]:1}")
    kill -9 "$master"
    wait "$master" 2>/dev/null || true
    until_it "a write succeeds again" through_ok SET probe 1
    say "   SET probe 1 → OK after $(((${EPOCHREALTIME/./} - begun) / 1000)) ms"
    say "   GET greeting → $(through GET greeting)"
    until_it "it is told" grep -q 'master of mymaster moved' "$folder/sidecache.log"
    say "   $(grep -o 'master of mymaster moved.*' "$folder/sidecache.log")"
    redis=$(redis-cli -p "$sentinel" SENTINEL GET-MASTER-ADDR-BY-NAME mymaster | tail -n 1)
}
through_ok() { [ "$(through "$@" 2>/dev/null)" = OK ]; }

start_cluster() {
    local at next=7000 seeds=()
    for _ in 1 2 3; do
        # A node has a second port, 10,000 above the first.
        while at=$(port_near "$next" "a master") && listens $((at + 10000)); do next=$((at + 1)); done
        next=$((at + 1))
        start_redis "$at" --cluster-enabled yes --cluster-config-file nodes.conf
        masters+=("$at")
        seeds+=("127.0.0.1:$at")
    done
    redis-cli --cluster create "${seeds[@]}" --cluster-yes >"$folder/create.log" || fail "$(tail -n 5 "$folder/create.log")"
    until_it "the masters agree" masters_agree
    redis=${masters[0]} cluster=yes
    url=redis-cluster://$(IFS=, && echo "${seeds[*]}")
}
masters_agree() {
    local at
    for at in "${masters[@]}"; do
        redis-cli -p "$at" CLUSTER INFO | grep -q '^cluster_state:ok' || return
    done
}

# Who owns a slot, as its own line in CLUSTER NODES has it: `name port`.
owner() {
    direct CLUSTER NODES | awk -v slot="$1" '{ for (i = 9; i <= NF; i++) {
        n = split($i, ends, "-"); if (slot >= ends[1] + 0 && slot <= ends[n] + 0) { split($2, at, "[:@]"); print $1, at[2] } } }'
}
owner_is() { [ "$(owner "$1" | cut -d ' ' -f 2)" = "$2" ]; }

# The slot of the keys that a client writes goes to another master, with its keys.
show_cluster() {
    title "A slot moves to another master while a client counts on in it"
    local slot from from_id to to_id keys counter
    slot=$(direct CLUSTER KEYSLOT greeting)
    read -r from_id from < <(owner "$slot")
    for to in "${masters[@]}"; do [ "$to" = "$from" ] || break; done
    to_id=$(redis-cli -p "$to" CLUSTER MYID)
    until [ -e "$folder/moved" ]; do through -r 500 INCR '{greeting}:count'; done >"$folder/counted" 2>&1 &
    counter=$!
    until_it "the client counts" grep -qsx 1000 "$folder/counted"
    redis-cli -p "$to" CLUSTER SETSLOT "$slot" IMPORTING "$from_id" >/dev/null
    redis-cli -p "$from" CLUSTER SETSLOT "$slot" MIGRATING "$to_id" >/dev/null
    while mapfile -t keys < <(redis-cli -p "$from" CLUSTER GETKEYSINSLOT "$slot" 10) && [ -n "${keys[*]}" ]; do
        redis-cli -p "$from" MIGRATE 127.0.0.1 "$to" '' 0 5000 KEYS "${keys[@]}" >/dev/null
    done
    for at in "$to" "$from"; do redis-cli -p "$at" CLUSTER SETSLOT "$slot" NODE "$to_id" >/dev/null; done
    until_it "the move is known" owner_is "$slot" "$to"
    touch "$folder/moved"
    wait "$counter"
    say "   slot $slot moved from 127.0.0.1:$from to 127.0.0.1:$to"
    awk '$1 != NR { other++ } END { printf "   the client counted to %d; %d replies were not the next number\n", NR, other }' "$folder/counted"
    say "   SET greeting moved → $(redis-cli -p "$to" SET greeting moved)           straight to the new owner"
    read_and_tell greeting moved
    for _ in 1 2; do read_and_tell greeting; done
}

masters=() cluster=''
case $upstream in
    standalone | sentinel | cluster) "start_$upstream" ;;
    *) fail "UPSTREAM=$upstream is unknown: standalone, sentinel or cluster" ;;
esac
port=$(port_near 6380 sidecache)
admin=$(port_near 9180 "sidecache's metrics")
cat >"$folder/sidecache.toml" <<TOML
[client]
listen = ["127.0.0.1:$port"]
[upstream]
url = "$url"
[admin]
listen = "127.0.0.1:$admin"
TOML
"$sidecache" --config "$folder/sidecache.toml" >"$folder/sidecache.log" 2>&1 &
cache_pid=$!
until_it "sidecache answers" answers "$port"
until_it "sidecache serves from memory" hits_come

title "A read is fetched, kept once it was read twice, then served from memory"
direct SET greeting hello >/dev/null
for _ in 1 2 3 4; do read_and_tell greeting; done

title "A write that goes past sidecache, straight to Redis, is seen"
say "   SET greeting changed → $(direct SET greeting changed)         straight to Redis"
read_and_tell greeting changed
read_and_tell greeting

title "A storm of reads: 100,000 GETs of 1,000 keys by 50 connections"
value=$(printf 'x%.0s' {1..100})
for i in {0..999}; do printf 'SET key:%012d %s\n' "$i" "$value"; done | through >/dev/null
storm() { redis-benchmark -p "$1" "${@:3}" -t get -n "$2" -c 50 -r 1000 --csv 2>/dev/null | tail -n 1 | tr -d '"'; }
storm "$port" 20000 >/dev/null # each key is read twice and so admitted
tell_storm() { awk -F, -v who="$1" '{ printf "   %-18s %8.0f commands/s   p50 %.2f ms   p99 %.2f ms\n", who, $2, $5, $7 }'; }
storm "$redis" 100000 ${cluster:+--cluster} | tell_storm "Redis itself"
hits=$(reads hit)
gets=$(upstream_gets)
storm "$port" 100000 | tell_storm "through sidecache"
awk -v hits=$(($(reads hit) - hits)) -v gets=$(($(upstream_gets) - gets)) \
    'BEGIN { printf "   %.1f %% of them from memory; Redis itself saw %d GETs of 100,000\n", hits / 1000, gets }'

if [ -n "$cluster" ] && ! printf '7.2\n%s\n' "$(direct INFO server | sed -n 's/^redis_version:\([0-9.]*\).*/\1/p')" | sort -VC; then
    say "   (before a cluster of Redis below 7.2 nothing is kept for longer than max_staleness, which is 1 s)"
fi

[ "$upstream" = standalone ] || "show_$upstream"

title "To try"
say "   redis-cli -p $port                           your client: through sidecache"
say "   redis-cli -p $redis                           any other writer: past it"
say "   http://127.0.0.1:$admin/metrics               also /livez and /readyz"
if [ -n "${RUN_SECONDS:-}" ]; then
    say "   ends in $RUN_SECONDS s"
    sleep "$RUN_SECONDS" &
    wait $! # a signal ends `wait` at once, not `sleep`
    exit 0
fi
say "   Ctrl-C ends all of it"
wait "$cache_pid" || fail "sidecache has ended"

#!/usr/bin/env bash
# Starts a Redis and a sidecache before it and shows, with redis-cli and /metrics alone, what it does: a read that
# misses and then hits, a write from outside that is seen, a storm of reads. Then stays up to be tried.
#
# RUN_SECONDS=5  ends by itself after so long; everything it started ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

sidecache=${SIDECACHE_BIN:-${CARGO_TARGET_DIR:-target}/release/sidecache}
folder=$(mktemp -d)
redis_pid='' cache_pid=''
end() {
    trap - EXIT INT TERM
    [ -z "$cache_pid" ] || { kill "$cache_pid" && wait "$cache_pid"; } 2>/dev/null || true
    [ -z "$redis_pid" ] || { kill "$redis_pid" && wait "$redis_pid"; } 2>/dev/null || true
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
        kill -0 "$redis_pid" 2>/dev/null || fail "redis-server has ended: $(tail -n 3 "$folder/redis.log")"
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

direct() { redis-cli -p "$redis" "$@"; }
through() { redis-cli -p "$port" "$@"; }
answers() { [ "$(redis-cli -p "$1" PING 2>/dev/null)" = PONG ]; }
upstream_gets() { direct INFO commandstats | sed -n 's/^cmdstat_get:calls=\([0-9]*\),.*/\1/p' | grep . || echo 0; }

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

redis=$(port_near 6379 redis-server)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" >"$folder/redis.log" 2>&1 &
redis_pid=$!
until_it "redis-server answers" answers "$redis"
port=$(port_near 6380 sidecache)
admin=$(port_near 9180 "sidecache's metrics")
cat >"$folder/sidecache.toml" <<TOML
[client]
listen = ["127.0.0.1:$port"]
[upstream]
url = "redis://127.0.0.1:$redis"
[admin]
listen = "127.0.0.1:$admin"
TOML
"$sidecache" --config "$folder/sidecache.toml" >"$folder/sidecache.log" 2>&1 &
cache_pid=$!
until_it "sidecache answers" answers "$port"

title "A read is fetched, kept once it was read twice, then served from memory"
direct SET greeting hello >/dev/null
for _ in 1 2 3 4; do read_and_tell greeting; done

title "A write that goes past sidecache, straight to Redis, is seen"
say "   SET greeting changed → $(direct SET greeting changed)         straight to Redis"
read_and_tell greeting changed
read_and_tell greeting

title "A storm of reads: 100,000 GETs of 1,000 keys by 50 connections"
direct EVAL 'for i = 0, 999 do redis.call("SET", string.format("key:%012d", i), string.rep("x", 100)) end' 0 >/dev/null
storm() { redis-benchmark -p "$1" -t get -n "$2" -c 50 -r 1000 --csv 2>/dev/null | tail -n 1 | tr -d '"'; }
storm "$port" 20000 >/dev/null # each key is read twice and so admitted
tell_storm() { awk -F, -v who="$1" '{ printf "   %-18s %8.0f commands/s   p50 %.2f ms   p99 %.2f ms\n", who, $2, $5, $7 }'; }
storm "$redis" 100000 | tell_storm "Redis itself"
hits=$(reads hit)
gets=$(upstream_gets)
storm "$port" 100000 | tell_storm "through sidecache"
awk -v hits=$(($(reads hit) - hits)) -v gets=$(($(upstream_gets) - gets)) \
    'BEGIN { printf "   %.1f %% of them from memory; Redis itself saw %d GETs of 100,000\n", hits / 1000, gets }'

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

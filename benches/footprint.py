#!/usr/bin/env python3
"""What sidecache weighs and how fast it is there, beside its budgets: memory, idle CPU, start-up, stampedes, slowest look-ups.

Each measurement starts processes of its own. Memory is what the process holds for itself (RssAnon and RssShmem of
/proc/PID/status); where the budget is for the whole process, VmRSS with the program's touched pages. The kernel's
buffers for sockets are nobody's memory here: a proxy cannot change them. Some four minutes with --quick, else 15.

Needs redis-server, cargo for the slowest look-ups, and a release build of sidecache and of the example `load`. Standard
library only.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import ROOT, Process, ask, command, free_port, info, until
from sidecars import Sidecar, about, arguments, generate, keep, raise_file_limit, start_redis

KIB, MIB = 1024, 1024 * 1024
KEY_BYTES, VALUE_BYTES = 16, 100
ENTRIES = 100_000
READERS = 1000
# Memory is called flat if it grows by no more than this: what the allocator's own pages come to.
FLAT = MIB


class Bench:
    """Where processes are started, and what has been found."""

    def __init__(self, options, folder):
        self.options, self.folder, self.processes, self.found = options, folder, [], []
        self.redis = self.add(start_redis(folder))

    def add(self, process):
        self.processes.append(process)
        return process

    def sidecar(self, name, upstream=None, **settings):
        return self.add(Sidecar(name, self.options.sidecache, self.folder, upstream or self.redis.port, **settings))

    def end(self, *processes):
        for process in processes or list(reversed(self.processes)):
            process.end()
            self.processes.remove(process)

    def note(self, what, value, unit, budget=None, is_met=None, remark=""):
        """`budget` is an upper bound unless `is_met` says what was asked."""
        met = value <= budget if is_met is None and budget is not None else is_met
        self.found.append({"what": what, "value": value, "unit": unit, "budget": budget, "met": met, "remark": remark})
        print(f"  {what}: {value:,.2f} {unit} {remark}", file=sys.stderr)


def idle(bench):
    sidecar = bench.sidecar("idle")
    bench.note("idle process, resident", sidecar.resident_all() / MIB, "MiB", 10)
    before, seconds = sidecar.cpu(), 10
    time.sleep(seconds)
    used = (sidecar.cpu() - before).total / seconds
    bench.note("idle process, CPU of a core", used * 100, "%", 0.1, remark=f"over {seconds} s")
    bench.end(sidecar)


class Starting(Sidecar):
    """One whose first PONG is waited for without pause."""

    def wait_until_it_answers(self):
        begin = time.perf_counter()
        while self.is_running():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as conn:
                    conn.sendall(b"PING\r\n")
                    if conn.recv(7) == b"+PONG\r\n":
                        break
            except OSError:
                time.sleep(0.0005)
        self.took = time.perf_counter() - begin


def start_up(bench, times=20):
    took = []
    for number in range(times):
        sidecar = bench.add(Starting(f"start-{number}", bench.options.sidecache, bench.folder, bench.redis.port))
        took.append(sidecar.took * 1000)
        bench.end(sidecar)
    remark = f"median of {times}; {min(took):.0f} to {max(took):.0f}"
    bench.note("from the start to the first PONG", statistics.median(took), "ms", 50, remark=remark)


def clients(bench, count):
    """Memory per connection that has said nothing, and after each has sent one GET."""
    sidecar = bench.sidecar(f"clients-{count}")
    ask(sidecar.port, command("GET", "some"))
    # The GET that showed that it answers is gone by then; one client may be the one that asks for metrics' sake.
    clients_of = lambda: sidecar.metrics()["sidecache_clients"]
    until("nobody is connected", lambda: clients_of() == 0, sidecar)
    before, connections = sidecar.resident(), []
    for number in range(count):
        conn = socket.create_connection(("127.0.0.1", sidecar.port), timeout=60)
        connections.append(conn)
        if number % 100 == 99:
            until("all are accepted", lambda: clients_of() == len(connections), sidecar)
    per_client = lambda: (sidecar.resident() - before) / count / KIB
    bench.note(f"silent client, of {count:,}", per_client(), "KiB", 4)
    for conn in connections:
        conn.sendall(command("GET", "some"))
    for conn in connections:
        if conn.recv(100)[:1] != b"$":
            sys.exit("a GET was not answered")
    bench.note(f"client that has sent one GET, of {count:,}", per_client(), "KiB", 4)
    for conn in connections:
        conn.close()
    bench.end(sidecar)


def entries(bench):
    """Memory per entry beyond key and value; an admitted key has been read twice.

    The first hundred thousand also touch what is there once and for all (buffers, the memory of reads). What an entry
    costs is what the second hundred thousand add.
    """
    generate(bench.options.generator, "fill", "--port", bench.redis.port, "--mix", f"get:{2 * ENTRIES}:{VALUE_BYTES}")
    sidecar = bench.sidecar("entries", cache='bytes = "144MiB"\nmax_age = "1h"\nadmission_window = "1h"')
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=60) as conn:
        first = fill_cache(sidecar, conn, range(ENTRIES))
        second = fill_cache(sidecar, conn, range(ENTRIES, 2 * ENTRIES))
    beyond = (second[0] - first[0]) / (second[1] - first[1]) - KEY_BYTES - VALUE_BYTES
    kind = f"cached entry beyond key ({KEY_BYTES} B) and value ({VALUE_BYTES} B)"
    bench.note(kind, beyond, "B", 450, remark=f"the second {ENTRIES:,}")
    bench.end(sidecar)


def fill_cache(sidecar, conn, numbers):
    """Reads these keys until nearly all are kept; the process's memory and entries then."""
    held = lambda: sidecar.metrics()["sidecache_cache_entries"]
    before = held()
    for _ in range(30):
        read_all(conn, numbers)
        if held() - before >= 0.99 * len(numbers):
            return sidecar.resident(), held()
    sys.exit(f"only {held() - before:,.0f} of {len(numbers):,} keys are in the cache after 30 readings of all")


def read_all(conn, numbers, at_once=200):
    reply = len(b"$%d\r\n" % VALUE_BYTES) + VALUE_BYTES + 2
    for first in range(0, len(numbers), at_once):
        part = numbers[first : first + at_once]
        conn.sendall(b"".join(command("GET", f"key:{number:012d}") for number in part))
        left = reply * len(part)
        while left:
            left -= len(conn.recv(left)) or sys.exit("the connection ended")


def one_key(bench):
    """Nothing piles up however often one key is read."""
    generate(bench.options.generator, "fill", "--port", bench.redis.port, "--mix", f"get:1:{VALUE_BYTES}")
    sidecar, hits, first = bench.sidecar("one-key"), 0, None
    while hits < bench.options.hits:
        run = ["--port", sidecar.port, "--mix", f"get:1:{VALUE_BYTES}", "--pipeline", 64, "--connections", 20, "--seconds", 3]
        hits += generate(bench.options.generator, "run", *run)["all_commands"]
        first = first or sidecar.resident()
    grown = sidecar.resident() - first
    counted = sidecar.reads()[0]
    bench.note(f"growth over {hits / 1e6:,.0f} million reads of one key", grown / KIB, "KiB", FLAT / KIB, remark=f"{counted / hits:.1%} hits")
    bench.end(sidecar)


def mixed(bench):
    """Reads, writes, deletions, evictions and expiry: flat once the cache is full."""
    mixes = ["twitter:23:200000", "twitter:4:20000", "twitter:14:100000", f"mget:10:10000:{VALUE_BYTES}"]
    for mix in mixes:
        generate(bench.options.generator, "fill", "--port", bench.redis.port, "--mix", mix)
    sidecar, begin, seen = bench.sidecar("mixed", cache='bytes = "16MiB"'), time.monotonic(), []
    turn = max(2, bench.options.mixed_seconds / 40)
    while time.monotonic() - begin < bench.options.mixed_seconds:
        for mix in mixes:
            run = ["--port", sidecar.port, "--mix", mix, "--pipeline", 4, "--connections", 50, "--seconds", turn, "--seed", len(seen)]
            generate(bench.options.generator, "run", *run)
        seen.append(sidecar.resident())
    # The first third fills; then the highest of the last third is set beside the highest of the second.
    third = max(1, len(seen) // 3)
    middle, last = max(seen[third : 2 * third] or seen), max(seen[-third:])
    remark = f"{time.monotonic() - begin:.0f} s; cache.bytes 16 MiB, {last / MIB:.1f} MiB in all"
    bench.note("growth under a mixed load, last third beside second", (last - middle) / KIB, "KiB", FLAT / KIB, remark=remark)
    bench.end(sidecar)


def stampede(bench, threads):
    """A thousand readers of one missing key while upstream is far away: how often it is asked."""
    port = free_port()
    args = [str(bench.options.generator.resolve()), "relay", "--listen", str(port), "--to", str(bench.redis.port), "--delay-ms", "250"]
    relay = bench.add(Process(f"relay-{threads}", args, bench.folder, port))
    # Whoever joins a fetch must still be within max_staleness of it, however slow this machine is.
    sidecar = bench.sidecar(f"stampede-{threads}", upstream=port, cache='max_staleness = "10s"', threads=threads)
    connections = [socket.create_connection(("127.0.0.1", sidecar.port), timeout=60) for _ in range(READERS)]
    for conn in connections:
        conn.sendall(command("GET", "other"))
    for conn in connections:
        conn.recv(100)
    # A command that nothing else here sends, so that all of its calls are fetches.
    calls = lambda: int(info(bench.redis.port, "commandstats").get("cmdstat_strlen", "calls=0").split("calls=")[1].split(",")[0])
    before, request = calls(), command("STRLEN", "missing")
    for conn in connections:
        conn.sendall(request)
    for conn in connections:
        if (reply := conn.recv(200)) != b":0\r\n":
            sys.exit(f"a reader of a missing key was told {reply}")
    for conn in connections:
        conn.close()
    bench.note(f"fetches for {READERS:,} readers of one missing key, {threads} worker{'s' * (threads > 1)}", calls() - before, "", threads)
    bench.end(sidecar, relay)


def look_ups(bench):
    """One look-up beside a writer, by the histogram of benches/look_up_latency.rs."""
    args = ["cargo", "bench", "--locked", "--quiet", "--bench", "look_up_latency", "--", "--seconds", str(bench.options.look_up_seconds)]
    run = subprocess.run(args, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for row in json.loads(run.stdout.splitlines()[-1])["rows"][1:]:
        times = row["us"]
        remark = f"p50 {times['p50']:.2f}, p99.9 {times['p99.9']:.1f}"
        bench.note(f"one look-up, 99th percentile, written by {row['writer']}", times["p99"], "µs", 5, remark=remark)


def sizes(bench):
    program = bench.options.sidecache
    bench.note("program, with symbols", program.stat().st_size / MIB, "MiB")
    stripped = bench.folder / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    bench.note("program, stripped", stripped.stat().st_size / MIB, "MiB")
    if not shutil.which("buildah"):
        print("  no buildah here: the image's size is not measured", file=sys.stderr)
        return
    storage = {**os.environ, "STORAGE_DRIVER": os.environ.get("STORAGE_DRIVER", "vfs")}
    subprocess.run(["scripts/image.sh", "local"], cwd=ROOT, env=storage, check=True, stdout=subprocess.DEVNULL)
    archive = bench.folder / "image.tar"
    push = ["buildah", "push", "--quiet", "sidecache:latest", f"oci-archive:{archive}"]
    subprocess.run(push, env=storage, check=True, stdout=subprocess.DEVNULL)
    bench.note("image as it is sent over a network", archive.stat().st_size / MIB, "MiB")


def table(found):
    lines = ["| what | budget | measured | |", "|---|---|---|---|"]
    for row in found:
        digits = 0 if row["unit"] in ("", "B") or row["value"] >= 100 else 2
        budget = "–" if row["budget"] is None else f"{row['budget']:g} {row['unit']}".strip()
        verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]
        remark = f" ({row['remark']})" if row["remark"] else ""
        lines.append(f"| {row['what']} | {budget} | {row['value']:,.{digits}f} {row['unit']}{remark} | {verdict} |")
    return "\n".join(lines)


PARTS = {
    "sizes": sizes,
    "start-up": start_up,
    "idle": idle,
    "clients": lambda bench: [clients(bench, count) for count in (1000, 10_000)],
    "entries": entries,
    "stampede": lambda bench: [stampede(bench, threads) for threads in (1, 2)],
    "one-key": one_key,
    "mixed": mixed,
    "look-ups": look_ups,
}


def main():
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="ten million reads of one key, a minute of mixed load")
    parser.add_argument("--hits", type=float, help="reads of one key (100,000,000)")
    parser.add_argument("--mixed-seconds", type=float, help="of mixed load (600)")
    parser.add_argument("--look-up-seconds", type=float, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these measurements")
    options = parser.parse_args()
    options.hits = options.hits or (1e7 if options.quick else 1e8)
    options.mixed_seconds = options.mixed_seconds or (60 if options.quick else 600)
    # Cut short, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    known, folder = about(options), Path(tempfile.mkdtemp(prefix="sidecache-footprint-"))
    bench = None
    try:
        bench = Bench(options, folder)
        for part in options.only:
            PARTS[part](bench)
    finally:
        if bench:
            bench.end()
        shutil.rmtree(folder)
    keep("footprint", known, bench.found, table(bench.found), options, "make footprint")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What an application gains by sidecache when upstream is so far away.

A relay (`load relay`) stands before Redis and delays each way by 0.25, 1 and 5 ms. The same load, Twitter's mixes in an
open loop, goes through the relay to Redis (direct), and to a sidecache whose upstream is that relay. Both take turns
within each round. Latencies count from when a command was due. Before its turns a sidecache's cache is warmed by the same
mix. What upstream executes is its own count, with everything that sidecache asks for itself (PTTL, CLIENT CACHING, PING).

Needs redis-server, and a release build of sidecache and of the example `load`. Standard library only.
"""

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import Process, free_port, info
from sidecars import Sidecar, about, arguments, generate, keep, raise_file_limit, start_redis

DELAYS_MS = (0.25, 1, 5)
MIXES = ("twitter:52", "twitter:34", "twitter:7", "twitter:19")
CONNECTIONS = 50
# So many that distance does not make the warming slow.
WARMING = 500
PERCENTILES = ("p50", "p99", "p99.9")


class Stage:
    """Redis, and for each distance a relay and a sidecache behind it."""

    def __init__(self, options, folder):
        self.options, self.folder, self.processes = options, folder, []
        self.redis = self.add(start_redis(folder))
        self.relays, self.sidecars = {}, {}
        for delay in DELAYS_MS:
            port = free_port()
            args = [str(options.generator.resolve()), "relay", "--listen", str(port), "--to", str(self.redis.port), "--delay-ms", str(delay)]
            self.relays[delay] = self.add(Process(f"relay-{delay}", args, folder, port))
            self.sidecars[delay] = self.add(Sidecar(f"sidecache-{delay}", options.sidecache, folder, port))

    def add(self, process):
        self.processes.append(process)
        return process

    def end(self):
        for process in reversed(self.processes):
            process.end()

    def turn(self, mix, delay, target, seed, **shape):
        """One run's figures."""
        sidecar = self.sidecars[delay]
        port = sidecar.port if target == "sidecache" else self.relays[delay].port
        executed, reads = self.executed(), sidecar.reads()
        result = generate(self.options.generator, "run", "--port", port, "--mix", mix, "--seed", seed, *flags(shape))
        result["upstream_per_command"] = (self.executed() - executed) / result["all_commands"]
        if target == "sidecache":
            hits, all_reads = (after - before for after, before in zip(sidecar.reads(), reads))
            result["hit_ratio"] = hits / all_reads
        return result

    def executed(self):
        """Commands by Redis's own count, this question not included."""
        return int(info(self.redis.port, "stats")["total_commands_processed"])


def flags(shape):
    return [part for name, value in shape.items() for part in (f"--{name.replace('_', '-')}", value)]


def measure(stage, options):
    turns = []
    for mix in options.mixes:
        subprocess.run(["redis-cli", "-p", str(stage.redis.port), "flushall"], check=True, stdout=subprocess.DEVNULL)
        generate(options.generator, "fill", "--port", stage.redis.port, "--mix", mix)
        for delay in DELAYS_MS:
            stage.turn(mix, delay, "sidecache", 99, seconds=options.warm, connections=WARMING)
        for number in range(options.rounds):
            for delay in DELAYS_MS:
                targets = ["direct", "sidecache"] if number % 2 else ["sidecache", "direct"]
                for target in targets:
                    result = stage.turn(
                        mix, delay, target, number, rate=options.rate, seconds=options.seconds, warm_up=0.5, connections=CONNECTIONS
                    )
                    turns.append({"mix": mix, "delay_ms": delay, "target": target, "round": number, **result})
            print(f"  {mix}: round {number + 1} of {options.rounds}", file=sys.stderr)
    return turns


def table(turns, options):
    lines = [
        "| one way | keys and commands as in | p50 ms: direct, sidecache | p99 ms | p99.9 ms | hits among reads | upstream's commands per command |",
        "|---|---|---|---|---|---|---|",
    ]
    for delay in DELAYS_MS:
        for mix in options.mixes:
            of = lambda target: [t for t in turns if (t["mix"], t["delay_ms"], t["target"]) == (mix, delay, target)]
            middle = lambda target, field: statistics.median(field(turn) for turn in of(target))
            cells = []
            for name in PERCENTILES:
                direct, ours = (middle(target, lambda turn: turn["latency_us"][name]) / 1000 for target in ("direct", "sidecache"))
                cells.append(f"{direct:.2f}, {ours:.2f}")
            cells.append(f"{middle('sidecache', lambda turn: turn['hit_ratio']):.1%}")
            executed = [middle(target, lambda turn: turn["upstream_per_command"]) for target in ("direct", "sidecache")]
            cells.append(f"{executed[0]:.2f}, {executed[1]:.2f}")
            lines.append(f"| {delay} ms | cluster {mix.split(':')[1]} | " + " | ".join(cells) + " |")
    lines.append(
        f"\n{options.rate:,} commands a second over {CONNECTIONS} connections, open loop, medians of {options.rounds} rounds of"
        f" {options.seconds} s, both in turns; 100,000 keys, the cache of 64 MiB warmed by {options.warm} s of the same mix."
    )
    return "\n".join(lines)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--warm", type=float, default=3)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    options = parser.parse_args()
    # Cut short, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    known = {**about(options), "rounds": options.rounds, "seconds": options.seconds, "rate": options.rate, "connections": CONNECTIONS}
    folder = Path(tempfile.mkdtemp(prefix="sidecache-distance-"))
    stage = None
    try:
        stage = Stage(options, folder)
        turns = measure(stage, options)
    finally:
        if stage:
            stage.end()
        shutil.rmtree(folder)
    keep("distance", known, turns, table(turns, options), options, "make bench-distance")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""CPU per command of sidecache and of Envoy before a cluster of three masters, in one run, under the same load.

As compare.py does it, whose parts these are: the targets take turns within each round, CPU is the process's own by
/proc/PID/stat, medians over the rounds, ratios paired by round. Envoy has one worker and follows redirects, sidecache has
one worker. The keys are 10,000 at random, so that a pipeline goes to all masters.

Needs redis-server, redis-cli, redis-benchmark, Envoy (.deps/envoy, by scripts/deps.sh bench) and a release build of
sidecache. Standard library only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import compare
from compare import ROOT, Process, ask, free_port

KEYS = 10_000
MASTERS = 3
WORKLOADS = [
    ("forward", "get", ["envoy", "sidecache-off"]),
    ("set", "set", ["envoy", "sidecache"]),
]
OTHERS = {"envoy": "Envoy"}
ENVOY = Path(os.environ.get("ENVOY_BIN", ROOT / ".deps/envoy"))


class Node(Process):
    """A master, which answers nothing about keys until the cluster stands."""

    def wait_until_it_answers(self):
        until("a node answers", lambda: ask(self.port, b"PING\r\n") == b"+PONG\r\n")


def until(what, condition):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.02)
    sys.exit(f"not within 20 s: {what}")


def free_pair():
    """A port whose cluster bus, 10,000 above, is free too."""
    while True:
        port = free_port()
        if port < 20000 and not is_taken(port + 10000):
            return port


def is_taken(port):
    try:
        ask(port, b"")
        return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True


def start_all(processes, folder, sidecache):
    ports = []
    for i in range(MASTERS):
        port = free_pair()
        (folder / f"node{i}").mkdir()
        args = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        args += ["--cluster-enabled", "yes", "--dir", f"node{i}"]
        processes[f"redis-{i}"] = Node(f"redis-{i}", args, folder, port)
        ports.append(port)
    nodes = [f"127.0.0.1:{port}" for port in ports]
    made = subprocess.run(["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(f"no cluster: {made.stdout}\n{made.stderr}")
    is_ok = lambda port: b"cluster_state:ok" in ask(port, b"CLUSTER INFO\r\n")
    until("the cluster stands", lambda: all(is_ok(port) for port in ports))

    admins = compare.start_sidecaches(processes, folder, sidecache, "redis-cluster://" + ",".join(nodes))
    if not ENVOY.exists():
        sys.exit(f"no {ENVOY}; scripts/deps.sh bench installs it")
    port = free_port()
    config = (ROOT / "benches/envoy-cluster.yaml").read_text()
    (folder / "envoy.yaml").write_text(config.replace("LISTEN", str(port)).replace("NODE", str(ports[0])))
    args = [str(ENVOY), "-c", "envoy.yaml", "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"]
    processes["envoy"] = Process("envoy", args, folder, port)
    return admins


def fill(port):
    """Puts in all keys that redis-benchmark may read."""
    lines = "".join(f"SET key:{i:012d} {'x' * compare.VALUE_BYTES}\n" for i in range(KEYS))
    run = subprocess.run(["redis-cli", "-p", str(port)], input=lines, capture_output=True, text=True)
    if run.stdout.split() != ["OK"] * KEYS:
        sys.exit(f"the keys cannot be put in: {run.stdout[-500:]}{run.stderr}")


def main():
    options, sizes = compare.arguments(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="sidecache-bench-"))
    processes = {}
    try:
        about = {
            "machine": compare.machine(),
            "sidecache": compare.version(str(options.sidecache), "--version"),
            "redis": compare.version("redis-server", "--version"),
            "envoy": compare.version(str(ENVOY), "--version"),
            "masters": MASTERS,
            "keys": KEYS,
            "commands": sizes,
            "rounds": options.rounds,
        }
        admins = start_all(processes, folder, options.sidecache.resolve())
        fill(processes["sidecache-off"].port)
        results = compare.run_rounds(processes, admins, options.rounds, sizes, WORKLOADS, KEYS)
    finally:
        for process in processes.values():
            process.end()
        shutil.rmtree(folder)
    compare.report("cluster", about, results, options.rounds, WORKLOADS, OTHERS)


if __name__ == "__main__":
    main()

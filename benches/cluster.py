#!/usr/bin/env python3
"""CPU per command of sidecache and of Envoy before a cluster of three masters, in one run, under the same load.

As compare.py does it, whose parts these are. Envoy has one worker and follows redirects, sidecache has one worker. The
keys are 10,000 at random, so that a pipeline goes to all masters.

Needs redis-server, redis-cli, redis-benchmark, Envoy (.deps/envoy, by scripts/deps.sh bench) and a release build of
sidecache. Standard library only.
"""

import subprocess
import sys
import time

import loads
import publish
from compare import arguments, keep, measure
from processes import Process, ask, command, free_port, machine, program, until
from summary import Summary
from tables import table
from targets import versions
from workloads import get, set_

KEYS = 10_000
MASTERS = 3
FORWARDED, WRITTEN, BESIDE = ("envoy", "sidecache-off"), ("envoy", "sidecache"), ("envoy",)
WORKLOADS = [
    get("get", "GET, forwarded", keys=KEYS, targets=FORWARDED),
    get("get-p32", "GET, forwarded, pipelines of 32", keys=KEYS, targets=FORWARDED, pipeline=32),
    set_("set", "SET", keys=KEYS, targets=WRITTEN),
    set_("set-p32", "SET, pipelines of 32", keys=KEYS, targets=WRITTEN, pipeline=32),
]


class Node(Process):
    """A master, which answers nothing about keys until the cluster stands."""

    def wait_until_it_answers(self):
        until(f"{self.name} answers", lambda: ask(self.port, command("PING")) == b"+PONG\r\n", self)


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


def start_masters(targets):
    """Their addresses, when the cluster stands."""
    for number in range(MASTERS):
        name, port = f"redis-{number}", free_pair()
        (targets.folder / name).mkdir()
        args = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        targets.add(name, [*args, "--cluster-enabled", "yes", "--dir", name], port, Node)
    ports = [server.port for server in targets.servers()]
    nodes = [f"127.0.0.1:{port}" for port in ports]
    made = subprocess.run(["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(f"no cluster: {made.stdout}\n{made.stderr}")
    is_ok = lambda port: b"cluster_state:ok" in ask(port, command("CLUSTER", "INFO"))
    until("the cluster stands", lambda: all(is_ok(port) for port in ports))
    return nodes


def main():
    options = arguments(__doc__).parse_args()
    seconds, rounds = options.seconds or (1.0 if options.quick else 3.0), options.rounds or 5
    known = versions(options.sidecache)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        **{name: known[name] for name in ("sidecache", "redis", "envoy")},
        "masters": MASTERS,
        "keys": KEYS,
        "seconds": seconds,
        "rounds": rounds,
    }

    def start(targets):
        nodes = start_masters(targets)
        targets.start_sidecaches(options.sidecache.resolve(), "redis-cluster://" + ",".join(nodes))
        targets.start_envoy("envoy-cluster.yaml", targets.servers()[0].port)

    def fill(targets, _):
        loads.fill(targets["sidecache-off"].port, WORKLOADS[0])

    turns = measure(start, fill, None, WORKLOADS, seconds, rounds)
    rows = Summary(turns).rows(WORKLOADS, BESIDE)
    shown, source = table(rows, WORKLOADS, BESIDE), publish.about(about, "make bench-cluster")
    file = keep("cluster", about, rows, turns, [])
    print(f"{shown}\n\n{source} All turns: {file.name}")
    if options.publish:
        publish.section("docs/performance.md", "cluster", f"{source}\n\n{shown}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What sidecache costs beside Redis itself, twemproxy, HAProxy and Envoy, in one run, under the same load.

One redis-server stands behind everything (targets.py tells how each is set up). On each workload (workloads.py) the
targets take turns within each round, so that whatever else the machine does falls on all of them alike. First a closed
loop, which shows throughput and CPU; then an open one, which sends the same number of commands per second to all and
shows latency, counted from when a command was due. CPU is the process's own and that of the server behind it, by the
scheduler's nanoseconds; medians over the rounds, ratios paired by round.

Needs redis-server, redis-benchmark, nutcracker, haproxy, Envoy (.deps/envoy; scripts/deps.sh bench installs them), and
release builds of sidecache and of the generator (examples/load). Standard library only.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import budgets
import loads
import plot
import publish
from measuring import Turns
from processes import ROOT, machine
from summary import Summary
from tables import short_table, table
from targets import Targets, versions
from workloads import ALL, BY_NAME, VALUE_BYTES, WORKLOADS

RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# What the README shows of it.
FEW = ("get", "get-p32", "set", "set-p32", "twitter-52")


def arguments(document):
    """The options that this and cluster.py share."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer workloads, rounds and seconds")
    parser.add_argument("--rounds", type=int, help="of each workload; the closed loop of those that budgets rest on has three times as many")
    parser.add_argument("--seconds", type=float, help="of each turn")
    parser.add_argument("--publish", action="store_true", help="put tables and drawings into README.md and docs/")
    parser.add_argument("--sidecache", type=Path, default=RELEASE / "sidecache")
    # Cut short, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return parser


def measure(start, fill, generator, workloads, seconds, rounds):
    """Starts everything, runs all rounds, ends everything; the turns."""
    folder = Path(tempfile.mkdtemp(prefix="sidecache-bench-"))
    targets = Targets(folder)
    try:
        start(targets)
        turns = Turns(targets, generator, seconds, rounds)
        for workload in workloads:
            fill(targets, workload)
            turns.run(workload)
    finally:
        targets.end()
        shutil.rmtree(folder)
    return turns.results


def keep(name, about, rows, turns, verdicts):
    """All turns in a file of their own; its path."""
    file = ROOT / "bench-results" / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**about, "verdicts": verdicts, "medians": rows, "turns": turns}, indent=1) + "\n")
    return file


def run(options):
    """Measures; what the run was made on and with, and its turns."""
    if not options.load.exists():
        sys.exit(f"no {options.load}: cargo build --release --example load")
    seconds, rounds = options.seconds or (0.6 if options.quick else 1.0), options.rounds or (1 if options.quick else 3)
    workloads = [workload for workload in WORKLOADS if workload.is_quick or not options.quick]
    workloads = [BY_NAME[name] for name in options.only] if options.only else workloads
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        **versions(options.sidecache),
        "command": "make bench-quick" if options.quick else "make bench",
        "seconds": seconds,
        "rounds": rounds,
    }
    generator = loads.Generator(options.load.resolve())

    def start(targets):
        targets.start_redis()
        targets.start_twemproxy()
        targets.start_haproxy()
        targets.start_envoy("envoy.yaml", targets["redis"].port)
        targets.start_sidecaches(options.sidecache.resolve(), f"redis://127.0.0.1:{targets['redis'].port}")

    def fill(targets, workload):
        loads.fill(targets["redis"].port, workload)
        # What redis-benchmark reads has the same names in the generator's mixes.
        if not workload.command:
            generator.fill(targets["redis"].port, workload)

    return about, measure(start, fill, generator, workloads, seconds, rounds)


def put_into_docs(about, rows, workloads, verdicts):
    source, machine = publish.about(about, about["command"]), f"{about['machine']['cpu']}, {about['date']}"
    lines = "\n".join(f"- {verdict}" for verdict in verdicts)
    shown = f"{source}\n\n{table(rows, workloads)}\n\nThe budgets, by this run:\n\n{lines}"
    publish.section("docs/performance.md", "compare", shown)
    few = [workload for workload in workloads if workload.name in FEW]
    publish.section("README.md", "compare", f"{source}\n\n{short_table(rows, few, ALL)}")
    drawings = {
        "performance-cpu.svg": plot.cpu(rows, workloads, machine),
        "performance-few.svg": plot.cpu(rows, few, machine),
        "performance-latency.svg": plot.latency(rows, workloads, machine),
    }
    for name, drawing in drawings.items():
        (ROOT / "docs" / name).write_text(drawing)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=BY_NAME, help="of: " + ", ".join(BY_NAME))
    parser.add_argument("--load", type=Path, default=RELEASE / "examples/load", help="the generator")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="measures nothing, but shows a run of bench-results/ again")
    options = parser.parse_args()
    if options.kept:
        about = json.loads(options.kept.read_text())
        turns = about["turns"]
    else:
        about, turns = run(options)
    measured = {turn["workload"] for turn in turns}
    workloads = [workload for workload in WORKLOADS if workload.name in measured]
    summary = Summary(turns)
    rows, verdicts = summary.rows(workloads), budgets.verdicts(summary)
    file = options.kept or keep("compare", about, rows, turns, verdicts)
    print(f"{table(rows, workloads)}\n\n{publish.about(about, about['command'])}")
    print(f"{VALUE_BYTES} B values and 50 connections where nothing else is said. All turns: {file.name} in bench-results/\n")
    print("\n".join(verdicts))
    if options.publish:
        put_into_docs(about, rows, workloads, verdicts)


if __name__ == "__main__":
    main()

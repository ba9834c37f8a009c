#!/usr/bin/env python3
"""Instructions, allocations and system calls per command, which no other load on the machine can blur.

One redis-server, one sidecache under callgrind (and one under strace), one client connection. Each workload sends
so many commands, counts between callgrind's `-z` and `-d`, and divides. What the kernel does is not counted here; see
compare.py for CPU time.

Needs redis-server, valgrind, strace and a release build of sidecache. Standard library only.
"""

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from processes import ROOT, Process, free_port
from workloads import VALUE_BYTES

KEY = b"key:000000000042"
VALUE = b"v" * VALUE_BYTES
GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(KEY), KEY)
SET = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(KEY), KEY, VALUE_BYTES, VALUE)
GOT = b"$%d\r\n%s\r\n" % (VALUE_BYTES, VALUE)
# name, which sidecache, request, reply, commands at once
WORKLOADS = [
    ("hit", "tracking", GET, GOT, 1),
    ("hit", "tracking", GET, GOT, 32),
    ("forwarded GET", "off", GET, GOT, 1),
    ("forwarded GET", "off", GET, GOT, 32),
    ("SET", "tracking", SET, b"+OK\r\n", 1),
    ("SET", "tracking", SET, b"+OK\r\n", 32),
]
ALLOCATIONS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}


def start(folder, sidecache, redis, mode, wrapper):
    port = free_port()
    name = f"{wrapper[0]}-{mode}"
    (folder / f"{name}.toml").write_text(
        f'[client]\nlisten = ["127.0.0.1:{port}"]\n[upstream]\nurl = "redis://127.0.0.1:{redis}"\n'
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n[cache]\nmode = "{mode}"\n'
    )
    return Process(name, [*wrapper, str(sidecache), "--config", f"{name}.toml"], folder, port)


def run(conn, request, reply, at_once, rounds):
    """`rounds` batches, one after the other; checks every byte."""
    batch, expected = request * at_once, reply * at_once
    for _ in range(rounds):
        conn.sendall(batch)
        got = b""
        while len(got) < len(expected):
            part = conn.recv(len(expected) - len(got))
            if not part:
                sys.exit("the connection ended")
            got += part
        if got != expected:
            sys.exit(f"unexpected reply: {got[:80]}")


def profile(folder, process, conn, work, rounds):
    """Instructions by function, and allocations, of `rounds` batches."""
    control = lambda flag: subprocess.run(["callgrind_control", flag, str(process.process.pid)], check=True, capture_output=True)
    _, _, request, reply, at_once = work
    run(conn, request, reply, at_once, 20)
    control("-z")
    run(conn, request, reply, at_once, rounds)
    before = set(folder.glob("callgrind.out.*"))
    control("-d")
    new = sorted(set(folder.glob("callgrind.out.*")) - before, key=lambda file: file.stat().st_mtime)
    costs, allocations = Counter(), 0
    for file in new:
        function, called, skip = "", "", False
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("fn="):
                function = line[3:].split("'")[0]
            elif line.startswith("cfn="):
                called = line[4:].split("'")[0]
            elif line.startswith("calls="):
                skip = True
                allocations += int(line[6:].split()[0]) if called in ALLOCATIONS else 0
            elif line[:1].isdigit():
                # The line behind `calls=` is the callee's cost, counted there.
                costs[function] += 0 if skip else int(line.split()[1])
                skip = False
    return costs, allocations


def system_calls(process, conn, work, rounds):
    """System calls of `rounds` batches by name, from strace's record."""
    _, _, request, reply, at_once = work
    run(conn, request, reply, at_once, 20)
    time.sleep(0.05)
    record = process.log
    start = record.stat().st_size
    run(conn, request, reply, at_once, rounds)
    time.sleep(0.05)
    text = record.read_bytes()[start:].decode(errors="replace")
    return Counter(re.findall(r"^(?:\[pid +\d+\] )?(\w+)\(", text, re.MULTILINE))


def children(process):
    """strace's child, for which its signal is meant."""
    listing = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text()
    return [int(pid) for pid in listing.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sidecache", type=Path, default=ROOT / "target/release/sidecache")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--functions", type=int, default=0, help="print so many of the dearest functions of each workload")
    parser.add_argument("--only", help="workloads whose name holds this")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sidecache-instructions-"))
    processes = []
    try:
        redis = free_port()
        args = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        processes.append(Process("redis", args, folder, redis))
        under = {
            "callgrind": ["valgrind", "--tool=callgrind", "--dump-line=no", "--compress-strings=no", "--compress-pos=no"],
            "strace": ["strace", "-f", "-e", "trace=all"],
        }
        running = {}
        for mode in ("tracking", "off"):
            for tool, wrapper in under.items():
                running[tool, mode] = start(folder, options.sidecache.resolve(), redis, mode, wrapper)
                processes.append(running[tool, mode])
        print("| workload | at once | instructions | allocations | system calls |\n|---|---|---|---|---|")
        for work in WORKLOADS:
            name, mode, _, _, at_once = work
            if options.only and options.only not in name:
                continue
            measured = {}
            for tool in under:
                process = running[tool, mode]
                with socket.create_connection(("127.0.0.1", process.port), timeout=30) as conn:
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    run(conn, SET, b"+OK\r\n", 1, 1)
                    run(conn, GET, GOT, 1, 5)
                    if tool == "callgrind":
                        measured[tool] = profile(folder, process, conn, work, options.batches)
                    else:
                        measured[tool] = system_calls(process, conn, work, options.batches)
            commands = options.batches * at_once
            costs, allocations = measured["callgrind"]
            calls = ", ".join(f"{n / commands:.3f} {call}" for call, n in measured["strace"].most_common(6) if n * 200 > commands)
            print(f"| {name} | {at_once} | {costs.total() / commands:,.0f} | {allocations / commands:.2f} | {calls} |", flush=True)
            for function, cost in costs.most_common(options.functions):
                print(f"    {cost / commands:9.1f}  {function[:120]}")
    finally:
        for process in reversed(processes):
            if process.name.startswith("strace"):
                for pid in children(process):
                    try:
                        subprocess.run(["kill", "-TERM", str(pid)], check=False)
                    except OSError:
                        pass
            process.end()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

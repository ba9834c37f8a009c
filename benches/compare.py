#!/usr/bin/env python3
"""CPU per command of sidecache, twemproxy and Redis itself, in one run, under the same load.

One redis-server stands behind everything: sidecache with its cache on, sidecache with it off, and nutcracker
(twemproxy). redis-benchmark sends the load to one target at a time; the targets take turns within each round, so
that whatever else the machine does falls on all of them alike. A figure is the CPU time (user and system, from
/proc/PID/stat) that a process spent, divided by the commands done; medians over the rounds, ratios paired by round.

Needs redis-server, redis-benchmark and nutcracker in PATH, and a release build of sidecache. Standard library only.
"""

import argparse
import csv
import io
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 50
VALUE_BYTES = 100
TICKS = os.sysconf("SC_CLK_TCK")
# name, redis-benchmark's test, the targets that take turns
WORKLOADS = [
    ("hit", "get", ["redis", "sidecache"]),
    ("forward", "get", ["redis", "twemproxy", "sidecache-off"]),
    ("set", "set", ["redis", "twemproxy", "sidecache"]),
]
# Those that the others are set beside, and their names.
OTHERS = {"redis": "Redis", "twemproxy": "twemproxy"}
TITLES = {
    "hit": "GET, one hot key",
    "forward": "GET, forwarded (cache off)",
    "set": "SET",
}


def free_port():
    """A port below the kernel's range for outgoing connections, so that no client socket takes it meanwhile."""
    while True:
        port = random.randrange(10000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Process:
    """A process that is ended with the run."""

    def __init__(self, name, args, folder, port):
        self.name, self.port = name, port
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(args, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_until_it_answers()

    def wait_until_it_answers(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                # GET, since twemproxy knows no PING before 0.5.
                if ask(self.port, b"*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n")[:1] == b"$":
                    return
            except OSError:
                pass
            time.sleep(0.01)
        sys.exit(f"{self.name} does not answer:\n{self.log.read_text(errors='replace')[-2000:]}")

    def cpu(self):
        """CPU seconds so far, user and system, all threads."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=2) as conn:
        conn.sendall(request)
        return conn.recv(65536)


def upstream_calls(port, command):
    """How often Redis has executed this command, by its own count."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as conn:
        conn.sendall(b"INFO commandstats\r\nQUIT\r\n")
        text = b"".join(iter(lambda: conn.recv(65536), b"")).decode()
    for line in text.splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0


def hits(admin):
    """Reads that sidecache served from memory, by its own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    named = [line for line in lines if line.startswith("sidecache_commands_total{") and 'outcome="hit"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in named)


def load(port, test, pipeline, commands, keys=None):
    """Runs redis-benchmark, on one key or on so many at random; its throughput and latencies."""
    args = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", test, "-n", str(commands)]
    args += ["-c", str(CONNECTIONS), "-P", str(pipeline), "-d", str(VALUE_BYTES), "--csv"]
    args += ["-r", str(keys)] if keys else []
    run = subprocess.run(args, capture_output=True, text=True, timeout=600)
    rows = [row for row in csv.reader(io.StringIO(run.stdout)) if row and row[0].upper() == test.upper()]
    if run.returncode != 0 or not rows:
        sys.exit(f"redis-benchmark failed on port {port}: {run.stdout}\n{run.stderr}")
    row = rows[0]
    return {"per_second": float(row[1]), "p50_ms": float(row[4]), "p99_ms": float(row[6])}


def fill(port):
    """Puts in the one key that redis-benchmark reads, so that a GET brings a value."""
    load(port, "set", 1, CONNECTIONS)
    key = b"key:__rand_int__"
    reply = ask(port, b"*2\r\n$6\r\nSTRLEN\r\n$%d\r\n%s\r\n" % (len(key), key))
    if reply != b":%d\r\n" % VALUE_BYTES:
        sys.exit(f"redis-benchmark does not write {key.decode()} any more: {reply}")


def start_all(folder, sidecache):
    redis = free_port()
    args = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    processes = {"redis": Process("redis", args, folder, redis)}

    proxy = free_port()
    (folder / "nutcracker.yml").write_text(
        f"bench:\n  listen: 127.0.0.1:{proxy}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n"
        f"  preconnect: true\n  server_connections: 1\n  servers:\n   - 127.0.0.1:{redis}:1\n"
    )
    program = shutil.which("nutcracker", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not program:
        sys.exit("no nutcracker here; scripts/deps.sh bench installs it")
    args = [program, "-c", "nutcracker.yml", "-a", "127.0.0.1", "-s", str(free_port())]
    processes["twemproxy"] = Process("twemproxy", args, folder, proxy)

    return processes, start_sidecaches(processes, folder, sidecache, f"redis://127.0.0.1:{redis}")


def start_sidecaches(processes, folder, sidecache, url):
    """One with its cache on and one with it off, among the processes; their admin ports."""
    admins = {}
    for name, mode in [("sidecache", "tracking"), ("sidecache-off", "off")]:
        port, admins[name] = free_port(), free_port()
        (folder / f"{name}.toml").write_text(
            f'[client]\nlisten = ["127.0.0.1:{port}"]\n[upstream]\nurl = "{url}"\n'
            f'[admin]\nlisten = "127.0.0.1:{admins[name]}"\n[cache]\nmode = "{mode}"\n'
        )
        processes[name] = Process(name, [str(sidecache), "--config", f"{name}.toml"], folder, port)
    return admins


def measure(processes, admins, workload, test, target, pipeline, commands, keys):
    """One turn of one target: CPU microseconds per command of it and of Redis behind it."""
    process, servers = processes[target], [process for name, process in processes.items() if name.startswith("redis")]
    calls = sum(upstream_calls(server.port, test) for server in servers)
    hits_before = hits(admins["sidecache"]) if workload == "hit" and target == "sidecache" else None
    before = process.cpu(), sum(server.cpu() for server in servers)
    result = load(process.port, test, pipeline, commands, keys)
    result["cpu_us"] = (process.cpu() - before[0]) / commands * 1e6
    result["redis_cpu_us"] = (sum(server.cpu() for server in servers) - before[1]) / commands * 1e6
    # A figure counts only if the commands went the way that the workload's name says.
    reached = sum(upstream_calls(server.port, test) for server in servers) - calls
    result["reached_redis"] = reached / commands
    if hits_before is not None:
        result["hit_ratio"] = (hits(admins["sidecache"]) - hits_before) / commands
        if result["hit_ratio"] < 0.99:
            sys.exit(f"only {result['hit_ratio']:.1%} of the reads were hits")
    elif reached < commands:
        sys.exit(f"{workload} on {target}: only {reached} of {commands} commands reached Redis")
    return result


def run_rounds(processes, admins, rounds, sizes, workloads=WORKLOADS, keys=None):
    results = []
    for workload, test, targets in workloads:
        for pipeline, commands in sizes.items():
            for target in targets:
                load(processes[target].port, test, pipeline, max(commands // 10, 1000), keys)
            for number in range(rounds):
                turn = number % len(targets)
                for target in targets[turn:] + targets[:turn]:
                    result = measure(processes, admins, workload, test, target, pipeline, commands, keys)
                    results.append({"workload": workload, "pipeline": pipeline, "round": number, "target": target, **result})
                print(f"  {TITLES[workload]}, pipeline {pipeline}: round {number + 1} of {rounds}", file=sys.stderr)
    return results


def medians(results, workloads=WORKLOADS, others=OTHERS):
    """Per workload, pipeline and target: medians, and the median of the ratios paired by round."""
    rows = []
    for workload, _, targets in workloads:
        for pipeline in sorted({result["pipeline"] for result in results}):
            those = [r for r in results if r["workload"] == workload and r["pipeline"] == pipeline]
            cpu = {(r["target"], r["round"]): r["cpu_us"] for r in those}
            for target in targets:
                mine = [r for r in those if r["target"] == target]
                row = {"workload": workload, "pipeline": pipeline, "target": target}
                for field in ("cpu_us", "redis_cpu_us", "per_second", "p50_ms", "p99_ms"):
                    row[field] = statistics.median(r[field] for r in mine)
                row["cpu_us_spread"] = [min(r["cpu_us"] for r in mine), max(r["cpu_us"] for r in mine)]
                for other in others:
                    pairs = [(r["cpu_us"], cpu.get((other, r["round"]))) for r in mine if other in targets]
                    ratios = [a / b for a, b in pairs if b]
                    row[f"to_{other}"] = statistics.median(ratios) if ratios else None
                rows.append(row)
    return rows


def table(rows, others=OTHERS):
    beside = [f"beside {title} | " for title in others.values()]
    lines = [
        f"| workload | pipeline | through | CPU µs per command | {''.join(beside)}Redis's own CPU behind it | commands/s | p50 ms | p99 ms |",
        "|---" * (8 + len(others)) + "|",
    ]
    ratio = lambda value: "–" if value is None else f"{value:.2f} ×"
    for row in rows:
        direct = row["target"] == "redis"
        name = {"redis": "nothing: Redis itself", "sidecache-off": "sidecache"}.get(row["target"], row["target"])
        behind = "–" if direct else f"{row['redis_cpu_us']:.2f}"
        ratios = "".join(f"| {ratio(row[f'to_{other}'])} " for other in others)
        lines.append(
            f"| {TITLES[row['workload']]} | {row['pipeline']} | {name} | {row['cpu_us']:.2f} {ratios}"
            f"| {behind} | {row['per_second']:,.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} |"
        )
    return "\n".join(lines)


def version(*args):
    run = subprocess.run(args, capture_output=True, text=True)
    return (run.stdout + run.stderr).strip().splitlines()[0]


def machine():
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].split(":", 1)[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_at_start": os.getloadavg()[0],
    }


def arguments(document):
    """The options, and how many commands a turn has by how many are sent at once."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer commands per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sidecache", type=Path, default=Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/sidecache")
    options = parser.parse_args()
    # Cut short, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The clock of /proc ticks every 10 ms: a turn must burn far more than that.
    return options, {1: 80_000, 32: 1_000_000} if options.quick else {1: 300_000, 32: 3_000_000}


def report(name, about, results, rounds, workloads=WORKLOADS, others=OTHERS):
    """Prints the table, and keeps all turns in a file."""
    rows = medians(results, workloads, others)
    file = ROOT / "bench-results" / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**about, "medians": rows, "turns": results}, indent=1) + "\n")
    print(table(rows, others))
    print(f"\n{about['machine']['cpu']}, {about['machine']['cores']} cores; {CONNECTIONS} connections, {VALUE_BYTES} B values;"
          f" medians of {rounds} rounds. All turns: {file.relative_to(ROOT)}")


def main():
    options, sizes = arguments(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="sidecache-bench-"))
    processes = {}
    try:
        about = {
            "machine": machine(),
            "sidecache": version(str(options.sidecache), "--version"),
            "redis": version("redis-server", "--version"),
            "twemproxy": version(shutil.which("nutcracker", path=os.environ.get("PATH", "") + ":/usr/sbin") or "nutcracker", "--version"),
            "connections": CONNECTIONS,
            "value_bytes": VALUE_BYTES,
            "commands": sizes,
            "rounds": options.rounds,
        }
        processes, admins = start_all(folder, options.sidecache.resolve())
        fill(processes["redis"].port)
        results = run_rounds(processes, admins, options.rounds, sizes)
    finally:
        for process in processes.values():
            process.end()
        shutil.rmtree(folder)

    report("compare", about, results, options.rounds)


if __name__ == "__main__":
    main()

"""A sidecache that is measured: its configuration, what it counts, what it weighs."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import publish
from processes import ROOT, Process, free_port, machine, program, version

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def arguments(document):
    """Options that all measurements have."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("--sidecache", type=Path, default=TARGET / "sidecache")
    parser.add_argument("--generator", type=Path, default=TARGET / "examples/load")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/performance.md")
    return parser


def raise_file_limit():
    """Thousands of connections need as many files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start_redis(folder, name="redis"):
    port = free_port()
    args = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Process(name, args, folder, port)


class Sidecar(Process):
    """With an admin port, before a server on `upstream`. `cache` and the others are lines of its configuration."""

    def __init__(self, name, path, folder, upstream, cache="", threads=1):
        self.admin = free_port()
        port = free_port()
        (folder / f"{name}.toml").write_text(
            f'threads = {threads}\n[client]\nlisten = ["127.0.0.1:{port}"]\nmax_clients = 20000\n'
            f'[upstream]\nurl = "redis://127.0.0.1:{upstream}"\n[admin]\nlisten = "127.0.0.1:{self.admin}"\n[cache]\n{cache}\n'
        )
        super().__init__(name, [str(path.resolve()), "--config", f"{name}.toml"], folder, port)

    def metrics(self):
        """Name with labels, as printed, to value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def reads(self):
        """Hits and all reads of keys so far, by its own count."""
        named = {name: value for name, value in self.metrics().items() if name.startswith("sidecache_commands_total{") and 'class="read"' in name}
        return sum(value for name, value in named.items() if 'outcome="hit"' in name), sum(named.values())

    def resident(self):
        """Bytes of memory that are its own: private pages, without those of the program's file."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))

    def resident_all(self):
        """The same with the program's pages that have been touched: what `ps` shows."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def generate(generator, *args):
    """Runs the load generator; its report, if it prints one."""
    run = subprocess.run([generator, *map(str, args)], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"load {' '.join(map(str, args))}: {run.stderr}")
    report = json.loads(run.stdout) if run.stdout else {}
    if report.get("errors") or report.get("reconnects"):
        sys.exit(f"load {' '.join(map(str, args))}: {report}\n{run.stderr}")
    return report


def about(options):
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "sidecache": version(str(options.sidecache), "--version"),
        "redis": version(program("redis-server"), "--version"),
    }


def keep(name, known, found, table, options, command):
    """Prints the table, keeps everything in a file, and publishes it if that is wanted."""
    file = ROOT / "bench-results" / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**known, "found": found}, indent=1) + "\n")
    print(table)
    print(f"\nAll figures: {file.relative_to(ROOT)}")
    if options.publish:
        publish.section("docs/performance.md", name, publish.about(known, command) + "\n\n" + table)

"""Processes that a benchmark starts, how it talks to them, and what the system says of the CPU they used."""

import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PATH = os.environ.get("PATH", "") + ":/usr/sbin"


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of a process, all threads.

    The sum is the scheduler's own, in nanoseconds. The system accounts for user and system time by ticks (10 ms and
    sampled): good for their proportion over some seconds, no more.
    """

    total: float
    user: float
    system: float

    def __sub__(self, other):
        return Cpu(self.total - other.total, self.user - other.user, self.system - other.system)

    def __add__(self, other):
        return Cpu(self.total + other.total, self.user + other.user, self.system + other.system)

    def __mul__(self, share):
        return Cpu(self.total * share, self.user * share, self.system * share)


class Process:
    """A process that is ended with the run."""

    def __init__(self, name, args, folder, port):
        self.name, self.args, self.folder, self.port = name, args, folder, port
        self.log = folder / f"{name}.log"
        self.start()

    def start(self):
        self.threads = {}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.args, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_until_it_answers()

    def wait_until_it_answers(self):
        # GET, since twemproxy knows no PING before 0.5.
        until(f"{self.name} answers", lambda: ask(self.port, command("GET", "none"))[:1] == b"$", self)

    def is_running(self):
        return self.process.poll() is None

    def last_words(self):
        return self.log.read_text(errors="replace")[-2000:]

    def cpu(self):
        """CPU so far. The time of threads that have ended stays in the sum, up to when they were last seen."""
        proc = Path(f"/proc/{self.process.pid}")
        for task in (proc / "task").iterdir():
            try:
                self.threads[task.name] = int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass
        fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
        user, system = int(fields[11]) / TICKS, int(fields[12]) / TICKS
        # A kernel without schedstat has ticks alone.
        return Cpu(sum(self.threads.values()) / 1e9 or user + system, user, system)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def until(what, condition, process=None):
    """Waits until it holds; ends the run if it does not within 30 seconds, or the process has ended."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (process is None or process.is_running()):
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.01)
    sys.exit(f"not so: {what}\n{process.last_words() if process else ''}")


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


def command(*words):
    """A command as it goes over the wire."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def ask(port, request):
    """The first bytes of the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as conn:
        conn.sendall(request)
        return conn.recv(65536)


def info(port, section):
    """A section of a Redis server's INFO as a dictionary."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as conn:
        conn.sendall(command("INFO", section) + command("QUIT"))
        text = b"".join(iter(lambda: conn.recv(65536), b"")).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def program(name):
    return shutil.which(name, path=PATH) or sys.exit(f"no {name} here; scripts/deps.sh bench installs it")


def version(*args):
    """The first number with two dots in what a program says of itself."""
    run = subprocess.run(args, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", run.stdout + run.stderr)
    return found[0] if found else sys.exit(f"{' '.join(args)} tells no version: {run.stdout}{run.stderr}")


def machine():
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].split(":", 1)[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_at_start": os.getloadavg()[0],
    }

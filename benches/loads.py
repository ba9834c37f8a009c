"""Who sends the load: redis-benchmark, in a closed loop, and the project's own generator, which can do an open one too.

A result is a dictionary: `commands`, `seconds`, `per_second`, `latency_us` by percentile. `Failed` says why there is none.
"""

import csv
import io
import json
import os
import select
import socket
import subprocess
import time

from processes import ask, command, program

# A turn that takes this long is given up: somebody waits for something that does not come.
PATIENCE = 60


class Failed(Exception):
    """What a target did not do; stands in the table in place of its figures."""


class Void(Exception):
    """Why a turn does not count: its commands did not go the way that the workload's title says. On a machine that stood
    still for longer than max_staleness, sidecache rightly forwards what would have been hits."""


def redis_benchmark(port, workload, commands):
    """Closed loop: each connection sends its next commands when the replies to the last are in."""
    args = [program("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-n", str(commands), "-r", str(workload.keys)]
    args += ["-c", str(workload.connections), "-P", str(workload.pipeline), "--precision", "3", "--csv", *workload.command]
    try:
        run = subprocess.run(args, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done within {PATIENCE} s") from None
    # The last row; the first are the names of the columns. What it could not do it says on either stream.
    rows = [row for row in csv.reader(io.StringIO(run.stdout)) if len(row) == 8 and row[1] != "rps"]
    if run.returncode != 0 or not rows:
        said = [line for line in (run.stdout + "\n" + run.stderr).splitlines() if "rror" in line or "ould not" in line]
        raise Failed(said[-1].strip() if said else f"redis-benchmark ended with {run.returncode}")
    per_second, p50, p99, most = (float(rows[-1][at]) for at in (1, 4, 6, 7))
    latency = {"p50": p50 * 1000, "p99": p99 * 1000, "max": most * 1000}
    return {"commands": commands, "seconds": commands / per_second, "per_second": per_second, "latency_us": latency}


class Generator:
    """The project's own, `cargo build --release --example load`."""

    def __init__(self, path):
        self.path = path

    def fill(self, port, workload):
        """Puts the workload's keys in, directly at the server."""
        run = subprocess.run([self.path, "fill", "--port", str(port), "--mix", workload.mix], capture_output=True, text=True)
        if run.returncode != 0:
            raise Failed(f"the keys cannot be put in: {last_line(run.stderr)}")

    def run(self, port, workload, seconds, warm_up, seed, rate=None, pipeline=None, connections=None, meanwhile=None):
        """Closed loop without `rate` (commands per second); `meanwhile` is called twenty times a second."""
        args = [self.path, "run", "--port", str(port), "--mix", workload.mix, "--seed", str(seed)]
        args += ["--connections", str(connections or workload.connections), "--pipeline", str(pipeline or workload.pipeline)]
        args += ["--seconds", str(seconds), "--warm-up", str(warm_up)]
        args += ["--rate", str(rate)] if rate else []
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + seconds + warm_up + PATIENCE
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise Failed(f"not done {PATIENCE} s after the time")
                if meanwhile:
                    meanwhile()
                wait(process, 0.05)
        finally:
            if process.poll() is None:
                process.kill()
            out, err = process.communicate()
        if process.returncode != 0:
            raise Failed(last_line(err) or f"the generator ended with {process.returncode}")
        result = json.loads(out)
        if result["errors"] or result["reconnects"]:
            raise Failed(f"{result['errors']:,} errors and {result['reconnects']:,} lost connections in {result['commands']:,} commands")
        if result["missing"] and workload.command:
            raise Failed(f"{result['missing']:,} values were not there in {result['commands']:,} commands")
        return result


def wait(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def last_line(text):
    return (text.strip().splitlines() or [""])[-1]


def fill(port, workload):
    """Puts the keys of redis-benchmark in, directly at the server, in place of all that was there."""
    ask(port, command("FLUSHALL"))
    if workload.is_set:
        return
    value = b"v" * workload.value_bytes
    with socket.create_connection(("127.0.0.1", port), timeout=30) as conn:
        for first in range(0, workload.keys, 1000):
            numbers = range(first, min(first + 1000, workload.keys))
            conn.sendall(b"".join(command("SET", f"key:{number:012d}", value) for number in numbers))
            expected, got = b"+OK\r\n" * len(numbers), b""
            while len(got) < len(expected):
                got += conn.recv(len(expected) - len(got)) or b"the connection ended"
            if got != expected:
                raise Failed(f"the keys cannot be put in: {got[:80]}")


def check(port, workload):
    """One command of the workload: its reply must be no error, which redis-benchmark may pass over."""
    words = [word.replace("__rand_int__", f"{0:012d}") for word in workload.command]
    try:
        reply = ask(port, command(*words))
    except OSError as error:
        raise Failed(f"{words[0]}: {error}") from None
    if reply[:1] == b"-" or reply[:3] == b"$-1" or not reply:
        raise Failed(f"{words[0]}: {reply.split(chr(13).encode())[0].decode(errors='replace') or 'closes the connection'}")


def check_connections(port, count):
    """Opens so many connections at once, and sends one command on each: all must be answered."""
    connections, answered = {}, 0
    poll = select.epoll()
    try:
        for _ in range(count):
            conn = socket.create_connection(("127.0.0.1", port), timeout=5)
            connections[conn.fileno()] = conn
            poll.register(conn.fileno(), select.EPOLLIN)
            conn.sendall(command("GET", "none"))
        deadline = time.monotonic() + 15
        while answered < count and time.monotonic() < deadline:
            for number, _ in poll.poll(1):
                poll.unregister(number)
                answered += connections[number].recv(100)[:1] == b"$"
    except OSError as error:
        raise Failed(f"{len(connections):,} of {count:,} connections: {error.strerror or error}") from None
    finally:
        poll.close()
        for conn in connections.values():
            conn.close()
    if answered < count:
        raise Failed(f"answers on {answered:,} of {count:,} connections")

#!/usr/bin/env python3
"""Runs Redis's own test suite before a server and before a sidecache, and prints what differs.

    tests/suite/run.py                      all units
    tests/suite/run.py --quick              the units that take seconds
    tests/suite/run.py unit/type/list ...   these
    tests/suite/run.py --unskipped          the skip list's tests too: which of them still differ?
    tests/suite/run.py --settings 'threads = 4'
    tests/suite/run.py --record             all units; what passes is written down for docs/compatibility.md

Each unit meets a fresh server, and on the second way a fresh sidecache before another fresh server. A test that passes
directly and not through the sidecache is a difference, unless skips.toml names it with a reason: then it is run on
neither way. A test that fails on both ways is the suite's own affair. The exit code is 1 if anything differs.

The suite is Debian's source of redis, unpacked by scripts/deps.sh.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUITE = ROOT / ".deps" / "redis-suite"

# Units that are over within seconds on both ways, and do not race two clients against each other: what CI runs.
QUICK = """
    unit/scripting unit/type/hash unit/multi unit/introspection-2 unit/functions unit/keyspace
    unit/bitops unit/pubsub unit/slowlog unit/acl unit/acl-v2 unit/auth unit/bitfield unit/protocol unit/introspection
    unit/info unit/info-command unit/lazyfree unit/type/incr unit/quit
""".split()
# The others that make sense before a server that is not the suite's own.
SLOW = """
    unit/tracking unit/pause unit/type/zset unit/type/set unit/hyperloglog unit/geo unit/type/list-3 unit/type/list
    unit/type/stream unit/type/stream-cgroups unit/type/list-2 unit/dump unit/expire unit/sort unit/type/string unit/scan unit/pubsubshard
    unit/latency-monitor unit/other unit/querybuf
""".split()
# The suite leaves these out before a server that it has not started, as they change its configuration or its users. Ours
# is thrown away after each unit, so they are run; what then fails on both ways is not compared.
LIFTED = set("unit/acl unit/acl-v2 unit/auth unit/info unit/pubsubshard".split())
# In these, users log in who may not SELECT; the suite is told to stay in database 0.
SINGLE_DB = set("unit/acl unit/acl-v2".split())

# What the suite needs that is refused by default.
SIDECACHE = """
{settings}
[client]
listen = ["127.0.0.1:{port}"]
allow = ["debug", "replicaof", "shutdown"]
drain_timeout = "1s"
[upstream]
url = "redis://127.0.0.1:{server}"
[admin]
listen = "off"
"""


@dataclasses.dataclass
class Outcome:
    """What became of a unit's tests on one way."""

    ended: bool = False
    # By name, in the order of their ends; a name may come several times.
    tests: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    # The suite's words about failures, by name.
    words: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    # What a server or sidecache said that ended by itself.
    fault: str = ""

    def passed(self, name):
        return name in self.tests and all(state == "ok" for state in self.tests[name])

    def count(self, state):
        return sum(states.count(state) for states in self.tests.values())


LIVE = set()


def begin(command, **options):
    """A process that ends with us, however we end."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    LIVE.add(child)
    return child


def end_all(*_):
    for child in list(LIVE):
        child.kill()
    os._exit(1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def suite_ports():
    """Where the suite may look for its own ports: below those that systems hand out, since it adds 10,000 to them."""
    return random.randrange(11_000, 22_000, 64)


def taken(text):
    """Whether the suite could not begin because others had its ports; it looks before it binds."""
    return "[ready]" not in text and ("address already in use" in text or "non busy port" in text)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as conn:
            conn.settimeout(1)
            conn.sendall(b"PING\r\n")
            return conn.recv(7).startswith(b"+PONG")
    except OSError:
        return False


class Process:
    """A server in a folder of its own, ended with the block that it is for."""

    def __init__(self, make, folder):
        self.log = folder / "log"
        # Someone else may take the port between our look and the server's bind.
        for _ in range(5):
            self.port = free_port()
            with open(self.log, "wb") as log:
                self.child = begin(make(self.port), cwd=folder, stdout=log, stderr=log)
            until = time.monotonic() + 10
            while self.child.poll() is None and time.monotonic() < until:
                if answers(self.port):
                    return
                time.sleep(0.02)
            self.__exit__()
        raise SystemExit(f"does not start: {make(0)}\n{self.log.read_text(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        LIVE.discard(self.child)

    def fault(self):
        """Its last words if it has ended unasked; else its errors: a panic, or a violation that the audit has found."""
        lines = self.log.read_text(errors="replace").splitlines()
        if self.child.poll() is not None:
            return "\n".join([f"{self.child.args[0]} ended by itself:", *lines[-20:]])
        return "\n".join(line for line in lines if " ERROR sidecache" in line or "panicked at" in line)


def server_command(folder, port):
    """The suite's own settings, on our port."""
    lines = (SUITE / "tests/assets/default.conf").read_text()
    (folder / "redis.conf").write_text(f"{lines}\nport {port}\npidfile {folder}/pid\nsave ''\n")
    return ["redis-server", str(folder / "redis.conf")]


def sidecache_command(options, folder, port, server):
    (folder / "sidecache.toml").write_text(SIDECACHE.format(settings=options.settings, port=port, server=server))
    return [str(options.program), "--config", str(folder / "sidecache.toml")]


def suite_copy(folder, unit):
    """A copy of the suite that one run may write into. What it reads of a replication stream comes from the server itself,
    where the sidecache's writes arrive: no sidecache is a master."""
    copy = folder / "suite"
    copy.mkdir()
    shutil.copytree(SUITE / "tests", copy / "tests")
    (copy / "src").mkdir()
    for program in ("redis-cli", "redis-benchmark", "redis-server"):
        if path := shutil.which(program):
            (copy / "src" / program).symlink_to(path)
    edit(copy / "tests/test_helper.tcl", b'socket [srv 0 "host"] [srv 0 "port"]', b'socket [srv 0 "host"] $::env(SUITE_SERVER)')
    if unit in LIFTED:
        edit(copy / "tests" / f"{unit}.tcl", b"external:skip", b"external:lifted")
    return copy


def edit(file, old, new):
    text = file.read_bytes()
    assert old in text, f"{file} has no {old}"
    file.write_bytes(text.replace(old, new))


def run_suite(folder, unit, port, server, skipped, options):
    """One run of the suite's program; what it printed."""
    for attempt in range(5):
        place = folder / f"suite{attempt}"
        place.mkdir()
        text = start_suite(place, unit, port, server, skipped, options)
        if not taken(text):
            break
    return text


def start_suite(folder, unit, port, server, skipped, options):
    cwd = suite_copy(folder, unit)
    skipfile = folder / "skip"
    skipfile.write_text("".join(f"{name}\n" for name in skipped))
    command = [options.tclsh, "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(port), "--single", unit]
    command += ["--durable", "--timeout", str(options.hang), "--skipfile", str(skipfile), "--baseport", str(suite_ports())]
    if unit in SINGLE_DB:
        command.append("--singledb")
    env = dict(os.environ, TERM="dumb", LC_ALL="C.UTF-8", SUITE_SERVER=str(server))
    # A session of its own: the suite forks, and all of it must go when its time is over.
    child = begin(command, cwd=cwd, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        text, _ = child.communicate(timeout=options.bound)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        text, _ = child.communicate()
    else:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    LIVE.discard(child)
    return text.decode(errors="replace")


STATE = re.compile(r"^\[(ok|err|skip|ignore|exception|TIMEOUT)\]: (.*)$")
IN = re.compile(r"^(.*) in tests/\S+\.tcl$")


def parse(text, outcome):
    """The suite's lines into the outcome."""
    ended = "The End" in text and "[TIMEOUT]" not in text
    name = None
    # After the end the failures are listed once more.
    for line in text.split("                   The End")[0].splitlines():
        if running := re.match(r"^sock\S* => \(IN PROGRESS\) (.*)$", line):
            outcome.tests[running[1]].append("hang")
            outcome.words[running[1]] = "hangs"
            continue
        match = STATE.match(line)
        if not match:
            if name and not line.startswith("["):
                outcome.words[name] += "\n" + line
            else:
                name = None
            continue
        state, rest = match.groups()
        name = None
        if state == "ok":
            outcome.tests[re.sub(r" \(\d+ ms\)$", "", rest)].append("ok")
        elif state in ("err", "exception"):
            # Between tests the suite has no name for what fails.
            test = IN.match(rest)
            name = test[1] if test else "(between tests)"
            outcome.tests[name].append("err")
            outcome.words[name] = outcome.words.get(name, "") + ("" if test else rest)
    outcome.ended = ended


def run_way(unit, way, skipped, options):
    """A unit "direct" or "through" a sidecache. A test that hangs is left out of a second run, and so on."""
    outcome, hung = Outcome(), []
    began = time.monotonic()
    for _ in range(options.hangs):
        with tempfile.TemporaryDirectory(prefix="sidecache-suite-") as name:
            folder = pathlib.Path(name)
            folders = [folder / "server", folder / "sidecache"]
            for each in folders:
                each.mkdir()
            outcome = Outcome()
            with Process(lambda port: server_command(folders[0], port), folders[0]) as server:
                if way == "direct":
                    text = run_suite(folder, unit, server.port, server.port, skipped + hung, options)
                else:
                    make = lambda port: sidecache_command(options, folders[1], port, server.port)
                    with Process(make, folders[1]) as sidecache:
                        text = run_suite(folder, unit, sidecache.port, server.port, skipped + hung, options)
                        outcome.fault = sidecache.fault()
                outcome.fault = server.fault() or outcome.fault
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{unit.replace('/', '-')}.{way}").write_text(text)
            parse(text, outcome)
        hangs = [name for name, states in outcome.tests.items() if "hang" in states]
        if outcome.ended or not hangs:
            break
        hung += hangs
    for name in hung:
        outcome.tests[name] = ["hang"]
        outcome.words[name] = "hangs"
    outcome.seconds = time.monotonic() - began
    return outcome


def load_skips(path):
    """The skip list by unit."""
    skips = collections.defaultdict(dict)
    for skip in tomllib.loads(path.read_text()).get("skip", []):
        assert set(skip) == {"unit", "test", "reason"} and all(skip.values()), f"{path.name}: {skip}"
        skips[skip["unit"]][skip["test"]] = skip["reason"]
    return skips


def run_unit(unit, skips, options):
    """A unit on both ways; the names of the tests that differ."""
    skipped = [] if options.unskipped else list(skips.get(unit, ()))
    direct = run_way(unit, "direct", skipped, options)
    through = run_way(unit, "through", skipped, options)
    differing = {name: through.words.get(name, "not reached") for name in direct.tests if direct.passed(name) and not through.passed(name)}
    if through.fault:
        differing["(the sidecache itself)"] = through.fault
    if direct.ended and not through.ended and not differing:
        differing["(unit)"] = "does not come to its end"
    needless = [name for name in skips.get(unit, ()) if through.passed(name)]
    return direct, through, differing, needless


def report(unit, direct, through, differing, needless):
    print(f"{unit:28} {direct.count('ok'):5} {through.count('ok'):5} {len(differing):5}   "
          f"{direct.seconds:5.1f} s {through.seconds:5.1f} s", flush=True)
    for name, words in differing.items():
        print(f"    {name}")
        for line in words.strip().splitlines()[:12]:
            print(f"        {line[:400]}")
    for name in needless:
        print(f"    passes although it is on the skip list: {name}")
    if not direct.ended and not direct.tests:
        print(f"    no test was run: {direct.fault}")
    sys.stdout.flush()


def record(counts, skips):
    """What docs/compatibility.md is made of, beside the skip list."""
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    lines = ["# How many tests of Redis's own suite pass before a server and before a sidecache; run.py --record writes it.",
             "# docs/compatibility.md is made of it: UPDATE_DOCS=1 cargo test",
             f'server = "Redis {re.search(r"v=([0-9.]+)", version)[1]}"']
    for unit, (direct, through) in sorted(counts.items()):
        lines += ["", "[[unit]]", f'name = "{unit}"', f"direct = {direct}", f"through = {through}", f"skipped = {len(skips.get(unit, ()))}"]
    (HERE / "results.toml").write_text("\n".join(lines) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", nargs="*", help="units, as 'unit/type/list' (default: all)")
    parser.add_argument("--quick", action="store_true", help="only the units that take seconds")
    parser.add_argument("--unskipped", action="store_true", help="run the tests of the skip list too")
    parser.add_argument("--record", action="store_true", help="write results.toml, if nothing differs")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/sidecache", help="the sidecache")
    parser.add_argument("--settings", default="", help="of the sidecache, as TOML: 'threads = 4'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="units at once")
    parser.add_argument("--hang", type=int, default=120, help="seconds without a finished test that count as a hang")
    parser.add_argument("--hangs", type=int, default=4, help="runs of a unit at most, each without the tests that hung before")
    parser.add_argument("--bound", type=int, default=600, help="seconds for a unit on one way")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for what the suite printed")
    options = parser.parse_args()
    if options.record and (options.units or options.quick or options.unskipped):
        parser.error("--record is about all units, without the skip list's tests")
    options.tclsh = next(filter(None, map(shutil.which, ("tclsh8.6", "tclsh8.5", "tclsh"))), None)
    options.program = options.program.resolve()
    for there, what in ((options.tclsh, "tclsh"), (SUITE.is_dir(), SUITE), (options.program.exists(), options.program)):
        if not there:
            parser.error(f"{what} is missing; scripts/deps.sh fetches the suite, cargo makes the program")
    return options


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, end_all)
    signal.signal(signal.SIGINT, end_all)
    units = options.units or (QUICK if options.quick else QUICK + SLOW)
    skips = load_skips(HERE / "skips.toml")
    print(f"{'unit':28} direct through differing")
    total, failed, counts = 0, False, {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {pool.submit(run_unit, unit, skips, options): unit for unit in units}
        for run in concurrent.futures.as_completed(runs):
            direct, through, differing, needless = run.result()
            report(runs[run], direct, through, differing, needless)
            total += len(differing)
            counts[runs[run]] = direct.count("ok"), through.count("ok")
            failed |= bool(differing) or not (direct.ended or direct.tests)
    print(f"{total} tests differ; {sum(map(len, skips.values()))} are on the skip list")
    if options.record and not failed:
        record(counts, skips)
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""What is sent: one base, 50 connections that read one hot key of 100 B one by one, and each workload differs in one thing."""

import csv
from dataclasses import dataclass
from pathlib import Path

ALL = ("redis", "sidecache", "sidecache-off", "twemproxy", "haproxy", "envoy")
# Where the cache is of no account, or what forwarding costs is told by another workload.
ONE_SIDECACHE = ("redis", "sidecache", "twemproxy", "haproxy", "envoy")
VALUE_BYTES = 100
TABLE = Path(__file__).resolve().parent / "twitter-2020mar.tsv"


@dataclass(frozen=True)
class Workload:
    """One row group of the table."""

    name: str
    title: str
    # In the words of the generator (examples/load): what is read or written, of how many keys, of which size.
    mix: str
    # As redis-benchmark takes it; None where only the generator can send it, or both must read the same keys.
    command: tuple | None = None
    targets: tuple = ONE_SIDECACHE
    connections: int = 50
    # Commands that a connection sends at once.
    pipeline: int = 1
    keys: int = 1
    value_bytes: int = VALUE_BYTES
    # Commands per second in the open loop, the same for all: well below what the slowest can do.
    rate: int = 10_000
    # Budgets rest on it: three times the rounds.
    is_budget: bool = False
    # Part of the quick run.
    is_quick: bool = False
    # Reads that sidecache must serve from memory for the figure to mean what its title says.
    hits: float = 0.0
    # Reads at most this many commands at random before the clock starts, so that the cache is as warm as it gets.
    warm_up: int = 5_000

    @property
    def is_set(self):
        return self.mix.startswith("set:")


def get(name, title, keys=1, value_bytes=VALUE_BYTES, **rest):
    return Workload(
        name, title, f"get:{keys}:{value_bytes}", ("GET", "key:__rand_int__"), keys=keys, value_bytes=value_bytes, **rest
    )


def hot(name, title, **rest):
    return get(name, title, hits=0.99, **rest)


def set_(name, title, **rest):
    return Workload(name, title, f"set:1:{VALUE_BYTES}", ("SET", "key:__rand_int__", "v" * VALUE_BYTES), **rest)


def mget(count, **rest):
    keys = 1000
    command = ("MGET", *["key:__rand_int__"] * count)
    title = f"MGET of {count} out of {keys:,}"
    return Workload(f"mget-{count}", title, f"mget:{count}:{keys}:{VALUE_BYTES}", command, keys=keys, **rest)


def twitter(cluster, **rest):
    """A mix after one row of the table; the generator knows the rows by their number."""
    with open(TABLE) as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        row = next(row for row in rows if row["cluster"] == f"cluster{cluster}")
    shares = dict(operation.split(":") for operation in row["operations"].split())
    reads = sum(float(shares.get(name, 0)) for name in ("get", "gets"))
    title = f"Twitter's cluster {cluster}: {reads:.0%} reads, Zipf {float(row['zipf_alpha']):.2f}, {row['value_bytes']} B"
    return Workload(f"twitter-{cluster}", title, f"twitter:{cluster}", warm_up=300_000, **rest)


WORKLOADS = [
    hot("get", "GET, one hot key", targets=ALL, rate=20_000, is_budget=True, is_quick=True),
    hot("get-p16", "GET, one hot key, pipelines of 16", targets=ALL, pipeline=16, rate=50_000),
    hot("get-p32", "GET, one hot key, pipelines of 32", targets=ALL, pipeline=32, rate=50_000, is_budget=True, is_quick=True),
    hot("get-p100", "GET, one hot key, pipelines of 100", targets=ALL, pipeline=100, rate=50_000),
    set_("set", "SET", rate=20_000, is_budget=True, is_quick=True),
    set_("set-p32", "SET, pipelines of 32", pipeline=32, rate=50_000, is_budget=True, is_quick=True),
    Workload("get-100k", "GET, 100,000 keys, uniform", f"get:100000:{VALUE_BYTES}", rate=20_000, warm_up=1_000_000),
    mget(10, rate=5_000, warm_up=20_000),
    mget(100, rate=500),
    hot("get-10k", "GET, one hot key of 10 KiB", value_bytes=10 << 10, rate=5_000),
    # Larger than max_entry_bytes: passed on, never kept.
    get("get-1m", "GET, one hot key of 1 MiB", value_bytes=1 << 20, rate=50, warm_up=100),
    hot("get-c1", "GET, one hot key, 1 connection", connections=1, rate=2_000, targets=ALL),
    hot("get-c1000", "GET, one hot key, 1,000 connections", connections=1000, rate=20_000),
    *(twitter(cluster, is_quick=cluster == 52) for cluster in (52, 34, 19, 7, 23)),
    # The last, since it leaves the most behind.
    hot("get-c10000", "GET, one hot key, 10,000 connections", connections=10_000, is_quick=True),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}

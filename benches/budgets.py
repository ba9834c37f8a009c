"""What the project wants to cost at most, and whether this run says so. Printed, never enforced: machines differ."""

import statistics

PEERS = ("twemproxy", "haproxy", "envoy")
# Proxies that read RESP, beside which forwarding is set; HAProxy does not, and is shown as the floor.
READERS = ("twemproxy", "envoy")
MANY = "get-c10000"


def verdicts(summary):
    """A line for each budget: met or missed, with figure and limit."""
    beside = lambda workload, target, others, field="cpu_us": summary.paired(workload, target, others, field)
    redis = ["redis"]
    lines = [
        at_most("CPU per hit, beside redis-server's own per GET", beside("get", "sidecache", redis), 1.0),
        at_most("the same in pipelines of 32", beside("get-p32", "sidecache", redis), 0.4),
        at_least("throughput of hits, beside direct", beside("get", "sidecache", redis, "per_second"), 1.0),
        at_least("the same in pipelines of 32", beside("get-p32", "sidecache", redis, "per_second"), 1.0),
    ]
    forwarded = [("GET, cache off", "get", "sidecache-off"), ("SET", "set", "sidecache")]
    for name, workload, target in forwarded:
        cheaper = "the cheaper of twemproxy and Envoy"
        lines += [
            at_most(f"CPU per forwarded {name}, beside {cheaper}", beside(workload, target, READERS), 0.8),
            at_most("the same in pipelines of 32", beside(f"{workload}-p32", target, READERS), 0.3),
        ]
    for name, workload, target in forwarded:
        lines.append(at_most(f"upstream's CPU per forwarded {name}, beside direct clients", upstream(summary, workload, target), 1.0))
    return lines + many(summary)


def upstream(summary, workload, target):
    """Redis's CPU per command behind the target, beside what it spends on direct clients; paired by round."""
    behind, direct = summary.of(workload, target, "closed"), summary.of(workload, "redis", "closed")
    ratios = [behind[number]["upstream_cpu_us"] / direct[number]["cpu_us"] for number in behind if number in direct]
    return statistics.median(ratios) if ratios else None


def many(summary):
    """10,000 connections: that they work, and the 99th percentile beside each peer's."""
    if not any(turn["workload"] == MANY for turn in summary.turns):
        return ["10,000 connections: not measured"]
    failed = summary.failure(MANY, "sidecache")
    lines = [f"10,000 connections: {'missed: ' + failed if failed else 'met: all are served'}"]
    for peer in PEERS:
        if why := summary.failure(MANY, peer):
            lines.append(f"their p99, beside {peer}'s: nothing to compare with ({why})")
        else:
            ratio = summary.paired(MANY, "sidecache", [peer], "p99", "open")
            lines.append(at_most(f"their p99, beside {peer}'s", ratio, 1.0))
    return lines


def at_most(what, figure, limit):
    return verdict(what, figure, f"at most {limit}", figure is not None and figure <= limit)


def at_least(what, figure, limit):
    return verdict(what, figure, f"at least {limit}", figure is not None and figure >= limit)


def verdict(what, figure, limit, is_met):
    if figure is None:
        return f"{what}: not measured"
    return f"{what}: {'met' if is_met else 'MISSED'}: {figure:.3f} × ({limit})"

"""One turn of one target, and the rounds in which the targets take turns."""

import sys
import time

import loads
from loads import Failed, Void

# Above so many connections, opening them would be a good part of what redis-benchmark's turn costs. The generator
# opens them before the clock starts.
MANY = 100

# Seconds of each of the generator's turns that do not count.
WARM_UP = 0.5


class Samples:
    """CPU of a target and of its upstream, and the upstream's commands, while a load runs."""

    def __init__(self, targets, name):
        self.targets, self.name, self.taken = targets, name, []

    def take(self):
        self.taken.append((time.monotonic(), *self.targets.counters(self.name)))

    def at(self, moment):
        """Both CPUs at a moment between two samples."""
        later = next((at for at, sample in enumerate(self.taken) if sample[0] >= moment), len(self.taken) - 1)
        before, after = self.taken[max(later - 1, 0)], self.taken[later]
        length = after[0] - before[0]
        share = max(0.0, (moment - before[0]) / length) if length else 0.0
        return [a + (b - a) * share for a, b in zip(before[1:3], after[1:3])]


def per_command(commands, cpu, upstream, calls):
    """Microseconds of CPU, and upstream's commands, of each command of a client."""
    return {
        "cpu_us": cpu.total / commands * 1e6,
        # User and system in ticks: only sums over many turns say something.
        "user_s": cpu.user,
        "system_s": cpu.system,
        "upstream_cpu_us": upstream.total / commands * 1e6,
        "upstream_commands": calls / commands,
    }


def around(targets, name, send):
    """Runs a load, and divides what was used from its start to its end by all of its commands."""
    before = targets.counters(name)
    result = send()
    cpu, upstream, calls = (b - a for a, b in zip(before, targets.counters(name)))
    commands = result.get("all_commands", result["commands"])
    return result | per_command(commands, cpu, upstream, calls)


def without_opening(targets, name, seconds, send):
    """The same, but the CPU counts in the last so many seconds only, in which the commands were sent: what opening the
    connections took before is left out. (Closing them is in, some hundredths of a second, and as much of the start is not.)"""
    samples = Samples(targets, name)
    result = send(samples.take)
    samples.take()
    first, last = samples.taken[0], samples.taken[-1]
    cpu, upstream = (b - a for a, b in zip(samples.at(last[0] - seconds), last[1:3]))
    return result | per_command(result["all_commands"], cpu, upstream, last[3] - first[3])


class Turns:
    """Runs a workload's rounds and keeps what came of each turn."""

    def __init__(self, targets, generator, seconds, rounds):
        self.targets, self.generator, self.seconds, self.rounds = targets, generator, seconds, rounds
        self.results = []

    def run(self, workload):
        """All rounds of a workload: the closed loop, then (with a generator) the open one. A target that fails takes no
        further turns."""
        standing = list(workload.targets)
        turn = lambda target, what: self.turn(workload, target, what, standing)
        commands = {target: turn(target, {"loop": "prepare"}) for target in workload.targets}
        loops = {"closed": self.rounds * (3 if workload.is_budget else 1), "open": self.rounds if self.generator else 0}
        for loop, rounds in loops.items():
            for number in range(rounds):
                for target in rotated(workload.targets, number):
                    if target in standing:
                        turn(target, {"loop": loop, "round": number, "commands": commands[target]})
        print(f"  {workload.title}: {' and '.join(f'{rounds} {loop}' for loop, rounds in loops.items())} rounds", file=sys.stderr)

    def turn(self, workload, target, what, standing):
        """One turn; a failure is kept as a result, takes the target out of the workload, and starts it anew."""
        what = dict(what)
        commands = what.pop("commands", None)
        try:
            if what["loop"] == "prepare":
                return self.prepare(workload, target)
            result = self.measure(workload, target, what, commands)
            self.results.append({"workload": workload.name, "target": target, **what, **result})
        except Void as void:
            print(f"  {workload.title}, {target}: not counted: {void}", file=sys.stderr)
            self.results.append({"workload": workload.name, "target": target, **what, "void": str(void)})
        except Failed as failed:
            print(f"  {workload.title}, {target}: {failed}", file=sys.stderr)
            self.results.append({"workload": workload.name, "target": target, **what, "failed": str(failed)})
            standing.remove(target)
            self.targets.restart(target)
        return None

    def prepare(self, workload, target):
        """Checks that it can be done at all, warms up, and finds how many commands make a turn of the wanted length."""
        port = self.targets[target].port
        if workload.connections >= 1000:
            loads.check_connections(port, workload.connections)
        if not uses_redis_benchmark(workload):
            self.warm_by_generator(workload, target)
            return None
        loads.check(port, workload)
        least = workload.connections * workload.pipeline * 20
        if target == "sidecache":
            loads.redis_benchmark(port, workload, max(workload.warm_up, least))
        rate = loads.redis_benchmark(port, workload, min(max(2000, least), workload.warm_up * 10))["per_second"]
        # Short runs have seen little of the speed: once more, at a quarter of a turn.
        rate = loads.redis_benchmark(port, workload, max(int(rate * self.seconds / 4), 10))["per_second"]
        return max(int(rate * self.seconds), 10)

    def warm_by_generator(self, workload, target):
        """The cache only: few connections and long pipelines, which is the quickest."""
        if target == "sidecache":
            seconds = max(workload.warm_up / 300_000 * 3, 0.5)
            self.generator.run(self.targets[target].port, workload, seconds, 0, 1, pipeline=32, connections=10)

    def measure(self, workload, target, what, commands):
        seen = self.targets.hits(target) if target == "sidecache" else None
        result = self.used(workload, target, what, commands)
        if seen:
            hits, reads = (b - a for a, b in zip(seen, self.targets.hits(target)))
            # A generator's first question is a read in any mix.
            result["hit_ratio"] = hits / reads if reads > result["commands"] / 100 else None
            if hits < workload.hits * reads:
                raise Void(f"only {hits / reads:.1%} of the reads were hits")
        elif result["upstream_commands"] < 0.99:
            raise Void(f"only {result['upstream_commands']:.1%} of the commands reached the server")
        return result

    def used(self, workload, target, what, commands):
        """The load's own result with what it cost."""
        port, rate = self.targets[target].port, workload.rate if what["loop"] == "open" else None
        if what["loop"] == "closed" and commands:
            return around(self.targets, target, lambda: loads.redis_benchmark(port, workload, commands))
        send = lambda meanwhile=None: self.generator.run(
            port, workload, self.seconds, WARM_UP, seed=what["round"] + 1, rate=rate, meanwhile=meanwhile
        )
        if workload.connections > MANY and what["loop"] == "closed":
            return without_opening(self.targets, target, WARM_UP + self.seconds, send)
        return around(self.targets, target, send)


def uses_redis_benchmark(workload):
    return workload.command is not None and workload.connections <= MANY


def rotated(names, number):
    """Each round begins with another one, so that none always follows the same."""
    at = number % len(names)
    return names[at:] + names[:at]

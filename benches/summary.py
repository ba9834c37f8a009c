"""Medians over the rounds, and ratios paired by round: what else the machine did in a round fell on all alike."""

import statistics

LATENCIES = ("p50", "p99", "p99.9")


class Summary:
    """What the turns of a run say together."""

    def __init__(self, turns):
        self.turns = turns

    def of(self, workload, target, loop):
        """The turns by round, without those that failed."""
        mine = [turn for turn in self.turns if (turn["workload"], turn["target"], turn["loop"]) == (workload, target, loop)]
        return {turn["round"]: turn for turn in mine if "failed" not in turn and "void" not in turn}

    def failure(self, workload, target, kind="failed"):
        """What a target could not do of a workload, or, with "void", why turns do not count; None where all went well."""
        reasons = [turn[kind] for turn in self.turns if (turn["workload"], turn["target"]) == (workload, target) and kind in turn]
        return reasons[0] if reasons else None

    def median(self, workload, target, field, loop="closed"):
        values = [value(turn, field) for turn in self.of(workload, target, loop).values()]
        values = [number for number in values if number is not None]
        return statistics.median(values) if values else None

    def paired(self, workload, target, others, field, loop="closed"):
        """The median, over the rounds, of the target's figure divided by the least of the others' in the same round."""
        mine, theirs = self.of(workload, target, loop), [self.of(workload, other, loop) for other in others]
        ratios = []
        for number, turn in mine.items():
            beside = [value(turns[number], field) for turns in theirs if number in turns]
            beside = [figure for figure in beside if figure]
            if beside and value(turn, field) is not None:
                ratios.append(value(turn, field) / min(beside))
        return statistics.median(ratios) if ratios else None

    def row(self, workload, target, beside=("redis",)):
        """All that the table and the plot show of one target on one workload; None where there is no figure."""
        closed = list(self.of(workload, target, "closed").values())
        ticks = [sum(turn[field] for turn in closed) for field in ("user_s", "system_s")]
        row = {"workload": workload, "target": target, "failed": self.failure(workload, target) or self.failure(workload, target, "void")}
        for field in ("per_second", "cpu_us", "upstream_cpu_us", "upstream_commands", "hit_ratio"):
            row[field] = self.median(workload, target, field)
        row["cpu_us_spread"] = [f(turn["cpu_us"] for turn in closed) for f in (min, max)] if closed else None
        row["system_share"] = ticks[1] / sum(ticks) if sum(ticks) else None
        for other in beside:
            row[f"cpu_beside_{other}"] = self.paired(workload, target, [other], "cpu_us")
        for field in LATENCIES:
            row[f"{field}_us"] = self.median(workload, target, field, "open")
        for field in ("per_second", "cpu_us", "upstream_commands", "hit_ratio"):
            row[f"open_{field}"] = self.median(workload, target, field, "open")
        return row

    def rows(self, workloads, beside=("redis",)):
        return [self.row(workload.name, target, beside) for workload in workloads for target in workload.targets]


def value(turn, field):
    return turn["latency_us"].get(field) if field.startswith("p") and field[1:2].isdigit() else turn.get(field)

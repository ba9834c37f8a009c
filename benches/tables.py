"""The run as markdown."""

from targets import TITLES


def table(rows, workloads, beside=("redis",)):
    """One line for each target on each workload; what failed says so in place of figures."""
    columns = ["workload", "through", "commands/s", "CPU µs", "of it system"]
    columns += [f"beside {TITLES[other]}" for other in beside]
    columns += ["upstream's CPU µs", "upstream's commands", "hits"]
    latency = any(row["p50_us"] is not None for row in rows)
    columns += ["open loop: at /s", "hits", "p50 µs", "p99 µs", "p99.9 µs"] if latency else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * 2 + "---:|" * (len(columns) - 2)]
    titles = {workload.name: workload.title for workload in workloads}
    before = None
    for row in rows:
        title = "" if row["workload"] == before else titles[row["workload"]]
        before = row["workload"]
        lines.append("| " + " | ".join([title, TITLES[row["target"]], *cells(row, beside, latency)]) + " |")
    return "\n".join(lines)


def cells(row, beside, latency):
    direct = row["target"] == "redis"
    if row["cpu_us"] is None:
        closed = [f"**{row['failed']}**", *["–"] * (len(beside) + 5)]
    else:
        closed = [number(row["per_second"]), number(row["cpu_us"]), percent(row["system_share"])]
        closed += [times(row[f"cpu_beside_{other}"]) for other in beside]
        # What Redis spends on its own clients stands under its own CPU.
        closed += ["–", "–"] if direct else [number(row["upstream_cpu_us"]), f"{row['upstream_commands']:.3f}"]
        closed += [percent(row["hit_ratio"])]
    if not latency:
        return closed
    if row["p50_us"] is None:
        return [*closed, "–" if row["cpu_us"] is None else f"**{row['failed']}**", "–", "–", "–", "–"]
    figures = [number(row[field]) for field in ("open_per_second", "p50_us", "p99_us", "p99.9_us")]
    return [*closed, figures[0], percent(row["open_hit_ratio"]), *figures[1:]]


def short_table(rows, workloads, targets, field="cpu_us"):
    """One figure, a line for each workload and a column for each target."""
    by = {(row["workload"], row["target"]): row for row in rows}
    lines = ["| CPU µs per command | " + " | ".join(TITLES[target] for target in targets) + " |", "|---|" + "---:|" * len(targets)]
    for workload in workloads:
        figures = [by.get((workload.name, target), {}).get(field) for target in targets]
        lines.append(f"| {workload.title} | " + " | ".join(number(figure) for figure in figures) + " |")
    return "\n".join(lines)


def number(value):
    """Three digits that say something."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value):
    return "–" if value is None else f"{value:.2f} ×"


def percent(value):
    return "–" if value is None else f"{value:.1%}" if value < 0.9995 and value > 0.9 else f"{value:.0%}"
